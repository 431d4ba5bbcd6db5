"""The same weights for every contestant: the checkpoint that a bundle was exported from, as each of them opens it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from latentrt.engines.atomic import new_folder
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import InputError, LatentrtError, OutputError
from latentrt.engines.hashing import combined_sha256, file_sha256
from latentrt.engines.manifest import OWN_DECODER

from .environments import exporter, start
from .registry import Entry
from .remote import Refused

_FORM = 1  # of what is written here; another form has another folder
_SOURCE = "source.sha256"


def check_source(bundle: Bundle, source: Path) -> None:
    """Check that `source`, a file or a diffusers folder, is what the bundle was exported from. It needs no PyTorch.

    Raises:
        InputError: it is another one, or cannot be read; or the bundle does not say.
    """
    stated = bundle.manifest.provenance
    if _SOURCE not in stated:
        raise InputError(f"{bundle.root} does not say what it was exported from: export it again")
    if bundle.manifest.default_decoder != OWN_DECODER:
        raise InputError(
            f"{bundle.root} decodes with {bundle.manifest.default_decoder}, which is not in {source}: "
            f"compare a bundle whose default is {OWN_DECODER}"
        )
    try:
        found = source_hash(bundle, source)
    except OSError as error:
        raise InputError(f"{source} is not what {bundle.root} was exported from: {error}") from error
    if found != stated[_SOURCE]:
        raise InputError(
            f"{source} is not what {bundle.root} was exported from: expected {stated.get('source')} with SHA-256 "
            f"{stated[_SOURCE][:12]}…, found {found[:12]}…; name that one, or export this one"
        )


def source_hash(bundle: Bundle, source: Path) -> str:
    """SHA-256 of a checkpoint as the bundle's provenance states it: of a file, or of a folder's files by name.

    Raises:
        OSError: a file that the bundle was exported from cannot be read.
    """
    names = [name for name in bundle.manifest.provenance.get("source.files", "").split(", ") if name]
    return combined_sha256({name: _hashed(source / name) for name in names}) if names else _hashed(source)


def _hashed(file: Path) -> str:
    state = file.stat()
    return _hash_once(file, state.st_size, state.st_mtime_ns)


@cache
def _hash_once(file: Path, _size: int, _changed: int) -> str:
    """Gigabytes, which the command and every peer ask for; read again only where the file has changed."""
    return file_sha256(file)


def model_for(
    entry: Entry,
    python: Path,
    bundle: Path,
    source: Path | None,
    cache: Path,
    within: float,
    report: Callable[[str], None] = print,
) -> Path:
    """What a contestant opens: the bundle itself, or the networks in it in the form that the contestant takes.

    Made once and kept in `cache`, by the hash of the checkpoint and by what made it. `python` runs the contestant;
    `within` bounds, in seconds, what its own exporter may take.

    Raises:
        InputError: there is no `source`, or it is not what the bundle was exported from.
        Refused: the checkpoint cannot be converted, and why.
    """
    if not entry.needs_source:
        return bundle
    opened = Bundle.open(bundle)
    if source is None:
        raise InputError(f"{entry.name} runs the checkpoint that {bundle} was exported from: name it with --source")
    folder = _diffusers_folder(opened, source, cache, report)
    return folder if entry.exporter is None else _exported(entry, python, folder, cache, within, report)


def _diffusers_folder(bundle: Bundle, source: Path, cache: Path, report: Callable[[str], None]) -> Path:
    """The bundle's networks as diffusers' own folder, float32."""
    stated = bundle.manifest.provenance
    facts = [str(_FORM), stated.get(_SOURCE, ""), stated.get("weights", ""), bundle.manifest.default_decoder]
    folder = cache / "models" / _key(*facts, bundle.manifest.model.prediction_type) / "diffusers"
    check_source(bundle, source)
    if folder.is_dir():
        return folder
    try:
        from .diffusers_folder import write_diffusers_folder  # noqa: PLC0415 - asks for PyTorch
    except ImportError as error:
        raise Refused(f"the checkpoint is converted by PyTorch: pip install 'latentrt[export]' ({error})") from error
    report(f"converting {source.name}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(folder) as place:
            write_diffusers_folder(bundle, source, place)
    except (OSError, LatentrtError) as error:
        raise Refused(f"{source} cannot be converted: {error}") from error
    return folder


def _exported(
    entry: Entry, python: Path, folder: Path, cache: Path, within: float, report: Callable[[str], None]
) -> Path:
    """What the contestant's own exporter makes of a diffusers folder, in an environment with that exporter."""
    if entry.exporter != entry.environment:
        python = exporter(entry, cache, report)
    target = folder.parent / f"{entry.environment}-{_key(str(python))}"
    if target.is_dir():
        return target
    report(f"converting the model for {entry.name}")
    try:
        with new_folder(target) as place:
            remote = start(entry, python, folder.parent / f"{target.name}.log")
            try:
                remote.ask(within, do="prepare", source=str(folder), target=str(place), options=entry.options)
            finally:
                remote.close()
    except OutputError as error:
        raise Refused(str(error)) from error
    return target


def _key(*facts: str) -> str:
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
