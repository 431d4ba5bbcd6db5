"""What a single-file checkpoint's key shapes tell of its networks, and what only its metadata can tell.

The configurations are diffusers' and transformers' own. Two files with equal shapes may still differ in head count and
group count: those facts come from the file's `latentrt.architecture` metadata (JSON), else they are SD 1.5's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from latentrt.engines.errors import CheckpointError
from latentrt.engines.licence import OPENRAIL_M

METADATA_KEY = "latentrt.architecture"
_MODELSPEC_PREDICTION = "modelspec.prediction_type"  # https://github.com/Stability-AI/ModelSpec
VAE_SCALE_FACTOR = 8  # pixels per latent
SD_LICENCE = OPENRAIL_M

GUIDANCE_KEY = "time_embed.cond_proj.weight"  # a UNet distilled with guidance (LCM) is told the scale through it

Count = Annotated[int, msgspec.Meta(ge=1, le=4096)]
Prediction = Literal["epsilon", "v_prediction"]
Shapes = Mapping[str, tuple[int, ...]]


class _Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base: an unknown fact is an error, because an unread one gives wrong pictures and no message."""


class UNetFacts(_Facts, frozen=True):
    """Attention heads per layer and group-norm groups."""

    num_heads: Count = 8
    norm_num_groups: Count = 32


class VaeFacts(_Facts, frozen=True):
    """Group-norm groups."""

    norm_num_groups: Count = 32


class TextFacts(_Facts, frozen=True):
    """Attention heads; without it one per 64 channels, as in every CLIP."""

    num_attention_heads: Count | None = None


class Facts(_Facts, frozen=True):
    """What shapes cannot tell. The defaults are SD 1.5's."""

    unet: UNetFacts = UNetFacts()
    vae: VaeFacts = VaeFacts()
    text_encoder: TextFacts = TextFacts()
    default_size: Annotated[int, msgspec.Meta(ge=8, le=8192, multiple_of=VAE_SCALE_FACTOR)] = 512
    prediction_type: Prediction = "epsilon"
    licence: str = SD_LICENCE


def parse_facts(metadata: Mapping[str, str], where: str) -> Facts | None:
    """The facts stated in a safetensors file's metadata, or None where it states none.

    Raises:
        CheckpointError: the statement is not what `Facts` describes.
    """
    if METADATA_KEY not in metadata:
        return None
    try:
        return msgspec.json.decode(metadata[METADATA_KEY], type=Facts)
    except msgspec.MsgspecError as error:
        raise CheckpointError(f"{where}: its metadata {METADATA_KEY!r} cannot be read: {error}") from error


def stated_prediction(metadata: Mapping[str, str], facts: Facts) -> Prediction:
    """What a safetensors file says its UNet predicts: in `latentrt.architecture`, or as modelspec.io has it ("v")."""
    if METADATA_KEY not in metadata and metadata.get(_MODELSPEC_PREDICTION, "").startswith("v"):
        return "v_prediction"
    return facts.prediction_type


@dataclass(frozen=True)
class KeyTable:
    """Keys and shapes of one network, its prefix removed, and the file that holds it (for messages)."""

    where: str
    network: str
    shapes: Shapes

    def has(self, prefix: str) -> bool:
        """Whether any key starts so."""
        return any(key.startswith(prefix) for key in self.shapes)

    def shape(self, *keys: str, rank: int = 1) -> tuple[int, ...]:
        """The shape of the first of these keys that is there with at least `rank` dimensions.

        Several keys that tell the same let the architecture be known even when one is missing, so that the missing one
        can then be named together with all others.
        """
        for key in keys:
            shape = self.shapes.get(key, ())
            if len(shape) >= rank:
                return shape
        raise CheckpointError(
            f"{self.where}: the {self.network}'s architecture cannot be read: expected the key {keys[0]!r} with "
            f"{rank} or more dimensions, found {self.shapes.get(keys[0], 'none')}"
        )

    def count(self, prefix: str) -> int:
        """One more than the greatest N in keys `prefix.N.`; 0 where there is none."""
        start = prefix + "."
        numbers = [key[len(start) :].partition(".")[0] for key in self.shapes if key.startswith(start)]
        return max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)


def unet_config(table: KeyTable, facts: UNetFacts, default_size: int) -> dict[str, Any]:
    """`UNet2DConditionModel`'s configuration, from keys such as `input_blocks.1.0.in_layers.2.weight`.

    Raises:
        CheckpointError: the keys are not those of an SD 1.x UNet.
    """
    levels = _unet_levels(table)
    layers = _same_everywhere(table, "residual blocks", [len(level) for level in levels])
    attends = [any(table.has(f"input_blocks.{block}.1.") for block in level) for level in levels]
    channels = [_block_width(table, level[-1]) for level in levels]
    to_k = next((key for key in table.shapes if key.endswith(".attn2.to_k.weight")), "…attn2.to_k.weight")
    _check_divides(table, "norm_num_groups", facts.norm_num_groups, channels)
    _check_divides(table, "num_heads", facts.num_heads, [c for c, a in zip(channels, attends, strict=True) if a])
    distilled = {"time_cond_proj_dim": table.shape(GUIDANCE_KEY, rank=2)[1]} if table.has(GUIDANCE_KEY) else {}
    return distilled | {
        "sample_size": default_size // VAE_SCALE_FACTOR,
        "in_channels": table.shape("input_blocks.0.0.weight", rank=2)[1],
        "out_channels": table.shape("out.2.bias", "out.2.weight")[0],
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        "block_out_channels": tuple(channels),
        "layers_per_block": layers,
        "cross_attention_dim": table.shape(to_k, rank=2)[1],
        "attention_head_dim": facts.num_heads,  # diffusers' name for the number of heads
        "norm_num_groups": facts.norm_num_groups,
    }


