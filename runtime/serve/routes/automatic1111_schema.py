"""The words of AUTOMATIC1111's API, and what they are in latentrt's."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from latentrt.engines.errors import InputError, unknown_name

from ...samplers import SAMPLERS
from ..seed_by_lot import seed_by_lot

MAX_CHUNKS = 4  # of 75 tokens: the web UI reads on without end, and each makes every step dearer
SAMPLER_NAMES = {
    "Euler": "euler",
    "Euler a": "euler_ancestral",
    "LMS": "lms",
    "Heun": "heun",
    "DPM2": "dpm2",
    "DPM2 a": "dpm2_ancestral",
    "DPM++ 2S a": "dpmpp_2s_ancestral",
    "DPM++ 2M": "dpmpp_2m",
    "DPM++ SDE": "dpmpp_sde",
    "DPM++ 2M SDE": "dpmpp_2m_sde",
    "DPM++ 3M SDE": "dpmpp_3m_sde",
    "DDIM": "ddim",
    "PLMS": "plms",
    "UniPC": "unipc",
    "LCM": "lcm",
}
_BY_NAME = {name.lower(): ours for name, ours in SAMPLER_NAMES.items()} | {name: name for name in SAMPLERS}
SCHEDULERS = {"automatic": None, "uniform": None, "karras": "karras", "exponential": "exponential"}
# what "Automatic" is there; its Karras steps for DPM2 a are none of diffusers', and so none of ours
_AUTOMATIC = {
    "dpm2": "karras",
    "dpmpp_2s_ancestral": "karras",
    "dpmpp_2m": "karras",
    "dpmpp_sde": "karras",
    "dpmpp_2m_sde": "exponential",
    "dpmpp_3m_sde": "exponential",
}
_IN_NAME = ("karras", "exponential")  # older clients write "DPM++ 2M Karras"


class TextToImage(BaseModel):
    """A request for pictures. What else the web UI can do is refused where it is asked for.

    Fields that no client of text to picture needs are passed over.

    `(word:1.3)`, `[word]` and BREAK in prompts mean what they mean there.
    """

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    prompt: str = ""
    negative_prompt: str = ""
    seed: Annotated[int, Field(ge=-1)] = -1
    subseed: Annotated[int, Field(ge=-1)] = -1
    subseed_strength: Annotated[float, Field(ge=0, le=1)] = 0.0
    batch_size: Annotated[int, Field(ge=1, le=64)] = 1
    n_iter: Annotated[int, Field(ge=1, le=64)] = 1
    steps: Annotated[int, Field(ge=1)] = 20
    cfg_scale: Annotated[float, Field(ge=0)] = 7.0
    width: Annotated[int, Field(ge=1)] | None = None
    height: Annotated[int, Field(ge=1)] | None = None
    sampler_name: str | None = None
    sampler_index: str | None = None  # the name, in older clients
    scheduler: str | None = None
    override_settings: dict[str, Any] = {}

    enable_hr: bool | None = False
    restore_faces: bool | None = False
    tiling: bool | None = False
    script_name: str | None = None
    styles: list[str] | None = None
    alwayson_scripts: dict[str, Any] | None = None

    def first_seed(self) -> int:
        """The seed of the first picture; -1 is drawn by lot."""
        return seed_by_lot() if self.seed == -1 else self.seed

    def orders(self, seed: int) -> list[dict[str, Any]]:
        """One picture each.

        Raises:
            InputError: a feature, a sampler or a scheduler that is not here.
        """
        for name in ("enable_hr", "restore_faces", "tiling", "script_name", "styles", "alwayson_scripts"):
            if getattr(self, name):
                raise InputError(f"{name}: this server has no such feature; leave it out")
        sampler, spacing = self._sampler()
        order: dict[str, Any] = {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "prompt_syntax": "weighted",
            "max_prompt_chunks": MAX_CHUNKS,
            "num_inference_steps": self.steps,
            "guidance_scale": self.cfg_scale,
            "sampler": sampler,
            "spacing": spacing,
            "width": self.width,
            "height": self.height,
        }
        count = range(self.batch_size * self.n_iter)
        if not self.subseed_strength:
            return [order | {"seed": seed + i} for i in count]
        order |= {"seed": seed, "variation_strength": self.subseed_strength}  # all are variations of one picture
        first = seed_by_lot() if self.subseed == -1 else self.subseed
        return [order | {"variation_seed": first + i} for i in count]

    def _sampler(self) -> tuple[str, str | None]:
        """Our sampler and spacing."""
        asked = self.sampler_name or self.sampler_index or "Euler"
        name, scheduler = asked.strip().lower(), (self.scheduler or "automatic").strip().lower()
        base, _, last = name.rpartition(" ")
        if last in _IN_NAME:
            name, scheduler = base, last
        if name not in _BY_NAME:
            raise unknown_name("sampler_name", asked, SAMPLER_NAMES)
        if scheduler not in SCHEDULERS:
            raise unknown_name("scheduler", str(self.scheduler), SCHEDULERS)
        ours = _BY_NAME[name]
        return ours, _AUTOMATIC.get(ours) if scheduler == "automatic" else SCHEDULERS[scheduler]


class TextToImageAnswer(BaseModel):
    """Pictures as PNG in base64; `info` is JSON within JSON, as the web UI has it."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


class Sampler(BaseModel):
    """A sampler, by the web UI's name."""

    name: str
    aliases: list[str]
    options: dict[str, str] = {}


class Checkpoint(BaseModel):
    """The bundle's model; no path of the server is told."""

    model_config = ConfigDict(protected_namespaces=())

    title: str
    model_name: str
    hash: str
    sha256: str
    filename: str = ""
    config: str | None = None


class ProgressAnswer(BaseModel):
    """How far a request is: `progress` from 0 to 1, and seconds that are left."""

    progress: float
    eta_relative: float
    state: dict[str, Any]
    current_image: str | None = None
    textinfo: str | None = None

    @classmethod
    def idle(cls) -> ProgressAnswer:
        """Nothing is under way."""
        return cls(progress=0.0, eta_relative=0.0, state={"job": "", "job_count": 0})
