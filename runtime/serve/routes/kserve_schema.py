"""The messages of KServe's inference protocol, version 2, with its extension for binary tensors."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Datatype: TypeAlias = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]
Count = Annotated[int, Field(ge=0)]


class TensorMetadata(BaseModel):
    """Name, type and shape of a tensor."""

    name: str
    datatype: Datatype
    shape: list[int]


class ServerMetadata(BaseModel):
    """What serves."""

    name: str
    version: str
    extensions: list[str]


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class InputParameters(BaseModel):
    """`binary_data_size` is how many bytes behind the JSON are the tensor's."""

    model_config = ConfigDict(extra="ignore")

    binary_data_size: Count | None = None


class Input(BaseModel):
    """A tensor of a request; its data lies in `data`, or behind the JSON."""

    name: str
    datatype: Datatype
    shape: list[Count]
    data: list[Any] | None = None
    parameters: InputParameters = InputParameters()


class OutputParameters(BaseModel):
    """`binary_data` asks for the tensor behind the JSON."""

    model_config = ConfigDict(extra="ignore")

    binary_data: bool | None = None


class Output(BaseModel):
    """A tensor that is asked for."""

    name: str
    parameters: OutputParameters = OutputParameters()


class RequestParameters(BaseModel):
    """`binary_data_output` holds for all outputs that do not say."""

    model_config = ConfigDict(extra="ignore")

    binary_data_output: bool = False


class InferRequest(BaseModel):
    """The JSON of a request."""

    id: str = ""
    inputs: list[Input]
    outputs: list[Output] = []
    parameters: RequestParameters = RequestParameters()

    def is_binary(self, output: str) -> bool:
        """Whether an output goes behind the JSON."""
        said = next((one.parameters.binary_data for one in self.outputs if one.name == output), None)
        return self.parameters.binary_data_output if said is None else said
