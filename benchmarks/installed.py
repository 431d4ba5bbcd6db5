"""How much of a disk Python packages take: those of a folder, or those that one package needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement


@dataclass(frozen=True)
class Installed:
    """Packages on a disk: versions by name, and the bytes of all their files, links not followed."""

    versions: dict[str, str]
    size: int


def installed_in(packages: Path) -> Installed:
    """All that is in a folder of packages."""
    found = {one.name: one.version for one in distributions(path=[str(packages)])}
    return Installed(dict(sorted(found.items())), folder_bytes(packages))


def installed_for(name: str, extras: Iterable[str]) -> Installed:
    """A package of this interpreter with those that it needs, and that these of its extras need."""
    needed: dict[str, Distribution] = {}
    _collect(name, frozenset(extras), needed, set())
    versions = {key: found.version for key, found in sorted(needed.items())}
    return Installed(versions, sum(_distribution_bytes(found) for found in needed.values()))


def folder_bytes(place: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files if not file.is_symlink())


def _collect(name: str, extras: frozenset[str], needed: dict[str, Distribution], seen: set[tuple[str, str]]) -> None:
    try:
        found = distribution(name)
    except PackageNotFoundError:  # of an extra that is not installed here
        return
    needed[found.name] = found
    for extra in ("", *extras):
        if (found.name, extra) in seen:
            continue
        seen.add((found.name, extra))
        for line in found.requires or ():
            asked = Requirement(line)
            if asked.marker is None or asked.marker.evaluate({"extra": extra}):
                _collect(asked.name, frozenset(asked.extras), needed, seen)


def _distribution_bytes(found: Distribution) -> int:
    places = [Path(str(found.locate_file(file))) for file in found.files or ()]
    return sum(place.stat().st_size for place in places if place.is_file() and not place.is_symlink())
