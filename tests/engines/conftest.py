"""A whole, valid bundle of four hand-made graphs of a few kilobytes; `onnx.reference` gives its golden answers."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx import helper as oh
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import save

from latentrt.engines.bundle import Bundle, sha256
from latentrt.engines.manifest import (
    FILE_NAME,
    FORMAT,
    Component,
    FileRecord,
    Licence,
    Manifest,
    ModelFacts,
    SchedulerFacts,
)
from latentrt.engines.tensor import TensorSpec

WIDTH, VOCABULARY, TOKENS = 8, 64, 77  # the table of 77 x 8 floats is beyond the 1024 bytes that a build keeps inline
Weights = dict[str, np.ndarray]
Relist = Callable[[Path], None]
Edit = Callable[..., None]


def _spec(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


SPECS: dict[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]] = {
    "text_encoder": (
        (_spec("inputs_embeds", "rows", TOKENS, WIDTH),),
        (_spec("last_hidden_state", "rows", TOKENS, WIDTH),),
    ),
    "unet": (
        (
            _spec("sample", "rows", 4, "2*height", "2*width"),
            _spec("timestep", "rows"),
            _spec("encoder_hidden_states", "rows", "tokens", WIDTH),
        ),
        (_spec("out_sample", "rows", 4, "2*height", "2*width"),),
    ),
    "vae_encoder": (
        (_spec("sample", "rows", 3, "8*height", "8*width"),),
        (_spec("latent_mean", "rows", 4, "height", "width"), _spec("latent_std", "rows", 4, "height", "width")),
    ),
    "vae_decoder.kl-f8": (
        (_spec("latent_sample", "rows", 4, "height", "width"),),
        (_spec("sample", "rows", 3, "8*height", "8*width"),),
    ),
}
EXTERNAL = ("text_encoder", "unet")  # their weights lie beside the graph, in a safetensors file


def _nodes(component: str) -> tuple[list[onnx.NodeProto], Weights]:
    """What each graph computes, and with which weights."""
    draw = np.random.default_rng(len(component)).standard_normal
    weights: Weights
    if component == "text_encoder":
        weights = {"position": draw((TOKENS, WIDTH)), "scale": draw(WIDTH)}
        nodes = [
            oh.make_node("Add", ["inputs_embeds", "position"], ["embedded"]),
            oh.make_node("Mul", ["embedded", "scale"], ["last_hidden_state"]),
        ]
    elif component == "unet":
        weights = {"kernel": draw((4, 4, 3, 3)) * 0.3, "bias": draw(4), "per_step": np.full((1, 1, 1, 1), 1e-3)}
        nodes = [
            oh.make_node("Constant", [], ["axes"], value_ints=[1, 2, 3]),
            oh.make_node("Constant", [], ["text_axes"], value_ints=[1, 2]),
            oh.make_node("Conv", ["sample", "kernel", "bias"], ["convolved"], pads=[1, 1, 1, 1]),
            oh.make_node("Unsqueeze", ["timestep", "axes"], ["t"]),
            oh.make_node("Mul", ["t", "per_step"], ["time"]),
            oh.make_node("ReduceMean", ["encoder_hidden_states", "text_axes"], ["mean"], keepdims=0),
            oh.make_node("Unsqueeze", ["mean", "axes"], ["text"]),
            oh.make_node("Sum", ["convolved", "time", "text"], ["total"]),
            oh.make_node("Tanh", ["total"], ["out_sample"]),
        ]
    elif component == "vae_encoder":
        weights = {"kernel": draw((4, 3, 1, 1)), "tenth": np.full(1, 0.1)}
        nodes = [
            oh.make_node("AveragePool", ["sample"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
            oh.make_node("Conv", ["pooled", "kernel"], ["latent_mean"]),
            oh.make_node("Mul", ["latent_mean", "tenth"], ["log_std"]),
            oh.make_node("Exp", ["log_std"], ["latent_std"]),
        ]
    else:
        weights = {"kernel": draw((4, 3, 8, 8))}
        nodes = [oh.make_node("ConvTranspose", ["latent_sample", "kernel"], ["sample"], strides=[8, 8])]
    return nodes, {name: np.asarray(value, np.float32) for name, value in weights.items()}


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    return oh.make_tensor_value_info(spec.name, oh.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape)


def _outside(name: str, array: np.ndarray, location: str, packed: bytes) -> TensorProto:
    """A tensor whose data is the part of a safetensors file that its header names."""
    header_end = 8 + int.from_bytes(packed[:8], "little")
    begin, end = json.loads(packed[8:header_end])[name]["data_offsets"]
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", header_end + begin), ("length", end - begin)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _write_graph(component: str, folder: Path) -> tuple[str, ...]:
    """Write `onnx/COMPONENT.onnx`, and its weights where they lie outside; returns the paths of those."""
    nodes, weights = _nodes(component)
    inputs, outputs = SPECS[component]
    paths: tuple[str, ...] = ()
    if component in EXTERNAL:
        location, packed = f"{component}.safetensors", save(weights)
        (folder / "onnx" / location).write_bytes(packed)
        paths = (f"onnx/{location}",)
        initializers = [_outside(name, array, location, packed) for name, array in weights.items()]
    else:
        initializers = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = oh.make_graph(nodes, component, [*map(_value, inputs)], [*map(_value, outputs)], initializers)
    model = oh.make_model(graph, ir_version=10, opset_imports=[oh.make_opsetid("", 21)])
    (folder / "onnx" / f"{component}.onnx").write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(folder / "onnx" / f"{component}.onnx"), full_check=True)
    return paths


def make_feeds(component: str, rows: int, height: int, width: int) -> dict[str, np.ndarray]:
    """Feeds that fit a component of the tiny bundle."""
    rng = np.random.default_rng(rows)
    sizes = {"rows": rows, "height": height, "width": width, "8*height": 8 * height, "8*width": 8 * width}
    sizes |= {"2*height": 2 * height, "2*width": 2 * width, "tokens": TOKENS}
    feeds = {}
    for spec in SPECS[component][0]:
        shape = tuple(sizes[d] if isinstance(d, str) else d for d in spec.shape)
        feeds[spec.name] = rng.standard_normal(shape).astype(np.float32)
    return feeds


def _write_golden(component: str, folder: Path) -> None:
    reference = ReferenceEvaluator(str(folder / "onnx" / f"{component}.onnx"))
    tensors: dict[str, np.ndarray] = {}
    for case, rows, height, width in (("rows1", 1, 2, 2), ("rows3", 3, 1, 2)):
        feeds = make_feeds(component, rows, height, width)
        answers = dict(zip((spec.name for spec in SPECS[component][1]), reference.run(None, feeds), strict=True))
        tensors |= {f"{case}/inputs/{name}": array for name, array in feeds.items()}
        tensors |= {f"{case}/outputs/{name}": array for name, array in answers.items()}
    # the reference gives transposed views, whose memory safetensors would write as it lies
    content = save({name: np.ascontiguousarray(array) for name, array in tensors.items()})
    (folder / "golden" / f"{component}.safetensors").write_bytes(content)


def _records(folder: Path) -> dict[str, FileRecord]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != FILE_NAME)
    return {
        file.relative_to(folder).as_posix(): FileRecord(size=file.stat().st_size, sha256=sha256(file)) for file in files
    }


@pytest.fixture(scope="session")
def tiny_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle, made once. Not to be changed: tests that do take `tiny_bundle`."""
    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    for name in ("onnx", "golden", "tokenizer"):
        (folder / name).mkdir(parents=True)
    components = {}
    for name, (inputs, outputs) in SPECS.items():
        weights = _write_graph(name, folder)
        _write_golden(name, folder)
        components[name] = Component(
            graph=f"onnx/{name}.onnx",
            weights=weights,
            inputs=inputs,
            outputs=outputs,
            golden=f"golden/{name}.safetensors",
            max_abs_error=9e-7,
        )
    (folder / "golden/trajectory.safetensors").write_bytes(save({"latents": np.zeros((1, 4, 2, 2), np.float32)}))
    (folder / "tokenizer/tokenizer.json").write_text("{}\n")  # engines never parse it, nor the table
    (folder / "tokenizer/token_embedding.safetensors").write_bytes(
        save({"t": np.zeros((VOCABULARY, WIDTH), np.float32)})
    )
    (folder / "LICENSE-MODEL").write_text("Made by hand for tests.\n")
    manifest = Manifest(
        format=FORMAT,
        model=ModelFacts(
            family="stable-diffusion-1",
            prediction_type="epsilon",
            latent_channels=4,
            vae_scale_factor=8,
            scaling_factor=0.18215,
            max_tokens=TOKENS,
            default_size=16,
            size_multiple=16,
        ),
        scheduler=SchedulerFacts(beta_start=0.00085, beta_end=0.012, num_train_timesteps=1000, steps_offset=1),
        components=components,
        decoders=("kl-f8",),
        default_decoder="kl-f8",
        tokenizer="tokenizer/tokenizer.json",
        token_embedding="tokenizer/token_embedding.safetensors",
        trajectory="golden/trajectory.safetensors",
        licence=Licence(name="test", files=("LICENSE-MODEL",), missing=("NOTICE",)),
        provenance={"source": "by hand", "source.sha256": hashlib.sha256(b"").hexdigest()},
        files=_records(folder),
    )
    (folder / FILE_NAME).write_bytes(manifest.to_json())
    return folder


@pytest.fixture
def tiny_bundle(tiny_original: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may spoil."""
    return Path(shutil.copytree(tiny_original, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def feeds_for() -> Callable[[str, int, int, int], dict[str, np.ndarray]]:
    """Feeds of a component for (rows, height, width), height and width in latents (for the UNet, half of them)."""
    return make_feeds


@pytest.fixture(scope="session")
def edit() -> Edit:
    """`edit(bundle, "model", "max_tokens", value)` writes one value into `bundle.json`."""

    def write(bundle: Path, *path: str | int, to: Any) -> None:
        content = json.loads((bundle / FILE_NAME).read_bytes())
        place = content
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to
        (bundle / FILE_NAME).write_text(json.dumps(content))

    return write


@pytest.fixture(scope="session")
def relist(edit: Edit) -> Relist:
    """`relist(bundle)` writes the sizes and hashes of the files as they now are: a bundle that lies on purpose."""

    def write(bundle: Path) -> None:
        records = {path: {"size": r.size, "sha256": r.sha256} for path, r in _records(bundle).items()}
        edit(bundle, "files", to=records)

    return write


@pytest.fixture
def opened(tiny_bundle: Path) -> Bundle:
    """The tiny bundle, opened."""
    return Bundle.open(tiny_bundle)
