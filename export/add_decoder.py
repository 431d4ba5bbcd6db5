"""A further decoder for a bundle that is there: nothing else in it is touched, and its engines stay valid."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import onnx_ir as ir
import torch
from torch import Tensor

from latentrt.engines.atomic import named_errors, new_file
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import CheckpointError, InputError
from latentrt.engines.manifest import FILE_NAME, VAE_ENCODER, Component, Manifest, ModelFacts
from latentrt.engines.passes.reading import read_model

from .architecture import Facts, VaeFacts
from .bundle_writer import file_records
from .component_writer import Report, no_report, write_components
from .recorder import VaeRecorder
from .source import check_vae_name, vae_provenance
from .vae import StoredVae, encoder_tensors, find_vae, same_weights
from .wrappers import vae_loaders


def add_decoder(path: Path, name: str, source: Path, *, report: Report = no_report) -> Manifest:
    """Add the autoencoder at `source` to the bundle at `path`, under `name`; returns the bundle's new manifest.

    Its encoder comes along as `vae_encoder.NAME` where it is not the bundle's own. `bundle.json` is replaced last, so a
    failure or an interruption leaves the bundle as it was.

    Raises:
        InputError: the name is taken, or cannot be one.
        BundleError: there is no bundle, or it is damaged.
        CheckpointError: the autoencoder cannot be used with this model.
        CheckFailedError: a component differs from PyTorch by more than the threshold.
        OutputError: the bundle cannot be written.
    """
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    check_vae_name(name, source)
    if name in manifest.decoders:
        raise InputError(f"{path} has a decoder {name!r} already; give this one another name")
    own = read_model(bundle.graph(VAE_ENCODER)).graph
    vae = find_vae(source, Facts(vae=VaeFacts(norm_num_groups=_groups(own)), default_size=manifest.model.default_size))
    _check_latents(source, vae, manifest.model)
    shared = _is_in(vae, [_as_torch(value) for value in own.initializers.values()])
    loaders = vae_loaders(name, vae, encoder=not shared)
    with _beside(path) as folder:
        components = write_components(
            loaders,
            VaeRecorder(manifest.model),
            folder,
            report,
            "fp16" if manifest.components[VAE_ENCODER].precision == "fp16" else "fp32",
        )
        added = _with(manifest, name, vae, components, folder)
        _move_in(folder, path, added)
    return added


def _groups(encoder: ir.Graph) -> int:
    """Group-norm groups of the bundle's own autoencoder, which a file without metadata shares."""
    norm = next(node for node in encoder if node.op_type == "GroupNormalization")
    return int(norm.attributes["num_groups"].as_int())


def _as_torch(weight: ir.Value) -> Tensor:
    assert weight.const_value is not None
    return torch.from_numpy(weight.const_value.numpy().copy()).float()


def _check_latents(source: Path, vae: StoredVae, facts: ModelFacts) -> None:
    factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
    found, expected = (vae.config["latent_channels"], factor), (facts.latent_channels, facts.vae_scale_factor)
    if found != expected:
        raise CheckpointError(
            f"{source} has {found[0]} latent channels and {factor} pixels per latent; the bundle's model has "
            f"{expected[0]} and {expected[1]}"
        )


def _is_in(vae: StoredVae, weights: list[Tensor]) -> bool:
    """Whether every weight of an autoencoder's encoder is among those of the bundle's encoder.

    A graph keeps neither all names nor equal tensors twice, and holds linear layers transposed: so values are compared.
    """
    stored = torch.float16 if all(torch.equal(w, w.half().float()) for w in weights if w.ndim > 1) else torch.float32
    by_shape: dict[tuple[int, ...], list[Tensor]] = {}
    for weight in weights:
        by_shape.setdefault(tuple(weight.shape), []).append(weight)

    def found(tensor: Tensor) -> bool:
        candidates = by_shape.get(tuple(tensor.shape), [])
        return any(same_weights(candidate, tensor, stored, vae.dtype) for candidate in candidates)

    encoder = encoder_tensors(vae.load())
    return all(found(tensor) or (tensor.ndim == 2 and found(tensor.T)) for tensor in encoder.values())


@contextmanager
def _beside(bundle: Path) -> Iterator[Path]:
    """An empty folder on the bundle's own file system, for as long as the block runs."""
    with named_errors(bundle, bundle), tempfile.TemporaryDirectory(dir=bundle, prefix=".adding-") as folder:
        for part in ("onnx", "golden"):
            (Path(folder) / part).mkdir()
        yield Path(folder)


def _with(manifest: Manifest, name: str, vae: StoredVae, components: dict[str, Component], folder: Path) -> Manifest:
    files = file_records(folder, (file for file in folder.rglob("*") if file.is_file()))
    return msgspec.structs.replace(
        manifest,
        components=manifest.components | components,
        decoders=(*manifest.decoders, name),
        provenance=manifest.provenance | vae_provenance(name, vae, own_encoder=len(components) > 1),
        files=manifest.files | files,
    )


def _move_in(folder: Path, bundle: Path, manifest: Manifest) -> None:
    """Move the new files to their places, then replace `bundle.json`; without that they are not the bundle's."""
    moved: list[Path] = []
    try:
        for file in sorted(folder.glob("*/*")):
            target = bundle / file.relative_to(folder)
            file.rename(target)
            moved.append(target)
        with new_file(bundle / FILE_NAME) as place:
            place.write_bytes(manifest.to_json())
    except BaseException:  # Ctrl-C too
        for target in moved:
            target.unlink(missing_ok=True)
        raise
