"""The graphs themselves: fused nodes, free dimensions, weights in safetensors, nothing of the machine."""

from __future__ import annotations

import re
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import Attention
from onnx import numpy_helper
from safetensors.numpy import load_file
from torch import nn
from transformers.models.clip.modeling_clip import CLIPAttention

from latentrt.engines.atomic import new_folder
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import OutputError
from latentrt.export.onnx_export import INLINE_BYTES, write_graph
from latentrt.export.source import SourceModel
from latentrt.export.trace import OPSET, trace
from latentrt.export.wrappers import network_loaders
from support.errors import unit_scale_error

COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder.kl-f8")
each_component = pytest.mark.parametrize("component", COMPONENTS)


def _load(bundle: Bundle, component: str, *, weights: bool = False) -> onnx.ModelProto:
    return onnx.load(bundle.graph(component), load_external_data=weights)


def _parts(reference: StableDiffusionPipeline, component: str) -> list[nn.Module]:
    vae = reference.vae
    return {
        "text_encoder": [reference.text_encoder],
        "unet": [reference.unet],
        "vae_encoder": [vae.encoder, vae.quant_conv],
        "vae_decoder.kl-f8": [vae.decoder, vae.post_quant_conv],
    }[component]


@each_component
def test_one_node_for_each_attention_and_norm(
    tiny_bundle: Bundle, tiny_reference: StableDiffusionPipeline, component: str
) -> None:
    modules = [module for part in _parts(tiny_reference, component) for module in part.modules()]
    expected = {
        "Attention": sum(isinstance(module, Attention | CLIPAttention) for module in modules),
        "GroupNormalization": sum(isinstance(module, nn.GroupNorm) for module in modules),
        # the text encoder's last norm is a node for the last hidden state and one for all those before it
        "LayerNormalization": sum(isinstance(m, nn.LayerNorm) for m in modules) + (component == "text_encoder"),
        "Conv": sum(isinstance(module, nn.Conv2d) for module in modules),
    }
    assert expected["Attention"] > 0
    nodes = Counter(node.op_type for node in _load(tiny_bundle, component).graph.node)
    assert {name: nodes[name] for name in expected} == expected


@each_component
def test_shape_litter_is_absent(tiny_bundle: Bundle, component: str) -> None:
    """The three Shapes are rows, height and width, which reshapes need; the text encoder can infer its rows."""
    nodes = Counter(node.op_type for node in _load(tiny_bundle, component).graph.node)
    allowed = {} if component == "text_encoder" else {"Shape": 3}
    litter = ("Shape", "Gather", "Expand", "ConstantOfShape", "Where", "Cast", "ScatterND", "Identity", "Constant")
    assert {name: nodes[name] for name in litter if nodes[name]} == allowed


@each_component
def test_graph_declares_what_the_manifest_states(tiny_bundle: Bundle, component: str) -> None:
    model, stated = _load(tiny_bundle, component), tiny_bundle.component(component)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    for values, specs in ((model.graph.input, stated.inputs), (model.graph.output, stated.outputs)):
        found = []
        for value in values:
            tensor = value.type.tensor_type
            shape = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
            found.append((value.name, str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape))
        assert found == [(spec.name, spec.dtype, spec.shape) for spec in specs]


@each_component
def test_weights_are_a_safetensors_file(tiny_bundle: Bundle, component: str) -> None:
    """The bytes that ONNX finds by offset are the tensors that safetensors finds by name."""
    light, whole = _load(tiny_bundle, component), _load(tiny_bundle, component, weights=True)
    stored = load_file(tiny_bundle.file(f"onnx/{component}.safetensors"))
    outside = [tensor for tensor in light.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    assert {tensor.name for tensor in outside} == stored.keys()
    for tensor in outside:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert entries["location"] == f"{component}.safetensors"
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in whole.graph.initializer}
    for name, array in arrays.items():
        assert name in stored or array.nbytes <= INLINE_BYTES
    for name, array in stored.items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.nbytes > INLINE_BYTES


@each_component
def test_nothing_tells_of_the_machine(tiny_bundle: Bundle, component: str) -> None:
    model = _load(tiny_bundle, component)
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        assert not part.metadata_props
        assert not part.doc_string
    dimensions = {d.dim_param for value in graph.value_info for d in value.type.tensor_type.shape.dim}
    assert set(re.findall(r"[a-z_]\w*", " ".join(dimensions))) <= {"rows", "height", "width", "tokens"}
    content = tiny_bundle.graph(component).read_bytes()
    for place in (b"site-packages", b".py", str(Path.cwd()).encode(), str(tiny_bundle.root).encode()):
        assert place not in content


