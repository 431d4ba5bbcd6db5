"""`bundle.json`: what a bundle says of itself. One structure, read by every command, written by `export` alone."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import msgspec

from .errors import BundleError
from .tensor import TensorSpec, free_names

FORMAT = 1
FILE_NAME = "bundle.json"
MAX_BYTES = 2**20  # a real one is some 20 KB

TEXT_ENCODER = "text_encoder"
UNET = "unet"
VAE_ENCODER = "vae_encoder"
SAFETY_CHECKER = "safety_checker"
OWN_DECODER = "kl-f8"  # the autoencoder that the checkpoint itself holds
MAX_TOKENS = 77  # what the text encoder reads at once: one chunk of a prompt
TIMESTEP_COND = "timestep_cond"  # the UNet's input for the guidance scale, where guidance was distilled into it
_DECODER = "vae_decoder."
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# bounds of what a real model states, wide; they keep a damaged number from becoming a division by zero or a huge array
_Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
_Side = Annotated[int, msgspec.Meta(ge=1, le=4096)]  # 224 for every CLIP of Stable Diffusion 1.x
_Colour = tuple[float, float, float]  # red, green and blue
_Deviation = Annotated[float, msgspec.Meta(gt=0, le=1000)]
_Beta = Annotated[float, msgspec.Meta(gt=0, lt=1)]
_Specs = Annotated[tuple[TensorSpec, ...], msgspec.Meta(min_length=1)]
Precision = Literal["fp32", "fp16", "bf16"]
ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
ExportPrecision = Literal["fp32", "fp16"]  # of a bundle's graphs; engines compute in any that they can
_Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_EngineId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
_ComponentName = Annotated[str, msgspec.Meta(pattern=rf"^({_DECODER})?{_NAME.pattern}\Z")]


def decoder_component(decoder: str) -> str:
    """The component that holds the decoder of this name: `"ft-mse"` -> `"vae_decoder.ft-mse"`."""
    return _DECODER + decoder


def encoder_component(decoder: str) -> str:
    """The component that holds the encoder of this decoder: `"vae_encoder"` for the checkpoint's own.

    Another decoder has one only where its encoder differs from that.
    """
    return VAE_ENCODER if decoder == OWN_DECODER else f"{VAE_ENCODER}.{decoder}"


def is_encoder(component: str) -> bool:
    """Whether a component turns pictures into latents."""
    return component.partition(".")[0] == VAE_ENCODER


def is_decoder_name(name: str) -> bool:
    """Whether `name` can name a decoder: letters, digits, '.', '_', '-', at most 64, the first not a sign."""
    return _NAME.fullmatch(name) is not None


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the manifest's structures: unknown and missing fields are errors that say where."""


