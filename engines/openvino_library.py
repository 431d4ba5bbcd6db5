"""OpenVINO itself, imported so that it reports nothing to anyone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import EngineError

__all__ = ["device", "hint", "opset13", "ov", "properties"]

_CONVERTER = "openvino.tools.ovc"


@contextmanager
def _unreported() -> Iterator[None]:
    """Keep `import openvino` from reporting itself to Intel, which it does by importing its converter of models.

    OpenVINO takes the converter for absent. One that someone else imported stays; one that someone imports later works.
    """
    if _CONVERTER in sys.modules:
        yield
        return
    sys.modules[_CONVERTER] = None  # type: ignore[assignment] # how Python says that a module must not be found
    try:
        yield
    finally:
        del sys.modules[_CONVERTER]


try:
    with _unreported():
        import openvino as ov
        from openvino import opset13, properties
        from openvino.properties import device, hint
except ImportError as error:
    raise EngineError("the openvino engine needs OpenVINO: pip install 'latentrt[openvino]'") from error