def _unet_levels(table: KeyTable) -> list[list[int]]:
    """The indices of the residual input blocks, level by level: a downsampler stands between two levels."""
    levels: list[list[int]] = [[]]
    for block in range(1, table.count("input_blocks")):
        if table.has(f"input_blocks.{block}.0.op."):
            levels.append([])
        else:
            levels[-1].append(block)
    return levels


def _block_width(table: KeyTable, block: int) -> int:
    layers = ("out_layers.3.bias", "out_layers.3.weight", "emb_layers.1.bias", "in_layers.2.bias")
    return table.shape(*(f"input_blocks.{block}.0.{layer}" for layer in layers))[0]


def vae_config(table: KeyTable, facts: VaeFacts, default_size: int) -> dict[str, Any]:
    """`AutoencoderKL`'s configuration, from keys such as `encoder.down.0.block.0.conv1.weight`.

    Raises:
        CheckpointError: the keys are not those of an SD 1.x autoencoder.
    """
    levels = range(table.count("encoder.down"))
    layers = _same_everywhere(table, "residual blocks", [table.count(f"encoder.down.{i}.block") for i in levels])
    ends = ("conv2.bias", "conv2.weight", "conv1.bias")
    channels = [table.shape(*(f"encoder.down.{i}.block.0.{end}" for end in ends))[0] for i in levels]
    _check_divides(table, "norm_num_groups", facts.norm_num_groups, channels)
    return {
        "sample_size": default_size,
        "in_channels": table.shape("encoder.conv_in.weight", rank=2)[1],
        "out_channels": table.shape("decoder.conv_out.bias", "decoder.conv_out.weight")[0],
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "block_out_channels": tuple(channels),
        "layers_per_block": layers,
        "latent_channels": table.shape("post_quant_conv.bias", "post_quant_conv.weight")[0],
        "norm_num_groups": facts.norm_num_groups,
        "scaling_factor": 0.18215,
    }


def text_config(table: KeyTable, facts: TextFacts) -> dict[str, Any]:
    """`CLIPTextConfig`'s arguments, from keys such as `encoder.layers.0.mlp.fc1.weight`.

    Raises:
        CheckpointError: the keys are not those of a CLIP text transformer.
    """
    vocabulary, width = table.shape("embeddings.token_embedding.weight", rank=2)
    heads = facts.num_attention_heads or max(1, width // 64)
    _check_divides(table, "num_attention_heads", heads, [width])
    fc1 = [f"encoder.layers.0.mlp.fc1.{end}" for end in ("bias", "weight")]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": table.shape(*fc1)[0],
        "num_hidden_layers": table.count("encoder.layers"),
        "num_attention_heads": heads,
        "max_position_embeddings": table.shape("embeddings.position_embedding.weight")[0],
        "hidden_act": "quick_gelu",
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }


def _same_everywhere(table: KeyTable, what: str, counts: list[int]) -> int:
    if not counts or len(set(counts)) > 1 or counts[0] == 0:
        raise CheckpointError(
            f"{table.where}: the {table.network}'s architecture cannot be read: expected the same number of {what} at "
            f"each level, found {counts or 'no levels'}; keys are missing, or this is not Stable Diffusion 1.x"
        )
    return counts[0]


def _check_divides(table: KeyTable, what: str, number: int, channels: Iterable[int]) -> None:
    for width in channels:
        if width % number:
            raise CheckpointError(
                f"{table.where}: the {table.network} has {width} channels, which {what} = {number} does not divide; "
                f"state the right number in the safetensors metadata {METADATA_KEY!r}"
            )


_OTHER_FAMILIES = (  # the first that fits names the file
    ("Stable Diffusion XL", ("conditioner.embedders.", "model.diffusion_model.label_emb.")),
    ("Stable Diffusion 2.x", ("cond_stage_model.model.",)),
    ("Stable Diffusion 3", ("model.diffusion_model.joint_blocks.",)),
    ("Flux", ("model.diffusion_model.double_blocks.",)),
)
_CONTEXT_WIDTHS = {1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}


def refuse_other_families(where: str, keys: Iterable[str], context_width: int | None = None) -> None:
    """Raise CheckpointError, naming the family, where keys or the UNet's context width are not SD 1.x's."""
    family = _CONTEXT_WIDTHS.get(context_width or 0)
    for key in keys:
        for name, prefixes in _OTHER_FAMILIES:
            if key.startswith(prefixes):
                family = name
    if family is not None:
        raise CheckpointError(f"{where} is {family}; latentrt exports Stable Diffusion 1.x only")
