"""A trial that has ended gets adherence from the pictures that lie beside it, whoever drew them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from latentrt.benchmarks.quality import measure
from latentrt.benchmarks.quality.adherence import held_out
from latentrt.benchmarks.quality.band import Band
from latentrt.benchmarks.trial.results import Results, read_results, write_results
from latentrt.engines.errors import CheckFailedError, InputError
from latentrt.export.demo.scenes import draw, plain_caption
from support.trials import contestant, results, whole, with_pictures


def drawn(folder: Path) -> Results:
    """One contestant draws what is asked, the other black."""
    scenes = held_out(4)
    found = results(
        {"good": contestant(1.0, quality={}), "black": contestant(2.0, quality={})},
        settings={"prompts": tuple(map(plain_caption, scenes))},
    )
    pictures = {"good": [], "black": []}
    for index, scene in enumerate(scenes):
        scenery = (draw(scene, np.random.default_rng(index)).transpose(1, 2, 0) + 1) * 127.5
        for name, pixels in (("good", scenery), ("black", scenery * 0)):
            pictures[name].append(f"{name}-{index}.png")
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / pictures[name][-1])
    return msgspec.structs.replace(found, pictures={name: tuple(files) for name, files in pictures.items()})


def test_adherence_is_that_of_each_contestants_pictures(tmp_path: Path) -> None:
    found = measure.with_quality(drawn(tmp_path), tmp_path)
    assert found.contestants["good"].quality == {"adherence": 1.0}
    assert found.contestants["black"].quality == {"adherence": 0.0}


def test_prompts_of_another_kind_have_no_adherence(tmp_path: Path) -> None:
    found = with_pictures(whole(), tmp_path)
    assert "a red circle on a blue background" in found.settings.prompts
    bare = {name: msgspec.structs.replace(one, quality={}) for name, one in found.contestants.items()}
    plain = msgspec.structs.replace(found, contestants=bare)
    assert all(not one.quality for one in measure.with_quality(plain, tmp_path).contestants.values())


def test_a_band_that_is_left_names_who_left_it(tmp_path: Path) -> None:
    found = measure.with_quality(drawn(tmp_path), tmp_path)
    measure.check_bands(found, [Band("adherence", 0, 1)])
    with pytest.raises(CheckFailedError, match=r"black: adherence is 0, outside of 0\.9 to 1$") as error:
        measure.check_bands(found, [Band("adherence", 0.9, 1)])
    assert "good" not in str(error.value)


def test_the_command_writes_results_and_reports_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(drawn(tmp_path), tmp_path / "results.json")
    monkeypatch.setattr("sys.argv", ["measure", str(tmp_path), "--band", "adherence=0.9,1"])
    with pytest.raises(SystemExit) as ended:
        measure.main()
    assert ended.value.code == 1
    assert "black: adherence is 0" in capsys.readouterr().err
    assert read_results(tmp_path / "results.json").contestants["good"].quality == {"adherence": 1.0}
    assert "100.0%" in (tmp_path / "report.md").read_text(encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["measure", "--captions", "3"])
    measure.main()
    assert capsys.readouterr().out.splitlines() == [plain_caption(scene) for scene in held_out(3)]


def test_a_picture_that_is_gone_is_one_error(tmp_path: Path) -> None:
    found = drawn(tmp_path)
    (tmp_path / found.pictures["good"][1]).unlink()
    with pytest.raises(InputError, match=r"good-1\.png is no picture of the trial"):
        measure.with_quality(found, tmp_path)
