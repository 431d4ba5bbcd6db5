"""A loaded model -> a bundle folder: every component exported, recorded, compared, hashed and listed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
    Component,
    FileRecord,
    Licence,
    Manifest,
    ModelFacts,
    SchedulerFacts,
)

from .compare import check_graph, round_up
from .golden import case_inputs, record, save_cases, size_multiple
from .onnx_export import export_network
from .source import SourceModel
from .token_table import save_token_table
from .trajectory import record_trajectory
from .vocabulary import MAX_TOKENS
from .wrappers import Network, networks, vae_scale_factor

TOKENIZER = "tokenizer/tokenizer.json"
TOKEN_EMBEDDING = "tokenizer/token_embedding.safetensors"
TRAJECTORY = "golden/trajectory.safetensors"
MODEL_CARD = "MODEL_CARD.md"
TOOLS = ("diffusers", "latentrt", "onnx", "onnxscript", "torch", "transformers")  # their versions go into the bundle


@dataclass(frozen=True)
class Progress:
    """One part of an export: told when it starts (`seconds` is None) and when it is done.

    `max_abs_error` is onnxruntime against PyTorch, on unit scale; the part `trajectory` has none.
    """

    part: str
    index: int  # counts from 0 up to total - 1
    total: int
    seconds: float | None = None
    max_abs_error: float | None = None


Report = Callable[[Progress], None]


def no_report(progress: Progress) -> None:
    """Report nothing."""


def write_bundle(model: SourceModel, output: Path, *, report: Report = no_report, overwrite: bool = False) -> Manifest:
    """Write the model as a bundle at `output`.

    The folder gets its name only when it is complete. The modules of `model` are set to fp32 inference.

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
    """Write all files of a bundle into an empty folder, `bundle.json` last."""
    for name in ("onnx", "golden", "tokenizer"):
        (folder / name).mkdir()
    total = len(model.vaes) + 4  # text encoder, UNet, VAE encoder, trajectory
    components = {}
    for index, network in enumerate(networks(model)):
        report(Progress(network.name, index, total))
        start = time.perf_counter()
        component, error = _add_component(model, network, folder)
        components[network.name] = component
        report(Progress(network.name, index, total, time.perf_counter() - start, error))
    report(Progress("trajectory", total - 1, total))
    start = time.perf_counter()
    record_trajectory(model, folder / TRAJECTORY)
    report(Progress("trajectory", total - 1, total, time.perf_counter() - start))
    (folder / TOKENIZER).write_bytes(tokenizer_json(model))
    save_token_table(model.text_encoder, folder / TOKEN_EMBEDDING)
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


def _add_component(model: SourceModel, network: Network, folder: Path) -> tuple[Component, float]:
    cases = record(network, case_inputs(model, network.name))
    golden = folder / "golden" / f"{network.name}.safetensors"
    save_cases(cases, golden)
    graph, weights = export_network(network, folder / "onnx")
    error = check_graph(network.name, graph, cases)
    component = Component(
        graph=_inside(folder, graph),
        weights=(_inside(folder, weights),),
        inputs=network.inputs,
        outputs=network.outputs,
        golden=_inside(folder, golden),
        max_abs_error=round_up(error),
    )
    return component, error


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
    default, vae = next(iter(model.vaes.items()))
    return Manifest(
        format=FORMAT,
        model=ModelFacts(
            family="stable-diffusion-1",
            prediction_type=model.prediction_type,
            latent_channels=int(vae.config.latent_channels),
            vae_scale_factor=vae_scale_factor(vae),
            scaling_factor=model.scaling_factor,
            max_tokens=MAX_TOKENS,
            default_size=model.default_size,
            size_multiple=size_multiple(model),
        ),
        scheduler=SchedulerFacts(
            beta_start=model.beta_start,
            beta_end=model.beta_end,
            num_train_timesteps=model.num_train_timesteps,
            steps_offset=model.steps_offset,
        ),
        components=components,
        decoders=tuple(model.vaes),
        default_decoder=default,
        tokenizer=TOKENIZER,
        token_embedding=TOKEN_EMBEDDING,
        trajectory=TRAJECTORY,
        licence=Licence(name=model.licence_name, files=licence_files, missing=model.licence_missing),
        provenance=model.provenance | _tools(),
        files=_file_records(folder),
    )


def _tools() -> dict[str, str]:
    """Versions, and the thread count: PyTorch's sums, hence the last bits of its answers, depend on it."""
    return {tool: version(tool) for tool in TOOLS} | {"torch.threads": str(torch.get_num_threads())}


def _file_records(folder: Path) -> dict[str, FileRecord]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {_inside(folder, file): FileRecord(size=file.stat().st_size, sha256=sha256(file)) for file in files}


def _inside(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()
