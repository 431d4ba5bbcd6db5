"""Built engines: found again while they fit and are whole, refused when anything of them changed."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from latentrt.engines import store
from latentrt.engines.backend import Report, no_report
from latentrt.engines.bundle import Bundle
from latentrt.engines.engine import Engine
from latentrt.engines.errors import CheckFailedError, EngineError, OutputError
from latentrt.engines.key import EngineKey
from latentrt.engines.onnxruntime_backend import BACKEND, GRAPH, WEIGHTS
from latentrt.engines.options import DEFAULTS
from latentrt.engines.tensor import Feeds
from latentrt.engines.threshold import MAX_ABS_ERROR, Threshold
from latentrt.engines.verification import Verification

MakeFeeds = Callable[[str, int, int, int], dict[str, np.ndarray]]
COMPONENT = "text_encoder"  # its weights are large enough to lie beside the built graph


class Counting:
    """The real backend; counts builds, may claim another version, and may give engines that answer wrongly."""

    name = BACKEND.name
    options = DEFAULTS
    obstacle = BACKEND.obstacle

    def __init__(self, version: str | None = None, error: float = 0.0) -> None:
        self.builds, self._version, self._error = 0, version, error

    def key(self, bundle: Bundle, component: str) -> EngineKey:
        key = BACKEND.key(bundle, component)
        return msgspec.structs.replace(key, backend_version=self._version) if self._version else key

    def build(self, bundle: Bundle, component: str, folder: Path, report: Report = no_report) -> None:
        self.builds += 1
        BACKEND.build(bundle, component, folder, report)

    def open(self, bundle: Bundle, component: str, folder: Path | None) -> Engine:
        engine = BACKEND.open(bundle, component, folder)
        return Wrong(engine, self._error, bundle) if self._error else engine


class Wrong(Engine):
    """Another engine's answers, with an error added to them."""

    def __init__(self, engine: Engine, error: float, bundle: Bundle) -> None:
        super().__init__(engine.name, bundle.component(engine.name), engine.key)
        self._engine, self._error = engine, np.float32(error)

    def _run(self, feeds: Feeds) -> dict[str, Any]:
        return {name: array + self._error for name, array in self._engine.run(feeds).items()}


@pytest.fixture(scope="module")
def built_original(tiny_original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = Path(shutil.copytree(tiny_original, tmp_path_factory.mktemp("built") / "bundle"))
    store.build(BACKEND, Bundle.open(bundle), COMPONENT)
    return bundle


@pytest.fixture
def built(built_original: Path, tmp_path: Path) -> Bundle:
    """The tiny bundle with one built engine."""
    return Bundle.open(shutil.copytree(built_original, tmp_path / "built"))


@pytest.fixture
def engine(built: Bundle) -> Iterator[Path]:
    """The folder of that engine."""
    return store.engine_folder(built, BACKEND.key(built, COMPONENT))


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_nothing_is_found_where_nothing_was_built(opened: Bundle) -> None:
    assert store.find(BACKEND, opened, COMPONENT) is None
    assert store.stored(opened) == []


def test_a_build_is_checked_recorded_and_found(opened: Bundle, feeds_for: MakeFeeds) -> None:
    record, new = store.build(BACKEND, opened, COMPONENT)
    assert new
    assert record.key == BACKEND.key(opened, COMPONENT)
    assert sorted(record.files) == sorted([GRAPH, WEIGHTS])
    assert record.verification.passed
    assert record.verification.error is not None
    assert 0 <= record.verification.error <= MAX_ABS_ERROR == record.verification.threshold.value
    assert record.verification.checks == 2
    folder = store.find(BACKEND, Bundle.open(opened.root), COMPONENT)
    assert folder == opened.root / "engines" / record.key.id
    assert tree(opened.root / "engines") == [
        record.key.id,
        *(f"{record.key.id}/{n}" for n in sorted([store.RECORD, GRAPH, WEIGHTS])),
    ]
    assert store.stored(opened) == [record]
    with BACKEND.open(opened, COMPONENT, folder) as engine:
        engine.run(feeds_for(COMPONENT, 2, 1, 1))


def test_a_second_build_returns_at_once(opened: Bundle) -> None:
    backend = Counting()
    first, second = store.build(backend, opened, COMPONENT), store.build(backend, opened, COMPONENT)
    assert (first[1], second[1]) == (True, False)
    assert first[0] == second[0]
    assert backend.builds == 1


def test_every_component_can_be_built(opened: Bundle) -> None:
    records = [store.build(BACKEND, opened, component)[0] for component in opened.manifest.components]
    assert store.stored(opened) == sorted(records, key=lambda record: record.key.id)
    opened.verify_all()  # building adds to a bundle and changes nothing of it


@pytest.mark.parametrize("error", [1e-3, np.nan])
def test_an_engine_that_fails_the_check_is_not_kept(opened: Bundle, error: float) -> None:
    with pytest.raises(CheckFailedError, match=f"{COMPONENT} is not what PyTorch answered: .* in rows1"):
        store.build(Counting(error=error), opened, COMPONENT)
    assert tree(opened.root / "engines") == []
    assert store.find(BACKEND, opened, COMPONENT) is None


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, EngineError, MemoryError])
def test_an_interrupted_build_leaves_nothing(opened: Bundle, interruption: type[BaseException]) -> None:
    class Interrupted(Counting):
        def build(self, bundle: Bundle, component: str, folder: Path, report: Report = no_report) -> None:
            super().build(bundle, component, folder, report)
            raise interruption

    with pytest.raises(interruption):
        store.build(Interrupted(), opened, COMPONENT)
    assert tree(opened.root / "engines") == []


