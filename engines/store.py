"""Where compiled engines live: `BUNDLE/engines/<key>/`, each with a record of its key, its files and its check."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import msgspec

from .atomic import new_file, new_folder
from .backend import Backend, Report, device_name, no_report
from .bundle import ENGINES, Bundle, sha256
from .derived import built_cases
from .errors import CheckFailedError, EngineError, OutputError
from .external_data import external_locations
from .golden import golden_cases
from .key import EngineKey
from .manifest import FileRecord
from .options import DEFAULTS, BuildOptions
from .threshold import component_threshold
from .verification import Verification, check_calls, summary
from .working_set import WorkingSet, working_sets

RECORD = "engine.json"


class EngineRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`engine.json`: what lies in an engine's folder. One without files says of an engine not built that it failed."""

    key: EngineKey
    files: dict[str, FileRecord]
    verification: Verification | None  # None: built for another machine, and not yet run on it
    options: BuildOptions = DEFAULTS
    working_sets: tuple[WorkingSet, ...] = ()  # of its graph; none where that does not state its shapes


def engine_folder(bundle: Bundle, key: EngineKey) -> Path:
    """The folder of the engine with this key, whether it is there or not."""
    component = bundle.manifest.components.get(key.component)
    packed = component is not None and component.packed is not None
    return (bundle.root / ENGINES if packed else bundle.engine_dir) / key.id


def check_listed(bundle: Bundle, record: EngineRecord) -> None:
    """Check that an engine of a component without a graph is one that the bundle's manifest lists, file by file.

    Raises:
        EngineError: it is not: it came into the folder by another way than `latentrt pack`.
    """
    packed = bundle.component(record.key.component).packed
    if packed is None:
        return
    listed = bundle.manifest.files
    paths = {f"{ENGINES}/{record.key.id}/{name}": file for name, file in record.files.items()}
    if record.key.id not in packed.engines or any(listed.get(path) != file for path, file in paths.items()):
        raise EngineError(
            f"{engine_folder(bundle, record.key)} is not the engine that {bundle.root} was packed with; pack it again"
        )


def build(backend: Backend, bundle: Bundle, component: str, report: Report = no_report) -> tuple[EngineRecord, bool]:
    """Compile, check against PyTorch's answers, and store one component; returns its record and whether it is new.

    The same engine is not built twice, unless the one that is there failed a later check. One that fails the check, or
    a build that is interrupted, leaves nothing. An engine that cannot run here is stored without a check.

    Raises:
        EngineError: the backend cannot compile it.
        CheckFailedError: the engine's answers are not PyTorch's.
    """
    key = backend.key(bundle, component)
    folder = engine_folder(bundle, key)
    failed = folder.exists()
    if failed:
        there = load_record(folder)
        if there.files and (there.verification is None or there.verification.passed):
            return there, False
    _make_parent(folder)
    with new_folder(folder, overwrite=failed) as beside:
        backend.build(bundle, component, beside, report)
        files = {
            file.name: FileRecord(size=file.stat().st_size, sha256=sha256(file)) for file in sorted(beside.iterdir())
        }
        report("checking", 0)
        verification = None if backend.obstacle() else _checked(backend, bundle, component, beside)
        record = EngineRecord(
            key=key,
            files=files,
            verification=verification,
            options=backend.options,
            working_sets=_working_sets(bundle, component),
        )
        _write_record(beside / RECORD, record)
    return record, True


def _working_sets(bundle: Bundle, component: str) -> tuple[WorkingSet, ...]:
    """What a memory budget asks of an engine later, where its graph may be gone."""
    graph = bundle.graph(component)
    with suppress(EngineError):  # an engine is none the worse for it
        return working_sets(graph.read_bytes(), str(graph))
    return ()


def _checked(backend: Backend, bundle: Bundle, component: str, folder: Path) -> Verification:
    """Run the recorded calls that the engine takes; where it takes none of them, calls at its own shapes."""
    threshold = component_threshold(bundle.component(component), backend.key(bundle, component).precision)
    recorded = golden_cases(bundle, component)
    with backend.open(bundle, component, folder) as engine:
        cases = [case for case in recorded if engine.takes(case.inputs)]
        checks = check_calls(engine, cases, threshold)
        derived = built_cases(bundle, component, backend.options, recorded)
        checks += check_calls(engine, [case for case in derived if engine.takes(case.inputs)], threshold, "derived")
    verification = summary(checks, threshold)
    if not verification.passed:
        found = verification.failures[0] if checks else "it takes none of the recorded calls"
        raise CheckFailedError(
            f"the {backend.name} engine of {component} is not what PyTorch answered: {found}; "
            "it was not kept; report the versions that 'latentrt inspect' shows"
        )
    return msgspec.structs.replace(verification, device=device_name(backend))


def find(backend: Backend, bundle: Bundle, component: str, *, allow_unverified: bool = False) -> Path | None:
    """The folder of the engine that fits here and now, its files checked; None when none was built.

    An engine whose last verification failed is found only with `allow_unverified`.

    Raises:
        EngineError: it is there, but damaged, or it failed verification.
    """
    folder = engine_folder(bundle, backend.key(bundle, component))
    if not folder.exists():
        return None
    record = read_record(folder)
    reason = refusal(bundle, record, backend)
    if reason is not None and not allow_unverified:
        raise EngineError(reason)
    check_listed(bundle, record)
    check_files(folder, record)
    return folder if record.files else None


