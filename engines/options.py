"""What a build is asked for beside its bundle: it decides the engine's key, and is kept in its record."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from .errors import InputError
from .manifest import Precision
from .size import Size

PROFILE_OPTIONS = frozenset({"sizes", "rows", "tokens"})
_Rows = Annotated[int, msgspec.Meta(ge=1, le=64)]
_Tokens = Annotated[int, msgspec.Meta(ge=77, le=77 * 64, multiple_of=77)]
_Level = Annotated[int, msgspec.Meta(ge=0, le=5)]
_Gigabytes = Annotated[float, msgspec.Meta(gt=0, le=1024)]
_Target = Annotated[str, msgspec.Meta(pattern=r"^sm[0-9]{2,3}\Z")]


class BuildOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The choices of `latentrt build`. A backend takes some of them; the others keep their defaults.

    Shapes are kept in ascending order, each once: engines for the same ones have the same key, however they were named.

    Attributes:
        precision: that the engine computes in; None is the backend's own choice.
        sizes: (width, height) in pixels to have profiles for; none is the model's own size.
        rows: of one UNet call, to have profiles for: two for a guided picture.
        tokens: of the text that the UNet is conditioned on: 77 for each chunk of a prompt.
        targets: GPU architectures to compile for, such as "sm89"; none is this machine's.
        opt_level: TensorRT's builder optimization level; None is its default.
        refittable: whether other weights of the same shapes may be put in later.
        weight_streaming: whether weights may stay in host memory.
        memory_limit: GB (1e9 bytes) of the GPU's memory that weights and activations may take; None is all.
        compatible: whether other GPUs (Ampere and later) may load it, by the same version of the library.
        opset: 20 to compile from a graph of that opset, with attention written out; None is the backend's own choice.
    """

    precision: Precision | None = None
    sizes: tuple[Size, ...] = ()
    rows: tuple[_Rows, ...] = (2,)
    tokens: tuple[_Tokens, ...] = (77,)
    targets: tuple[_Target, ...] = ()
    opt_level: _Level | None = None
    refittable: bool = False
    weight_streaming: bool = False
    compatible: bool = False
    memory_limit: _Gigabytes | None = None
    opset: Literal[20] | None = None

    def __post_init__(self) -> None:
        """Bring each list of shapes into one form."""
        for name in PROFILE_OPTIONS:
            msgspec.structs.force_setattr(self, name, tuple(sorted(set(getattr(self, name)))))

    @property
    def chosen(self) -> frozenset[str]:
        """The names of those that are not at their defaults."""
        return frozenset(name for name in self.__struct_fields__ if getattr(self, name) != getattr(DEFAULTS, name))


DEFAULTS = BuildOptions()


def checked(options: BuildOptions) -> BuildOptions:
    """The same options, once each is known to be in its range.

    Raises:
        InputError: one is not; it says which and what it may be.
    """
    try:
        return msgspec.convert(msgspec.to_builtins(options), BuildOptions)
    except msgspec.ValidationError as error:
        raise InputError(f"an option of the build is out of range: {error}") from error


def check_taken(engine: str, options: BuildOptions, taken: frozenset[str], precisions: tuple[Precision, ...]) -> None:
    """Check that a backend has a use for every option that is asked for.

    Raises:
        InputError: names the first option it has no use for, or the precision it cannot compute in.
    """
    for name in sorted(options.chosen - taken - {"precision"}):
        known = ", ".join(_flag(one) for one in ("precision", *sorted(taken)))
        raise InputError(f"the {engine} engine has no use for {_flag(name)}; of these options it takes {known}")
    if options.precision is not None and options.precision not in precisions:
        known = ", ".join(precisions)
        raise InputError(f"the {engine} engine computes in {known}; got --precision {options.precision}")


def _flag(name: str) -> str:
    return "--" + {"sizes": "size", "targets": "target", "tokens": "tokens"}.get(name, name).replace("_", "-")
