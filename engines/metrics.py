"""How far an answer is from the one expected, in the figures people compare engines by; float64 inside."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Finding = Literal["NaN", "Inf", "constant", "wrong shape"]


class Difference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Figures of one tensor against its reference. In JSON, which has neither NaN nor infinity, those are null."""

    max_abs: float  # largest absolute difference, in the tensor's own unit
    relative_l2: float  # |answer - expected| / |expected|
    cosine: float  # of the angle between the two, as vectors; 1 is the same direction
    psnr: float  # dB; infinite for equal tensors
    finding: Finding | None = None  # what is plainly wrong with the answer, whatever the figures say


def difference(answer: NDArray[Any], expected: NDArray[Any], *, data_range: float | None = None) -> Difference:
    """Compare two arrays. PSNR takes the range of `expected` as its peak unless `data_range` says another.

    An answer that holds NaN or infinity, or is of another shape (numpy would stretch it), has NaN for figures. Of two
    zero tensors the relative error is 0 and the cosine 1; of a zero tensor and another, infinite and 0.
    """
    finding = find(answer, expected)
    if finding not in (None, "constant") or not np.isfinite(expected).all():
        return Difference(max_abs=np.nan, relative_l2=np.nan, cosine=np.nan, psnr=np.nan, finding=finding)
    a, e = answer.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    error = a - e
    return Difference(
        max_abs=float(np.abs(error).max()),
        relative_l2=_ratio(float(np.linalg.norm(error)), float(np.linalg.norm(e))),
        cosine=_cosine(a, e),
        psnr=_psnr(float(np.mean(error * error)), float(np.ptp(e)) if data_range is None else data_range),
        finding=finding,
    )


def find(answer: NDArray[Any], expected: NDArray[Any]) -> Finding | None:
    """What is plainly wrong: another shape, NaN, infinity, or one value throughout where many were expected."""
    if answer.shape != expected.shape:
        return "wrong shape"
    if np.isnan(answer).any():
        return "NaN"
    if np.isinf(answer).any():
        return "Inf"
    return "constant" if np.ptp(answer) == 0 < np.ptp(expected) else None


def _ratio(error: float, size: float) -> float:
    if error == 0:
        return 0.0
    return error / size if size > 0 else float("inf")


def _cosine(a: NDArray[np.float64], e: NDArray[np.float64]) -> float:
    sizes = float(np.linalg.norm(a)) * float(np.linalg.norm(e))
    if sizes == 0:
        return 1.0 if np.array_equal(a, e) else 0.0
    return min(1.0, max(-1.0, float(a @ e) / sizes))


def _psnr(mean_square: float, data_range: float) -> float:
    if mean_square == 0:
        return float("inf")
    return float(10 * np.log10(data_range**2 / mean_square)) if data_range > 0 else float("-inf")
