"""latentrt: Stable Diffusion 1.5 from checkpoint to verified engines to pictures, without PyTorch at run time."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engines.errors import LatentrtError
    from .runtime.drawing import Result
    from .runtime.loop import Step
    from .runtime.pipeline import Pipeline, PromptWarning
    from .runtime.request import Request
    from .runtime.safety import SafetyWarning
    from .runtime.stream import Stream
    from .runtime.submission import Submission

from .engines.version import __version__

__all__ = [
    "LatentrtError",
    "Pipeline",
    "PromptWarning",
    "Request",
    "Result",
    "SafetyWarning",
    "Step",
    "Stream",
    "Submission",
    "__version__",
]

_HOMES = {
    "LatentrtError": ".engines.errors",
    "Pipeline": ".runtime.pipeline",
    "PromptWarning": ".runtime.pipeline",
    "Request": ".runtime.request",
    "Result": ".runtime.drawing",
    "SafetyWarning": ".runtime.safety",
    "Step": ".runtime.loop",
    "Stream": ".runtime.stream",
    "Submission": ".runtime.submission",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are asked for: `latentrt export` needs no runtime, and the reverse."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
