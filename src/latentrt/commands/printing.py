"""Words that may come from a stranger's file, made safe to print."""

from __future__ import annotations


def one_line(text: str) -> str:
    """The text with control codes and line ends shown instead of obeyed."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def say(line: str) -> None:
    """Print it so."""
    print(one_line(line))
