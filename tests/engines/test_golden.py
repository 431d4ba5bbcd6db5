"""An engine that answers as recorded passes; one that is off, or answers NaN or another shape, does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from latentrt.engines import golden
from latentrt.engines.backend import get_backend
from latentrt.engines.bundle import Bundle
from latentrt.engines.engine import Engine
from latentrt.engines.errors import BundleError, CheckFailedError
from latentrt.engines.golden import MAX_ABS_ERROR, Verification, golden_cases, unit_scale_error, verify
from latentrt.engines.tensor import Feeds

Relist = Callable[[Path], None]
Arrays = dict[str, np.ndarray]
Change = Callable[[np.ndarray], np.ndarray]
GOLDEN = "golden/vae_encoder.safetensors"


class Recorded(Engine):
    """Answers what the record says, after `change`."""

    def __init__(self, bundle: Bundle, component: str, change: Change = np.copy) -> None:
        key = get_backend("fake").key(bundle, component)
        super().__init__(component, bundle.component(component), key)
        self._cases, self._change = golden_cases(bundle, component), change

    def _run(self, feeds: Feeds) -> Arrays:
        case = next(c for c in self._cases if all(np.array_equal(feeds[n], a) for n, a in c.inputs.items()))
        return {name: self._change(array) for name, array in case.outputs.items()}


COMPONENTS = ["text_encoder", "unet", "vae_encoder", "vae_decoder.kl-f8"]


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_perfect_engine_passes(tiny_original: Path, component: str) -> None:
    bundle = Bundle.open(tiny_original)
    cases = golden_cases(bundle, component)
    assert [case.name for case in cases] == ["rows1", "rows3"]
    result = verify(Recorded(bundle, component), cases)
    assert result == Verification(max_abs_error=0.0, threshold=MAX_ABS_ERROR, cases=2)
    assert result.passed


def test_a_small_error_is_measured_and_passes(tiny_original: Path) -> None:
    bundle = Bundle.open(tiny_original)
    engine = Recorded(bundle, "unet", lambda a: a + np.float32(5e-5))
    error = verify(engine, golden_cases(bundle, "unet")).max_abs_error
    assert error == pytest.approx(5e-5, abs=1e-7)  # answers are below 1: float32 rounds the sum to 6e-8


def one_wrong(value: float) -> Change:
    def change(array: np.ndarray) -> np.ndarray:
        wrong = array.copy()
        wrong.flat[-1] = value
        return wrong

    return change


BAD_ANSWERS: dict[str, tuple[Change, str]] = {
    "off": (lambda a: a + np.float32(3e-4), "0.0003"),
    "one value": (one_wrong(9.0), r"\d"),
    "NaN": (one_wrong(np.nan), "nan"),
    "inf": (one_wrong(np.inf), "inf"),
    "one row for all": (lambda a: a[:1, ..., :1], "inf"),  # numpy would stretch it
    "zeros": (np.zeros_like, r"\d"),
}


@pytest.mark.parametrize(("change", "found"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_a_wrong_answer_fails(tiny_original: Path, change: Change, found: str) -> None:
    bundle = Bundle.open(tiny_original)
    engine = Recorded(bundle, "unet", change)
    with pytest.raises(CheckFailedError, match=f"the fake engine of unet is {found}.* from PyTorch, more than 0.0001"):
        verify(engine, golden_cases(bundle, "unet"))


@pytest.mark.parametrize("wrong", ["latent_mean", "latent_std"])
def test_nan_in_any_output_of_any_case_fails(tiny_original: Path, wrong: str) -> None:
    bundle = Bundle.open(tiny_original)

    class OneOutput(Recorded):
        def _run(self, feeds: Feeds) -> Arrays:
            answers = super()._run(feeds)
            if len(answers[wrong]) == 1:  # the first case; the second, good one must not cover it
                answers[wrong][...] = np.nan
            return answers

    with pytest.raises(CheckFailedError, match="is nan from PyTorch"):
        verify(OneOutput(bundle, "vae_encoder"), golden_cases(bundle, "vae_encoder"))


@pytest.mark.parametrize(
    ("answer", "expected", "error"),
    [
        ([1.5], [1.0], 0.5),
        ([0.0, 21.0], [0.0, 20.0], 0.1),  # the deviation is 10
        ([0.0, 0.25], [0.0, 0.5], 0.25),  # a deviation below 1 does not make an error look larger
        ([1e30, 3e30], [1e30, -1e30], 4.0),  # squares beyond float32
        ([0.0], [np.inf], np.inf),
        ([np.inf], [np.inf], np.nan),
        ([np.nan], [0.0], np.nan),
        ([0.0], [np.nan], np.nan),
        ([[1.0]], [1.0], np.inf),
    ],
)
def test_error_on_unit_scale(answer: list[float], expected: list[float], error: float) -> None:
    found = unit_scale_error(np.array(answer, np.float32), np.array(expected, np.float32))
    assert found == pytest.approx(error, nan_ok=True, rel=1e-6)


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
