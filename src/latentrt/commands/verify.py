"""`latentrt verify`: PyTorch's recorded answers and pictures, replayed here, as a table or as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from latentrt.engines.bundle import Bundle
from latentrt.engines.choice import Wanted
from latentrt.engines.errors import CheckFailedError
from latentrt.engines.size import check_size, parse_size
from latentrt.engines.verification import Check
from latentrt.runtime.verify import VerifyReport, verify_bundle

_WIDTH = 160  # of a table that is not for a terminal, so that no column is cut


def verify_command(
    console: Console,
    path: Path,
    wanted: Wanted,
    engine_dir: Path | None,
    words: list[str],
    bisect: bool,
    json: bool,
) -> None:
    """Check, print what was found on standard output, and fail if anything did."""
    sizes = [parse_size(word) for word in words]
    manifest = Bundle.open(path).manifest
    for size in sizes:
        check_size(size, manifest.model.size_multiple)
    with console.status(f"verifying {path}") as status:
        found = verify_bundle(
            path,
            engine=wanted.engine,
            precision=wanted.precision,
            engine_dir=engine_dir,
            device=wanted.device,
            sizes=sizes,
            find_departure=bisect,
            report=status.update,
        )
    if json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        _print_table(found)
    failed = [check for check in found.checks if not check.passed]
    if failed:
        raise CheckFailedError(
            f"{len(failed)} of {len(found.checks)} checks failed, first {failed[0]}; these engines will not be opened "
            "unless asked for with --allow-unverified"
        )


def _print_table(found: VerifyReport) -> None:
    output = Console(highlight=False, emoji=False)
    if not output.is_terminal:
        output = Console(highlight=False, emoji=False, width=_WIDTH)
    origins = list(dict.fromkeys(check.threshold.origin for check in found.checks if check.threshold is not None))
    table = Table("part", "case", "tensor", "against", *_FIGURES, "limit", "", box=None, pad_edge=False)
    for column in table.columns[4:9]:
        column.justify = "right"
    previous = ""
    for check in found.checks:
        table.add_row("" if check.part == previous else check.part, *_row(check, origins))
        previous = check.part
    output.print(table)
    for number, origin in enumerate(origins, 1):
        output.print(f"({number}) {origin}", markup=False)
    for line in found.skipped:
        output.print(f"skipped: {line}", markup=False)
    for key, departure in (found.departures or {}).items():
        output.print(f"engine {key}: {departure or f'fails only as a whole: {_FUSED}'}", markup=False)


_FIGURES = ("max abs", "rel L2", "cosine", "PSNR dB")
_FUSED = (
    "built anew with tensors marked, its answers are right; the fault is in a fusion that marking undoes, or in the "
    "stored engine: delete it and build it again"
)


def _row(check: Check, origins: Sequence[str]) -> list[str]:
    found = check.difference
    limit = "none: no floor recorded"
    if check.threshold is not None and check.limit is not None:
        note = origins.index(check.threshold.origin) + 1
        limit = f"{_METRICS[check.threshold.metric]} {check.limit:.1e} ({note})"
    figures = [
        _number(found.max_abs, ".1e"),
        _number(found.relative_l2, ".1e"),
        _number(found.cosine, ".7f"),
        _number(found.psnr, ".1f"),
    ]
    verdict = "ok" if check.passed else f"FAILED{f': {found.finding}' if found.finding else ''}"
    return [check.case, check.tensor, check.against, *figures, limit, verdict]


_METRICS = {"max_abs": "max abs", "relative_l2": "rel L2"}


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else str(value)
