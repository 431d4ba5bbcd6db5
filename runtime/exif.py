"""How a picture was made, as EXIF: what JPEG and WebP files carry in place of a PNG's texts.

UserComment holds the words that AUTOMATIC1111's web UI writes there and other tools read; ImageDescription has all
facts, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from PIL import Image
from PIL.ExifTags import IFD, Base

MOST_BYTES = 65_533  # a JPEG's segment has a length of 16 bits that counts itself
_KEY = "latentrt"  # what the JSON holds the facts under, so that other programs' descriptions are told apart
_UNICODE = b"UNICODE\0"  # how a comment names its encoding; piexif, which the web UI uses, reads UTF-16, big end first
# Pillow gives bytes the type BYTE; the standard, and whoever reads the comment, wants UNDEFINED
_AS_BYTE, _AS_UNDEFINED = (Base.UserComment.to_bytes(2, "big") + kind.to_bytes(2, "big") for kind in (1, 7))


def exif_of(facts: Mapping[str, str]) -> bytes | None:
    """The facts, to be saved with a picture; None where prompts are too long for it."""
    exif = Image.Exif()
    exif[Base.ImageDescription] = json.dumps({_KEY: dict(facts)})  # in ASCII, as the tag has it
    exif[IFD.Exif] = {Base.UserComment: _UNICODE + infotext(facts).encode("utf-16-be", "surrogatepass")}
    data = exif.tobytes().replace(_AS_BYTE, _AS_UNDEFINED, 1)  # what stands before it is ASCII, and short numbers
    return data if len(data) <= MOST_BYTES else None


def exif_facts(exif: Image.Exif) -> dict[str, str]:
    """The facts in a picture's EXIF; empty where latentrt did not write it."""
    try:
        found = json.loads(exif[Base.ImageDescription])[_KEY]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def infotext(facts: Mapping[str, str]) -> str:
    """The words that the web UI writes under a picture."""
    names = {"steps": "Steps", "sampler": "Sampler", "guidance_scale": "CFG scale", "seed": "Seed", "size": "Size"}
    line = ", ".join(f"{name}: {facts[key]}" for key, name in names.items() if key in facts)
    negative = facts.get("negative_prompt")
    return "\n".join([facts.get("prompt", ""), *([f"Negative prompt: {negative}"] if negative else []), line])
