"""Two-sided bands for figures of quality, as MLPerf has them: better than the reference is as suspect as worse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from latentrt.engines.errors import InputError


@dataclass(frozen=True)
class Band:
    """The least and the greatest that a figure may be, both allowed."""

    figure: str
    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> Band:
        """Read "CLIP score=31.6,31.9".

        Raises:
            InputError: it is not of this form.
        """
        figure, equals, numbers = text.partition("=")
        try:
            low, high = (float(number) for number in numbers.split(","))
        except ValueError:
            low = high = math.nan
        if not (figure.strip() and equals and math.isfinite(low) and math.isfinite(high) and low <= high):
            raise InputError(f"a band is NAME=LOW,HIGH, such as 'CLIP score=31.6,31.9'; got {text!r}")
        return cls(figure.strip(), low, high)

    def check(self, quality: Mapping[str, float]) -> str | None:
        """What is wrong with a contestant's figures; None where the figure lies in the band."""
        if self.figure not in quality:
            return f"{self.figure} was not measured; measured: {', '.join(quality) or 'none'}"
        found = quality[self.figure]
        if self.low <= found <= self.high:  # NaN is in no band
            return None
        return f"{self.figure} is {found:.6g}, outside of {self.low:g} to {self.high:g}"
