"""OpenVINO engines for one shape: the same answers, beside an engine for all shapes or alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from latentrt.engines import store
from latentrt.engines.bundle import Bundle
from latentrt.engines.choice import Wanted
from latentrt.engines.engine_set import open_engine
from latentrt.engines.errors import InputError
from latentrt.engines.openvino_backend import BACKEND
from latentrt.engines.options import BuildOptions
from latentrt.engines.profile import ANY
from latentrt.engines.size import pixels_per_unit

MakeFeeds = Callable[[str, int, int, int], dict[str, np.ndarray]]
COMPONENTS = ["text_encoder", "unet", "vae_encoder", "vae_decoder.kl-f8"]


@pytest.mark.parametrize("component", COMPONENTS)
def test_an_engine_for_one_shape_gives_the_reference_and_takes_other_rows(
    tiny_original: Path, tmp_path: Path, feeds_for: MakeFeeds, component: str
) -> None:
    bundle = Bundle.open(tiny_original)
    side = {} if component == "text_encoder" else {"sizes": ((own := bundle.manifest.model.default_size, own),)}
    one = replace(BACKEND, options=BuildOptions(rows=(3,), **side))
    one.build(bundle, component, tmp_path)
    reference = ReferenceEvaluator(str(bundle.graph(component)))
    unit = 1 if component == "text_encoder" else own // pixels_per_unit(bundle, component, "height")
    with one.open(bundle, component, tmp_path) as engine:
        assert engine.key.profile != ANY
        for rows in (1, 3, 7):  # fewer are filled up, more are split
            feeds = feeds_for(component, rows, unit, unit)
            expected = reference.run(None, feeds)
            for spec, array in zip(engine.outputs, expected, strict=True):
                np.testing.assert_allclose(engine.run(feeds)[spec.name], array, rtol=1e-5, atol=1e-5)
        if component != "text_encoder":
            with pytest.raises(InputError, match=r"build one with 'latentrt build .* --engine openvino .* --size "):
                engine.run(feeds_for(component, 1, unit + 1, unit))


def test_beside_an_engine_for_all_shapes_one_serves_its_own(tiny_bundle: Path, feeds_for: MakeFeeds) -> None:
    """Its own rows too: nothing is filled up or split where another engine takes a call as it is."""
    bundle = Bundle.open(tiny_bundle)
    own = bundle.manifest.model.default_size
    one = replace(BACKEND, options=BuildOptions(sizes=((own, own),)))
    wide, narrow = (store.build(backend, bundle, "unet")[0].key for backend in (BACKEND, one))
    unit = own // pixels_per_unit(bundle, "unet", "height")
    with open_engine(bundle, "unet", Wanted(engine="openvino")) as engine:
        serving = {
            (rows, side): engine.key_for(feeds_for("unet", rows, side, unit)) for rows in (1, 2) for side in (1, 2)
        }
        assert serving == {(rows, side): narrow if (rows, side) == (2, unit) else wide for rows, side in serving}


def test_one_build_is_for_one_shape(tiny_original: Path, tmp_path: Path) -> None:
    two = replace(BACKEND, options=BuildOptions(rows=(2, 4)))
    with pytest.raises(InputError, match=r"holds all shapes or one: .* build once for each"):
        two.build(Bundle.open(tiny_original), "unet", tmp_path)
