"""A bundle that holds a UNet alone, read without PyTorch: what engines are timed on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from latentrt.engines.bundle import Bundle
from latentrt.engines.golden import GoldenCase, golden_cases
from latentrt.engines.manifest import FILE_NAME, UNET, Manifest

SIDE, ROWS = 512, 2  # of the call that is timed: one guided picture
CALL = f"rows{ROWS}-{SIDE}x{SIDE}"  # the name of its record


def open_unet_bundle(folder: Path) -> Bundle:
    """The bundle at `folder`; `Bundle.open` would miss its other components. Files are checked as in any bundle."""
    data = (folder / FILE_NAME).read_bytes()
    return Bundle(folder, msgspec.json.decode(data, type=Manifest), hashlib.sha256(data).hexdigest())


def timed_case(bundle: Bundle) -> GoldenCase:
    """The recorded call that is timed, with what PyTorch fp32 answered."""
    [case] = [case for case in golden_cases(bundle, UNET) if case.name == CALL]
    return case
