"""The engines of one pipeline are closed together."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentrt.engines.bundle import Bundle
from latentrt.engines.choice import Wanted
from latentrt.engines.errors import EngineError
from latentrt.engines.manifest import TEXT_ENCODER, UNET
from latentrt.runtime.open_engines import OpenEngines

PARTS = (TEXT_ENCODER, UNET, "vae_decoder.kl-f8")


@pytest.mark.parametrize("broken", PARTS)
def test_though_one_engine_fails_to_close_the_others_are_closed(
    demo_bundle: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = OpenEngines(Bundle.open(demo_bundle), Wanted(engine="fake"))
    engines = {component: opened[component] for component in PARTS}

    def fail() -> None:
        raise EngineError("the GPU is gone")

    monkeypatch.setattr(engines[broken], "close", fail)
    with pytest.raises(EngineError, match="the GPU is gone"):
        opened.close()
    assert [component for component in PARTS if not engines[component]._closed] == [broken]
    opened.close()  # a second time there is nothing left to close
