"""The key of an engine: all that decides whether a compiled file is the right one, and nothing else."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import msgspec

from .bundle import Bundle


class EngineKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an engine was compiled from, with what, for what. Two engines with equal keys are the same engine."""

    component: str
    graph: str  # SHA-256 of the ONNX graph
    weights: str  # SHA-256 over the names and hashes of its weight files
    backend: str
    backend_version: str
    device: str
    precision: str
    profile: str
    flags: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits: the folder's name under `engines/`, and the name in a picture's text."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:16]

    def differences(self, other: EngineKey) -> list[str]:
        """The parts in which `other` differs, as `part: other's value, not this one's`."""
        found = []
        for field in self.__struct_fields__:
            mine, theirs = getattr(self, field), getattr(other, field)
            if mine != theirs:
                found.append(f"{field}: {_short(theirs)}, not {_short(mine)}")
        return found


def source(bundle: Bundle, name: str) -> tuple[str, str]:
    """What a component's engines are compiled from: SHA-256 of its graph, and over its weight files."""
    component, files = bundle.component(name), bundle.manifest.files
    if component.graph is None:
        assert component.packed is not None  # the manifest was checked
        return component.packed.graph, component.packed.weights
    weights = "\n".join(f"{path} {files[path].sha256}" for path in component.weights)
    return files[component.graph].sha256, hashlib.sha256(weights.encode()).hexdigest()


def component_key(
    bundle: Bundle,
    name: str,
    *,
    backend: str,
    version: str,
    device: str,
    precision: str,
    profile: str,
    flags: tuple[str, ...] = (),
) -> EngineKey:
    """The key of the bundle's component for one backend."""
    graph, weights = source(bundle, name)
    return EngineKey(
        component=name,
        graph=graph,
        weights=weights,
        backend=backend,
        backend_version=version,
        device=device,
        precision=precision,
        profile=profile,
        flags=flags,
    )


def cpu() -> str:
    """The processor as far as compiled code cares: `"x86_64 avx512f"`."""
    machine = platform.machine()
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return machine
    words = set(flags.split())
    widest = next((f for f in ("amx_bf16", "avx512f", "avx2", "avx", "sve", "asimd") if f in words), "")
    return f"{machine} {widest}".strip()


def _short(value: object) -> str:
    text = " ".join(value) if isinstance(value, tuple) else str(value)
    return f"{text[:12]}…" if len(text) == 64 else text or "none"
