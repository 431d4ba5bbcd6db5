"""Which engine serves: what fits, what was verified, what computes as asked, and only what is opened is hashed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from latentrt.engines import auto, backend, store
from latentrt.engines import onnxruntime_backend as ort
from latentrt.engines.auto import choose
from latentrt.engines.bundle import Bundle
from latentrt.engines.choice import Wanted, choices, misfit
from latentrt.engines.engine_set import EngineSet, open_engine
from latentrt.engines.errors import EngineError, InputError
from latentrt.engines.manifest import Precision
from latentrt.engines.options import BuildOptions
from latentrt.engines.profile import profiles_for
from latentrt.engines.size import Size
from latentrt.engines.store import EngineRecord
from support import sized_backend

MakeFeeds = Callable[[str, int, int, int], dict[str, np.ndarray]]
SMALL, LARGE = (16, 16), (32, 16)
SIZED = Wanted(engine="sized")


@pytest.fixture
def sized(monkeypatch: pytest.MonkeyPatch) -> sized_backend.SizedBackend:
    return sized_backend.register(monkeypatch)


@pytest.fixture
def build(sized: sized_backend.SizedBackend, opened: Bundle) -> Callable[..., EngineRecord]:
    def built(*sizes: Size, precision: Precision | None = None, device: int = 0) -> EngineRecord:
        configured = replace(sized, options=BuildOptions(sizes=sizes, precision=precision), device=device)
        return store.build(configured, opened, "unet")[0]

    return built


def spoil(bundle: Bundle, record: EngineRecord, failure: str | None) -> None:
    """Write into a record that its engine failed its last check, or that none was made."""
    assert record.verification is not None
    verification = None if failure is None else msgspec.structs.replace(record.verification, failures=(failure,))
    changed = msgspec.structs.replace(record, verification=verification)
    (store.engine_folder(bundle, record.key) / store.RECORD).write_bytes(msgspec.json.encode(changed))


def test_without_a_build_the_graph_is_opened_or_the_build_is_named(opened: Bundle, sized: object) -> None:
    [choice] = choices(opened, "unet", Wanted())
    assert (choice.folder, choice.key) == (None, ort.BACKEND.key(opened, "unet"))
    said = rf"no sized engine of unet fits here: none was built; .*'latentrt build {opened.root} --engine sized'"
    with pytest.raises(EngineError, match=said):
        choices(opened, "unet", SIZED)


def test_a_built_engine_comes_before_the_graph(opened: Bundle) -> None:
    record, _ = store.build(ort.BACKEND, opened, "unet")
    [choice] = choices(opened, "unet", Wanted())
    assert choice.record == record
    assert choice.folder == store.engine_folder(opened, record.key)


def test_the_precision_asked_for_decides_else_the_backends_own_comes_first(opened: Bundle, build) -> None:
    exact, half = build(SMALL, precision="fp32"), build(SMALL, precision="fp16")
    assert [choice.record for choice in choices(opened, "unet", SIZED)] == [half, exact]
    wanted = replace(SIZED, precision="fp32")
    assert [choice.record for choice in choices(opened, "unet", wanted)] == [exact]
    with pytest.raises(InputError, match="computes in fp16, fp32; got --precision bf16"):
        choices(opened, "unet", replace(SIZED, precision="bf16"))


def test_what_was_built_for_another_device_fits_there_alone(opened: Bundle, build) -> None:
    record = build(SMALL, device=1)
    assert misfit(opened, record) == "does not fit: device: sm89, not sm80"
    assert misfit(opened, record, 1) is None
    with pytest.raises(EngineError, match="that was built does not fit: device: sm89, not sm80; build one"):
        choices(opened, "unet", SIZED)
    assert choices(opened, "unet", replace(SIZED, device=1))[0].record == record
    shutil.rmtree(store.engine_folder(opened, record.key))
    for precision in ("fp16", "fp32"):
        build(SMALL, precision=precision)
    with pytest.raises(EngineError, match=r"of 2 that were built none serves; .* does not fit: device: sm80, not sm89"):
        choices(opened, "unet", replace(SIZED, device=1))


def test_a_backend_that_cannot_even_look_for_its_device_is_no_misfit_of_others(
    opened: Bundle, build, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = build(SMALL)

    def fail(self: object) -> None:
        raise EngineError("its driver does not answer")

    monkeypatch.setattr(sized_backend.SizedBackend, "obstacle", fail)
    assert misfit(opened, record) == "cannot run here: its driver does not answer"


@pytest.mark.parametrize(("failure", "said"), [("the sky is green", "failed verification: the sky"), (None, "not yet")])
def test_what_did_not_pass_is_taken_only_when_asked_for(opened: Bundle, build, failure: str | None, said: str) -> None:
    good, bad = build(SMALL, precision="fp32"), build(SMALL)
    spoil(opened, bad, failure)
    assert [choice.key for choice in choices(opened, "unet", SIZED)] == [good.key]  # though fp16 is the backend's own
    shutil.rmtree(store.engine_folder(opened, good.key))
    with pytest.raises(EngineError, match=said):
        choices(opened, "unet", SIZED)
    assert choices(opened, "unet", replace(SIZED, allow_unverified=True))[0].key == bad.key


def test_one_shape_named_in_two_ways_is_one_engine_and_a_static_one(opened: Bundle, sized) -> None:
    def configured(**options: object) -> tuple[str, bool]:
        backend = replace(sized, options=BuildOptions(**options))  # type: ignore[arg-type] # shapes of any kind
        profiles = profiles_for(opened, "unet", backend.options)
        return backend.key(opened, "unet").id, len(profiles) == 1 and profiles[0].static

    assert configured(sizes=(SMALL, SMALL), rows=(2, 2), tokens=(77, 77)) == configured(sizes=(SMALL,))
    assert configured(sizes=(SMALL, SMALL))[1]
    assert configured(sizes=(LARGE, SMALL), rows=(4, 2)) == configured(sizes=(SMALL, LARGE), rows=(2, 4))
    assert configured(rows=(2, 4))[0] != configured(rows=(2,))[0]


def test_though_one_engine_fails_to_close_the_others_are_closed(opened: Bundle, build, feeds_for: MakeFeeds) -> None:
    for size in (SMALL, LARGE):
        build(size)
    engine = open_engine(opened, "unet", SIZED)
    assert isinstance(engine, EngineSet)
    for width in (1, 2):
        engine.run(feeds_for("unet", 2, 1, width))
    first, second = engine._open.values()
    for one, other in ((first, second), (second, first)):  # whichever is closed first
        one._closed = other._closed = False
        engine._open |= {"one": one, "other": other}
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(one, "close", fail_to_close)
            with pytest.raises(EngineError, match="the GPU is gone"):
                engine.close()
        assert other._closed
        assert not engine._open


def fail_to_close() -> None:
    raise EngineError("the GPU is gone")


@pytest.mark.parametrize("options", [BuildOptions(tokens=(154,)), BuildOptions(tokens=(77, 154)), BuildOptions()])
def test_an_engine_is_checked_at_shapes_of_which_nothing_is_recorded(
    opened: Bundle, sized, options: BuildOptions
) -> None:
    """The tiny bundle records nothing at its own size, 16x16, either."""
    record, _ = store.build(replace(sized, options=options), opened, "unet")
    assert record.verification is not None
    assert record.verification.checks == len(options.tokens)


def test_an_engine_that_passed_on_another_card_of_its_kind_is_checked_on_this_one_first(
    opened: Bundle, build, sized, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = build(SMALL)
    assert record.verification is not None
    assert record.verification.device == "a GPU"
    monkeypatch.setattr(sized_backend, "CARD", "another GPU")
    assert misfit(opened, record) is None
    said = f"was checked on a GPU, and not yet on this machine's another GPU: run 'latentrt verify {opened.root}"
    with pytest.raises(EngineError, match=re.escape(said)):
        choices(opened, "unet", SIZED)
    backend = replace(sized, options=record.options)
    store.keep(backend, opened, "unet", record.verification)
    assert [choice.key for choice in choices(opened, "unet", SIZED)] == [record.key]
    monkeypatch.setattr(sized_backend, "CARD", "a GPU")
    with pytest.raises(EngineError, match="was checked on another GPU, and not yet on"):
        choices(opened, "unet", SIZED)


def test_only_the_engine_that_is_opened_is_hashed(opened: Bundle, build, monkeypatch: pytest.MonkeyPatch) -> None:
    record, other = build(SMALL, precision="fp32"), build(SMALL)
    hashed: list[Path] = []
    real = store.sha256
    monkeypatch.setattr(store, "sha256", lambda file: hashed.append(file) or real(file))
    with choices(opened, "unet", replace(SIZED, precision="fp32"))[0].open() as engine:
        assert engine.key == record.key
    assert {file.parent.name for file in hashed} == {record.key.id} != {other.key.id}


def test_a_spoiled_file_is_found_when_its_engine_is_opened(opened: Bundle, build) -> None:
    folder = store.engine_folder(opened, build(SMALL).key)
    (folder / ort.GRAPH).write_bytes(b"another graph")
    [choice] = choices(opened, "unet", SIZED)
    with pytest.raises(EngineError, match="missing or altered since it was built"):
        choice.open()


def test_of_engines_for_several_sizes_each_is_opened_when_a_call_needs_it(
    opened: Bundle, build, feeds_for: MakeFeeds
) -> None:
    keys = {size: build(size).key for size in (SMALL, LARGE)}
    small, large, other = feeds_for("unet", 2, 1, 1), feeds_for("unet", 3, 1, 2), feeds_for("unet", 2, 2, 2)
    sized_backend.opened.clear()
    with open_engine(opened, "unet", SIZED) as engine, ort.BACKEND.open(opened, "unet", None) as reference:
        assert isinstance(engine, EngineSet)
        assert sized_backend.opened == []
        for feeds, size in ((large, LARGE), (small, SMALL), (large, LARGE)):
            found = engine.run(feeds)["out_sample"]
            np.testing.assert_allclose(found, reference.run(feeds)["out_sample"], rtol=0, atol=1e-6)
            assert engine.key_for(feeds) == keys[size]
            assert engine.takes(feeds)
        assert sized_backend.opened == [keys[LARGE].id, keys[SMALL].id]  # each once, the one first needed first
        assert not engine.takes(other)
        said = (
            "none of the 2 sized engines of unet holds height=2 tokens=77 width=2; the nearest profile is height=1 "
            "rows=2 tokens=77 width=2: build one with "
            f"'latentrt build {opened.root} --engine sized --precision fp16 --size 32x32 --tokens 77'"
        )
        with pytest.raises(InputError, match=re.escape(said)):
            engine.run(other)
        assert engine.unheld(other) == said
        longer = {**small, "encoder_hidden_states": np.repeat(small["encoder_hidden_states"], 2, axis=1)}
        assert "rows=2 tokens=77 width=1: build one with" in str(engine.unheld(longer))
        assert str(engine.unheld(longer)).endswith(" --size 16x16 --tokens 154'")
    with pytest.raises(EngineError, match="closed"):
        engine.run(small)


def test_one_engine_for_several_sizes_gives_way_to_narrow_ones(opened: Bundle, build) -> None:
    wide, narrow = build(SMALL, LARGE), build(LARGE)
    assert [choice.key for choice in choices(opened, "unet", SIZED)] == [narrow.key, wide.key]


@pytest.fixture
def ranked(sized: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order in which "sized" comes before onnxruntime, after one whose library is not there."""
    monkeypatch.setitem(backend._MODULES, "missing", "missing_backend")
    monkeypatch.setattr(auto, "ORDER", ("missing", "sized", "onnxruntime"))
    real = backend.get_backend

    def get(name: str, *arguments: object) -> backend.Backend:
        if name == "missing":
            raise EngineError("the missing engine needs its library: pip install it")
        return real(name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(backend, "get_backend", get)


def test_auto_takes_the_first_that_can_draw_and_says_why(opened: Bundle, ranked: None, sized) -> None:
    wanted, why = choose(opened, Wanted(engine="auto", device=0))
    assert wanted == Wanted(engine="onnxruntime")
    assert re.fullmatch(
        "engine onnxruntime, fp32, from graphs, and nothing has verified its text_encoder: build it with "
        f"'latentrt build {opened.root} --engine onnxruntime'; "
        "not missing: the missing engine needs its library: pip install it; "
        "not sized: no sized engine of text_encoder fits here: none was built; build one with .*",
        why,
    )
    sized = replace(sized, options=BuildOptions(sizes=(LARGE,)))
    for component in ("text_encoder", "unet"):
        store.build(sized, opened, component)
    assert "not sized: no sized engine of vae_decoder.kl-f8 fits" in choose(opened, Wanted(engine="auto"))[1]
    store.build(sized, opened, "vae_decoder.kl-f8")
    wanted, why = choose(opened, Wanted(engine="auto"))
    assert wanted == Wanted(engine="sized")
    assert why.startswith("engine sized, fp16, built and verified; not missing: ")
    assert choose(opened, Wanted(engine="auto", precision="fp32"))[0].engine == "onnxruntime"  # none was built in it


def test_auto_prefers_what_was_built_and_verified_to_a_faster_one_that_opens_graphs(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "ORDER", ("openvino", "onnxruntime"))
    wanted, why = choose(opened, Wanted(engine="auto"))
    build = f"build it with 'latentrt build {opened.root} --engine openvino --precision fp32'"
    assert wanted == Wanted(engine="openvino", precision="fp32")
    assert why == f"engine openvino, fp32, from graphs, and nothing has verified its text_encoder: {build}"
    for component in ("text_encoder", "unet", "vae_decoder.kl-f8"):
        record, _ = store.build(ort.BACKEND, opened, component)
    wanted, why = choose(opened, Wanted(engine="auto"))
    assert wanted == Wanted(engine="onnxruntime")
    assert why == (
        f"engine onnxruntime, fp32, built and verified; not openvino: nothing has verified its text_encoder: {build}"
    )
    spoil(opened, record, "the sky is green")
    assert choose(opened, Wanted(engine="auto"))[0].engine == "openvino"
    with pytest.MonkeyPatch.context() as patched:  # where it was asked for, it is taken, and not called verified
        patched.setattr(auto, "ORDER", ("onnxruntime",))
        why = choose(opened, Wanted(engine="auto", allow_unverified=True))[1]
    assert "3 of 3 built, and the onnxruntime engine of vae_decoder.kl-f8 failed verification" in why


def test_auto_passes_over_what_failed_verification(opened: Bundle, ranked: None, sized) -> None:
    sized = replace(sized, options=BuildOptions(sizes=(LARGE,)))
    records = [store.build(sized, opened, name)[0] for name in ("text_encoder", "unet", "vae_decoder.kl-f8")]
    spoil(opened, records[1], "the sky is green")
    wanted, why = choose(opened, Wanted(engine="auto"))
    assert wanted.engine == "onnxruntime"
    assert "not sized: the sized engine of unet failed verification: the sky is green" in why


def test_auto_with_nothing_to_choose_from_says_why_of_each(
    opened: Bundle, ranked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "ORDER", ("missing", "sized"))
    with pytest.raises(EngineError, match=r"no engine can draw with .* here: not missing: .*; not sized: "):
        choose(opened, Wanted(engine="auto"))
