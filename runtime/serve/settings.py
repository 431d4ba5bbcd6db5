"""What a server takes in, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass

from latentrt.engines.errors import InputError

from ..pipeline import MAX_ROWS
from ..request import MAX_STEPS
from .api_keys import ApiKeys

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})  # what a machine calls itself
SHORTEST, MAX_SECONDS = 0.01, 86_400.0  # of a time limit: nothing is done in less, and a day is as good as none
LEAST_STALL = 300.0  # seconds: engines that compile or tune themselves at a first call take minutes


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """The limits of one server, each checked before anything is allocated.

    Attributes:
        max_rows: rows of one UNet call; a guided picture takes two.
        max_queue: pictures that may wait beside those that `max_rows` has room for.
        max_per_key: pictures that one API key may have under way; None for as many as there is room for.
        request_timeout: seconds from a request's arrival until its rows are freed and it is answered 504.
        grace: seconds that SIGTERM leaves to what is under way; None for `request_timeout`.
        stall_timeout: seconds after which a turn of the engines is taken for one that never ends; None for what
            `stall_seconds` says.
        max_pixels: width times height of a picture.
        max_images: pictures of one request.
        max_prompt_chars: of a prompt, and of a negative prompt.
        max_body_bytes: of a request's body, refused while it is read.
        body_timeout: seconds that a body may take to arrive.
        api_keys: who may ask; None for everybody.
        allowed_hosts: names that the server is asked by, in lower case and without a port; None for any.
        model_name: what clients call the bundle; None for the name of its folder.
        previews: whether pictures may be looked at while they are drawn.
    """

    max_rows: int = MAX_ROWS
    max_queue: int = 64
    max_per_key: int | None = None
    request_timeout: float = 120.0
    grace: float | None = None
    stall_timeout: float | None = None
    max_pixels: int = 1024 * 1024
    max_steps: int = 150
    max_images: int = 10  # OpenAI's
    max_prompt_chars: int = 4000
    max_body_bytes: int = 2**20
    body_timeout: float = 20.0
    api_keys: ApiKeys | None = None
    allowed_hosts: frozenset[str] | None = None
    model_name: str | None = None
    previews: bool = True

    def __post_init__(self) -> None:
        for name in ("max_rows", "max_per_key", "max_pixels", "max_images", "max_prompt_chars", "max_body_bytes"):
            _check(name, getattr(self, name), 1, None)
        _check("max_queue", self.max_queue, 0, None)
        for name in ("request_timeout", "body_timeout", "stall_timeout"):
            _check(name, getattr(self, name), SHORTEST, MAX_SECONDS)
        _check("grace", self.grace, 0, MAX_SECONDS)
        if self.max_steps > MAX_STEPS:
            raise InputError(f"max_steps is at most {MAX_STEPS}, the model's own timesteps; got {self.max_steps}")
        _check("max_steps", self.max_steps, 1, None)

    @property
    def slots(self) -> int:
        """Guided pictures that one UNet call has room for."""
        return max(1, self.max_rows // 2)

    @property
    def capacity(self) -> int:
        """Pictures that may be under way: drawn, or waiting."""
        return self.slots + self.max_queue

    @property
    def grace_seconds(self) -> float:
        """How long SIGTERM waits for what is under way."""
        return self.request_timeout if self.grace is None else self.grace

    @property
    def stall_seconds(self) -> float:
        """How long a turn may take: twice what a request may, and time enough for an engine that compiles when called.

        No request is there any more that could have the answer; but a slow machine is no broken one.
        """
        return max(LEAST_STALL, 2 * self.request_timeout) if self.stall_timeout is None else self.stall_timeout


def _check(name: str, value: float | None, least: float, most: float | None) -> None:
    if value is not None and not (least <= value and (most is None or value <= most)):
        wanted = f"{least:g} or more" if most is None else f"from {least:g} to {most:g}"
        raise InputError(f"{name} is out of range: it is {wanted}; got {value!r}")
