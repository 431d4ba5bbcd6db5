"""One contestant of `benchmarks/engines_gpu.py` in a process of its own, so that a crash or a hang is its own.

It reads orders from standard input, a JSON object a line, and answers each with one: `{"found": ...}`, or
`{"error": "one line"}`. Whatever libraries print goes to standard error.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latentrt.engines.process_memory import peak_bytes

from .contestants.workers.protocol import answer_orders
from .gpu_contestants import ENTRIES, Contestant, EngineContestant, recorded

_WARMING = 3  # calls before those that count


def main() -> None:
    """Serve the contestant that the first order names, until the input ends."""
    served: _Served | None = None

    def found(order: dict[str, Any]) -> Any:
        nonlocal served
        if served is None:
            served = _Served(**order)
            return served.opened
        return served.orders[order.pop("do")](**order)

    answer_orders(found)


class _Served:
    """The contestant, and what can be asked of it."""

    def __init__(self, contestant: str, device: str, size: str, bundle: str) -> None:
        started = time.perf_counter()
        self._bundle, self._device = Path(bundle), device
        self._contestant = _made(contestant, device, size, self._bundle)
        self.opened = round(time.perf_counter() - started, 1)
        self.orders: dict[str, Callable[..., Any]] = {
            "warm": self._warm,
            "time": self._time,
            "errors": lambda: self._contestant.errors(recorded(self._bundle)),
            "not finite": lambda: self._contestant.not_finite(self._feeds()[0]),
            "picture": self._contestant.picture,
            "floor": self._floor,
            "kernels": self._kernels,
            "host memory": peak_bytes,
        }

    def _feeds(self) -> list[Any]:
        return [case.inputs for case in recorded(self._bundle)]

    def _warm(self) -> float:
        """Seconds of the first call, in which much is compiled."""
        started = time.perf_counter()
        self._contestant.answer(self._feeds()[0])
        first = time.perf_counter() - started
        self._contestant.seconds(self._feeds(), _WARMING)
        if (forget := getattr(self._contestant, "forget", None)) is not None:
            forget()
        return round(first, 2)

    def _time(self, calls: int) -> list[float]:
        return self._contestant.seconds(self._feeds(), _WARMING + calls)[_WARMING:]

    def _floor(self) -> dict[str, float]:
        from .gpu_torch import TorchContestant  # noqa: PLC0415 - an engine's process holds no PyTorch

        assert isinstance(self._contestant, TorchContestant)
        return self._contestant.floor()

    def _kernels(self) -> dict[str, Any]:
        from .gpu_torch import kernels  # noqa: PLC0415 - last of all orders: an engine's process has been timed by then

        [feeds, *_] = self._feeds()
        return kernels(lambda: self._contestant.answer(feeds))


def _made(name: str, device: str, size: str, bundle: Path) -> Contestant:
    [entry] = [entry for entry in ENTRIES[device] if entry.name == name]
    if entry.library != "torch":
        return EngineContestant(entry, bundle)
    from .gpu_torch import TorchContestant  # noqa: PLC0415 - see above
    from .random_model import SIZES  # noqa: PLC0415

    return TorchContestant(entry, SIZES[size], device)


if __name__ == "__main__":
    main()