class FileRecord(_Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Size in bytes and SHA-256 in hexadecimal of one file."""

    size: Annotated[int, msgspec.Meta(ge=0)]
    sha256: _Sha256


class ModelFacts(_Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the runtime must know of the model, and cannot see from the graphs."""

    family: Literal["stable-diffusion-1"]
    prediction_type: Literal["epsilon", "v_prediction"]
    latent_channels: _Count
    vae_scale_factor: _Count  # pixels per latent, 8
    scaling_factor: Annotated[float, msgspec.Meta(gt=0, le=1000)]  # latents = encoder output * this, 0.18215
    max_tokens: _Count  # 77
    default_size: _Count  # pixels on a side the model was trained at, 512
    size_multiple: _Count  # width and height must be multiples of this many pixels


class SchedulerFacts(_Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The noise schedule the model was trained with ("scaled linear" betas)."""

    beta_start: _Beta
    beta_end: _Beta
    num_train_timesteps: _Count
    steps_offset: Annotated[int, msgspec.Meta(ge=0, le=1000)]


class Packed(_Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a component has in place of its graph in a bundle that `latentrt pack` wrote: compiled engines alone.

    Their files are listed in the manifest, and no other engine is opened for the component.
    """

    engines: Annotated[tuple[_EngineId, ...], msgspec.Meta(min_length=1)]
    graph: _Sha256  # of the graph they were compiled from
    weights: _Sha256  # over the names and hashes of its weight files


class Component(_Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One network: its graph, the files its graph needs, its tensors, and PyTorch's recorded answers."""

    graph: str | None  # None where it was packed
    weights: tuple[str, ...]
    inputs: _Specs
    outputs: _Specs
    golden: str | None  # None where it was packed with engines that had passed their check
    max_abs_error: Annotated[float, msgspec.Meta(ge=0)]  # measured at export: onnxruntime fp32 against PyTorch fp32
    precision: Precision = "fp32"  # of its weights and sums
    # by precision: relative L2 error of PyTorch's own run in it, the largest over the recorded calls; it may be absent
    floor: dict[Precision, Annotated[float, msgspec.Meta(gt=0, lt=1)]] = {}
    packed: Packed | None = None


class Licence(_Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model's licence, its files in the bundle, and what is plainly missing."""

    name: str
    files: tuple[str, ...]
    missing: tuple[str, ...] = ()


class SafetyFacts(_Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What surrounds the safety checker's network: how pictures come to it, and the concepts they are held against."""

    concepts: str  # a safetensors file: concept vectors and their thresholds
    shortest_edge: _Side  # pixels: pictures are resized to this, bicubic
    image_size: _Side  # pixels: and their middle is cut out, a square
    image_mean: _Colour  # from 0 to 1
    image_std: tuple[_Deviation, _Deviation, _Deviation]


class Preview(_Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to see a latent without a decoder: the colour of its place, from -1 to 1, is `latent @ weights + bias`.

    Latents are those of the loop, as the encoder gives them times `scaling_factor`.
    """

    weights: Annotated[tuple[_Colour, ...], msgspec.Meta(min_length=1)]  # one for each latent channel
    bias: _Colour
    # what the fit leaves, as root mean square of colours from 0 to 1: it shows colours and shapes, not detail
    rms_error: Annotated[float, msgspec.Meta(ge=0, le=1)]


class Manifest(_Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of `bundle.json`. `files` lists every file that the bundle trusts, by path relative to it."""

    format: int
    model: ModelFacts
    scheduler: SchedulerFacts
    components: dict[_ComponentName, Component]
    decoders: tuple[str, ...]
    default_decoder: str
    tokenizer: str
    token_embedding: str  # safetensors; its one tensor is the text encoder's token table, (vocabulary, width)
    trajectory: str | None  # None where pictures are not drawn from text alone (an inpainting UNet)
    licence: Licence
    provenance: dict[str, str]
    files: dict[str, FileRecord]
    safety_checker: SafetyFacts | None = None
    preview: Preview | None = None  # of the default decoder when exported; all decoders show the same latents

    def to_json(self) -> bytes:
        """The bytes of `bundle.json`: sorted and indented, so equal manifests are equal files."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"

    def bundle_hash(self) -> str:
        """SHA-256 of `bundle.json`: it names every file's hash, so it names the bundle."""
        return hashlib.sha256(self.to_json()).hexdigest()


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read `bundle.json`, trusting nothing of it.

    Raises:
        BundleError: not JSON, of a newer format, a field missing or of the wrong type, an unsafe path.
    """
    if len(data) > MAX_BYTES:
        raise BundleError(
            f"{where}: {FILE_NAME} has {len(data)} bytes, more than {MAX_BYTES}: not a bundle of latentrt"
        )
    try:
        raw = json.loads(data, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:  # a JSON, a UTF-8 or a number error; nested too deeply
        raise BundleError(f"{where}: {FILE_NAME} is not valid JSON: {error}; export the bundle again") from error
    version = raw.get("format") if isinstance(raw, dict) else None
    if not isinstance(version, int):
        raise BundleError(f"{where}: {FILE_NAME} names no format version: not a bundle of latentrt")
    if version != FORMAT:
        raise BundleError(
            f"{where} has bundle format {version}; this latentrt reads format {FORMAT}: "
            + ("upgrade latentrt" if version > FORMAT else "export the bundle again")
        )
    try:
        # from the bytes: json lets NaN, 1e999 and half a surrogate pass, msgspec refuses them
        manifest = msgspec.json.decode(data, type=Manifest)
    except ValueError as error:  # msgspec's own, or UnicodeDecodeError
        raise BundleError(f"{where}: {FILE_NAME} is damaged: {error}; export the bundle again") from error
    _check_references(manifest, where)
    return manifest


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twice!r} is there twice")
    return result


def _check_references(manifest: Manifest, where: str) -> None:
    for path in manifest.files:
        if not _is_safe(path):
            raise BundleError(f"{where}: {FILE_NAME} lists {path!r}, which is not a plain path inside the bundle")
    needed = [manifest.tokenizer, manifest.token_embedding, *manifest.licence.files]
    needed += [manifest.trajectory] if manifest.trajectory is not None else []
    for name, component in manifest.components.items():
        needed += [path for path in (component.graph, *component.weights, component.golden) if path is not None]
        _check_component(name, component, where)
    if manifest.safety_checker is not None:
        needed.append(manifest.safety_checker.concepts)
    for path in needed:
        if path not in manifest.files:
            raise BundleError(f"{where}: {FILE_NAME} uses {path!r} but does not list its hash; export the bundle again")
    wanted = [TEXT_ENCODER, UNET, *map(decoder_component, manifest.decoders)]
    if manifest.default_decoder not in manifest.decoders:
        raise BundleError(f"{where}: the default decoder {manifest.default_decoder!r} is not among its decoders")
    for name in wanted:
        if name not in manifest.components:
            raise BundleError(f"{where} has no component {name!r}; export the bundle again")
    channels = manifest.model.latent_channels
    if manifest.preview is not None and len(manifest.preview.weights) != channels:
        raise BundleError(
            f"{where}: its preview has weights for {len(manifest.preview.weights)} latent channels, its model has "
            f"{channels}; export the bundle again"
        )
    _check_safety(manifest, where)


def _check_safety(manifest: Manifest, where: str) -> None:
    """Refuse half a safety checker: taken for none, it would leave pictures unchecked."""
    facts, component = manifest.safety_checker, manifest.components.get(SAFETY_CHECKER)
    if facts is None and component is None:
        return
    if facts is None or component is None:
        there, missing = ("facts", "component") if component is None else ("component", "facts")
        raise BundleError(f"{where} has the safety checker's {there} and not its {missing}; export the bundle again")
    wanted = (3, facts.image_size, facts.image_size)
    if len(component.inputs) != 1 or component.inputs[0].shape[1:] != wanted or len(component.outputs) != 1:
        raise BundleError(
            f"{where}: its {SAFETY_CHECKER} takes {', '.join(map(str, component.inputs))}; expected one input of "
            f"(rows, {', '.join(map(str, wanted))}) and one output; export the bundle again"
        )


def _check_component(name: str, component: Component, where: str) -> None:
    if (component.graph is None) != (component.packed is not None):
        raise BundleError(
            f"{where}: {name} has a graph and packed engines, or neither; export or pack the bundle again"
        )
    if component.graph is not None and not component.graph.endswith(
        ".onnx"
    ):  # by another suffix an engine library may choose another parser
        raise BundleError(f"{where}: the graph of {name} is {component.graph!r}; expected a file that ends in .onnx")
    for specs in (component.inputs, component.outputs):
        if len({spec.name for spec in specs}) != len(specs):
            raise BundleError(f"{where}: {name} has two tensors of one name among {', '.join(map(str, specs))}")
    unbound = free_names(component.outputs) - free_names(component.inputs)
    if unbound:
        raise BundleError(f"{where}: no input of {name} tells the size of {', '.join(sorted(unbound))} in its outputs")


def _is_safe(path: str) -> bool:
    pure = PurePosixPath(path)
    plain = not pure.is_absolute() and "\\" not in path and path.isprintable() and str(pure) == path
    return plain and ".." not in pure.parts and path not in {".", FILE_NAME}
