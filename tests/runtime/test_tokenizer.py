"""Token ids against transformers' CLIPTokenizer, on the strings that people and machines type."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentrt.engines.errors import BundleError, InputError
from latentrt.export.vocabulary import clip_tokenizer
from latentrt.runtime.tokenizer import ClipTokenizer, truncation_warning

Reference = Any  # transformers' CLIPTokenizer, which has no types

ZWJ = "\u200d"  # joins emoji into one; written out, since editors do not show it
PIECES = [
    *["a", "red", "circle", "on", "BLUE", "Background", "photograph", "don't", "it's", "we'll", "I'd've", "naïve"],
    *[" ", "  ", "\t", "\n", "\r\n", "\v", "\f", "\x1c", "\x1f", "\x85", "\xa0", "\u1680", "\u2003", "\u2028"],
    *["\u200b", ZWJ, "\u200e", "\u202e", "\u2060", "\ufeff", "\xad", "\ufe0f", "\u180e", "\0", "\x01", "\x7f"],
    *["🐱", f"👨{ZWJ}👩{ZWJ}👧{ZWJ}👦", f"🏳\ufe0f{ZWJ}🌈", "🇫🇷🇩", "👍🏽", "1\ufe0f\u20e3", "☺", "𝔘𝔫𝔦", "𐍈"],
    *["日本語", "漢字かな", "中文，文字。", "한국어", "\u1112\u1161\u11ab", "مرحبا", "שָׁלוֹם", "हिन्दी", "ภาษาไทย"],
    *["Ελληνικά ΣΑΣ", "Привет", "İstanbul", "ıI", "ßẞ", "ǅ", "ﬁ", "\u00c5", "\u212b", "A\u030a"],
    *["q\u0323\u0307", "\u0301", "\u0344", "Z\u0337\u0321\u0360a\u0335", "\U0010ffff", "\ufffd", "\ue000", "\x9f"],
    *["½", "²", "Ⅷ", "１２３", "123456", "3.14", "—", "“”", "'", "''s", "'S", "a:1.2", "##", "(((", "!!!", "..."],
    *["&amp;", "&lt;b&gt;", "&#39;", "&nbsp;", "<br/>", "</w>", "a</w>", "Ġ", "Ċ", "\\n", "${x}", "[MASK]", "<unk>"],
    *["<|endoftext|>", "<|startoftext|>", "<|ENDOFTEXT|>", "<|endoftext|", "<|pad|>", "<|endoftext|>" * 80, "\u3000"],
    *["x" * 200, "ab" * 90, "\u0301" * 90, "🐱" * 80, "日" * 90, "'" * 100, " " * 300, "\0" * 80, "e\u0301"],
]  # fmt: skip


def awkward_strings(count: int) -> list[str]:
    rng = random.Random(0)
    ranges = [
        (0, 0x7F),
        (0x80, 0x24F),
        (0x300, 0x36F),
        (0x590, 0x6FF),
        (0x2000, 0x2FFF),
        (0x3000, 0xD7FF),
        (0xE000, 0x10FFFF),
    ]

    def piece() -> str:
        return rng.choice(PIECES) if rng.random() < 0.8 else chr(rng.randint(*rng.choice(ranges)))

    return [
        rng.choice(["", " "]).join(piece() for _ in range(rng.choice([1, 2, 3, 5, 8, 20, 60]))) for _ in range(count)
    ]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return clip_tokenizer()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    clip_tokenizer().save_pretrained(folder)
    return folder / "tokenizer.json"


@pytest.fixture(scope="module")
def tokenizer(file: Path) -> ClipTokenizer:
    return ClipTokenizer.from_file(file)


def reference_ids(reference: Reference, prompts: list[str]) -> np.ndarray:
    return reference(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="np").input_ids


def plain(reference: Reference, prompt: str) -> list[int]:
    return reference(prompt, add_special_tokens=False).input_ids


def assert_same_ids(tokenizer: ClipTokenizer, reference: Reference, prompts: list[str]) -> None:
    for prompt, wanted in zip(prompts, reference_ids(reference, prompts), strict=True):
        found = tokenizer.encode(prompt).ids
        assert (found.shape, found.dtype) == ((77,), np.int64)
        assert found.tolist() == wanted.tolist(), repr(prompt)


def test_ids_of_each_awkward_piece(tokenizer, reference):
    assert_same_ids(tokenizer, reference, ["", *PIECES, *(f"a {piece} b" for piece in PIECES)])


def test_ids_of_awkward_mixtures(tokenizer, reference):
    assert_same_ids(tokenizer, reference, awkward_strings(4000))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_ids_of_any_text(tokenizer, reference, prompt):
    assert_same_ids(tokenizer, reference, [prompt])


def test_ids_around_the_limit(tokenizer, reference):
    assert_same_ids(tokenizer, reference, ["a " * count for count in range(70, 85)])


def test_ids_of_a_known_prompt(tokenizer):
    ids = tokenizer.encode("a photo of a cat").ids
    assert (
        ids.tolist() == [49406, 320, 1125, 539, 320, 2368] + [49407] * 71
    )  # as CLIP's own simple_tokenizer numbers them


def test_a_file_of_a_tokenizer_that_was_in_use(reference, tmp_path):
    used = clip_tokenizer()
    used("a", padding="max_length", max_length=9, truncation=True)  # transformers leaves both settings in the file
    used.save_pretrained(tmp_path)
    settings_of_file = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert settings_of_file["truncation"]["max_length"] == settings_of_file["padding"]["strategy"]["Fixed"] == 9
    assert_same_ids(ClipTokenizer.from_file(tmp_path / "tokenizer.json"), reference, ["", "a", "a " * 20, "a " * 100])


def test_the_padding_token_of_the_file(tmp_path):
    other = clip_tokenizer()
    other.pad_token = "!"  # as Stable Diffusion 2 pads
    wanted = reference_ids(other, ["a cat"])[0]
    other.save_pretrained(tmp_path)
    found = ClipTokenizer.from_file(tmp_path / "tokenizer.json").encode("a cat").ids
    assert found.tolist() == wanted.tolist()
    assert found[-1] == 0


@pytest.mark.parametrize(
    ("prompt", "cut"),
    [
        ("", ""),
        ("a " * 75, ""),
        ("a " * 75 + "\n \t", ""),
        ("a " * 76, "a"),
        ("a " * 75 + "Two  WORDS\t", "Two  WORDS"),
        (" , ".join(["blue"] * 38) + ", blue!", ", blue!"),
        ("a " * 74 + "Skyscraperish thing", "Skyscraperish thing"),  # a word cut in the middle is cut
        ("a " * 75 + "don't", "don't"),
        ("a " * 74 + "don't", "'t"),  # two words to CLIP
        ("a " * 75 + f"&amp; 👨{ZWJ}👩{ZWJ}👧 日本語 ÉTÉ", f"&amp; 👨{ZWJ}👩{ZWJ}👧 日本語 ÉTÉ"),
        ("a " * 75 + "cafe\u0301 \n", "cafe\u0301"),
        ("a " * 75 + "x \x1f", "x \x1f"),  # U+001F is white space to Python, a token to CLIP
        ("a " * 74 + "<|endoftext|> <|endoftext|>b", "<|endoftext|>b"),
        ("日" * 100, "日" * 25),  # one word to CLIP, of more than 75 tokens: what is left of it
        ("a " * 10 + "日" * 100 + " end", "日" * 35 + " end"),
    ],
)
def test_cut_is_what_found_no_room(tokenizer, reference, prompt, cut):
    tokens = tokenizer.encode(prompt)
    assert tokens.cut == cut
    assert bool(cut) == (len(plain(reference, prompt)) > 75)
    assert tokens.ids[-1] == 49407


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["a", "Photograph", "antidisestablishment", "zxqj", "42", "—", "日本", "é"]), max_size=110
    ),
    st.sampled_from([" ", "  ", "\n"]),
)
def test_kept_and_cut_are_the_prompt(tokenizer, reference, words, space):
    prompt = space.join(words)
    cut = tokenizer.encode(prompt).cut
    kept = prompt.removesuffix(cut)
    assert kept + cut == prompt
    assert plain(reference, kept) + plain(reference, cut) == plain(reference, prompt)
    assert len(plain(reference, kept)) <= 75
    assert tokenizer.encode(kept).cut == ""
    if cut:
        assert len(plain(reference, kept + cut.split()[0])) > 75


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("aZ é\u0301\u0323İ日🐱\u200d\0\x1f\n'!\u0344ﬁ한\u1112\u1161"), max_size=300))
def test_cut_is_the_end_of_any_prompt(tokenizer, reference, prompt):
    cut = tokenizer.encode(prompt).cut
    assert bool(cut) == (len(plain(reference, prompt)) > 75)
    end = prompt.rfind(cut) + len(cut)
    assert plain(reference, prompt[end:]) == []


def test_warning_names_the_words_on_one_line():
    message = truncation_warning("and a\nlighthouse")
    assert "77" in message
    assert repr("and a\nlighthouse") in message
    assert "\n" not in message


def test_warning_about_a_book_stays_short():
    message = truncation_warning("lighthouse " * 10_000)
    assert "lighthouse" in message
    assert "109700 more characters" in message
    assert len(message) < 500


@pytest.mark.parametrize("prompt", ["\ud800", "a cat \udfff", "\ud83d a \udc31"])
def test_lone_surrogates_are_refused(tokenizer, reference, prompt):
    with pytest.raises((TypeError, ValueError)):
        reference(prompt)
    with pytest.raises(InputError, match=r"^prompt: character \d+ is U\+D[89A-F]"):
        tokenizer.encode(prompt)


@pytest.mark.parametrize("prompt", [None, 3, b"a cat", ["a cat"]])
def test_only_text_is_a_prompt(tokenizer, prompt):
    with pytest.raises(InputError, match="prompt: expected text, found"):
        tokenizer.encode(prompt)


def break_json(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def broken(data: bytes) -> bytes:
        content = json.loads(data)
        change(content)
        return json.dumps(content).encode()

    return broken


def swap_special_tokens(content: dict[str, Any]) -> None:
    start, end = content["added_tokens"]
    start["content"], end["content"] = end["content"], start["content"]
    content["model"]["vocab"].update({start["content"]: 49406, end["content"]: 49407})


def rename_special_token(content: dict[str, Any]) -> None:
    content["added_tokens"] = content["added_tokens"][:1]
    content["model"]["vocab"]["<|end|>"] = content["model"]["vocab"].pop("<|endoftext|>")
    content["post_processor"] = None


PAD_OUTSIDE = {
    "strategy": {"Fixed": 77},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 49408,
    "pad_type_id": 0,
    "pad_token": "<pad>",
}


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "not a tokenizer.json"),
    "binary": (lambda data: b"\x00\xff" * 100, "not a tokenizer.json"),
    "list": (lambda data: b"[]", "not a tokenizer.json"),
    "object": (lambda data: b"{}", "not a tokenizer.json"),
    "half": (lambda data: data[: len(data) // 2], "not a tokenizer.json"),
    "merge": (break_json(lambda file: file["model"]["merges"].append(["zzq", "qzz"])), "not a tokenizer.json"),
    # the library panics, which Python sees as no Exception
    "panic": (break_json(lambda file: file["model"].update(continuing_subword_prefix="##")), "not a tokenizer.json"),
    "one more": (
        break_json(lambda file: file["model"]["vocab"].update(zzqq=49408)),
        "found 49409 numbered up to 49408",
    ),
    "beyond": (break_json(lambda file: file["model"]["vocab"].update(new=60_000)), "found 49408 numbered up to 60000"),
    "swapped": (break_json(swap_special_tokens), "expected <|startoftext|> to be token 49406, found 49407"),
    "renamed": (break_json(rename_special_token), "expected <|endoftext|> to be token 49407, found None"),
    "padding": (break_json(lambda file: file.update(padding=PAD_OUTSIDE)), "pads with token 49408"),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGES.values(), ids=DAMAGES)
def test_a_broken_file_is_refused(file, tmp_path, damage, says):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(damage(file.read_bytes()))
    with pytest.raises(BundleError) as caught:
        ClipTokenizer.from_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize("path", ["missing/tokenizer.json", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, path):
    with pytest.raises(BundleError, match="cannot read the tokenizer"):
        ClipTokenizer.from_file(tmp_path / path)
