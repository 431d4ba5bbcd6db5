"""Write the smallest bundle that serves on a target: compiled engines in place of graphs and recorded answers."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from . import store
from .atomic import new_folder
from .bundle import ENGINES, Bundle
from .choice import misfit
from .errors import EngineError, unknown_name
from .key import source
from .manifest import FILE_NAME, SAFETY_CHECKER, TEXT_ENCODER, UNET, Component, Manifest, Packed, decoder_component
from .store import RECORD, EngineRecord


def pack(
    bundle: Bundle, output: Path, *, engines: Sequence[str] = (), decoders: Sequence[str] = (), overwrite: bool = False
) -> Bundle:
    """Copy what drawing takes, and nothing else, to the folder `output`; returns it, opened and checked.

    `engines` are ids; without one, all that fit this machine and passed their check. Of a component that has one, its
    graph, weights and recorded answers stay behind (the answers come along where an engine may have to be checked on
    its target); of one that has none, all stays as it is. `decoders` are names; without one, all.

    Raises:
        InputError: no engine or decoder of this name.
        EngineError: an engine is damaged, failed its check, or fits no component of the bundle; or none is there.
        BundleError: a file of the bundle is missing or altered.
        OutputError: `output` is there already, or cannot be written.
    """
    chosen = _chosen(bundle, engines)
    manifest = _manifest(bundle, chosen, _decoders(bundle.manifest, decoders))
    with new_folder(output, overwrite=overwrite) as beside:
        for path in manifest.files:
            _copy(bundle, path, beside / path)
        for record in chosen:
            if record.key.component in manifest.components:
                folder = store.engine_folder(bundle, record.key)
                _copy_file(folder / RECORD, beside / ENGINES / record.key.id / RECORD)
        (beside / FILE_NAME).write_bytes(manifest.to_json())
        Bundle.open(beside).verify_all()
    return Bundle.open(output)


def _chosen(bundle: Bundle, ids: Sequence[str]) -> list[EngineRecord]:
    records = {record.key.id: record for record in store.records(bundle) if record.files}
    for name in ids:
        if name not in records:
            raise unknown_name("engine", name, records)
    found = [records[name] for name in dict.fromkeys(ids)] or [
        record
        for record in records.values()
        if misfit(bundle, record) is None and store.refusal(bundle, record) is None
    ]
    if not found:
        raise EngineError(f"no engine in {bundle.engine_dir} fits here: name those of the target with --engine KEY")
    for record in found:
        _check(bundle, record)
    return found


def _check(bundle: Bundle, record: EngineRecord) -> None:
    key = record.key
    if key.component not in bundle.manifest.components or source(bundle, key.component) != (key.graph, key.weights):
        raise EngineError(f"the engine {key.id} of {key.component} was compiled from another graph than this bundle's")
    if record.verification is not None and not record.verification.passed:
        raise EngineError(store.refusal(bundle, record))
    store.check_listed(bundle, record)
    store.check_files(store.engine_folder(bundle, key), record)


def _decoders(manifest: Manifest, names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if name not in manifest.decoders:
            raise unknown_name("decoder", name, manifest.decoders)
    return tuple(name for name in manifest.decoders if name in names) if names else manifest.decoders


def _manifest(bundle: Bundle, chosen: Sequence[EngineRecord], decoders: tuple[str, ...]) -> Manifest:
    manifest = bundle.manifest
    drawn_with = {TEXT_ENCODER, UNET, SAFETY_CHECKER, *map(decoder_component, decoders)}
    components = {
        name: _component(bundle, name, [record for record in chosen if record.key.component == name])
        for name in manifest.components
        if name in drawn_with
    }
    unchecked = any(component.golden is not None for component in components.values())
    packed = msgspec.structs.replace(
        manifest,
        components=components,
        decoders=decoders,
        default_decoder=manifest.default_decoder if manifest.default_decoder in decoders else decoders[0],
        trajectory=manifest.trajectory if unchecked else None,
        provenance={**manifest.provenance, "packed.from": bundle.hash},
    )
    listed = dict(manifest.files)
    for record in chosen:
        listed |= {f"{ENGINES}/{record.key.id}/{name}": file for name, file in record.files.items()}
    return msgspec.structs.replace(packed, files={path: listed[path] for path in sorted(_needed(packed, listed))})


def _component(bundle: Bundle, name: str, records: Sequence[EngineRecord]) -> Component:
    stated = bundle.component(name)
    if not records:
        return stated
    graph, weights = source(bundle, name)
    ids = tuple(sorted(record.key.id for record in records))
    return msgspec.structs.replace(
        stated,
        graph=None,
        weights=(),
        golden=stated.golden if any(map(_to_be_checked, records)) else None,
        packed=Packed(engines=ids, graph=graph, weights=weights),
    )


def _to_be_checked(record: EngineRecord) -> bool:
    """Whether a target may ask for a check before it opens the engine: it was never checked, or on a GPU of ours."""
    return record.verification is None or bool(record.verification.device)


def _needed(manifest: Manifest, listed: Mapping[str, object]) -> set[str]:
    """The paths that a manifest refers to."""
    found: set[str | None] = {manifest.tokenizer, manifest.token_embedding, manifest.trajectory}
    found |= set(manifest.licence.files)
    if manifest.safety_checker is not None:
        found.add(manifest.safety_checker.concepts)
    for component in manifest.components.values():
        found |= {component.graph, component.golden, *component.weights}
        found |= set(_of_engines(component, listed))
    return {path for path in found if path is not None}


def _of_engines(component: Component, listed: Iterable[str]) -> list[str]:
    ids = component.packed.engines if component.packed is not None else ()
    return [path for path in listed for name in ids if path.startswith(f"{ENGINES}/{name}/")]


def _copy(bundle: Bundle, path: str, target: Path) -> None:
    """Copy a listed file: one of the bundle's, or of an engine, which may lie elsewhere and was checked."""
    _copy_file(bundle.file(path) if path in bundle.manifest.files else _engine_file(bundle, path), target)


def _engine_file(bundle: Bundle, path: str) -> Path:
    return bundle.engine_dir.joinpath(*Path(path).parts[1:])


def _copy_file(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
