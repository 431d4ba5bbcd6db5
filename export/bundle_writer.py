"""A loaded model -> a bundle folder: every component exported, recorded, compared, hashed and listed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from tokenizers import Tokenizer

from latentrt.engines.atomic import new_folder
from latentrt.engines.bundle import sha256
from latentrt.engines.errors import OutputError
from latentrt.engines.manifest import (
    FILE_NAME,
    FORMAT,
    OWN_DECODER,
    TEXT_ENCODER,
    Component,
    ExportPrecision,
    FileRecord,
    Licence,
    Manifest,
    Preview,
)

from .component_writer import Report, inside, no_report, write_components
from .golden import NOTHING_FURTHER, Further
from .licence import write_licence
from .recorder import Recorder, Recording
from .safety_network import safety_loaders
from .source import SourceModel
from .token_table import save_token_table
from .wrappers import Loader, Network, TextEncoder, network_loaders

TOKENIZER = "tokenizer/tokenizer.json"
TOKEN_EMBEDDING = "tokenizer/token_embedding.safetensors"
TRAJECTORY = "golden/trajectory.safetensors"
TOOLS = ("diffusers", "latentrt", "onnx", "onnxscript", "torch", "transformers")  # their versions go into the bundle


def write_bundle(model: SourceModel, output: Path, *, report: Report = no_report, overwrite: bool = False) -> Manifest:
    """Write the model as a bundle at `output`.

    The folder gets its name only when it is complete.

    Raises:
        OutputError: something is at `output` that may not be replaced, or it cannot be written.
        CheckFailedError: a component differs from PyTorch by more than the threshold.
    """
    with new_bundle(output, overwrite=overwrite) as folder:
        return fill_bundle(model, folder, report)


@contextmanager
def new_bundle(output: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield the folder that becomes the bundle. With `overwrite` a bundle is replaced, and nothing else ever is."""
    if output.exists() and not _is_bundle(output):
        raise OutputError(f"cannot write {output}: it is there and is not a bundle; choose another path")
    with new_folder(output, overwrite=overwrite) as folder:
        yield folder


def fill_bundle(
    model: SourceModel,
    folder: Path,
    report: Report = no_report,
    further: Further = NOTHING_FURTHER,
    precision: ExportPrecision = "fp32",
    recording: Recording | None = None,
) -> Manifest:
    """Write all files of a bundle into an empty folder, `bundle.json` last; one network is in memory at a time.

    `recording` asks the networks other calls than `Recorder`, which `further` adds to.
    """
    model = replace(model, provenance=model.provenance | {"precision": precision})
    for name in ("onnx", "golden", "tokenizer"):
        (folder / name).mkdir()
    recorder = Recorder(model, folder / TRAJECTORY, further)
    loaders = network_loaders(model) | safety_loaders(model.safety_checker, folder)
    loaders[TEXT_ENCODER] = _leaving_table(loaders[TEXT_ENCODER], folder / TOKEN_EMBEDDING, precision)
    components = write_components(loaders, recording or recorder, folder, report, precision)
    (folder / TOKENIZER).write_bytes(tokenizer_json(model))
    licence = write_licence(model.licence_name, model.licence_files, folder, model.provenance)
    manifest = _manifest(model, folder, components, licence, recorder.preview)
    (folder / FILE_NAME).write_bytes(manifest.to_json())
    return manifest


def _leaving_table(loader: Loader, place: Path, precision: ExportPrecision) -> Loader:
    """A loader of the text encoder that leaves its token table at `place`."""

    def load() -> Network:
        network = loader.load()
        assert isinstance(network.module, TextEncoder)
        save_token_table(network.module.text_encoder, place, precision)
        return network

    return replace(loader, load=load)


def tokenizer_json(model: SourceModel) -> bytes:
    """The tokenizer as `tokenizer.json`, free of the padding and truncation that an earlier call may have left on."""
    tokenizer = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer.to_str(pretty=True).encode()


def _is_bundle(path: Path) -> bool:
    """Whether a folder holds a `bundle.json` of latentrt, whatever its version; a damaged bundle counts too."""
    try:
        found = json.loads((path / FILE_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"format", "components", "files"} <= found.keys()


def _manifest(
    model: SourceModel, folder: Path, components: dict[str, Component], licence: Licence, preview: Preview | None
) -> Manifest:
    return Manifest(
        format=FORMAT,
        model=model.facts,
        scheduler=model.scheduler,
        components=components,
        decoders=tuple(model.vaes),
        default_decoder=OWN_DECODER,
        tokenizer=TOKENIZER,
        token_embedding=TOKEN_EMBEDDING,
        trajectory=TRAJECTORY if (folder / TRAJECTORY).exists() else None,
        licence=licence,
        provenance=model.provenance | _tools(),
        files=_file_records(folder),
        safety_checker=None if model.safety_checker is None else model.safety_checker.facts,
        preview=preview,
    )


def _tools() -> dict[str, str]:
    """Versions, and the thread count: PyTorch's sums, hence the last bits of its answers, depend on it."""
    return {tool: version(tool) for tool in TOOLS} | {"torch.threads": str(torch.get_num_threads())}


def _file_records(folder: Path) -> dict[str, FileRecord]:
    return file_records(folder, (path for path in folder.rglob("*") if path.is_file()))


def file_records(folder: Path, files: Iterable[Path]) -> dict[str, FileRecord]:
    """Size and hash of each file, by its path in the folder."""
    return {inside(folder, file): FileRecord(size=file.stat().st_size, sha256=sha256(file)) for file in sorted(files)}
