"""One step of a pipeline, to know that its engines draw."""

from __future__ import annotations

import asyncio

from latentrt.engines.errors import EngineError

from ..pipeline import Pipeline

PROBE = {"prompt": "", "num_inference_steps": 1}  # guided, at the model's own size: what most requests are like


async def probe(pipeline: Pipeline) -> None:
    """Draw one step; it joins the others as any request does.

    Raises:
        EngineError: it failed, or gave NaN or infinity.
    """
    try:
        await asyncio.wrap_future(pipeline.submit(**PROBE))  # type: ignore[arg-type] # `plan` checks the options
    except asyncio.CancelledError as cancelled:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise EngineError("the probe was cancelled: the pipeline is closed") from cancelled
