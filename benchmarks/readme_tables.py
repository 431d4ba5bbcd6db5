"""The tables of the result files: figures in, Markdown out."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from .serving.table import serving_tables


def _demo_model(figures: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [
        ("pictures of captions never trained on", "all three right", "background", "shape", "colour")
    ]
    for name, shares in figures.items():
        if "all" in shares:
            parts = (f"{shares[key]:.1%}" for key in ("all", "background", "shape", "colour"))
            rows.append((f"{name} ({shares['captions']})", *parts))
    psnr = figures["reconstruction PSNR, dB"]
    decoders: list[tuple[str, ...]] = [
        ("reconstruction of unseen scenes", *psnr),
        ("PSNR, dB", *(f"{value:.2f}" for value in psnr.values())),
    ]
    return f"{markdown(rows)}\n\n{markdown(decoders)}"


def _overhead(figures: dict[str, Any]) -> str:
    loop = figures["loop, ms per step"]
    rows: list[tuple[str, ...]] = [("loop beside the engine, ms per step", *loop)]
    for statistic in ("median", "p90"):
        rows.append((statistic, *(f"{values[statistic]:.2f}" for values in loop.values())))
    return f"{markdown(rows)}\n\n`import latentrt; latentrt.Pipeline` takes {figures['import, s']:.2f} s."


def _footprint(figures: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [("installed", "MB", "packages", "largest")]
    for name, values in figures.items():
        largest = ", ".join(f"{package} {size:.0f}" for package, size in list(values["largest, MB"].items())[:3])
        rows.append((f"`{name}`", str(values["MB"]), str(values["packages"]), largest))
    return markdown(rows)


def _sampler_parity(figures: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [
        ("sampler", "reference", "spacings", "questions", "draws", "1 or 2 steps", "4 steps and more")
    ]
    for name, found in figures.items():
        by_steps = [(int(steps), value) for values in found["difference"].values() for steps, value in values.items()]
        short, long = ([value for steps, value in by_steps if (steps < 4) == is_short] for is_short in (True, False))
        changes = f" ({found['changes']})" if found["changes"] else ""
        rows.append(
            (
                f"`{name}`",
                f"{found['reference']}{changes}",
                ", ".join(found["difference"]),
                str(found["questions of 10 steps"]),
                str(found["draws of 10 steps"]),
                *(f"{max(values):.1e}" if values else "" for values in (short, long)),
            )
        )
    return markdown(rows)


def _export(figures: dict[str, Any]) -> str:
    keys = ("checkpoint, GB", "seconds", "CPU seconds", "others' CPU seconds", "peak RSS, GB", "bundle, GB")
    rows: list[tuple[str, ...]] = [("export of Stable Diffusion 1.5 from", *keys, "worst error")]
    for form, values in figures.items():
        worst = f"{max(values['error'].values()):.0e}"
        rows.append((f"`{form}`", *(str(values[key]) for key in keys), worst))
    return f"{markdown(rows)}\n\n{_verified(figures)}"


def _verified(figures: dict[str, Any]) -> str:
    """What `verify` found of each bundle it was asked of, beside the floors of the first."""
    found = {form: values["verify"] for form, values in figures.items() if "verify" in values}
    floors = next(iter(found.values()))["floor"]
    bundles = [f"bundle of `{form}`" for form in found]
    rows: list[tuple[str, ...]] = [("relative L2 from PyTorch fp32", *bundles, "PyTorch fp16", "PyTorch bf16")]
    for part, floor in floors.items():
        errors = (f"{verified['relative L2'][part]:.1e}" for verified in found.values())
        rows.append((part, *errors, *(f"{floor[precision]:.1e}" for precision in ("fp16", "bf16"))))
    return markdown(rows)


def _tiling(figures: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [
        ("picture, in tiles of", "calls of the decoder", "PSNR against the whole, dB", "largest difference, of 255")
    ]
    for name, found in figures.items():
        rows.append((name, str(found["calls"]), f"{found['PSNR, dB']:.1f}", f"{found['largest, of 255']:.0f}"))
    return markdown(rows)


def _node_counts(figures: dict[str, Any]) -> str:
    return "\n\n".join(
        f"{component}, {model}\n\n{_stages(stages)}"
        for model, components in figures.items()
        for component, stages in components.items()
    )


def _stages(stages: dict[str, dict[str, int]]) -> str:
    """A row for each type of node, a column for each stage."""
    kinds = sorted({kind for counts in stages.values() for kind in counts})
    rows: list[tuple[str, ...]] = [("nodes", *stages)]
    rows.append(("all", *(f"**{sum(counts.values())}**" for counts in stages.values())))
    rows += [(kind, *(str(counts.get(kind, "")) for counts in stages.values())) for kind in kinds]
    return markdown(rows)


def _graph_forms(figures: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [
        ("block", *(f"{engine}, B / A (quartiles)" for engine in ("onnxruntime", "openvino")))
    ]
    for name, engines in figures["blocks"].items():
        found = (
            f"{one['B / A']:.2f} ({' to '.join(f'{ratio:.2f}' for ratio in one['quartiles'])})"
            for one in engines.values()
        )
        rows.append((name, *found))
    return f"{markdown(rows)}\n\nLoad average: {figures['load average']}."


def _extreme_inputs(figures: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [
        ("component", "graph", "inputs", "tensors with NaN or Inf", "largest magnitude of any", "given by")
    ]
    for component, forms in figures.items():
        for form, found in forms.items():
            overflowed = ", ".join(found["tensors with NaN or Inf"]) or "none"
            rows.append(
                (component, form, str(found["inputs"]), overflowed, str(found["largest magnitude"]), found["given by"])
            )
    return markdown(rows)


def _engines_cpu(figures: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [
        ("UNet, 2 rows at 512x512", "s", "of torch fp32", "peak RSS, GB", "error", "opening, s")
    ]
    whole = figures["contestants"]["torch fp32"]["median, s"]
    for name, values in figures["contestants"].items():
        opening = [sum(pair) for pair in zip(values.get("hashing, s", ()), values.get("opening, s", ()), strict=True)]
        rows.append(
            (
                name,
                f"{values['median, s']:.2f}",
                f"{values['median, s'] / whole:.2f}",
                f"{values['peak RSS, GB']:.1f}",
                f"{values['relative L2']:.0e}" if values["relative L2"] else "0",
                f"{statistics.median(opening):.1f}" if opening else "",
            )
        )
    return markdown(rows)


def engines_gpu_table(figures: dict[str, Any]) -> str:
    """The figures of `engines_gpu.py`: the contestants, and below them why others did not run."""
    gpu, floor = figures["machine"].get("GPU", ""), figures.get("floor", {})
    keys = ("median, ms", "over the floor", "relative L2", "GPU memory, GB")
    heads = ("ms", "of the floor", "error", "GPU memory, GB")
    rows: list[tuple[str, ...]] = [(f"UNet on {gpu}", *heads, "NaN or Inf", "picture, s", "loop overhead")]
    for name, values in figures["contestants"].items():
        picture, lost = values.get("picture", {}), values.get("NaN or Inf")
        overhead = f"{picture['loop overhead']:.1%}" if "loop overhead" in picture else ""
        shown = (str(values.get(key, "")) for key in keys)
        rows.append(
            (name, *shown, "" if lost is None else str(sum(lost.values())), str(picture.get("seconds", "")), overhead)
        )
    notes = [f"{name} did not run: {reason}" for name, reason in figures["not run"].items()]
    if "ms" in floor:
        speed = floor["TFLOP/s of a matrix product"]
        notes.insert(0, f"The floor is {floor['ms']} ms: {floor['TFLOP of a call']} TFLOP at {speed} TFLOP/s.")
    return "\n\n".join([markdown(rows), *notes])


def _whole_picture(figures: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [("picture, s", "engine calls, s", "one over the other", "aimed at", "reached")]
    calls = ", ".join(f"{name} {seconds}" for name, seconds in figures["engine calls, s"].items())
    ratio, reached = figures["picture over engine calls"], "yes" if figures["reached"] else "no"
    rows.append((str(figures["picture, s"]), calls, str(ratio), f"at most {figures['at most']}", reached))
    return markdown(rows)


def _engines_cpu_details(figures: dict[str, Any]) -> str:
    aims: list[tuple[str, ...]] = [("aimed at", "at most", "found", "reached")]
    for aim in figures["targets"]:
        aims.append((aim["what"], str(aim["at most"]), str(aim["found"]), "yes" if aim["reached"] else "no"))
    rows: list[tuple[str, ...]] = [("engine", "ms of one call by type of operation")]
    for name, spent in figures["profile, ms"].items():
        total = sum(spent.values())
        rows.append((name, ", ".join(f"{kind} {ms:.0f} ({ms / total:.0%})" for kind, ms in spent.items())))
    return f"{markdown(aims)}\n\n{markdown(rows)}"


def _fidelity(figures: dict[str, Any]) -> str:
    """The PSNR of a few numbers of steps, and what the time of a picture is."""
    shown = (4, 10, 20, 30, 50)
    by_path = {name: {point["steps"]: point for point in found["points"]} for name, found in figures.items()}
    counts = [count for count in shown if all(count in points for points in by_path.values())]
    rows: list[tuple[str, ...]] = [
        ("PSNR, dB (ms of one picture)", *(f"{count} step{'s' * (count > 1)}" for count in counts))
    ]
    for name, points in by_path.items():
        cells = (f"{points[count]['PSNR, dB']:.1f} ({points[count]['seconds'] * 1000:.0f})" for count in counts)
        rows.append((f"`{name}`", *cells))
    return markdown(rows)


def _fidelity_details(figures: dict[str, Any]) -> str:
    """Relative L2 of the final latents for every number of steps."""
    first = next(iter(figures.values()))
    counts = [point["steps"] for point in first["points"]]
    heads = (*(f"{count} step{'s' * (count > 1)}" for count in counts), "calls of 10 steps")
    rows: list[tuple[str, ...]] = [("relative L2 of the final latents", *heads)]
    for name, found in figures.items():
        errors = (f"{point['relative L2']:.1e}" for point in found["points"])
        calls = next(str(point["calls"]) for point in found["points"] if point["steps"] == 10)
        rows.append((f"`{name}`", *errors, calls))
    return markdown(rows)


def _gate(figures: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [("code", "runs", "failed", "turns each, median", "seconds each, median")]
    for name, runs in figures["runs"].items():
        medians = (f"{statistics.median(run[key] for run in runs):.0f}" for key in ("turns", "seconds"))
        rows.append((name, str(len(runs)), str(sum(run["failed"] for run in runs)), *medians))
    return markdown(rows)


def _serving(figures: dict[str, Any]) -> str:
    return "\n\n".join(map(markdown, serving_tables(figures)))


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "demo-model": _demo_model,
    "overhead": _overhead,
    "footprint": _footprint,
    "sampler-parity": _sampler_parity,
    "export": _export,
    "engines-cpu": _engines_cpu,
    "tiling": _tiling,
    "whole-picture": _whole_picture,
    "node-counts": _node_counts,
    "extreme-inputs": _extreme_inputs,
    "graph-forms": _graph_forms,
    "fidelity": _fidelity,
    "gate": _gate,
    "serving": _serving,
}
DETAILS: dict[str, Callable[[dict[str, Any]], str]] = {
    "engines-cpu": _engines_cpu_details,
    "fidelity": _fidelity_details,
}


def markdown(rows: list[tuple[str, ...]]) -> str:
    """A table whose first row is its head."""
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])
