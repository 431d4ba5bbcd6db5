"""The contestants, by name: what each is, what its environment holds, and how it is asked to run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentrt.engines.errors import unknown_name

LATENTRT = "latentrt"
_REQUIREMENTS = Path(__file__).resolve().parent / "requirements"


@dataclass(frozen=True)
class Entry:
    """One contestant.

    Attributes:
        name: on the command line and in the results.
        title: what it is, for whoever reads a table.
        worker: its module in `workers/`.
        options: for its orders `prepare` and `open`.
        environment: the file of `requirements/` that its environment is made from, without suffix; None where it runs
            in the interpreter that runs the trial.
        exporter: likewise of the environment in which its own exporter runs; None where it has none.
        extras: of latentrt's package, those whose libraries it runs with.
    """

    name: str
    title: str
    worker: str
    options: dict[str, Any] = field(default_factory=dict)
    environment: str | None = None
    exporter: str | None = None
    extras: tuple[str, ...] = ()

    @property
    def requirements(self) -> tuple[str, ...]:
        """What pip is asked for, every package with its version."""
        return () if self.environment is None else pinned(self.environment)

    @property
    def needs_source(self) -> bool:
        """Whether it runs the checkpoint that a bundle was exported from, rather than the bundle."""
        return self.environment is not None


def pinned(environment: str) -> tuple[str, ...]:
    """The lines of `requirements/NAME.txt`, less comments."""
    lines = (_REQUIREMENTS / f"{environment}.txt").read_text(encoding="utf-8").splitlines()
    words = [line.partition("#")[0].strip() for line in lines]
    return tuple(word for word in words if word)


def _torch(name: str, title: str, **options: Any) -> Entry:
    return Entry(name, f"PyTorch, diffusers' pipeline, {title}", "torch_worker", options, environment="torch")


def _latentrt(engine: str, extra: str, precision: str | None = None) -> Entry:
    words = [engine, *([precision] if precision else [])]
    options = {"engine": engine} | ({"precision": precision} if precision else {})
    name, title = f"{LATENTRT}:{'-'.join(words)}", f"latentrt, {' '.join(words)}"
    return Entry(name, title, "latentrt_worker", options, extras=(extra,))


_ENTRIES = (
    Entry(
        LATENTRT,
        "latentrt, the engine that it chooses itself",
        "latentrt_worker",
        {"engine": "auto"},
        extras=("cpu", "openvino"),
    ),
    _latentrt("onnxruntime", "cpu"),
    _latentrt("openvino", "openvino"),
    _latentrt("openvino", "openvino", "bf16"),
    _latentrt("onnxruntime-cuda", "cuda", "fp16"),
    _latentrt("tensorrt", "tensorrt", "fp16"),
    _latentrt("tensorrt-rtx", "rtx", "fp16"),
    _torch("torch", "fp32", dtype="float32"),
    _torch("torch-bf16", "bf16, channels last", dtype="bfloat16", channels_last=True),
    _torch("torch-fp16", "fp16, channels last", dtype="float16", channels_last=True),
    _torch("torch-compile", "fp32, UNet and decoder compiled", dtype="float32", channels_last=True, compile=True),
    _torch("torch-compile-bf16", "bf16, UNet and decoder compiled", dtype="bfloat16", channels_last=True, compile=True),
    _torch("torch-compile-fp16", "fp16, UNet and decoder compiled", dtype="float16", channels_last=True, compile=True),
    Entry(
        "optimum-onnx",
        "optimum's ONNX Runtime pipeline, fp32",
        "optimum_worker",
        environment="optimum-onnx",
        exporter="optimum-onnx",
    ),
    Entry(
        "openvino-genai",
        "OpenVINO GenAI's Text2ImagePipeline, in the precision that OpenVINO chooses",
        "genai_worker",
        environment="openvino-genai",
        exporter="openvino-exporter",
    ),
    Entry(
        "openvino-genai-fp32",
        "OpenVINO GenAI's Text2ImagePipeline, fp32",
        "genai_worker",
        {"precision": "f32"},
        environment="openvino-genai",
        exporter="openvino-exporter",
    ),
    Entry(
        "stable-diffusion.cpp",
        "stable-diffusion.cpp, fp32, weights of convolutions fp16",
        "sdcpp_worker",
        environment="stable-diffusion.cpp",
    ),
)
NAMES = tuple(entry.name for entry in _ENTRIES)


def contestant(name: str) -> Entry:
    """The contestant of this name.

    Raises:
        InputError: there is none; it offers the nearest, and lists all.
    """
    for entry in _ENTRIES:
        if entry.name == name:
            return entry
    raise unknown_name("contestant", name, NAMES)
