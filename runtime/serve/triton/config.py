"""config.pbtxt: what Triton has to know of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from latentrt.engines.backend import ON_GPU

from ..inference_tensors import INPUTS, OUTPUTS
from .parameters import Parameters

_HEAD = """\
# Written by `latentrt triton`. No dynamic_batching: one instance holds many requests at once, and its own worker puts
# their steps into common calls of the UNet.
backend: "python"
max_batch_size: 0
"""


def config_text(parameters: Parameters) -> str:
    """The text. An engine of a GPU has an instance on each GPU that Triton may use, any other has one in all."""
    kind = "KIND_GPU" if parameters.engine in ON_GPU else "KIND_CPU"
    return "\n".join(
        [
            _HEAD + f"instance_group [ {{ count: 1, kind: {kind} }} ]",
            *(_tensor("input", name, one.datatype, [-1], name != "prompt") for name, one in INPUTS.items()),
            *(_tensor("output", name, kind, shape) for name, (kind, shape) in OUTPUTS.items()),
            *_parameters(parameters),
            "",
        ]
    )


def _tensor(side: str, name: str, datatype: str, dims: Sequence[int], optional: bool = False) -> str:
    kind = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
    rest = ", optional: true" if optional else ""
    return f'{side} [ {{ name: "{name}", data_type: {kind}, dims: [ {", ".join(map(str, dims))} ]{rest} }} ]'


def _parameters(parameters: Parameters) -> Iterator[str]:
    for name, value in parameters.words().items():
        yield f'parameters {{ key: "{name}", value: {{ string_value: {_quoted(value)} }} }}'


def _quoted(value: str) -> str:
    """As a string of protobuf's text format: the bytes of its UTF-8, those that are no plain ASCII in octal."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in value.encode())
    return f'"{"".join(plain)}"'
