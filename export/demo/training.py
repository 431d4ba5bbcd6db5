"""One training loop for every stage: seeded by step, averaged, resumable to the same weights."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from .config import SEED, Stage

SAVE_EVERY_S = 60.0


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast() -> torch.autocast:
    """bfloat16 for the matrix work, on either device; weights and losses stay float32."""
    return torch.autocast(device().type, torch.bfloat16)


class Ema:
    """Exponential moving average of a module's trainable weights, warmed up as in LDM's `LitEma`."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards `module`'s weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged: list[Tensor] = list(self.module.parameters())
        torch._foreach_lerp_(averaged, [p.detach() for p in module.parameters()], 1 - decay)


def learning_rate(stage: Stage, step: int) -> float:
    """Linear warm-up, then a cosine to 2 % of the peak."""
    if step < stage.warmup:
        return stage.learning_rate * (step + 1) / stage.warmup
    progress = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    return stage.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def train(
    name: str,
    module: nn.Module,
    stage: Stage,
    loss: Callable[[int], Tensor],
    folder: Path,
    *,
    parameters: Iterator[nn.Parameter] | None = None,
) -> Ema:
    """Train `module` on `loss(step)` and return its average; `folder/name.pt` carries the state between runs.

    `loss` draws its data and noise from generators seeded by the step alone, so a run that was interrupted and resumed
    ends at the weights of one that was not (on one machine).
    """
    trained = list(parameters if parameters is not None else module.parameters())
    optimiser = torch.optim.AdamW(trained, lr=stage.learning_rate, weight_decay=stage.weight_decay, fused=True)
    ema = Ema(module, stage.ema_decay)
    file = folder / f"{name}.pt"
    start = _resume(file, module, ema, optimiser)
    saved = time.monotonic()
    with _bar() as bar:
        task = bar.add_task(name, total=stage.steps, completed=start, loss=math.nan)
        for step in range(start, stage.steps):
            value = _one_step(step, stage, optimiser, trained, loss)
            ema.update(module, step)
            bar.update(task, advance=1, loss=value)
            if time.monotonic() - saved > SAVE_EVERY_S:
                _save(file, module, ema, optimiser, step + 1)
                saved = time.monotonic()
    if start < stage.steps:
        _save(file, module, ema, optimiser, stage.steps)
    return ema


def _one_step(
    step: int,
    stage: Stage,
    optimiser: torch.optim.Optimizer,
    trained: list[nn.Parameter],
    loss: Callable[[int], Tensor],
) -> float:
    """One update of the weights; returns the loss."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(stage, step)
    torch.manual_seed(SEED * 1_000_003 + step)
    value = loss(step)
    value.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(trained, 1.0)
    optimiser.step()
    optimiser.zero_grad()
    return float(value.item())


def _bar() -> Progress:
    columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), TextColumn("loss {task.fields[loss]:.4f}"))


def _resume(file: Path, module: nn.Module, ema: Ema, optimiser: torch.optim.Optimizer) -> int:
    if not file.exists():
        return 0
    state = torch.load(file, weights_only=True, map_location=device())
    module.load_state_dict(state["raw"])
    ema.module.load_state_dict(state["ema"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def _save(file: Path, module: nn.Module, ema: Ema, optimiser: torch.optim.Optimizer, step: int) -> None:
    state = {
        "raw": module.state_dict(),
        "ema": ema.module.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
    }
    beside = file.with_suffix(".tmp")
    torch.save(state, beside)
    beside.replace(file)