def test_an_engine_of_another_version_is_listed_with_what_differs(built: Bundle) -> None:
    newer = Counting(version="99.0")
    assert store.find(newer, built, COMPONENT) is None
    [record] = store.stored(built)
    version = BACKEND.key(built, COMPONENT).backend_version
    assert newer.key(built, COMPONENT).differences(record.key) == [f"backend_version: {version}, not 99.0"]
    store.build(newer, built, COMPONENT)  # both live side by side
    assert {r.key.backend_version for r in store.stored(built)} == {version, "99.0"}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def link(file: Path) -> None:
    file.symlink_to(file.rename(file.parent.parent / file.name))


REFUSED: dict[Callable[[Path], None], str] = {
    flip: "is missing or altered since it was built",
    truncate: "is missing or altered since it was built",
    link: "is missing or altered since it was built",
    Path.unlink: "is missing",
}


@pytest.mark.parametrize("name", [GRAPH, WEIGHTS])
@pytest.mark.parametrize("spoil", REFUSED)
def test_a_spoiled_engine_file_is_refused(
    built: Bundle, engine: Path, spoil: Callable[[Path], None], name: str
) -> None:
    spoil(engine / name)
    remedy = f"; delete {engine} and run 'latentrt build' again"
    with pytest.raises(EngineError, match=f"{engine / name} {REFUSED[spoil]}{remedy}"):
        store.find(BACKEND, built, COMPONENT)


def edit(folder: Path, *path: str, to: Any) -> None:
    content = json.loads((folder / store.RECORD).read_bytes())
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    (folder / store.RECORD).write_text(json.dumps(content))


@pytest.mark.parametrize("part", ["device", "precision", "backend_version", "graph"])
def test_a_record_with_another_key_is_refused(built: Bundle, engine: Path, part: str) -> None:
    edit(engine, "key", part, to="other")
    said = f"{engine} holds the engine [0-9a-f]{{16}}; delete"
    with pytest.raises(EngineError, match=said):
        store.find(BACKEND, built, COMPONENT)
    [listed] = store.stored(built)
    assert isinstance(listed, EngineError)
    assert re.match(said, str(listed))


def test_a_second_build_refuses_a_damaged_record_and_says_what_to_do(built: Bundle, engine: Path) -> None:
    (engine / store.RECORD).unlink()
    with pytest.raises(EngineError, match=f"holds no readable engine.json: .*; delete {engine} and run"):
        store.build(BACKEND, built, COMPONENT)


