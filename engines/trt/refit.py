"""Other weights in a plan that is there: a fine-tune of the same network needs no build of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..bundle import Bundle
from ..derived import built_cases
from ..engine import Engine
from ..errors import CheckFailedError, EngineError
from ..golden import golden_cases
from ..key import EngineKey, component_key
from ..options import BuildOptions
from ..prepared_graph import prepared_graph
from ..profile import Profile
from ..threshold import component_threshold
from ..verification import check_calls, summary
from .family import Family
from .interruption import held_back
from .log import Log, reason


def check_refit(key: EngineKey, options: BuildOptions, bundle: Bundle) -> EngineKey:
    """The key that the engine of `key` has with the weights of `bundle`.

    Raises:
        EngineError: it cannot take them.
    """
    if not options.refittable:
        raise EngineError(f"the {key.backend} engine of {key.component} takes no other weights: build it --refittable")
    wanted = component_key(
        bundle,
        key.component,
        backend=key.backend,
        version=key.backend_version,
        device=key.device,
        precision=key.precision,
        profile=key.profile,
        flags=key.flags,
    )
    if wanted.graph != key.graph:
        raise EngineError(
            f"the {key.component} of {bundle.root} is another network than this engine's: its graph is "
            f"{wanted.graph[:12]}…, not {key.graph[:12]}…; build an engine of its own"
        )
    return wanted


def check_refitted(engine: Engine, bundle: Bundle, options: BuildOptions) -> None:
    """Hold an engine with new weights against PyTorch's answers with them, as a build does.

    Refitting may change more than weights: of TensorRT 11.3 its documentation says that a bias may be lost.

    Raises:
        CheckFailedError: it answers otherwise, or holds none of the calls.
    """
    threshold = component_threshold(bundle.component(engine.name), engine.key.precision)
    recorded = golden_cases(bundle, engine.name)
    derived = built_cases(bundle, engine.name, options, recorded)
    checks = check_calls(engine, [case for case in recorded if engine.takes(case.inputs)], threshold)
    checks += check_calls(engine, [case for case in derived if engine.takes(case.inputs)], threshold, "derived")
    found = summary(checks, threshold)
    if not found.passed:
        reason = found.failures[0] if checks else "it takes none of the recorded calls"
        raise CheckFailedError(
            f"the {engine.key.backend} engine of {engine.name} is not what PyTorch answered with the weights of "
            f"{bundle.root}: {reason}; it is closed; build an engine of its own"
        )


def refit(
    family: Family,
    engine: Any,
    log: Log,
    bundle: Bundle,
    key: EngineKey,
    profiles: Sequence[Profile],
    opset: int | None = None,
) -> None:
    """Put the bundle's weights into an engine of the library; `key`, `profiles`, `opset` are those it was built for.

    Raises:
        EngineError: a weight is missing or does not fit.
    """
    with tempfile.TemporaryDirectory(prefix="latentrt-refit-") as folder:
        graph = prepared_graph(bundle, key.component, profiles, key.precision, Path(folder), opset)
        refitter = family.module.Refitter(engine, log)
        parser = family.module.OnnxParserRefitter(refitter, log)
        with held_back():
            taken = parser.refit_from_file(str(graph)) and refitter.refit_cuda_engine()
        if not taken:
            raise EngineError(f"the {key.backend} engine of {key.component} does not take these weights: {reason(log)}")
