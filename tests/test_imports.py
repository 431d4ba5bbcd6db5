"""Imports run one way, and what serves pictures needs no PyTorch: proven on the source and in a fresh process."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# folder -> the folders of latentrt that it may import besides itself
ALLOWED = {
    "engines": set[str](),
    "runtime": {"engines"},
    "export": {"engines"},
    "benchmarks": {"engines", "runtime", "export"},
}
TORCH_STACK = {"torch", "torchvision", "transformers", "diffusers", "accelerate"}
GRAPH_LIBRARIES = {"onnx", "onnx_ir"}  # in engines/passes alone, which builds load where they rewrite a graph
EXPORT_ONLY = TORCH_STACK | GRAPH_LIBRARIES | {"onnxscript"}  # extras that a serving machine does not have
IMPORTERS = {"import_module", "importlib.import_module", "__import__"}
# each only in engines/*_backend.py, or in engines/<library>_library.py
BACKENDS = {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def absolute(node: ast.ImportFrom, file: Path) -> str:
    """The module that a `from` names, with leading dots resolved."""
    if node.level == 0:
        return node.module or ""
    package = ["latentrt", *file.relative_to(ROOT).parent.parts]
    base = package[: len(package) - (node.level - 1)]
    return ".".join([*base, *([node.module] if node.module else [])])


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, full name) of whatever a file imports, at its top, inside functions, or by a literal name."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = absolute(node, file)
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in IMPORTERS:
            yield from ((node.lineno, str(arg.value)) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def forbidden(folder: str, file: Path, name: str) -> bool:
    """Whether a file of `folder` may not import `name`."""
    parts = name.split(".")
    if parts[0] == "latentrt":
        return len(parts) > 1 and parts[1] in ALLOWED and parts[1] not in ALLOWED[folder] | {folder}
    if parts[0] == "cuda" and folder in {"engines", "runtime"}:
        return not file.is_relative_to(ROOT / "engines" / "trt")
    if parts[0] in GRAPH_LIBRARIES and file.is_relative_to(ROOT / "engines" / "passes"):
        return False
    if parts[0] in BACKENDS and folder in {"engines", "runtime"}:
        return not (folder == "engines" and (file.stem.endswith("_backend") or file.stem == f"{parts[0]}_library"))
    return parts[0] in EXPORT_ONLY and folder in {"engines", "runtime"}


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_run_one_way(folder: str) -> None:
    assert sources(folder)
    found = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in sources(folder)
        for line, name in imports(file)
        if forbidden(folder, file, name)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("place", "source", "name"),
    [
        ("engines/x.py", "import torch", "torch"),
        ("engines/x.py", "import onnxruntime as ort", "onnxruntime"),
        ("engines/x.py", "import onnx_ir as ir", "onnx_ir"),
        ("engines/trt/x.py", "import tensorrt_rtx as trt", "tensorrt_rtx"),
        ("engines/x_backend.py", "from cuda.bindings import runtime", "cuda.bindings.runtime"),
        ("engines/passes/x.py", "import torch", "torch"),
        ("engines/x.py", "from latentrt.runtime import loop", "latentrt.runtime.loop"),
        ("engines/x.py", "from ..runtime.loop import Job", "latentrt.runtime.loop.Job"),
        ("runtime/samplers/x.py", "from ...export import export", "latentrt.export.export"),
        ("runtime/x.py", "from latentrt import export", "latentrt.export"),
        ("runtime/x.py", "def f():\n    import diffusers.schedulers", "diffusers.schedulers"),
        ("runtime/x.py", "importlib.import_module('transformers')", "transformers"),
        ("export/x.py", "from latentrt import runtime", "latentrt.runtime"),
        ("export/demo/x.py", "from latentrt.benchmarks.machine import cores", "latentrt.benchmarks.machine.cores"),
    ],
)
def test_the_rule_above_can_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, source: str, name: str
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / place
    file.parent.mkdir(parents=True)
    file.write_text(source)
    [(_, found)] = imports(file)
    assert found == name
    assert forbidden(place.split("/", maxsplit=1)[0], file, name)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("engines/onnxruntime_backend.py", "onnxruntime"),
        ("engines/tensorrt_rtx_backend.py", "tensorrt_rtx"),
        ("engines/trt/x.py", "cuda.bindings.runtime"),
        ("engines/passes/x.py", "onnx_ir"),
        ("runtime/x.py", "latentrt.engines.store"),
        ("export/x.py", "torch"),
        ("benchmarks/x.py", "latentrt.runtime.pipeline"),
        ("runtime/x.py", "latentrt.__version__"),
    ],
)
def test_the_rule_above_allows_what_the_design_allows(place: str, name: str) -> None:
    assert not forbidden(place.split("/", maxsplit=1)[0], ROOT / place, name)


SERVING = """
import sys
from importlib.abc import MetaPathFinder

REFUSED = set(sys.argv[1].split(","))
TRIED = []

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in REFUSED:
            TRIED.append(name)
            raise ImportError(f"{name} is refused here")
        return None

sys.meta_path.insert(0, Refuse())
import importlib
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        if type(error).__name__ != "EngineError":  # a backend whose library is not installed says so
            raise
loaded = sorted({name.split(".")[0] for name in sys.modules} & REFUSED)
print(f"loaded {loaded}, tried {TRIED}")
sys.exit(bool(loaded or TRIED))
"""


def modules(folder: str) -> list[str]:
    files = [file for file in sources(folder) if not file.is_relative_to(ROOT / "engines" / "passes")]
    names = [".".join(["latentrt", *file.relative_to(ROOT).with_suffix("").parts]) for file in files]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def in_a_fresh_process(*names: str) -> subprocess.CompletedProcess[str]:
    refused = ",".join(sorted(EXPORT_ONLY))
    return subprocess.run([sys.executable, "-c", SERVING, refused, *names], capture_output=True, text=True, check=False)


def test_serving_loads_nothing_of_the_torch_stack() -> None:
    """All of engines and runtime, and the public names; a try/except around an import would not hide it either."""
    names = ["latentrt", *modules("engines"), *modules("runtime")]
    assert len(names) > 20
    result = in_a_fresh_process(*names)
    assert result.returncode == 0, result.stdout + result.stderr


def test_drawing_loads_nothing_of_what_serving_needs() -> None:
    names = [name for name in modules("runtime") if not name.startswith("latentrt.runtime.serve")]
    libraries = ["fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client", "ray"]
    loaded = f"import sys, {', '.join(['latentrt.cli', *names])}; print([x for x in {libraries} if x in sys.modules])"
    told = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout
    assert told == "[]\n"


def test_the_check_above_can_fail() -> None:
    result = in_a_fresh_process("latentrt.export.wrappers")
    assert result.returncode == 1
    assert "torch is refused here" in result.stderr
