"""The tables of accuracy: every error stands beside the noise floor."""

from __future__ import annotations

from collections.abc import Callable

from ..trial.results import Accuracy, Compared, Metric, Results
from . import words
from .table import Table, in_order, ordered
from .words import NONE

METRICS: tuple[Metric, ...] = ("PSNR, dB", "SSIM", "max abs", "relative L2", "cosine")


def accuracy(results: Results, part: str) -> Table | None:
    """Figures of the "picture" or the final "latents", the middle and the worst over the prompts."""
    found: list[tuple[str, Compared]] = []
    for name, one in ordered(results):
        compared = getattr(one.accuracy, part) if one.accuracy else None
        if compared:
            found.append((name, compared))
    if not found:
        return None
    metrics = [metric for metric in METRICS if any(metric in compared for _, compared in found)]
    rows = []
    for name, compared in found:
        cells = [cell for metric in metrics for cell in _spread(compared, metric)]
        over = over_floor(results, name, lambda accuracy: getattr(accuracy, part))
        rows.append((_marked(results, name), *cells, over))
    head = ("contestant", *(f"{m}, {which}" for m in metrics for which in ("p50", "worst")), "worst L2 over the floor")
    title = {"picture": "Accuracy of the picture", "latents": "Accuracy of the final latents"}[part]
    return Table(title, head, tuple(rows), f"{_reference_words(results)} {floor_words(results)}")


def component_accuracy(results: Results) -> Table | None:
    """Relative L2 of one call of each network."""
    accuracies = [(name, one.accuracy) for name, one in ordered(results) if one.accuracy and one.accuracy.components]
    if not accuracies:
        return None
    parts = in_order(part for _, found in accuracies for part in found.components)
    rows = []
    for name, found in accuracies:
        cells = (cell for part in parts for cell in _of_component(results, name, found, part))
        rows.append((_marked(results, name), *cells))
    head = ("contestant", *(f"{part}, {which}" for part in parts for which in ("relative L2", "over the floor")))
    return Table("Accuracy of one call of each network", head, tuple(rows), floor_words(results))


def _of_component(results: Results, name: str, found: Accuracy, part: str) -> tuple[str, str]:
    """Its worst relative L2, and how many noise floors that is."""
    over = over_floor(results, name, lambda accuracy: accuracy.components.get(part))
    return _spread(found.components.get(part, {}), "relative L2")[1], over


def step_accuracy(results: Results) -> Table | None:
    """Worst relative L2 after each step, a row for each step."""
    found = [(name, one.accuracy.steps) for name, one in ordered(results) if one.accuracy and one.accuracy.steps]
    if not found:
        return None
    rows = []
    for step in range(max(len(steps) for _, steps in found)):
        cells = (_spread(steps[step], "relative L2")[1] if step < len(steps) else NONE for _, steps in found)
        rows.append((str(step + 1), *cells))
    head = ("step", *(_marked(results, name) for name, _ in found))
    return Table("Error after each step", head, tuple(rows), "Relative L2 of the latents, the worst over the prompts.")


def accuracy_notes(results: Results) -> Table | None:
    """What could not be compared, and other remarks."""
    rows = []
    for name, one in ordered(results):
        said = [one.accuracy.note] if one.accuracy and one.accuracy.note else []
        rows += [(name, remark) for remark in (*said, *one.notes)]
    return Table("Remarks", ("contestant", "remark"), tuple(rows), numeric=False) if rows else None


def _spread(compared: Compared, metric: Metric) -> tuple[str, str]:
    found = compared.get(metric)
    return (NONE, NONE) if found is None else (words.metric(metric, found.p50), words.metric(metric, found.worst))


def over_floor(results: Results, name: str, part: Callable[[Accuracy], Compared | None]) -> str:
    """An error in noise floors, both at their worst over the prompts."""
    if name == results.floor:
        return "1 (the floor)" if results.contestants[name].accuracy else NONE
    floor = results.contestants.get(results.floor or "")
    ours = results.contestants[name].accuracy
    if ours is None or floor is None or floor.accuracy is None:
        return NONE
    over = error_over_floor(part(ours), part(floor.accuracy))
    return NONE if over is None else words.digits(over, 2) if over >= 1e-3 else f"{over:.0e}"


def _marked(results: Results, name: str) -> str:
    return f"{name} (the noise floor)" if name == results.floor else name


def reference_name(results: Results) -> str | None:
    """What accuracy was measured against."""
    return next((one.accuracy.reference for _, one in ordered(results) if one.accuracy), None)


def _reference_words(results: Results) -> str:
    name = reference_name(results)
    return f"Against {'the answers that the bundle records' if name == 'golden' else name}, from the same start noise."


def floor_words(results: Results) -> str:
    """What the noise floor is, or that there is none."""
    floor = results.contestants.get(results.floor or "")
    if floor is None or floor.accuracy is None:
        return "No noise floor was measured."
    return f"The noise floor is the distance of {results.floor} from {reference_name(results)}."


def error_over_floor(error: Compared | None, floor: Compared | None, metric: Metric = "relative L2") -> float | None:
    """How many times the noise floor an error is, both at their worst; None where either is missing or nothing."""
    if error is None or floor is None or metric not in error or metric not in floor or floor[metric].worst == 0:
        return None
    return error[metric].worst / floor[metric].worst
