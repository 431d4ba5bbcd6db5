"""Which engine serves a component here: one that was built and fits, or else the bundle's graph as it is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import backend as backends
from . import store
from .backend import DEFAULT, NEED_BUILDING, Backend, SharingBackend, StreamingBackend, ThreadedBackend
from .bundle import Bundle
from .engine import Engine
from .errors import EngineError, LatentrtError
from .key import EngineKey
from .manifest import Precision
from .options import BuildOptions
from .profile import ANY, Profile, profiles_for
from .scratch import Scratch
from .store import EngineRecord


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which engines a caller asks for.

    Attributes:
        engine: the backend's name.
        precision: that they compute in; None takes any that was built, the backend's own choice first.
        device: counts those of the backend's kind in this machine.
        allow_unverified: take engines that failed their last check, or were not checked here, where no other is there.
        threads: that each computes in on a processor; None leaves it to the library, which takes all cores.
        scratch: what they share with each other, and with no engine of another caller; None shares nothing.
    """

    engine: str = DEFAULT
    precision: Precision | None = None
    device: int = 0
    allow_unverified: bool = False
    threads: int | None = None
    scratch: Scratch | None = field(default=None, compare=False, repr=False)

    @property
    def backend(self) -> Backend:
        """The backend as it opens a component of which nothing was built.

        Raises:
            InputError: there is none of this name, or it does not compute in this precision.
            EngineError: its library is not installed.
        """
        return backends.get_backend(self.engine, BuildOptions(precision=self.precision), self.device)


@dataclass(frozen=True)
class Choice:
    """An engine that may serve a component; nothing of it is open yet, and its files are not checked."""

    bundle: Bundle
    component: str
    backend: Backend
    key: EngineKey
    record: EngineRecord | None  # None: opened from the bundle's graph

    @property
    def folder(self) -> Path | None:
        """Where its files lie."""
        return None if self.record is None else store.engine_folder(self.bundle, self.key)

    @property
    def profiles(self) -> tuple[Profile, ...] | None:
        """The shapes it was built for, as far as its options tell; None where it takes any."""
        if self.record is None or self.key.profile == ANY:
            return None
        return profiles_for(self.bundle, self.component, self.record.options)

    @property
    def refusal(self) -> str | None:
        """Why it is not opened unless someone asks for it in so many words, as `store.refusal`; None where it is."""
        return None if self.record is None else store.refusal(self.bundle, self.record, self.backend)

    def open(self, resident: int | None = None) -> Engine:
        """Open it, once its files are checked; `resident` bounds the bytes of weights that an engine keeps on the GPU.

        Only one that was built with weight streaming has a bound; None leaves it to the library.

        Raises:
            EngineError: a file is missing or altered, or the library cannot open it.
        """
        if self.record is not None and self.folder is not None:
            store.check_listed(self.bundle, self.record)
            store.check_files(self.folder, self.record)
        backend = self.backend
        if resident is not None and isinstance(backend, StreamingBackend):
            backend = backend.keeping(resident)
        return backend.open(self.bundle, self.component, self.folder)


def misfit(bundle: Bundle, record: EngineRecord, device: int = 0) -> str | None:
    """Why a stored engine cannot serve here, naming the parts of its key that differ; None where it can.

    Whether it was verified is another question: `store.refusal`.
    """
    key = record.key
    if key.component not in bundle.manifest.components:
        return "does not fit: the bundle has no such component"
    try:
        backend = backends.get_backend(key.backend, record.options, device)
        here, obstacle = backend.key(bundle, key.component), backend.obstacle()
    except LatentrtError as error:
        return f"cannot run here: {error}"
    if differences := here.differences(key):
        return f"does not fit: {'; '.join(differences)}"
    return None if obstacle is None else f"cannot run here: {obstacle}"


def choices(bundle: Bundle, component: str, wanted: Wanted) -> list[Choice]:
    """The engines that may serve a component, the best first; all were built, or the one is the bundle's graph.

    Raises:
        InputError: no backend of this name, or it does not compute in this precision.
        EngineError: no engine fits and the backend opens no graphs; those that fit failed verification; the backend's
            library is not installed, or it cannot run here.
    """
    found = fitting(bundle, component, wanted)
    reasons = [choice.refusal for choice in found]
    passed = [choice for choice, reason in zip(found, reasons, strict=True) if reason is None]
    if not passed and not wanted.allow_unverified:
        raise EngineError(reasons[0])
    return passed or found


