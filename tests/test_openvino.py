"""The demo model in OpenVINO: the picture that onnxruntime draws, and PyTorch's answers within its own bf16 error."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentrt.cli import run
from latentrt.engines import openvino_backend, store
from latentrt.engines.bundle import Bundle
from latentrt.engines.openvino_backend import BACKEND, BLOB
from latentrt.engines.options import BuildOptions

PROMPT = "a large red circle on a blue background"
has_bf16 = pytest.mark.skipif("BF16" not in openvino_backend._capabilities(), reason="a processor without bf16")


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the demo bundle, by hard links, that a test may add to."""
    copy = tmp_path / "bundle"
    shutil.copytree(demo_bundle, copy, copy_function=os.link)
    return copy


def drawn(bundle: Path, engine: str) -> np.ndarray:
    out = bundle.parent / f"{engine}.png"
    assert run(["generate", str(bundle), PROMPT, "--steps", "4", "--engine", engine, "-o", str(out)]) == 0
    with Image.open(out) as picture:
        assert picture.text["latentrt:engine"].startswith(f"{engine} ")
        return np.asarray(picture, np.int16)


def test_the_picture_is_onnxruntimes_with_and_without_a_build(bundle: Path) -> None:
    expected = drawn(bundle, "onnxruntime")
    assert expected.std() > 10  # a picture, and not a plain field
    # the latents of both agree within 1e-4: the picture within one level of 255
    assert np.abs(drawn(bundle, "openvino") - expected).max() <= 1
    assert run(["build", str(bundle), "--engine", "openvino"]) == 0
    assert len(list(bundle.glob(f"engines/*/{BLOB}"))) == len(Bundle.open(bundle).manifest.components)
    assert np.abs(drawn(bundle, "openvino") - expected).max() <= 1


@has_bf16
def test_each_component_in_bf16_is_within_twice_pytorchs_own_error(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    backend = replace(BACKEND, options=BuildOptions(precision="bf16"))
    for name, component in opened.manifest.components.items():
        record, _ = store.build(backend, opened, name)
        assert record.verification is not None
        assert record.verification.threshold.value == 2 * component.floor["bf16"]
        assert record.verification.error is not None
        assert record.verification.error > component.floor["bf16"] / 20  # it does round: fp32 is a thousandth of this
