"""The words of OpenAI's images API, and those that this server adds to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from latentrt.engines.errors import InputError
from latentrt.engines.size import MAX_SIZE

from ..picture_files import QUALITY, OutputFormat

MAX_PARTIAL = 3  # OpenAI's


class ImageRequest(BaseModel):
    """A request for pictures. The second half of the fields is latentrt's own.

    `quality`, `style`, `moderation` and `user` are taken and change nothing: a bundle has one quality, and a safety
    checker of its own.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    prompt: str
    model: str | None = None
    n: Annotated[int, Field(ge=1)] | None = 1
    size: Annotated[str, Field(pattern=r"^(auto|[0-9]{1,5}x[0-9]{1,5})$")] | None = "auto"
    response_format: Literal["b64_json", "url"] | None = "b64_json"
    output_format: OutputFormat | None = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    background: Literal["auto", "opaque", "transparent"] | None = None
    stream: bool | None = False
    partial_images: Annotated[int, Field(ge=0, le=MAX_PARTIAL)] | None = 0
    quality: str | None = None
    style: str | None = None
    moderation: str | None = None
    user: str | None = None

    negative_prompt: str = ""
    seed: Annotated[int, Field(ge=0)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1)] = 20
    guidance_scale: Annotated[float, Field(ge=0)] = 7.5
    sampler: str = "euler"
    decoder: str | None = None

    @property
    def file_format(self) -> OutputFormat:
        """What the pictures are encoded as."""
        return self.output_format or "png"

    @property
    def file_quality(self) -> int:
        """How well, where the format asks."""
        return QUALITY if self.output_compression is None else self.output_compression

    def check(self) -> None:
        """Refuse what this server cannot do, by name.

        Raises:
            InputError: says what to ask for instead.
        """
        if self.response_format == "url":
            raise InputError("response_format: this server keeps no files, so it has no URL to give; ask for b64_json")
        if self.background == "transparent":
            raise InputError("background: Stable Diffusion draws opaque pictures alone; ask for auto or opaque")
        if self.stream and self.n not in {None, 1}:
            raise InputError(f"n: a stream draws one picture; got {self.n}")

    def orders(self, seed: int) -> list[dict[str, Any]]:
        """One picture each, from `seed`, `seed` + 1, ..."""
        width, height = self._sides()
        order: dict[str, Any] = {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "sampler": self.sampler,
            "decoder": self.decoder,
            "width": width,
            "height": height,
        }
        return [order | {"seed": seed + i} for i in range(self.n or 1)]

    def _sides(self) -> tuple[int | None, int | None]:
        if self.size in {None, "auto"}:
            return None, None
        width, height = (int(side) for side in str(self.size).split("x"))
        if max(width, height) > MAX_SIZE:
            raise InputError(f"size: a side has at most {MAX_SIZE} pixels; got {self.size}")
        return width, height


class ImageData(BaseModel):
    """One picture; `seed` draws it again, and a `flagged` one was made black by the safety checker."""

    b64_json: str
    seed: int
    flagged: bool


class ImageAnswer(BaseModel):
    """The pictures of a request."""

    created: int
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    size: str
    data: list[ImageData]


class Model(BaseModel):
    """A model of this server: it has one."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "latentrt"


class Models(BaseModel):
    """All models of this server."""

    object: Literal["list"] = "list"
    data: list[Model]


class OpenAIErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    """OpenAI's error object."""

    error: OpenAIErrorBody
