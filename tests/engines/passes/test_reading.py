"""Graphs are read with their weights, also where a bundle was copied by hard links."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx

from latentrt.engines.bundle import Bundle
from latentrt.engines.passes.reading import read_model


def test_weights_behind_hard_links_are_read(tiny_bundle: Path, tmp_path: Path) -> None:
    original = onnx.load(tiny_bundle / "onnx/unet.onnx")  # before there are links, which onnx refuses as well
    expected = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in original.graph.initializer}
    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "linked", copy_function=os.link))
    graph = Bundle.open(copy).graph("unet")
    found = read_model(graph).graph.initializers
    assert set(found) == set(expected)
    for name, value in found.items():
        assert value.const_value is not None
        np.testing.assert_array_equal(value.const_value.numpy(), expected[name])
