"""The key names what an engine was compiled from: any difference is another key, and nothing else is."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from latentrt.engines.backend import get_backend
from latentrt.engines.bundle import Bundle
from latentrt.engines.key import EngineKey, component_key, cpu
from latentrt.engines.options import BuildOptions
from latentrt.engines.profile import Profile, Range, profile_text
from latentrt.engines.trt.backend import FamilyBackend

Edit = Callable[..., None]

KEY = EngineKey(
    component="unet",
    graph="a" * 64,
    weights="b" * 64,
    backend="onnxruntime",
    backend_version="1.23.0",
    device="x86_64 avx2",
    precision="fp32",
    profile="any",
)


def unet_key(bundle: Bundle) -> EngineKey:
    return component_key(
        bundle, "unet", backend="onnxruntime", version="1.23.0", device="any", precision="fp32", profile="any"
    )


def test_the_id_is_sixteen_digits_and_survives_json() -> None:
    assert len(KEY.id) == 16
    assert set(KEY.id) <= set("0123456789abcdef")
    assert msgspec.json.decode(msgspec.json.encode(KEY), type=EngineKey).id == KEY.id


@pytest.mark.parametrize("part", EngineKey.__struct_fields__)
def test_every_part_changes_the_id_and_is_named_as_a_difference(part: str) -> None:
    other = msgspec.structs.replace(KEY, **{part: ("--fast",) if part == "flags" else "c" * 64})
    assert other.id != KEY.id
    [difference] = KEY.differences(other)
    assert difference.startswith(f"{part}: ")


def test_differences_say_theirs_and_ours() -> None:
    older = msgspec.structs.replace(KEY, backend_version="1.19.2", graph="c" * 64, flags=("--fast", "-v"))
    assert KEY.differences(older) == [
        "graph: cccccccccccc…, not aaaaaaaaaaaa…",
        "backend_version: 1.19.2, not 1.23.0",
        "flags: --fast -v, not none",
    ]
    assert KEY.differences(KEY) == []


def test_parts_do_not_run_into_one_another() -> None:
    assert msgspec.structs.replace(KEY, precision="fp", profile="32any").id != KEY.id


def test_the_hashes_come_from_the_manifest(tiny_original: Path) -> None:
    bundle = Bundle.open(tiny_original)
    key = unet_key(bundle)
    assert key.graph == bundle.manifest.files["onnx/unet.onnx"].sha256
    assert key.component == "unet"
    assert key == unet_key(Bundle.open(tiny_original))


RECORD = {"size": 1, "sha256": "0" * 64}


@pytest.mark.parametrize("path", ["onnx/unet.onnx", "onnx/unet.safetensors"])
def test_another_graph_or_other_weights_are_another_key(tiny_bundle: Path, edit: Edit, path: str) -> None:
    before = unet_key(Bundle.open(tiny_bundle))
    edit(tiny_bundle, "files", path, to=RECORD)
    assert unet_key(Bundle.open(tiny_bundle)).id != before.id


def test_what_the_engine_is_not_made_of_leaves_the_key(tiny_bundle: Path, edit: Edit) -> None:
    before = unet_key(Bundle.open(tiny_bundle))
    edit(tiny_bundle, "files", "onnx/text_encoder.onnx", to=RECORD)
    edit(tiny_bundle, "model", "default_size", to=512)
    assert unet_key(Bundle.open(tiny_bundle)) == before


def test_weights_that_change_places_are_another_key(tiny_bundle: Path, edit: Edit) -> None:
    """The graph says `a` and `b`: which of the two holds what matters, not only that both are there."""
    edit(tiny_bundle, "files", "a", to=RECORD)
    edit(tiny_bundle, "files", "b", to=RECORD | {"sha256": "1" * 64})
    edit(tiny_bundle, "components", "unet", "weights", to=["a", "b"])
    before = unet_key(Bundle.open(tiny_bundle))
    edit(tiny_bundle, "files", "b", to=RECORD)
    edit(tiny_bundle, "files", "a", to=RECORD | {"sha256": "1" * 64})
    edit(tiny_bundle, "components", "unet", "weights", to=["b", "a"])
    assert unet_key(Bundle.open(tiny_bundle)).id != before.id


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "expected"),
    [
        ("x86_64", "model name\t: Some CPU\nflags\t\t: fpu sse2 avx avx2 avx512f amx_bf16\n", "x86_64 amx_bf16"),
        ("x86_64", "flags\t\t: fpu sse2 avx avx2 avx512f avx512vl\n", "x86_64 avx512f"),
        ("x86_64", "flags\t\t: fpu sse2 avx avx2\n", "x86_64 avx2"),
        ("x86_64", "flags\t\t: fpu sse2 avx\n", "x86_64 avx"),
        ("x86_64", "flags\t\t: fpu sse2\n", "x86_64"),
        ("aarch64", "Features\t: fp asimd sve\n", "aarch64 sve"),
        ("aarch64", "Features\t: fp asimd\n", "aarch64 asimd"),
        ("arm64", None, "arm64"),  # macOS has no /proc
    ],
)
def test_the_processor_is_named_by_its_widest_instructions(
    monkeypatch: pytest.MonkeyPatch, machine: str, cpuinfo: str | None, expected: str
) -> None:
    def read_text(self: Path, **_: str) -> str:
        assert str(self) == "/proc/cpuinfo"
        if cpuinfo is None:
            raise FileNotFoundError(self)
        return cpuinfo

    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(Path, "read_text", read_text)
    assert cpu() == expected


def test_this_processor_has_a_name_that_stays() -> None:
    assert cpu().startswith(platform.machine())
    assert cpu() == cpu()


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("onnxruntime", {}),
        ("onnxruntime-cuda", {}),
        ("openvino", {"precision": "bf16"}),
        ("tensorrt-rtx", {"targets": ("sm89",)}),
    ],
)
def test_what_we_rewrite_before_a_library_compiles_is_in_the_key(
    opened: Bundle, backend: str, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that an older rewrite went into is another engine."""
    asked = get_backend(backend, BuildOptions(**options))
    before, module = asked.key(opened, "unet"), sys.modules[type(asked).__module__]
    number = "CUT" if backend == "openvino" else "PASSES"
    shared = sys.modules[FamilyBackend.__module__]
    monkeypatch.setattr(shared if backend == "tensorrt-rtx" else module, number, 1000)
    [difference] = before.differences(asked.key(opened, "unet"))
    assert difference.startswith("flags: ")


def test_the_shape_that_an_engine_is_fastest_at_is_in_the_key() -> None:
    texts = [Profile(dimensions={"rows": Range(least=1, usual=usual, most=8)}) for usual in (1, 2)]
    assert profile_text(texts[:1]) != profile_text(texts[1:])
