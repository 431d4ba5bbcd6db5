r"""Weights against examples of the web UIs' own parser, and against what its rules imply.

The first examples are those of the docstring of `parse_prompt_attention` in AUTOMATIC1111's stable-diffusion-webui,
`modules/prompt_parser.py`, which is its doctest.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentrt.engines.errors import InputError
from latentrt.runtime.prompt.weights import parse_weights

UP, DOWN = 1.1, 1 / 1.1

EXAMPLES = {
    "normal text": [[("normal text", 1.0)]],
    "an (important) word": [[("an ", 1.0), ("important", 1.1), (" word", 1.0)]],
    "(unbalanced": [[("unbalanced", 1.1)]],
    r"\(literal\]": [[("(literal]", 1.0)]],
    "(unnecessary)(parens)": [[("unnecessaryparens", 1.1)]],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        [
            ("a ", 1.0),
            ("house", 1.5730000000000004),
            (" ", 1.1),
            ("on", 1.0),
            (" a ", 1.1),
            ("hill", 0.55),
            (", sun, ", 1.1),
            ("sky", 1.4641000000000006),
            (".", 1.1),
        ]
    ],
    # what follows is not in that docstring; it follows from its code
    "": [[]],
    "[a]": [[("a", DOWN)]],
    "[[a]": [[("a", DOWN * DOWN)]],
    "(a:-0.5)": [[("a", -0.5)]],
    "(a : 2 )": [[("a ", 2.0)]],
    "(a:.5)b": [[("a", 0.5), ("b", 1.0)]],
    "[a:0.5]": [[("a:0.5", DOWN)]],  # a weight needs round brackets
    "a:1.3)": [[("a:1.3)", 1.0)]],  # and an open one
    "a) ]b": [[("a) ]b", 1.0)]],
    "ratio 16:9": [[("ratio 16:9", 1.0)]],
    r"a\b \\ \(c\)": [[("ab \\ (c)", 1.0)]],
    "(a [b)] c": [[("a ", UP), ("b c", UP * DOWN)]],  # crossed; and 1.1 * (1 / 1.1) is 1, the weight of " c"
    "a BREAK b": [[("a", 1.0)], [("b", 1.0)]],
    "BREAK a BREAK BREAK b": [[("", 1.0)], [("a", 1.0)], [("", 1.0)], [("b", 1.0)]],
    "BREAKFAST": [[("BREAKFAST", 1.0)]],
    "(a BREAK b:2) c": [[("a", 2.0)], [("b", 2.0), (" c", 1.0)]],  # ours: the web UIs read the word BREAK here
}


@pytest.mark.parametrize("prompt", EXAMPLES)
def test_examples(prompt: str) -> None:
    found = [[(span.text, span.weight) for span in section] for section in parse_weights(prompt)]
    assert found == EXAMPLES[prompt]


@given(st.text(alphabet=st.characters(exclude_characters="\\()[]:", exclude_categories=["Cs"])))
def test_text_without_signs_is_itself(text: str) -> None:
    if "BREAK" not in text:
        assert "".join(span.text for span in parse_weights(text)[0]) == text


@given(st.text(alphabet="\\()[]: ab"))
@settings(max_examples=200)
def test_an_escaped_prompt_is_plain(text: str) -> None:
    escaped = "".join(f"\\{c}" if c in "\\()[]" else c for c in text)
    [section] = parse_weights(escaped)
    assert [(span.text, span.weight) for span in section] == ([(text, 1.0)] if text else [])


@pytest.mark.parametrize("prompt", ["(a:1.2.3)", "(a:.)", "(a:1001)", "(" * 80 + "a", "(a:" + "9" * 400 + ")"])
def test_weights_that_are_none_are_named(prompt: str) -> None:
    with pytest.raises(InputError, match="weight") as caught:
        parse_weights(prompt)
    assert "\n" not in str(caught.value)
