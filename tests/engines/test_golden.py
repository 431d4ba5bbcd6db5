"""The record is read as it was written, and refused where it does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from latentrt.engines import golden
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import BundleError
from latentrt.engines.golden import golden_cases

Relist = Callable[[Path], None]
Arrays = dict[str, np.ndarray]
GOLDEN = "golden/vae_encoder.safetensors"


def without(prefix: str) -> Callable[[Arrays], Arrays]:
    return lambda tensors: {name: array for name, array in tensors.items() if not name.startswith(prefix)}


STD = "rows1/outputs/latent_std"
RECORDS: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "no case": (lambda t: {}, "records no call"),
    "odd name": (lambda t: t | {"rows1/sample": t[STD]}, "holds 'rows1/sample'; expected CASE/inputs/NAME"),
    "odd side": (lambda t: t | {"rows1/in/sample": t[STD]}, "holds 'rows1/in/sample'"),
    "no inputs": (without("rows1/inputs"), "vae_encoder in case rows1 got no input 'sample'"),
    "no outputs": (without("rows3/outputs"), "vae_encoder in case rows3 got no input 'latent_mean'"),
    "one output": (without(STD), "got no input 'latent_std'"),
    "more outputs": (lambda t: t | {"rows1/outputs/x": t[STD]}, "has no input 'x'"),
    "shape": (lambda t: t | {STD: t[STD][..., :1]}, "latent_std float32 (1, 4, 2, 2); got float32 (1, 4, 2, 1)"),
    "dtype": (lambda t: t | {STD: t[STD].astype(np.float64)}, "got float64"),
}


@pytest.mark.parametrize(("change", "message"), RECORDS.values(), ids=RECORDS)
def test_a_record_that_does_not_fit_is_refused(
    tiny_bundle: Path, relist: Relist, change: Callable[[Arrays], Arrays], message: str
) -> None:
    """Above all an empty one: nothing checked would pass."""
    file = tiny_bundle / GOLDEN
    file.write_bytes(save(change(load_file(file))))
    relist(tiny_bundle)
    with pytest.raises(BundleError, match=f"{GOLDEN} ") as caught:
        golden_cases(Bundle.open(tiny_bundle), "vae_encoder")
    assert message in str(caught.value)


def header(**entry: object) -> bytes:
    text = json.dumps({"a": entry}).encode()
    return len(text).to_bytes(8, "little") + text


NOT_SAFETENSORS = {
    "empty": b"",
    "text": b"not a safetensors file at all",
    "huge header": (2**60).to_bytes(8, "little") + b"{}",
    "beyond the end": header(dtype="F32", shape=[4], data_offsets=[0, 16]),
}


@pytest.mark.parametrize("content", NOT_SAFETENSORS.values(), ids=NOT_SAFETENSORS)
def test_a_record_that_cannot_be_read_is_refused(tiny_bundle: Path, relist: Relist, content: bytes) -> None:
    (tiny_bundle / GOLDEN).write_bytes(content)
    relist(tiny_bundle)
    with pytest.raises(BundleError, match=f"{GOLDEN} is not a safetensors file for numpy"):
        golden_cases(Bundle.open(tiny_bundle), "vae_encoder")


def test_a_dtype_that_numpy_lacks_is_refused(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process onnx has taught numpy bfloat16; on a serving machine safetensors raises this."""

    def load_file_without_bfloat16(file: Path) -> Arrays:
        raise TypeError("data type 'bfloat16' not understood")

    monkeypatch.setattr(golden, "load_file", load_file_without_bfloat16)
    with pytest.raises(BundleError, match=f"{GOLDEN} is not a safetensors file for numpy: data type 'bfloat16'"):
        golden_cases(opened, "vae_encoder")
