"""What an application on Ray Serve can be told: the words of `latentrt serve`, and those of its replicas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec

from latentrt.engines.auto import AUTO
from latentrt.engines.backend import ON_GPU, backend_names
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import InputError, unknown_name

from ..pipeline import MAX_ROWS
from .api_keys import read_api_keys
from .arguments import ServeArguments
from .opening import Opening
from .server import SENDING_SECONDS
from .service import NOT_READY_SECONDS
from .settings import LOOPBACK, ServeSettings

OTHERS = 100  # requests beside pictures: the page, health, progress, and those that the service is about to refuse
ANY_HOST = "*"

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Share = Annotated[float, msgspec.Meta(ge=0)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]
_Words = list[str] | str  # a list, or on a command line words with commas between


class RayArguments(ServeArguments, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The arguments of the application, by name.

    Those that are not told of here are the options of `latentrt serve` of the same name, and are each replica's.

    Attributes:
        bundle: a folder that every node has in the same place.
        api_key_file: likewise.
        allowed_hosts: names that clients call the cluster by; "*" for any; those of loopback if not given.
        replicas: how many there are; not beside `max_replicas`.
        min_replicas, max_replicas: between which Ray chooses by the load.
        target_ongoing_requests: of one replica, that Ray aims at; as many pictures as share a call if not given.
        num_gpus: of one replica; 1 for an engine that runs on GPUs and 0 for others, if not given.
        num_cpus: of one replica; an engine on the processor computes in as many threads.
        health_check_period: seconds between two checks. Three that fail have the replica replaced.
        health_check_timeout: seconds until a check has failed: more than a step of a full call takes.
    """

    embedding: _Words = ""
    tile: _Count | None = None
    max_rows: _Count = MAX_ROWS
    max_per_key: int | None = None
    grace: float | None = None
    api_key_file: str | None = None
    allowed_hosts: _Words | None = None
    max_body_bytes: int = 2**20
    model_name: str | None = None
    previews: bool = True
    replicas: _Count | None = None
    min_replicas: Annotated[int, msgspec.Meta(ge=0)] | None = None
    max_replicas: _Count | None = None
    target_ongoing_requests: _Seconds | None = None
    num_gpus: _Share | None = None
    num_cpus: _Share = 1.0
    health_check_period: _Seconds = 2.0
    health_check_timeout: _Seconds = 60.0

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """The arguments as Ray hands them over: of a configuration file, or all words of a command line.

        Raises:
            LatentrtError: one is missing, unknown or out of range, or there is no bundle.
        """
        known = cls.__struct_fields__
        for name in given:
            if name not in known:
                raise unknown_name("argument", str(name), known)
        try:
            found = msgspec.convert(dict(given), cls, strict=False)
        except msgspec.ValidationError as error:
            raise InputError(f"the arguments of the application cannot be used: {error}") from error
        found._check()
        return found

    def _check(self) -> None:
        if self.engine not in {AUTO, "fake", *backend_names()}:
            raise unknown_name("engine", self.engine, [AUTO, *backend_names()])
        if self.replicas is not None and self.max_replicas is not None:
            raise InputError("replicas is a fixed number, max_replicas has Ray choose one: give one of them")
        if self.max_replicas is None and (self.min_replicas, self.target_ongoing_requests) != (None, None):
            raise InputError("min_replicas and target_ongoing_requests need max_replicas")
        if (self.min_replicas or 0) > (self.max_replicas or self.min_replicas or 0):
            raise InputError(f"min_replicas is at most max_replicas, {self.max_replicas}; got {self.min_replicas}")
        if not Path(self.bundle).is_absolute():
            raise InputError(f"bundle is the whole path of a folder, the same on every node; got {self.bundle!r}")
        Bundle.open(self.bundle, self.opening().engine_dir)
        self.settings()

    @property
    def of_one_replica(self) -> Self:
        """The same without what is Ray's to do: replicas that are there need not start again for it."""
        return msgspec.structs.replace(self, **{name: getattr(_NONE, name) for name in _OF_RAY})

    def opening(self) -> Opening:
        """How a replica opens its pipeline: on the GPU that Ray gave it, or in its share of the processor."""
        return self.opening_of(
            Path(self.bundle),
            None if self.engine_dir is None else Path(self.engine_dir),
            threads=max(1, int(self.num_cpus)),
            embeddings=_words(self.embedding),
        )

    def settings(self) -> ServeSettings:
        """The limits of one replica."""
        hosts = LOOPBACK if self.allowed_hosts is None else frozenset(map(str.lower, _words(self.allowed_hosts)))
        return self.limits(
            max_per_key=self.max_per_key,
            grace=self.grace,
            max_body_bytes=self.max_body_bytes,
            api_keys=None if self.api_key_file is None else read_api_keys(Path(self.api_key_file)),
            allowed_hosts=None if ANY_HOST in hosts else hosts,
            model_name=self.model_name,
            previews=self.previews,
        )

    def deployment(self) -> dict[str, Any]:
        """The options of the deployment, in Ray Serve's words.

        A request is refused by the replica it reaches, in the words of the API that it speaks. Ray's own two limits lie
        beyond the replica's. The one of a proxy counts those too that are on their way to a replica, and holds what
        comes while there is none.
        """
        settings = self.settings()
        room = settings.capacity + OTHERS
        gpus = float(self.engine in ON_GPU) if self.num_gpus is None else self.num_gpus
        return {
            "ray_actor_options": {"num_cpus": self.num_cpus, "num_gpus": gpus},
            "max_ongoing_requests": room,
            "max_queued_requests": room,
            "backpressure_config": {"status_code": 503, "retry_after_s": NOT_READY_SECONDS},
            "health_check_period_s": self.health_check_period,
            "health_check_timeout_s": self.health_check_timeout,
            "graceful_shutdown_timeout_s": settings.grace_seconds + SENDING_SECONDS,
            "graceful_shutdown_wait_loop_s": 0.5,  # between two looks at what is under way
            **self._count(settings.slots),
        }

    def _count(self, slots: int) -> dict[str, Any]:
        if self.max_replicas is None:
            return {"num_replicas": self.replicas or 1}
        return {
            "autoscaling_config": {
                "min_replicas": 1 if self.min_replicas is None else self.min_replicas,
                "max_replicas": self.max_replicas,
                "target_ongoing_requests": self.target_ongoing_requests or slots,
            }
        }


_NONE = RayArguments(bundle="/")
_OF_RAY = (
    "replicas",
    "min_replicas",
    "max_replicas",
    "target_ongoing_requests",
    "num_gpus",
    "health_check_period",
    "health_check_timeout",
)


def _words(given: _Words) -> tuple[str, ...]:
    return tuple(word for word in (given.split(",") if isinstance(given, str) else given) if word)
