"""From a request's prompts to what its questions are asked with."""

from __future__ import annotations

from latentrt.engines.distilled import guidance_width
from latentrt.engines.manifest import Component

from .denoiser import Conditioning
from .prompt.encoder import EncodedPrompts
from .request import Request


def is_guided(request: Request, unet: Component) -> bool:
    """Whether the negative prompt plays a part.

    A UNet that guidance was distilled into is told the scale: it needs no second row, and takes no negative prompt.
    """
    return request.guided and guidance_width(unet.inputs) is None


def conditioning(texts: EncodedPrompts, request: Request, unet: Component) -> Conditioning:
    """What a request's questions are asked with, as its UNet wants them."""
    if guidance_width(unet.inputs) is not None:
        return Conditioning(texts.positive, told_scale=request.guidance_scale)
    return Conditioning(texts.positive, texts.negative, request.guidance)
