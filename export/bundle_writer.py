"""A loaded model -> a bundle folder: every component exported, recorded, compared, hashed and listed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
from tokenizers import Tokenizer

from latentrt.engines.atomic import new_folder
from latentrt.engines.bundle import sha256
from latentrt.engines.errors import OutputError
from latentrt.engines.manifest import FILE_NAME, FORMAT, OWN_DECODER, Component, FileRecord, Licence, Manifest

from .component_writer import Report, inside, no_report, write_components
from .recorder import Recorder
from .source import SourceModel
from .wrappers import network_loaders

TOKENIZER = "tokenizer/tokenizer.json"
TOKEN_EMBEDDING = "tokenizer/token_embedding.safetensors"
TRAJECTORY = "golden/trajectory.safetensors"
MODEL_CARD = "MODEL_CARD.md"
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


def fill_bundle(model: SourceModel, folder: Path, report: Report) -> Manifest:
    """Write all files of a bundle into an empty folder, `bundle.json` last; one network is in memory at a time."""
    for name in ("onnx", "golden", "tokenizer"):
        (folder / name).mkdir()
    recorder = Recorder(model, trajectory=folder / TRAJECTORY, token_table=folder / TOKEN_EMBEDDING)
    components = write_components(network_loaders(model), recorder.record, folder, report)
    (folder / TOKENIZER).write_bytes(tokenizer_json(model))
    manifest = _manifest(model, folder, components, _copy_licence(model, folder))
    (folder / FILE_NAME).write_bytes(manifest.to_json())
    return manifest


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


def _copy_licence(model: SourceModel, folder: Path) -> tuple[str, ...]:
    """Copy the licence's files to the root of the bundle and return their names there."""
    names = []
    for source in model.licence_files:
        stem = source.name.split(".")[0]  # LICENSE-MODEL.txt -> LICENSE-MODEL
        name = MODEL_CARD if stem == Path(MODEL_CARD).stem else stem
        shutil.copyfile(source, folder / name)
        names.append(name)
    return tuple(sorted(names))


def _manifest(
    model: SourceModel, folder: Path, components: dict[str, Component], licence_files: tuple[str, ...]
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
        licence=Licence(name=model.licence_name, files=licence_files, missing=model.licence_missing),
        provenance=model.provenance | _tools(),
        files=_file_records(folder),
    )


def _tools() -> dict[str, str]:
    """Versions, and the thread count: PyTorch's sums, hence the last bits of its answers, depend on it."""
    return {tool: version(tool) for tool in TOOLS} | {"torch.threads": str(torch.get_num_threads())}


def _file_records(folder: Path) -> dict[str, FileRecord]:
    return file_records(folder, (path for path in folder.rglob("*") if path.is_file()))


def file_records(folder: Path, files: Iterable[Path]) -> dict[str, FileRecord]:
    """Size and hash of each file, by its path in the folder."""
    return {inside(folder, file): FileRecord(size=file.stat().st_size, sha256=sha256(file)) for file in sorted(files)}
