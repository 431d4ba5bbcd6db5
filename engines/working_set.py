"""How much memory the tensors of a graph take while it runs, for any shapes: a walk over its nodes.

A tensor takes a product of numbers and free dimensions, so what lives at one moment is a sum of such products. Moments
that can never be the greatest are left out; a whole UNet is then a few sums.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from .errors import EngineError
from .graph import Node, Tensor, read_nodes, read_tensors

_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 16: 2}  # by ONNX's number of an element type
_VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}  # their output is their input's memory
_PRODUCT = re.compile(r"([0-9]+|[a-z_]+)(\*([0-9]+|[a-z_]+))*")
_Term = Annotated[str, msgspec.Meta(pattern=r"^(1|[a-z_]+(\*[a-z_]+)*)\Z")]
_Terms = dict[_Term, Annotated[int, msgspec.Meta(ge=0)]]


class WorkingSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What lives at one moment: bytes by product of free dimensions, such as {"height*rows*width": 1280}.

    `scores` is the matrix of an attention's scores, (rows, heads, queries, keys), in the type of its queries: some
    libraries hold it whole, some in parts.
    """

    tensors: _Terms
    scores: _Terms = {}


def working_sets(model: bytes, where: str) -> tuple[WorkingSet, ...]:
    """The moments of a model's run that may take the most.

    Raises:
        BundleError: the bytes are not an ONNX model.
        EngineError: the graph does not state the shape of a tensor.
    """
    nodes, tensors = read_nodes(model, where), read_tensors(model, where)
    stated = {name: (tensor.element, _all_known(name, tensor, where)) for name, tensor in tensors.items()}
    return _greatest(_moments(nodes, stated, where))


def most_bytes(sets: Sequence[WorkingSet], bound: Mapping[str, int], tensors: float = 1.0, scores: float = 1.0) -> int:
    """The bytes of the greatest moment for free dimensions of these lengths, its two parts weighted."""
    return math.ceil(max(tensors * _bytes(one.tensors, bound) + scores * _bytes(one.scores, bound) for one in sets))


_Stated = Mapping[str, tuple[int, tuple[int | str, ...]]]  # element type and shape by name


def _all_known(name: str, tensor: Tensor, where: str) -> tuple[int | str, ...]:
    for dimension in tensor.shape:
        if isinstance(dimension, str) and _PRODUCT.fullmatch(dimension) is None:
            raise EngineError(
                f"{where} does not state the shape of {name}, got {tensor.shape}: export the bundle again"
            )
    return tensor.shape


def _moments(nodes: Sequence[Node], stated: _Stated, where: str) -> list[WorkingSet]:
    owner: dict[str, str] = {}  # whose memory a computed tensor's is
    for node in nodes:
        viewed = owner.get(node.inputs[0]) if node.op in _VIEWS else None
        owner |= {name: viewed or name for name in node.outputs}
    last = {owner[name]: index for index, node in enumerate(nodes) for name in node.inputs if name in owner}
    sizes = {name: _sized(stated, name, where) for name in set(owner.values())}
    alive: Counter[str] = Counter()
    found = []
    for index, node in enumerate(nodes):
        for name in node.outputs:
            if owner[name] == name:
                alive.update(sizes[name])
        scores = _scores(node, stated, where) if node.op == "Attention" else {}
        found.append(WorkingSet(tensors=dict(+alive), scores=scores))
        for name in {owner[name] for name in node.inputs if name in owner}:
            if last[name] == index:
                alive.subtract(sizes[name])
    return found


def _sized(stated: _Stated, name: str, where: str) -> dict[str, int]:
    if name not in stated:
        raise EngineError(f"{where} does not state the shape of {name}: export the bundle again")
    element, shape = stated[name]
    return _product(shape, _BYTES.get(element, 8))


def _scores(node: Node, stated: _Stated, where: str) -> dict[str, int]:
    query, key = node.inputs[:2]
    if not all(name in stated and len(stated[name][1]) == 4 for name in (query, key)):
        raise EngineError(f"{where} does not state the shapes of the attention {node.name}: export the bundle again")
    element, shape = stated[query]
    return _product((*shape[:3], stated[key][1][2]), _BYTES.get(element, 8))


def _product(shape: Sequence[int | str], size: int) -> dict[str, int]:
    """(2, "rows", "4*height") of 4 bytes each -> {"height*rows": 32}."""
    words = [word for dimension in shape for word in str(dimension).split("*")]
    names = sorted(word for word in words if not word.isdecimal())
    return {"*".join(names) or "1": size * math.prod(int(word) for word in words if word.isdecimal())}


def _greatest(found: Sequence[WorkingSet]) -> tuple[WorkingSet, ...]:
    """Without those that another one holds, whatever the free dimensions."""
    kept: list[WorkingSet] = []
    for one in found:
        if not any(_holds(other, one) for other in kept):
            kept = [other for other in kept if not _holds(one, other)] + [one]
    return tuple(kept)


def _holds(one: WorkingSet, other: WorkingSet) -> bool:
    pairs = ((one.tensors, other.tensors), (one.scores, other.scores))
    return all(mine.get(term, 0) >= count for mine, its in pairs for term, count in its.items())


def _bytes(terms: Mapping[str, int], bound: Mapping[str, int]) -> int:
    return sum(count * math.prod(bound.get(name, 1) for name in term.split("*")) for term, count in terms.items())
