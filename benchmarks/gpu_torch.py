"""PyTorch's side of `benchmarks/engines_gpu.py`: diffusers' pipeline, as it comes or with its UNet compiled."""

from __future__ import annotations

import itertools
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor

from latentrt.engines.tensor import Feeds
from latentrt.export.vocabulary import clip_tokenizer

from .gpu_contestants import PROMPT, Contestant, Entry
from .random_model import ModelSize, random_text_encoder, random_unet, random_vae, unet_calls, unet_teraflop

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_SIDE = 8192  # of the matrices whose product says how fast the device multiplies at most
_KINDS = {  # of kernels, by what their names hold; the first that fits counts
    "attention": r"fmha|flash|attention",
    "convolution": r"conv|fprop|implicit|dgrad|winograd",
    "matrix product": r"gemm|cutlass|nvjet|splitk|_mm_|matmul",
    "normalisation": r"norm|welford|moments",
    "copy": r"memcpy|memset|copy|transpose|nchw|nhwc|cat",
}


class TorchContestant(Contestant):
    """The random model in diffusers' hands, once it has answered. Compiled: max-autotune, channels last."""

    def __init__(self, entry: Entry, size: ModelSize, device: str) -> None:
        self._device, self._dtype = device, _DTYPES[entry.precision]
        self._compiled, self._size = entry.compiled, size
        unet: Any = random_unet(size).to(device, self._dtype)
        if entry.compiled:
            unet = torch.compile(unet.to(memory_format=torch.channels_last), mode="max-autotune")
        self._pipeline = StableDiffusionPipeline(
            vae=random_vae(size).to(device, self._dtype),
            text_encoder=random_text_encoder(size).to(device, self._dtype),
            tokenizer=clip_tokenizer(),
            unet=unet,
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        self._pipeline.set_progress_bar_config(disable=True)
        first = next(iter(unet_calls(size).values()))
        self.answer({name: tensor.numpy() for name, tensor in first.items()})

    def answer(self, feeds: Feeds) -> NDArray[Any]:
        """As `Contestant.answer`."""
        answer: NDArray[Any] = self._call(self._uploaded(feeds)).float().cpu().numpy()
        return answer

    def seconds(self, feeds: Sequence[Feeds], calls: int) -> list[float]:
        """As `Contestant.seconds`; inputs are on the device before, and answers stay there."""
        found, uploaded = [], [self._uploaded(given) for given in feeds]
        for given in itertools.islice(itertools.cycle(uploaded), calls):
            self._wait()
            started = time.perf_counter()
            self._call(given)
            self._wait()
            found.append(time.perf_counter() - started)
        return found

    def picture(self, steps: int) -> dict[str, Any]:
        """As `Contestant.picture`."""
        self._wait()
        started = time.perf_counter()
        self._pipeline(PROMPT, num_inference_steps=steps, generator=torch.Generator().manual_seed(0))
        self._wait()
        return {"seconds": time.perf_counter() - started}

    def floor(self) -> dict[str, float]:
        """The arithmetic of a call, in 10^12; on a GPU the speed of a large matrix product, and the ms that follow."""
        work = {"TFLOP of a call": float(f"{unet_teraflop(self._size):.3g}")}
        if self._device == "cpu":
            return work
        matrix = torch.randn(_SIDE, _SIDE, device=self._device, dtype=self._dtype)
        found = []
        for _ in range(13):
            self._wait()
            started = time.perf_counter()
            torch.mm(matrix, matrix)
            self._wait()
            found.append(2 * _SIDE**3 / (time.perf_counter() - started) / 1e12)
        speed = statistics.median(found[3:])
        milliseconds = 1e3 * work["TFLOP of a call"] / speed
        return work | {"TFLOP/s of a matrix product": round(speed, 1), "ms": round(milliseconds, 2)}

    def forget(self) -> None:
        """Give back the memory that compiling and trying took beside what calls take."""
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def _uploaded(self, feeds: Feeds) -> dict[str, Tensor]:
        given = {name: torch.from_numpy(array).to(self._device) for name, array in feeds.items()}
        given |= {name: given[name].to(self._dtype) for name in ("sample", "encoder_hidden_states")}
        if self._compiled:
            given["sample"] = given["sample"].to(memory_format=torch.channels_last)
        return given

    def _call(self, given: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            if self._compiled:
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            answer: Tensor = self._pipeline.unet(**given, return_dict=False)[0]
        return answer

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


def kernels(call: Callable[[], Any], calls: int = 3) -> dict[str, Any]:
    """Milliseconds on the GPU of one call, by kind of kernel, and its longest kernels by name; CUPTI counts them."""
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
    spent = {event.key: event.self_device_time_total / 1e3 / calls for event in profile.key_averages()}
    kinds: dict[str, float] = defaultdict(float)
    for name, milliseconds in spent.items():
        kinds[_kind(name)] += milliseconds
    longest = sorted(spent.items(), key=lambda item: -item[1])[:12]
    return {
        "ms by kind": {name: round(ms, 3) for name, ms in sorted(kinds.items(), key=lambda item: -item[1])},
        "longest, ms": {name[:100]: round(ms, 3) for name, ms in longest},
    }


def _kind(kernel: str) -> str:
    return next((kind for kind, words in _KINDS.items() if re.search(words, kernel.lower())), "other")
