"""Text embeddings of the demo model against diffusers' `encode_prompt` and transformers' CLIPTextModel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from latentrt import Pipeline, Request
from latentrt.engines.errors import InputError
from latentrt.export.source import SourceModel
from latentrt.export.vocabulary import clip_tokenizer
from latentrt.runtime.pipeline import PromptWarning
from latentrt.runtime.prompt.encoder import EncodedPrompts, emphasized

PROMPT, NEGATIVE = "a large red circle on a blue background", "green, blurry"
LONG = " ".join(f"a {size} {colour} star" for size in ("small", "large", "tiny") for colour in ["red", "blue", "pink"])
LONG = " ".join([LONG] * 4)  # 144 tokens, no comma
ATOL = 1e-4  # the threshold of export, on hidden states of unit scale

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


@pytest.fixture(scope="module")
def pipeline(demo_bundle: Path) -> Iterator[Pipeline]:
    with Pipeline.open(demo_bundle) as opened:
        yield opened


@pytest.fixture
def reference(demo_model: SourceModel) -> diffusers.StableDiffusionPipeline:
    """Diffusers' pipeline with a text encoder and a tokenizer of its own, which a test may give new words."""
    made = diffusers.StableDiffusionPipeline(
        vae=demo_model.vaes["kl-f8"].load(),
        text_encoder=demo_model.text_encoder.load(),
        tokenizer=clip_tokenizer(),
        unet=demo_model.unet.load(),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            clip_sample=False,
            set_alpha_to_one=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def encoded_by(pipeline: Pipeline, request: Request, *, guided: bool) -> EncodedPrompts:
    prompts = pipeline.stages.prompts
    [encoded] = prompts.embed([prompts.read(request, guided=guided)])
    return encoded


def encode(pipeline: Pipeline, prompt: str, negative: str = NEGATIVE, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    encoded = encoded_by(pipeline, Request(prompt=prompt, negative_prompt=negative, **options), guided=True)
    assert encoded.negative is not None
    return encoded.positive, encoded.negative


def wanted(
    reference: diffusers.StableDiffusionPipeline, prompt: str, negative: str = NEGATIVE, **options: Any
) -> list[np.ndarray]:
    with torch.no_grad():
        both = reference.encode_prompt(prompt, "cpu", 1, True, negative_prompt=negative, **options)
    return [states[0].numpy() for states in both]


def assert_close(found: tuple[np.ndarray, ...], expected: list[np.ndarray]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == np.float32
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL)


@pytest.mark.parametrize("prompt", [PROMPT, "", "(a:1.3) [b] BREAK", LONG, "größer 大きい 🔴"])
def test_plain_prompts_mean_what_they_mean_in_diffusers(pipeline, reference, prompt: str) -> None:
    assert_close(encode(pipeline, prompt), wanted(reference, prompt))


@pytest.mark.parametrize("clip_skip", [0, 1, 2])
def test_clip_skip_is_that_of_diffusers(pipeline, reference, clip_skip: int) -> None:
    """It leaves the negative prompt as it is, in diffusers and so here; a weighted prompt skips both."""
    model = reference.text_encoder
    assert clip_skip <= model.config.num_hidden_layers
    object.__setattr__(model, "text_model", model)  # where encode_prompt looks for the norm; transformers 5 has it here
    expected = wanted(reference, PROMPT, clip_skip=clip_skip)
    assert_close(encode(pipeline, PROMPT, clip_skip=clip_skip), expected)
    expected[1] = wanted(reference, NEGATIVE, clip_skip=clip_skip)[0]
    assert_close(encode(pipeline, PROMPT, clip_skip=clip_skip, prompt_syntax="weighted"), expected)


def hidden(reference: diffusers.StableDiffusionPipeline, *chunks: list[int]) -> torch.Tensor:
    """Each chunk of ids through transformers' model by itself, side by side: (77 * k, width)."""
    start, end = reference.tokenizer.bos_token_id, reference.tokenizer.eos_token_id
    rows = torch.tensor([[start, *ids, *[end] * (76 - len(ids))] for ids in chunks])
    with torch.no_grad():
        return reference.text_encoder(rows).last_hidden_state.flatten(0, 1)


def ids(reference: diffusers.StableDiffusionPipeline, text: str) -> list[int]:
    return reference.tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.filterwarnings("ignore:Token indices sequence length")
def test_a_long_prompt_is_chunks_of_75_and_the_other_is_padded(pipeline, reference) -> None:
    tokens = ids(reference, LONG)
    assert 75 < len(tokens) <= 150
    expected = [hidden(reference, tokens[:75], tokens[75:]), hidden(reference, ids(reference, NEGATIVE), [])]
    assert_close(encode(pipeline, LONG, max_prompt_chunks=2), [states.numpy() for states in expected])
    positive, negative = encode(pipeline, NEGATIVE, LONG, max_prompt_chunks=4)
    assert_close((negative, positive), [states.numpy() for states in expected])


def test_weights_are_applied_to_each_chunk_and_keep_its_mean(pipeline, reference) -> None:
    prompt = "a (red:1.5) [star] BREAK on (blue)"
    spans = [[("a", 1.0), ("red", 1.5), ("star", 1 / 1.1)], [("on", 1.0), ("blue", 1.1)]]
    expected = []
    for section in spans:
        tokens = [i for text, _ in section for i in ids(reference, text)]
        weights = torch.ones(77)
        weights[1 : len(tokens) + 1] = torch.tensor([w for text, w in section for _ in ids(reference, text)])
        z = hidden(reference, tokens)
        weighted = z * weights[:, None]
        expected.append(weighted * (z.mean() / weighted.mean()))
    found, _ = encode(pipeline, prompt, prompt_syntax="weighted", max_prompt_chunks=2)
    np.testing.assert_allclose(found, torch.cat(expected).numpy(), rtol=2e-4, atol=ATOL)
    assert np.abs(found[:77] - hidden(reference, ids(reference, "a red star")).numpy()).max() > 0.1


def test_weights_of_one_change_nothing(pipeline) -> None:
    plain, weighted = encode(pipeline, PROMPT), encode(pipeline, PROMPT, prompt_syntax="weighted")
    np.testing.assert_array_equal(plain, weighted)
    z = np.random.default_rng(0).standard_normal((77, 8)).astype(np.float32)
    assert emphasized(z, np.ones(77, np.float32)) is z


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("prompt", ["a photo of <toy>", "<toy>, a <toy> on blue", "a star " * 24 + "<toy> x"])
def test_textual_inversions_are_those_of_diffusers(
    demo_bundle: Path, reference, tmp_path: Path, vectors: int, prompt: str
) -> None:
    from safetensors.torch import save_file

    width = reference.text_encoder.config.hidden_size
    learned = torch.randn(vectors, width, generator=torch.Generator().manual_seed(vectors)) * 0.1
    save_file({"<toy>": learned}, tmp_path / "learned_embeds.safetensors")
    reference.load_textual_inversion(tmp_path, local_files_only=True)
    with Pipeline.open(demo_bundle) as pipe:
        assert pipe.load_textual_inversion(tmp_path / "learned_embeds.safetensors") == "<toy>"
        assert_close(encode(pipe, prompt, "<toy>"), wanted(reference, prompt, "<toy>"))
        [used] = encoded_by(pipe, Request(prompt=prompt), guided=False).used
        assert used.token == "<toy>"
        assert encoded_by(pipe, Request(prompt=PROMPT), guided=False).used == ()


def test_a_picture_of_a_long_prompt_is_that_of_diffusers(pipeline, reference) -> None:
    """The UNet with 154 text tokens a row: diffusers is given the embeddings, which the tests above have checked."""
    positive, negative = encode(pipeline, LONG, max_prompt_chunks=2)
    with torch.no_grad():
        expected = reference(
            prompt_embeds=torch.from_numpy(positive)[None],
            negative_prompt_embeds=torch.from_numpy(negative)[None],
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(3),
            height=96,
            width=96,
            output_type="latent",
        ).images.numpy()
    options = {"num_inference_steps": 3, "seed": 3, "height": 96, "width": 96, "sampler": "ddim"}
    result = pipeline.generate(LONG, negative_prompt=NEGATIVE, max_prompt_chunks=2, **options)
    assert np.linalg.norm(result.latents - expected) <= 1e-4 * np.linalg.norm(expected)
    assert result.facts[0]["max_prompt_chunks"] == "2"


def test_texts_of_different_length_share_the_loop(demo_bundle: Path) -> None:
    """They take turns, and each draws what it draws alone."""
    options = {"num_inference_steps": 4, "max_prompt_chunks": 4}
    prompts = [PROMPT, LONG, "a star", f"{LONG} BREAK {LONG}"]
    with Pipeline.open(demo_bundle, engine="fake") as pipe:
        alone = [pipe.generate(prompt, prompt_syntax="weighted", **options).latents for prompt in prompts]
        requests = [Request(prompt=prompt, prompt_syntax="weighted", **options) for prompt in prompts]
        drawings = [pipe.start(request) for request in requests]
        unet = pipe.engines["unet"]
        unet.rows.clear()
        while pipe.step():
            pass
        assert unet.rows == [4, 2, 2] * 4  # the two short ones together
        for drawing, expected in zip(drawings, alone, strict=True):
            np.testing.assert_array_equal(drawing.job.latents, expected)


def test_what_is_cut_is_told(pipeline) -> None:
    options = {"num_inference_steps": 1, "guidance_scale": 1.0}
    with pytest.warns(PromptWarning, match=r"longer than the 77 tokens .* Zebra!'"):
        pipeline.generate("a small red star " * 19 + "a Zebra!", **options)
    with pytest.warns(PromptWarning, match=r"more than the 4 chunks of 75 .*'zebra'"):
        pipeline.generate(f"{LONG} BREAK {LONG} BREAK Zebra", prompt_syntax="weighted", max_prompt_chunks=4, **options)
    with pytest.warns(PromptWarning, match="'zebra'"):
        pipeline.generate("a star BREAK zebra", prompt_syntax="weighted", **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt_syntax": "weightd"}, "did you mean 'weighted'"),
        ({"max_prompt_chunks": 0}, "max_prompt_chunks is a whole number from 1"),
        ({"max_prompt_chunks": True}, "max_prompt_chunks"),
        ({"clip_skip": -1}, "clip_skip is a whole number from 0 to"),
        ({"clip_skip": 13}, "clip_skip"),
        ({"prompt_syntax": "weighted", "negative_prompt": "(a:1.2.3)"}, "no weight"),
    ],
)
def test_bad_options_are_named(pipeline, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        pipeline.generate(PROMPT, **options)