BROKEN_RECORDS = {
    "empty": b"",
    "text": b"{",
    "list": b"[]",
    "not UTF-8": b'{"key": {"component": "\xff"}}',
    "deep": b'{"key": ' + b"[" * 100_000,
    "other field": b'{"colour": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("content", BROKEN_RECORDS.values(), ids=BROKEN_RECORDS)
def test_a_record_that_cannot_be_read_is_refused(built: Bundle, engine: Path, content: bytes) -> None:
    (engine / store.RECORD).write_bytes(content)
    with pytest.raises(EngineError, match=r"holds no readable engine\.json"):
        store.find(BACKEND, built, COMPONENT)


def test_flipped_bits_in_a_record_are_an_engine_error_or_harmless(built: Bundle, engine: Path) -> None:
    content = (engine / store.RECORD).read_bytes()
    for at in range(0, len(content), 3):
        spoiled = bytearray(content)
        spoiled[at] ^= 1 << at % 8
        (engine / store.RECORD).write_bytes(spoiled)
        try:
            found = store.find(BACKEND, built, COMPONENT)
        except EngineError:
            continue
        assert found == engine  # a digit of the recorded error, say: key and files are as they were
        assert store.load_record(engine).key == BACKEND.key(built, COMPONENT)


def test_a_file_that_the_record_does_not_list_is_refused(built: Bundle, engine: Path) -> None:
    """Else a record without files would vouch for a graph that nobody has looked at."""
    edit(engine, "files", to={})
    with pytest.raises(EngineError, match=f"{engine}/{GRAPH} is not listed in engine.json"):
        store.find(BACKEND, built, COMPONENT)


def test_a_record_cannot_list_a_file_elsewhere(built: Bundle, engine: Path) -> None:
    listed = json.loads((engine / store.RECORD).read_bytes())["files"]
    edit(engine, "files", to=listed | {"../../LICENSE-MODEL": {"size": 0, "sha256": "0" * 64}})
    with pytest.raises(EngineError, match="LICENSE-MODEL is missing"):
        store.find(BACKEND, built, COMPONENT)


def test_an_engine_that_takes_weights_from_elsewhere_is_refused(built: Bundle, engine: Path) -> None:
    model = onnx.load(engine / GRAPH, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../../onnx/unet.safetensors"
    content = model.SerializeToString()
    (engine / GRAPH).write_bytes(content)
    edit(engine, "files", GRAPH, to={"size": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    with pytest.raises(EngineError, match=r"takes weights from '../../onnx/unet.safetensors', which engine.json does"):
        store.find(BACKEND, built, COMPONENT)


THRESHOLD = Threshold(metric="max_abs", value=MAX_ABS_ERROR, origin="test", scaled=True)
PASSED = Verification(threshold=THRESHOLD, error=2e-7, checks=3, failures=())
FAILED = Verification(threshold=THRESHOLD, error=None, checks=3, failures=("its answer is NaN",))


def test_an_engine_that_failed_a_later_check_is_refused_unless_asked_for(built: Bundle, engine: Path) -> None:
    store.keep(BACKEND, built, COMPONENT, FAILED)
    said = f"engine of {COMPONENT} failed verification: its answer is NaN; .* --allow-unverified"
    with pytest.raises(EngineError, match=said):
        store.find(BACKEND, built, COMPONENT)
    assert store.find(BACKEND, built, COMPONENT, allow_unverified=True) == engine
    store.keep(BACKEND, built, COMPONENT, PASSED)
    assert store.find(BACKEND, built, COMPONENT) == engine
    assert store.load_record(engine).verification == PASSED
    assert tree(engine) == sorted([store.RECORD, GRAPH, WEIGHTS])


def test_a_build_replaces_an_engine_that_failed(built: Bundle, engine: Path) -> None:
    store.keep(BACKEND, built, COMPONENT, FAILED)
    with pytest.raises(CheckFailedError):
        store.build(Counting(error=1e-3), built, COMPONENT)
    assert store.load_record(engine).verification == FAILED  # still refused
    record, new = store.build(BACKEND, built, COMPONENT)
    assert new
    assert record.verification.passed
    assert store.find(BACKEND, built, COMPONENT) == engine


def test_an_engine_that_was_not_built_is_remembered_while_it_fails(opened: Bundle) -> None:
    store.keep(BACKEND, opened, COMPONENT, PASSED)
    assert store.stored(opened) == []
    store.keep(BACKEND, opened, COMPONENT, FAILED)
    with pytest.raises(EngineError, match="failed verification"):
        store.find(BACKEND, opened, COMPONENT)
    assert store.find(BACKEND, opened, COMPONENT, allow_unverified=True) is None  # opened from the graph
    store.keep(BACKEND, opened, COMPONENT, PASSED)
    assert store.stored(opened) == []
    assert store.find(BACKEND, opened, COMPONENT) is None


def test_a_record_of_failure_does_not_stand_for_a_build(opened: Bundle) -> None:
    store.keep(BACKEND, opened, COMPONENT, FAILED)
    record, new = store.build(BACKEND, opened, COMPONENT)
    assert new
    assert sorted(record.files) == sorted([GRAPH, WEIGHTS])


def test_a_record_left_half_written_by_a_crash_does_no_harm(built: Bundle, engine: Path) -> None:
    (engine / f".{store.RECORD}.0123abcd.partial").write_text("{")
    assert store.find(BACKEND, built, COMPONENT) == engine


@pytest.mark.parametrize(("outcome", "raises"), [(PASSED, False), (FAILED, True)])
def test_where_nothing_may_be_written_only_news_is_an_error(
    built: Bundle, outcome: Verification, raises: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def refuse(target: Path) -> Iterator[Path]:
        raise OutputError(f"cannot write {target}: the file system is read-only")
        yield

    monkeypatch.setattr(store, "new_file", refuse)
    with pytest.raises(OutputError, match="read-only") if raises else nullcontext():
        store.keep(BACKEND, built, COMPONENT, outcome)


def test_other_things_beside_the_engines_are_left_alone(built: Bundle) -> None:
    (built.root / "engines" / ".0123.partial").mkdir()
    (built.root / "engines" / "README").write_text("hello")
    assert len(store.stored(built)) == 1
