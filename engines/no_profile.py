"""What is said where no engine was built for a call: the nearest profile, and the build that gives the right one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .bundle import Bundle
from .key import EngineKey
from .profile import ROWS, Profile
from .size import pixels_per_unit


def no_profile(bundle: Bundle, keys: Sequence[EngineKey], profiles: Sequence[Profile], bound: Mapping[str, int]) -> str:
    """One line for a call of these free dimensions; `profiles` are those of the component's engines with these keys."""
    key = keys[0]
    asked = {name: length for name, length in bound.items() if name != ROWS}
    nearest = min(profiles, key=lambda profile: _distance(profile, asked))
    wanted = " ".join(f"{name}={length}" for name, length in sorted(asked.items()))
    what = f"the {key.backend} engine of {key.component} holds no profile for {wanted}; the nearest is {nearest}"
    if len(keys) > 1:
        which = f"none of the {len(keys)} {key.backend} engines of {key.component} holds {wanted}"
        what = f"{which}; the nearest profile is {nearest}"
    options = f"--engine {key.backend} --precision {key.precision}{_words(bundle, key.component, asked)}"
    return f"{what}: build one with 'latentrt build {bundle.root} {options}'"


def _words(bundle: Bundle, component: str, asked: Mapping[str, int]) -> str:
    """The options of `latentrt build` that give a profile for free dimensions of these lengths."""
    sides = [
        str(asked[axis] * pixels_per_unit(bundle, component, axis)) for axis in ("width", "height") if axis in asked
    ]
    tokens = f" --tokens {asked['tokens']}" if "tokens" in asked else ""
    return (f" --size {'x'.join(sides)}" if sides else "") + tokens


def _distance(profile: Profile, asked: Mapping[str, int]) -> float:
    """How far the usual shape of a profile is from what is asked for, in relative lengths."""
    return sum(abs(profile.dimensions[name].usual - length) / length for name, length in asked.items())
