"""What commands say of a bundle's safety checker and of its licence."""

from __future__ import annotations

from collections.abc import Iterator

from latentrt.engines.bundle import Bundle
from latentrt.engines.licence import OPENRAIL_M, asked_of_distributors, asked_of_users
from latentrt.engines.manifest import Manifest

SHOWN = ("USE_RESTRICTIONS", "NOTICE")  # in full; the licence itself is some 15 KB, so its place is named instead
_MAX_SHOWN = 2**15  # characters


def missing_protection(manifest: Manifest) -> Iterator[str]:
    """What an exported bundle lacks and its licence asks for, and how to add it."""
    licence = manifest.licence
    if licence.missing:
        yield (
            f"{' and '.join(licence.missing)} missing: not beside the checkpoint; export with --license FILE. "
            f"{asked_of_distributors(licence)}"
        )
    if manifest.safety_checker is None and licence.name == OPENRAIL_M:
        yield (
            "no safety checker: pictures of this bundle are not checked; export with --safety-checker PATH to have "
            f"them checked. {asked_of_users(licence)}"
        )


def safety_lines(manifest: Manifest) -> Iterator[str]:
    """Whether pictures are checked."""
    facts = manifest.safety_checker
    if facts is None:
        yield "safety checker   none: pictures of this bundle are not checked"
    else:
        yield f"safety checker   on unless switched off; looks at {facts.image_size}x{facts.image_size} pixels"


def licence_lines(manifest: Manifest) -> Iterator[str]:
    """The licence, its files, what is missing, and what it asks."""
    licence = manifest.licence
    yield f"licence          {licence.name}: {', '.join(licence.files) or 'no files'}"
    for missing in licence.missing:
        yield f"                 missing: {missing}; export with --license FILE"
    yield f"                 {asked_of_users(licence)}"
    yield f"                 {asked_of_distributors(licence)}"


def licence_texts(bundle: Bundle) -> Iterator[str]:
    """The use restrictions and the NOTICE, line by line, each under its name."""
    for name in SHOWN:
        if name in bundle.manifest.licence.files:
            text = bundle.file(name).read_text("utf-8", errors="replace")
            yield ""
            yield f"{name}:"
            yield from (f"  {line}".rstrip() for line in text[:_MAX_SHOWN].splitlines())
            if len(text) > _MAX_SHOWN:
                yield f"  ... and {len(text) - _MAX_SHOWN} characters more, in {bundle.root / name}"
