"""The model's licence, its use restrictions and a NOTICE: found beside the checkpoint, completed, in the bundle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from latentrt.engines.errors import InputError
from latentrt.engines.licence import OPENRAIL_M
from latentrt.engines.manifest import Licence
from latentrt.engines.version import __version__

LICENSE, USE_RESTRICTIONS, NOTICE = "LICENSE-MODEL", "USE_RESTRICTIONS", "NOTICE"
MODEL_CARD = "MODEL_CARD.md"  # carried where it is there, not missed where it is not
CHANGES = "Changes made by latentrt export"  # the NOTICE's own part begins with this line
_UNKNOWN = f"see {LICENSE}"
_SUFFIXES = ("", ".md", ".txt")
_MAX_BYTES = 2**20  # a licence is some 15 KB
_HEAD = 2000  # characters in which a licence names itself
_TITLES = ((r"open\s?rail\+\+-?\s?m\b", "CreativeML OpenRAIL++-M"), (r"creativeml open\s?rail-?\s?m\b", OPENRAIL_M))
_ATTACHMENT = re.compile(r"^[\s#*_]*attachment\s+a\b.{0,40}$", re.IGNORECASE | re.MULTILINE)


def find_licence(folder: Path, given: Path | None = None) -> dict[str, Path]:
    """The licence files in a folder, by the name that they get in a bundle; `given` is the licence itself.

    A plain `LICENSE` is taken only where it names itself a model licence: it may be that of code beside the weights.

    Raises:
        InputError: `given` is not a text.
    """
    files = {}
    for name in (LICENSE, USE_RESTRICTIONS, NOTICE, MODEL_CARD):
        file = _beside(folder, name.removesuffix(".md"))
        if file is not None:
            files[name] = file
    if given is not None:
        _check_text(given)
        files[LICENSE] = given
    elif LICENSE not in files:
        plain = _beside(folder, "LICENSE") or _beside(folder, "LICENCE")
        if plain is not None and _names_itself(_text(plain)):
            files[LICENSE] = plain
    return files


def licence_name(files: Mapping[str, Path], assumed: str) -> str:
    """The licence's name: the text's own, else `assumed`; an unknown text is never called OpenRAIL-M."""
    if LICENSE not in files:
        return assumed
    return _names_itself(_text(files[LICENSE])) or (_UNKNOWN if assumed == OPENRAIL_M else assumed)


def write_licence(name: str, files: Mapping[str, Path], folder: Path, provenance: Mapping[str, str]) -> Licence:
    """Write the licence's files to the root of a bundle, and say which are missing.

    Use restrictions that are an attachment of the licence get a file of their own. The NOTICE is the source's, with
    what `export` changed added; it is never missing.
    """
    texts = {target: file.read_bytes() for target, file in files.items()}
    if USE_RESTRICTIONS not in texts and LICENSE in texts:
        attached = use_restrictions(texts[LICENSE].decode(errors="replace"))
        texts |= {USE_RESTRICTIONS: attached.encode()} if attached else {}
    missing = tuple(target for target in (LICENSE, USE_RESTRICTIONS) if target not in texts)
    licence = Licence(name=name, files=tuple(sorted({*texts, NOTICE})), missing=missing)
    texts[NOTICE] = complete_notice(texts.get(NOTICE, b"").decode(errors="replace"), licence, provenance).encode()
    for target, text in texts.items():
        (folder / target).write_bytes(text)
    return licence


def use_restrictions(licence: str) -> str | None:
    """Attachment A of an OpenRAIL licence, word for word from its heading to its end; None where there is none."""
    headings = list(_ATTACHMENT.finditer(licence))
    attached = licence[headings[-1].start() :].strip() if headings else ""
    return f"{attached}\n" if "agree not to use" in attached.lower() else None


def complete_notice(notice: str, licence: Licence, provenance: Mapping[str, str]) -> str:
    """A NOTICE with the part that tells what `export` made, and from what; an older such part is replaced."""
    kept = notice.split(f"{CHANGES}\n", maxsplit=1)[0].rstrip()
    made_from = "\n".join(f"  {name}: {value}" for name, value in provenance.items())
    part = f"""{CHANGES}

latentrt {__version__} made this bundle from the model named here. All files but the licence's are modified files:
{made_from}

The networks were converted to ONNX graphs, and their weights to {provenance.get("precision", "fp32")} (onnx/);
the tokenizer became one file (tokenizer/); what PyTorch answered before was recorded (golden/). The weights were not
trained further, merged or pruned. Where "weights" above is ema or raw, the source's other set was left out.

{_terms(licence)}
"""
    return f"{kept}\n\n{part}" if kept else part


def _terms(licence: Licence) -> str:
    if LICENSE not in licence.files:
        return (
            f"The model's licence is taken to be {licence.name}. Its text was not beside the model and is missing\n"
            "here: whoever passes this bundle on must add it."
        )
    restrictions = f"; its use restrictions are in {USE_RESTRICTIONS}" if USE_RESTRICTIONS in licence.files else ""
    return (
        f"The model's licence ({licence.name}) is in {LICENSE}{restrictions}.\n"
        "Whoever passes this bundle on passes these files on with it."
    )


def _beside(folder: Path, stem: str) -> Path | None:
    return next((file for suffix in _SUFFIXES if (file := folder / (stem + suffix)).is_file()), None)


def _names_itself(text: str) -> str | None:
    """The name by which a licence that is known calls itself."""
    head = " ".join(text[:_HEAD].lower().split())
    return next((name for pattern, name in _TITLES if re.search(pattern, head)), None)


def _text(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(_MAX_BYTES).decode(errors="replace")


def _check_text(given: Path) -> None:
    try:
        text = _text(given)
    except OSError as error:
        raise InputError(f"--license {given} cannot be read: {error.strerror or error}") from error
    if not text.strip() or {"\0", "\ufffd"} & set(text):  # U+FFFD: not UTF-8
        raise InputError(f"--license {given} is no text in UTF-8; give the licence as plain text")
