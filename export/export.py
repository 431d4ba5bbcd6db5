"""`export_bundle`: a checkpoint on disk -> a bundle on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from latentrt.engines.manifest import ExportPrecision, Manifest

from .architecture import Prediction
from .bundle_writer import fill_bundle, new_bundle
from .component_writer import Report, no_report
from .golden import NOTHING_FURTHER, Further
from .layout import Weights
from .source import load_source


def export_bundle(
    source: Path,
    output: Path,
    *,
    vaes: Mapping[str, Path],
    weights: Weights | None = None,
    variant: str | None = None,
    prediction: Prediction | None = None,
    safety_checker: Path | None = None,
    licence: Path | None = None,
    precision: ExportPrecision = "fp32",
    further: Further = NOTHING_FURTHER,
    report: Report = no_report,
    overwrite: bool = False,
) -> Manifest:
    """Export a single-file checkpoint or a diffusers folder, with any number of further decoders by name.

    The output is opened first, so that a place that cannot be written is named before minutes are spent. `weights`,
    `variant`, `prediction`, `safety_checker` and `licence` are those of `load_source`. With `precision` "fp16" the
    graphs compute in fp16 and take half the disk; `further` calls are recorded beside the usual ones.

    Raises:
        InputError: the model does not take what `further` asks for.
        CheckpointError: the source or a decoder cannot be used.
        OutputError: something is at `output` that may not be replaced, or it cannot be written.
        CheckFailedError: a component differs from PyTorch by more than the threshold.
    """
    with new_bundle(output, overwrite=overwrite) as folder:
        model = load_source(
            source,
            vaes=vaes,
            weights=weights,
            variant=variant,
            prediction=prediction,
            safety_checker=safety_checker,
            licence=licence,
        )
        return fill_bundle(model, folder, report, further, precision)
