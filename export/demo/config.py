"""What the demo model is and how it is trained: every number of it, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SEED = 0
CHECKPOINT = Path(__file__).parent / "checkpoint"  # where the trained model lies in the repository

# Heads of 16 channels or more, because TensorRT's fused attention starts there.
UNET: dict[str, Any] = {
    "sample_size": 16,  # 128 pixels // 8
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (64, 128, 128),
    "layers_per_block": 1,
    "cross_attention_dim": 96,
    "attention_head_dim": 4,  # diffusers' name for the number of heads
    "norm_num_groups": 32,
}

VAE: dict[str, Any] = {
    "sample_size": 128,
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (32, 48, 64, 96),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "scaling_factor": 0.18215,
}

TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}


@dataclass(frozen=True)
class Stage:
    """One training run: its length and its optimiser."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    ema_decay: float = 0.999
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """The whole training, stage after stage. `quick()` is the same recipe, far too short, for tests."""

    text: Stage = field(default_factory=lambda: Stage(steps=1500, batch=96, learning_rate=1e-3))
    autoencoder: Stage = field(default_factory=lambda: Stage(steps=4000, batch=16, learning_rate=1e-3))
    diffusion: Stage = field(default_factory=lambda: Stage(steps=8000, batch=32, learning_rate=6e-4, warmup=200))
    decoder: Stage = field(default_factory=lambda: Stage(steps=6000, batch=16, learning_rate=6e-4))
    detail: Stage = field(default_factory=lambda: Stage(steps=3700, batch=32, learning_rate=3e-4, warmup=200))
    ft_ema: Stage = field(default_factory=lambda: Stage(steps=600, batch=4, learning_rate=8e-5, ema_decay=0.995))
    ft_mse: Stage = field(default_factory=lambda: Stage(steps=600, batch=4, learning_rate=8e-5, ema_decay=0.995))
    plain_noise_steps: int = 2900  # of the diffusion model; then `diffusion.py` makes the text worth reading
    scale_batches: int = 16  # of eight scenes each, that the deviation of latents is measured of
    latent_pool: int = 24_000  # scenes encoded once, before decoders and diffusion model train on them
    caption_dropout: float = 0.1  # so that the empty prompt means "any scene"

    @classmethod
    def quick(cls) -> Recipe:
        """Two steps of everything: shows that the code runs, teaches the model nothing."""
        tiny = Stage(steps=2, batch=1, learning_rate=1e-3, warmup=1)
        return cls(
            text=tiny,
            autoencoder=tiny,
            diffusion=tiny,
            decoder=tiny,
            detail=tiny,
            ft_ema=tiny,
            ft_mse=tiny,
            scale_batches=1,
            latent_pool=8,
            plain_noise_steps=1,
        )