def fitting(bundle: Bundle, component: str, wanted: Wanted) -> list[Choice]:
    """As `choices`, whatever the last check of an engine found that was built."""
    default = wanted.backend
    built = _built(bundle, component, wanted)
    found = [record for record in built if misfit(bundle, record, wanted.device) is None]
    if not found:
        return [_from_graph(bundle, component, default, built, wanted)]
    own = _own_precision(default, bundle, component)
    found.sort(key=lambda record: (record.key.precision != own, _width(record), record.key.id))
    return [_stored_choice(bundle, record, wanted) for record in found]


def _built(bundle: Bundle, component: str, wanted: Wanted) -> list[EngineRecord]:
    """What was built of a component in the backend and precision that are asked for, whether it fits here or not."""
    packed = bundle.component(component).packed
    found = [record for record in store.records(bundle) if _is_candidate(record, component, wanted)]
    return [record for record in found if packed is None or record.key.id in packed.engines]


def _is_candidate(record: EngineRecord, component: str, wanted: Wanted) -> bool:
    key = record.key
    asked = wanted.precision in {None, key.precision}
    return bool(record.files) and (key.component, key.backend) == (component, wanted.engine) and asked


def _own_precision(backend: Backend, bundle: Bundle, component: str) -> str | None:
    try:
        return backend.key(bundle, component).precision
    except LatentrtError:  # its default options may need a device, or fit no model
        return None


def _width(record: EngineRecord) -> int:
    """For how many shapes it was built: several narrow engines beat one wide one, and all beat one for any shape."""
    if record.key.profile == ANY:
        return sys.maxsize
    options = record.options
    return max(1, len(options.sizes)) * len(options.rows) * len(options.tokens)


def _stored_choice(bundle: Bundle, record: EngineRecord, wanted: Wanted) -> Choice:
    backend = _as_wanted(backends.get_backend(record.key.backend, record.options, wanted.device), wanted)
    return Choice(bundle, record.key.component, backend, record.key, record)


def _as_wanted(backend: Backend, wanted: Wanted) -> Backend:
    """The backend with what concerns this caller's opening of its engines, and nothing of their keys."""
    if wanted.scratch is not None and isinstance(backend, SharingBackend):
        backend = backend.sharing(wanted.scratch)
    if wanted.threads is not None and isinstance(backend, ThreadedBackend):
        backend = backend.on_threads(wanted.threads)
    return backend


def _from_graph(
    bundle: Bundle, component: str, backend: Backend, built: Sequence[EngineRecord], wanted: Wanted
) -> Choice:
    if (obstacle := backend.obstacle()) is not None:
        raise EngineError(f"the {backend.name} engine cannot run here: {obstacle}")
    if backend.name in NEED_BUILDING or bundle.component(component).packed is not None:
        raise EngineError(_nothing_built(bundle, component, built, wanted))
    # where a graph that was opened so failed verification, a record without files says it; a damaged one is named, too
    store.find(backend, bundle, component, allow_unverified=wanted.allow_unverified)
    return Choice(bundle, component, _as_wanted(backend, wanted), backend.key(bundle, component), None)


def _nothing_built(bundle: Bundle, component: str, built: Sequence[EngineRecord], wanted: Wanted) -> str:
    precision = f" --precision {wanted.precision}" if wanted.precision else ""
    build = f"build one with 'latentrt build {bundle.root} --engine {wanted.engine}{precision}'"
    if bundle.component(component).packed is not None:
        build = "the bundle was packed for others: use the one that it was packed from"
    reason = misfit(bundle, built[0], wanted.device) if built else None
    found = "none was built" if not built else f"the one that was built {reason}"
    if len(built) > 1:
        found = f"of {len(built)} that were built none serves; {built[0].key.id} {reason}"
    return f"no {wanted.engine} engine of {component} fits here: {found}; {build}"