def refusal(bundle: Bundle, record: EngineRecord, backend: Backend | None = None) -> str | None:
    """Why an engine is not opened unless someone asks for it in so many words: its last check; None once it passed.

    With a `backend` that engine was checked on the device that it runs on here, too, and not on another that its key
    fits.
    """
    what = f"the {record.key.backend} engine of {record.key.component}"
    verify = f"run 'latentrt verify {bundle.root} --engine {record.key.backend}'"
    if record.verification is None:
        return f"{what} was built for this machine, and not yet checked on it: {verify}"
    if record.verification.passed:
        there = record.verification.device
        if backend is None or there == (here := device_name(backend)):
            return None
        return f"{what} was checked on {there or 'another device'}, and not yet on this machine's {here}: {verify}"
    return (
        f"{what} failed verification: {'; '.join(record.verification.failures)}; "
        f"build or verify it again, or ask for it with --allow-unverified (allow_unverified=True)"
    )


def keep(backend: Backend, bundle: Bundle, component: str, verification: Verification) -> None:
    """Put the outcome of a later check in place of the one that the engine's record has.

    With it the name of the backend's device is kept. An engine that was not built, but opened from the bundle's graph,
    has a record as long as it fails.

    Raises:
        EngineError: the engine is damaged.
        OutputError: the record cannot be written.
    """
    key = backend.key(bundle, component)
    folder = engine_folder(bundle, key)
    verification = msgspec.structs.replace(verification, device=device_name(backend))
    if folder.exists():
        record = load_record(folder)
        if record.files or not verification.passed:
            nothing_new = refusal(bundle, record, backend) is None and verification.passed
            with suppress(OutputError) if nothing_new else nullcontext(), new_file(folder / RECORD) as beside:
                _write_record(beside, msgspec.structs.replace(record, verification=verification))
        else:
            shutil.rmtree(folder)
    elif not verification.passed:
        _make_parent(folder)
        with new_folder(folder) as beside:
            _write_record(
                beside / RECORD, EngineRecord(key=key, files={}, verification=verification, options=backend.options)
            )


def stored(bundle: Bundle) -> list[EngineRecord | EngineError]:
    """The records of all engines in the bundle, whether they fit here or not; an error in place of a damaged one."""
    return [_or_error(load_record, folder) for folder in _folders(bundle)]


def records(bundle: Bundle) -> list[EngineRecord]:
    """The readable records of all engines in the bundle; no file beside them is looked at, which may take seconds."""
    found = [_or_error(read_record, folder) for folder in _folders(bundle)]
    return [record for record in found if isinstance(record, EngineRecord)]


def _folders(bundle: Bundle) -> list[Path]:
    places = dict.fromkeys([bundle.engine_dir, bundle.root / ENGINES] if _is_packed(bundle) else [bundle.engine_dir])
    entries = [entry for place in places if place.is_dir() for entry in sorted(place.iterdir())]
    return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _is_packed(bundle: Bundle) -> bool:
    return any(component.packed is not None for component in bundle.manifest.components.values())


def _or_error(read: Callable[[Path], EngineRecord], folder: Path) -> EngineRecord | EngineError:
    try:
        return read(folder)
    except EngineError as error:
        return error


def load_record(folder: Path) -> EngineRecord:
    """The record in an engine's folder, once the folder's files are checked against it.

    Raises:
        EngineError: as `read_record` and `check_files`.
    """
    record = read_record(folder)
    check_files(folder, record)
    return record


def read_record(folder: Path) -> EngineRecord:
    """The record in an engine's folder, as it is.

    Raises:
        EngineError: it is missing, damaged, or of another engine.
    """
    try:
        record = msgspec.json.decode((folder / RECORD).read_bytes(), type=EngineRecord)
    except (OSError, ValueError) as error:  # ValueError: msgspec's own errors, and UnicodeDecodeError
        raise EngineError(f"{folder} holds no readable {RECORD}: {error}; {_rebuild(folder)}") from error
    if record.key.id != folder.name:
        raise EngineError(f"{folder} holds the engine {record.key.id}; {_rebuild(folder)}")
    return record


def _write_record(file: Path, record: EngineRecord) -> None:
    file.write_bytes(msgspec.json.format(msgspec.json.encode(record, order="sorted"), indent=2) + b"\n")


def _make_parent(folder: Path) -> None:
    try:
        folder.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot store engines in {folder.parent}: {error.strerror}") from error


def check_files(folder: Path, record: EngineRecord) -> None:
    """Check that a folder holds the files of its record, and nothing else.

    Raises:
        EngineError: a file is missing, altered or not listed.
    """
    # a record on its way to its place, or left there by a crash, is no part of the engine
    held = {entry.name for entry in folder.iterdir() if not entry.name.startswith(f".{RECORD}.")}
    for name in sorted(held ^ {RECORD, *record.files}):
        reason = f"is not listed in {RECORD}" if name in held else "is missing"
        raise EngineError(f"{folder / name} {reason}; {_rebuild(folder)}")
    for name, expected in record.files.items():
        _check_file(folder / name, expected)
        if name.endswith(".onnx"):
            _check_stays_inside(folder, name, record)


def _check_file(file: Path, expected: FileRecord) -> None:
    fits = file.is_file() and not file.is_symlink() and file.stat().st_size == expected.size
    if not fits or sha256(file) != expected.sha256:
        raise EngineError(f"{file} is missing or altered since it was built; {_rebuild(file.parent)}")


def _check_stays_inside(folder: Path, name: str, record: EngineRecord) -> None:
    for location in external_locations((folder / name).read_bytes(), name):
        if location not in record.files:
            raise EngineError(f"{folder / name} takes weights from {location!r}, which {RECORD} does not list")


def _rebuild(folder: Path) -> str:
    return f"delete {folder} and run 'latentrt build' again"
