"""`bundle.json`: the same manifest is the same bytes, and whatever is not a manifest is refused in one line."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentrt.engines.errors import BundleError
from latentrt.engines.manifest import (
    FORMAT,
    MAX_BYTES,
    FileRecord,
    Manifest,
    decoder_component,
    is_decoder_name,
    parse_manifest,
)


@pytest.fixture(scope="module")
def data(tiny_original: Path) -> bytes:
    return (tiny_original / "bundle.json").read_bytes()


def changed(data: bytes, *path: str | int, to: Any) -> bytes:
    content = json.loads(data)
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return json.dumps(content).encode()


def refusal(data: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        parse_manifest(data, "here")
    message = str(caught.value)
    assert message.startswith("here")
    assert "\n" not in message
    return message


def test_round_trip_gives_the_same_bytes(data: bytes) -> None:
    manifest = parse_manifest(data, "here")
    assert manifest.to_json() == data
    assert manifest.bundle_hash() == hashlib.sha256(data).hexdigest()


def test_a_bundle_of_before_has_no_preview(data: bytes) -> None:
    content = json.loads(data)
    assert content.pop("preview") is None
    assert parse_manifest(json.dumps(content).encode(), "here").preview is None


def test_a_preview_has_weights_for_every_channel(data: bytes) -> None:
    colour = [0.1, 0.2, 0.3]
    fitted = {"weights": [colour] * 4, "bias": colour, "rms_error": 0.1}
    preview = parse_manifest(changed(data, "preview", to=fitted), "here").preview
    assert preview is not None
    assert preview.weights[3] == (0.1, 0.2, 0.3)
    assert "weights for 3 latent channels, its model has 4" in refusal(
        changed(data, "preview", to=fitted | {"weights": [colour] * 3})
    )


def test_equal_manifests_are_equal_bytes_in_whatever_order_they_were_made(data: bytes) -> None:
    content = json.loads(data)
    backwards = {name: dict(reversed(v.items())) if isinstance(v, dict) else v for name, v in reversed(content.items())}
    text = json.dumps(backwards, indent=None).encode()
    assert text != data
    assert parse_manifest(text, "here").to_json() == data


NOT_MANIFESTS = {
    "empty": (b"", "not valid JSON"),
    "half": (b'{"format": 1', "not valid JSON"),
    "bytes": (b"\xff\xfe\x00", "not valid JSON"),
    "deep": (b"[" * 100_000, "not valid JSON"),
    "digits": (b'{"format": ' + b"1" * 5000 + b"}", "not valid JSON"),
    "duplicate": (b'{"format": 1, "model": 1, "model": 2}', "'model' is there twice"),
    "list": (b"[1]", "names no format version"),
    "no format": (b"{}", "names no format version"),
    "text format": (b'{"format": "1"}', "names no format version"),
    "real format": (b'{"format": 1.0}', "names no format version"),
    "newer": (b'{"format": 2, "news": []}', "has bundle format 2; this latentrt reads format 1: upgrade latentrt"),
    "older": (b'{"format": 0}', "has bundle format 0; this latentrt reads format 1: export the bundle again"),
    "nothing else": (b'{"format": 1}', "damaged: Object missing required field"),
    "true format": (b'{"format": true}', "damaged"),
    "large": (b" " * (MAX_BYTES + 1), f"has {MAX_BYTES + 1} bytes, more than {MAX_BYTES}"),
}


@pytest.mark.parametrize(("text", "message"), NOT_MANIFESTS.values(), ids=NOT_MANIFESTS)
def test_what_is_no_manifest(text: bytes, message: str) -> None:
    assert message in refusal(text)


def test_a_duplicate_deep_inside_is_named(data: bytes) -> None:
    record = b'"LICENSE-MODEL": {'
    assert data.count(record) == 1
    twice = data.replace(record, record + b'"size": 1, ')
    assert "'size' is there twice" in refusal(twice)


def test_a_late_duplicate_among_many_is_found_in_linear_time() -> None:
    pairs = ",".join(f'"{i:05}":0' for i in range(90_000))
    started = time.process_time()
    message = refusal(f'{{{pairs},"89999":0}}'.encode())
    assert "'89999' is there twice" in message
    assert time.process_time() - started < 10  # some 0.1 s; comparing each name with each takes minutes


UNET = ("components", "unet")
SPEC = (*UNET, "inputs", 0)
# where -> (value, what the message says)
WRONG_VALUES: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("model", "max_tokens"), "77", "Expected `int`, got `str` - at `$.model.max_tokens`"),
    (("model", "max_tokens"), None, "at `$.model.max_tokens`"),
    (("model", "max_tokens"), True, "at `$.model.max_tokens`"),
    (("model", "vae_scale_factor"), 0, "Expected `int` >= 1 - at `$.model.vae_scale_factor`"),
    (("model", "size_multiple"), -8, "at `$.model.size_multiple`"),
    (("model", "latent_channels"), 10**30, "at `$.model.latent_channels`"),
    (("model", "scaling_factor"), 0, "at `$.model.scaling_factor`"),
    (("model", "family"), "sdxl", "Invalid enum value 'sdxl' - at `$.model.family`"),
    (("model", "prediction_type"), "sample", "at `$.model.prediction_type`"),
    (("model", "colour"), 1, "unknown field `colour` - at `$.model`"),
    (("scheduler", "beta_start"), -1e-3, "at `$.scheduler.beta_start`"),
    (("scheduler", "beta_end"), 1.0, "at `$.scheduler.beta_end`"),
    (("scheduler", "num_train_timesteps"), 10**9, "at `$.scheduler.num_train_timesteps`"),
    (("scheduler", "steps_offset"), -1, "at `$.scheduler.steps_offset`"),
    (("files", "LICENSE-MODEL", "size"), -1, "Expected `int` >= 0 - at `$.files[...].size`"),
    (("files", "LICENSE-MODEL", "size"), 1.5, "at `$.files[...].size`"),
    (("files", "LICENSE-MODEL", "sha256"), "A" * 64, "at `$.files[...].sha256`"),
    (("files", "LICENSE-MODEL", "sha256"), "a" * 64 + "\n", "at `$.files[...].sha256`"),
    (("files", "LICENSE-MODEL"), {"size": 1}, "missing required field `sha256` - at `$.files[...]`"),
    (("files",), [], "Expected `object`, got `array` - at `$.files`"),
    (("components", "../unet"), {}, "at `key` in `$.components`"),
    (("components", "\x1b[31munet"), {}, "at `key` in `$.components`"),
    ((*UNET, "inputs"), [], "at `$.components[...].inputs`"),
    ((*UNET, "outputs"), [], "at `$.components[...].outputs`"),
    ((*UNET, "max_abs_error"), -1, "at `$.components[...].max_abs_error`"),
    ((*SPEC, "name"), "", "inputs[0].name"),
    ((*SPEC, "name"), "sam\nple", "inputs[0].name"),
    ((*SPEC, "dtype"), "object", "inputs[0].dtype"),
    ((*SPEC, "dtype"), "bfloat16", "inputs[0].dtype"),
    ((*SPEC, "dtype"), "float32\n", "inputs[0].dtype"),
    ((*SPEC, "shape"), ["0*rows"], "inputs[0].shape[0]"),
    ((*SPEC, "shape"), ["Rows"], "inputs[0].shape[0]"),
    ((*SPEC, "shape"), ["rows\n"], "inputs[0].shape[0]"),
    ((*SPEC, "shape"), ["9999999*rows"], "inputs[0].shape[0]"),
    ((*SPEC, "shape"), ["rows", 0], "inputs[0].shape[1]"),
    ((*SPEC, "shape"), ["rows", -4], "inputs[0].shape[1]"),
    ((*SPEC, "shape"), ["rows", 4.0], "inputs[0].shape[1]"),
    ((*SPEC, "shape"), ["rows", 10**20], "inputs[0].shape[1]"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG_VALUES)
def test_a_wrong_value_is_refused_and_the_message_says_where(
    data: bytes, path: tuple[str | int, ...], value: Any, message: str
) -> None:
    found = refusal(changed(data, *path, to=value))
    assert message in found
    assert "export the bundle again" in found


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_numbers_beyond_json_are_refused(data: bytes, number: bytes) -> None:
    assert data.count(b"0.00085") == 1
    assert "damaged" in refusal(data.replace(b"0.00085", number))


def test_half_a_surrogate_is_refused(data: bytes) -> None:
    assert data.count(b'"by hand"') == 1
    assert "damaged" in refusal(data.replace(b'"by hand"', b'"\\ud800"'))


UNSAFE_PATHS = [
    "../x",
    "a/../../x",
    "a/..",
    "..",
    "/etc/passwd",
    "//x",
    "a\\b",
    "a\0b",
    "a\nb",
    "\x1b[2Jx",
    "./x",
    "a//b",
]
UNSAFE_PATHS += ["a/./b", "a/", "", ".", "bundle.json", "\u202ex"]


@pytest.mark.parametrize("path", UNSAFE_PATHS)
def test_a_path_that_is_not_plain_is_refused(data: bytes, path: str) -> None:
    message = refusal(changed(data, "files", path, to={"size": 0, "sha256": "0" * 64}))
    assert f"lists {path!r}, which is not a plain path inside the bundle" in message


@pytest.mark.parametrize("path", ["a", "a/b.c", "a b/ü", "..a/b..", ".hidden", "onnx/bundle.json"])
def test_a_plain_path_is_taken(data: bytes, path: str) -> None:
    record = {"size": 0, "sha256": "0" * 64}
    assert parse_manifest(changed(data, "files", path, to=record), "here").files[path] == FileRecord(**record)


INPUT, OUTPUT = ({"name": name, "dtype": "float32", "shape": ["rows", 4]} for name in ("sample", "out_sample"))
BROKEN_REFERENCES: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "tokenizer": (("tokenizer",), "t.json", "uses 't.json' but does not list its hash"),
    "trajectory": (("trajectory",), "../t", "uses '../t' but does not list its hash"),
    "licence": (("licence", "files"), ["NOTICE"], "uses 'NOTICE' but does not list its hash"),
    "graph": ((*UNET, "graph"), "onnx/u.onnx", "uses 'onnx/u.onnx' but does not list its hash"),
    "weights": ((*UNET, "weights"), ["w"], "uses 'w' but does not list its hash"),
    "golden": ((*UNET, "golden"), "g", "uses 'g' but does not list its hash"),
    # onnxruntime reads a file called .ort with another parser, which the walk over external data does not know
    "graph of another kind": ((*UNET, "graph"), "onnx/unet.ort", "'onnx/unet.ort'; expected a file that ends in .onnx"),
    "graph is weights": ((*UNET, "graph"), "onnx/unet.safetensors", "expected a file that ends in .onnx"),
    "default decoder": (("default_decoder",), "ft-mse", "default decoder 'ft-mse' is not among its decoders"),
    "no decoder": (("decoders",), [], "default decoder 'kl-f8' is not among its decoders"),
    "decoder": (("decoders",), ["kl-f8", "ft-mse"], "has no component 'vae_decoder.ft-mse'"),
    "odd decoder": (("decoders",), ["kl-f8", "../x"], "has no component 'vae_decoder.../x'"),
    "no component": (("components",), {}, "has no component 'text_encoder'"),
    "twice": ((*UNET, "inputs"), [INPUT, INPUT], "unet has two tensors of one name among sample float32 (rows, 4), "),
    "unbound": (
        (*UNET, "outputs"),
        [OUTPUT | {"shape": ["rows", "depth"]}],
        "no input of unet tells the size of depth in its outputs",
    ),
}


@pytest.mark.parametrize(("path", "value", "message"), BROKEN_REFERENCES.values(), ids=BROKEN_REFERENCES)
def test_parts_that_do_not_fit_together(data: bytes, path: tuple[str | int, ...], value: Any, message: str) -> None:
    assert message in refusal(changed(data, *path, to=value))


def test_a_missing_component_is_named(data: bytes) -> None:
    for name in ("text_encoder", "unet", "vae_decoder.kl-f8"):
        components = {key: value for key, value in json.loads(data)["components"].items() if key != name}
        assert f"has no component '{name}'" in refusal(changed(data, "components", to=components))


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a JSON document but its root."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, child in items for place in ((*path, key), *places(child, (*path, key)))]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(choice=st.randoms(use_true_random=False), value=JSON)
def test_any_value_in_any_place_is_refused_or_read_back_the_same(data: bytes, choice: Any, value: Any) -> None:
    text = changed(data, *choice.choice(places(json.loads(data))), to=value)
    try:
        manifest = parse_manifest(text, "here")
    except BundleError:
        return
    again = manifest.to_json()  # NaN or half a surrogate would not survive this
    assert msgspec.json.decode(again, type=Manifest) == manifest
    assert manifest.format == FORMAT


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("kl-f8", True),
        ("ft-mse", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("", False),
        ("-a", False),
        ("a/b", False),
    ],
)
def test_decoder_names(name: str, good: bool) -> None:
    assert is_decoder_name(name) is good
    assert decoder_component(name) == f"vae_decoder.{name}"
