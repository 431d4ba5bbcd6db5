"""How pictures come to the safety checker: `preprocessor_config.json`, as transformers' CLIP image processor has it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import msgspec

from latentrt.engines.errors import CheckpointError
from latentrt.engines.manifest import SafetyFacts

CONCEPTS = "safety_checker/concepts.safetensors"  # in the bundle
PREPROCESSOR = "preprocessor_config.json"
_BICUBIC = 3  # PIL.Image.Resampling.BICUBIC

_Side = Annotated[int, msgspec.Meta(ge=1, le=4096)]
_Triple = tuple[float, float, float]


class _Resize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    shortest_edge: _Side


class _Crop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    height: _Side
    width: _Side


class _Preprocessor(msgspec.Struct, frozen=True):
    """`preprocessor_config.json`; the defaults are those of transformers' `CLIPImageProcessor`."""

    size: _Resize | _Side = _Resize(224)
    crop_size: _Crop | _Side = _Crop(224, 224)
    image_mean: _Triple = (0.48145466, 0.4578275, 0.40821073)
    image_std: _Triple = (0.26862954, 0.26130258, 0.27577711)
    resample: int = _BICUBIC
    rescale_factor: float = 1 / 255
    do_resize: bool = True
    do_center_crop: bool = True
    do_rescale: bool = True
    do_normalize: bool = True
    use_square_size: bool = False


def read_preprocessor(folder: Path) -> SafetyFacts:
    """How pictures come to the network in `folder`: stated there or in `feature_extractor/` beside it, else CLIP's way.

    Raises:
        CheckpointError: what is stated is not CLIP's kind.
    """
    places = (folder / PREPROCESSOR, folder.parent / "feature_extractor" / PREPROCESSOR)
    file = next((place for place in places if place.is_file()), None)
    stated = _Preprocessor() if file is None else _read(file)
    size = stated.size.shortest_edge if isinstance(stated.size, _Resize) else stated.size
    crop = stated.crop_size if isinstance(stated.crop_size, _Crop) else _Crop(stated.crop_size, stated.crop_size)
    steps = (stated.do_resize, stated.do_center_crop, stated.do_rescale, stated.do_normalize)
    usual = stated.resample == _BICUBIC and math.isclose(stated.rescale_factor, 1 / 255) and not stated.use_square_size
    if not (all(steps) and usual and crop.height == crop.width and min(stated.image_std) > 0):
        raise CheckpointError(
            f"{file} is not CLIP's preprocessing: expected a bicubic resize of the shortest edge, a square crop, a "
            "scale of 1/255 and a normalisation"
        )
    return SafetyFacts(
        concepts=CONCEPTS,
        shortest_edge=size,
        image_size=crop.height,
        image_mean=stated.image_mean,
        image_std=stated.image_std,
    )


def _read(file: Path) -> _Preprocessor:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Preprocessor)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # msgspec's own, or UnicodeDecodeError
        raise CheckpointError(f"{file} is not CLIP's preprocessing: {error}") from error