def _call(reference: StableDiffusionPipeline, component: str, feeds: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The same question to diffusers and transformers, in their own words."""
    with torch.no_grad():
        if component == "text_encoder":
            return text_encoder_answers(reference, feeds[0])
        if component == "unet":
            return (reference.unet(feeds[0], feeds[1], encoder_hidden_states=feeds[2]).sample,)
        if component == "vae_encoder":
            posterior = reference.vae.encode(feeds[0]).latent_dist
            return posterior.mean, posterior.std
        return (reference.vae.decode(feeds[0]).sample,)


def text_encoder_answers(reference: StableDiffusionPipeline, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Transformers' last hidden state, and those before it after the final norm, as diffusers' clip_skip takes them."""
    text_encoder = reference.text_encoder
    found = text_encoder(ids, output_hidden_states=True)
    return found.last_hidden_state, text_encoder.final_layer_norm(torch.stack(found.hidden_states[:-1], dim=1))


@each_component
@pytest.mark.parametrize(("rows", "height", "width", "tokens"), [(1, 2, 4, 77), (5, 4, 6, 231), (3, 8, 2, 5)])
def test_any_size_agrees_with_diffusers(
    tiny_bundle: Bundle,
    tiny_reference: StableDiffusionPipeline,
    component: str,
    rows: int,
    height: int,
    width: int,
    tokens: int,
) -> None:
    """Sizes in latents that no golden case and no tracing example had; 1e-4 is the threshold of export itself."""
    torch.manual_seed(rows)
    shapes: dict[str, Any] = {
        "text_encoder": [(rows, 77)],
        "unet": [(rows, 4, height, width), (rows,), (rows, tokens, 32)],
        "vae_encoder": [(rows, 3, 8 * height, 8 * width)],
        "vae_decoder.kl-f8": [(rows, 4, height, width)],
    }
    feeds = [torch.randn(shape) for shape in shapes[component]]
    if component == "text_encoder":
        feeds = [torch.randint(0, 49408, shapes[component][0])]
    if component == "unet":
        feeds[1] = torch.linspace(0, 999, rows)
    session = onnxruntime.InferenceSession(str(tiny_bundle.graph(component)), providers=["CPUExecutionProvider"])
    names = [spec.name for spec in tiny_bundle.component(component).inputs]
    expected_answers = _call(tiny_reference, component, feeds)
    if component == "text_encoder":  # the graph takes what the table holds for the ids
        feeds = [tiny_reference.text_encoder.get_input_embeddings().weight[feeds[0]]]
    answers = session.run(None, {name: feed.numpy() for name, feed in zip(names, feeds, strict=True)})
    for answer, expected in zip(answers, expected_answers, strict=True):
        assert answer.shape == tuple(expected.shape)
        assert unit_scale_error(answer, expected.numpy()) < 1e-4


def test_more_rows_than_were_traced(tiny_bundle: Bundle, tiny_reference: StableDiffusionPipeline) -> None:
    """Tracing is bounded at 63 rows, because of a branch in diffusers that says nothing to a graph."""
    torch.manual_seed(0)
    feeds = [torch.randn(65, 4, 4, 6), torch.linspace(0, 999, 65), torch.randn(65, 77, 32)]
    session = onnxruntime.InferenceSession(str(tiny_bundle.graph("unet")), providers=["CPUExecutionProvider"])
    names = ("sample", "timestep", "encoder_hidden_states")
    answer = session.run(None, {name: feed.numpy() for name, feed in zip(names, feeds, strict=True)})[0]
    assert unit_scale_error(answer, _call(tiny_reference, "unet", feeds)[0].numpy()) < 1e-4


@pytest.fixture
def small_files() -> Iterator[None]:
    """The system refuses to let any file of this process grow beyond 32 KB: as real an error as a full disk is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_leaves_nothing(
    tiny_model: SourceModel, tmp_path: Path, capfd: pytest.CaptureFixture[str], small_files: None
) -> None:
    loader = network_loaders(tiny_model)["text_encoder"]
    network, traced = loader.load(), trace(loader.outline())
    with pytest.raises(OutputError, match="takes no file of this size"), new_folder(tmp_path / "out") as folder:
        write_graph(network, traced, folder)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")  # and the exporter itself says nothing on the console
