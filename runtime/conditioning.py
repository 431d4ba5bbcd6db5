"""From a request's prompts to what its questions are asked with."""

from __future__ import annotations

from latentrt.engines.distilled import guidance_width
from latentrt.engines.manifest import Component

from .denoiser import Conditioning
from .prompt.encoder import EncodedPrompts, PromptEncoder
from .request import Request


def condition(encoder: PromptEncoder, request: Request, unet: Component) -> tuple[EncodedPrompts, Conditioning]:
    """Encode a request's prompts, as its UNet wants them.

    Raises:
        InputError: a prompt is not text, or its weights cannot be read.
        EngineError: the text encoder failed.
    """
    distilled = guidance_width(unet.inputs) is not None
    if distilled:  # it is told the scale: it needs no second row, and takes no negative prompt
        texts = encoder.encode(request, guided=False)
        return texts, Conditioning(texts.positive, told_scale=request.guidance_scale)
    texts = encoder.encode(request, guided=request.guided)
    return texts, Conditioning(texts.positive, texts.negative, request.guidance)
