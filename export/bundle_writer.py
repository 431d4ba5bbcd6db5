"""A loaded model -> a bundle folder: every component exported, recorded, compared, hashed and listed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
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
    SAFETY_CHECKER,
    Component,
    FileRecord,
    Licence,
    Manifest,
    ModelFacts,
    SchedulerFacts,
)

from .compare import check_graph, round_up
from .golden import Inputs, case_inputs, record, save_cases, size_multiple
from .licence import write_licence
from .onnx_export import export_network
from .safety_checker import load_safety_checker, safety_case_inputs, write_concepts
from .source import SourceModel
from .trajectory import record_trajectory
from .vocabulary import MAX_TOKENS
from .wrappers import Network, networks, vae_scale_factor

TOKENIZER = "tokenizer/tokenizer.json"
TRAJECTORY = "golden/trajectory.safetensors"
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
    count = len(model.vaes) + 3  # text encoder, UNet, VAE encoder
    total = count + (model.safety_checker is not None) + 1  # the trajectory
    components = {}
    for index, network in enumerate(networks(model)):
        report(Progress(network.name, index, total))
        start = time.perf_counter()
        component, error = _add_component(network, case_inputs(model, network.name), folder)
        components[network.name] = component
        report(Progress(network.name, index, total, time.perf_counter() - start, error))
    provenance = model.provenance
    if model.safety_checker is not None:
        report(Progress(SAFETY_CHECKER, count, total))
        start = time.perf_counter()
        part = load_safety_checker(model.safety_checker)
        component, error = _add_component(part.network, safety_case_inputs(part.network), folder)
        components[SAFETY_CHECKER] = component
        write_concepts(part.concepts, folder)
        provenance |= part.provenance
        report(Progress(SAFETY_CHECKER, count, total, time.perf_counter() - start, error))
    report(Progress("trajectory", total - 1, total))
    start = time.perf_counter()
    record_trajectory(model, folder / TRAJECTORY)
    report(Progress("trajectory", total - 1, total, time.perf_counter() - start))
    (folder / TOKENIZER).write_bytes(tokenizer_json(model))
    licence = write_licence(model.licence_name, model.licence_files, folder, provenance)
    manifest = _manifest(model, folder, components, licence, provenance | _tools())
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


def _add_component(network: Network, inputs: Mapping[str, Inputs], folder: Path) -> tuple[Component, float]:
    cases = record(network, inputs)
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


def _manifest(
    model: SourceModel,
    folder: Path,
    components: dict[str, Component],
    licence: Licence,
    provenance: dict[str, str],
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
        trajectory=TRAJECTORY,
        licence=licence,
        provenance=provenance,
        files=_file_records(folder),
        safety_checker=None if model.safety_checker is None else model.safety_checker.facts,
    )


def _tools() -> dict[str, str]:
    """Versions, and the thread count: PyTorch's sums, hence the last bits of its answers, depend on it."""
    return {tool: version(tool) for tool in TOOLS} | {"torch.threads": str(torch.get_num_threads())}


def _file_records(folder: Path) -> dict[str, FileRecord]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {_inside(folder, file): FileRecord(size=file.stat().st_size, sha256=sha256(file)) for file in files}


def _inside(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()
