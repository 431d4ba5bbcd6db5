"""Render the result files into the pages' marked blocks; `--check` fails when a block is not what they give."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from latentrt.engines.atomic import new_file

from .machine import RESULTS
from .readme_bench import bench_block, curves_block
from .readme_tables import DETAILS, TABLES, engines_gpu_table
from .trial.results import read_results

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
_DOCS = ("bench.md", "engines-cpu.md", "engines.md", "export.md", "graph.md", "samplers.md", "serve.md")
PAGES = (README, *(ROOT / "docs" / name for name in _DOCS))
GPU = "engines-gpu"  # the block that holds all files of `engines_gpu.py`
TRIAL = "bench-"  # what the names of trials' results begin with
_BLOCK = re.compile(r"(<!-- (results|details): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Rewrite the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    check = parser.parse_args().check
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        rendered = render(text)
        if rendered == text:
            continue
        if check:
            sys.exit(f"{page.relative_to(ROOT)} does not show the figures of benchmarks/results: run 'make format'")
        with new_file(page) as place:
            place.write_text(rendered, encoding="utf-8")


def render(text: str) -> str:
    """The text with every `<!-- results: NAME -->` block filled from `results/NAME.json`, and every `details` block."""
    return _BLOCK.sub(lambda match: f"{match[1]}{_block(match[2], match[3])}\n{match[4]}", text)


def _block(kind: str, name: str) -> str:
    if name == GPU:
        measured = [file.stem for file in sorted(RESULTS.glob("engines-*.json")) if file.stem != "engines-cpu"]
        return "\n\n".join(map(_table, measured)) or "Not measured on any GPU yet."
    if not (RESULTS / f"{name}.json").exists():
        return "Not measured yet."
    if name.startswith(TRIAL):
        block = bench_block if kind == "results" else curves_block
        return block(read_results(RESULTS / f"{name}.json"), f"benchmarks/results/{name}.json")
    return _table(name) if kind == "results" else DETAILS[name](_result(name)["figures"])


def _result(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return result


def _table(name: str) -> str:
    result = _result(name)
    found = result["machine"]
    packages = ", ".join(f"{package} {version}" for package, version in found["packages"].items())
    where = f"{found['processor']}, {found['cores']} cores, {found['memory_gb']} GB, Python {found['python']}"
    render_figures = TABLES.get(name, engines_gpu_table)
    note = f"`benchmarks/results/{name}.json`. {result['protocol']} {where}; {packages}."
    return f"{render_figures(result['figures'])}\n\n<sub>{note}</sub>"


if __name__ == "__main__":
    main()
