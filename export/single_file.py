"""The networks of a single-file checkpoint in the original layout, checked by their keys and read when asked for.

A VAE comes in a file of its own too: see `vae.py`.
"""

from __future__ import annotations

from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from .architecture import Facts, KeyTable, refuse_other_families, text_config, unet_config
from .checkpoint import Section
from .conversion import convert_text_encoder, convert_unet, empty_text_encoder, empty_unet, shapes_of
from .stored import StoredNetwork, coarsest_dtype


def original_unet(section: Section, facts: Facts) -> StoredNetwork[UNet2DConditionModel]:
    """The UNet under original names without prefix.

    Raises:
        CheckpointError: another family, or keys missing, unexpected or of the wrong shape.
    """
    where, tensors = section.checkpoint.name, section.tensors
    config = unet_config(KeyTable(where, "UNet", shapes_of(tensors)), facts.unet, facts.default_size)
    refuse_other_families(where, (), config["cross_attention_dim"])

    def empty() -> UNet2DConditionModel:
        return empty_unet(tensors, config, where)

    def load() -> UNet2DConditionModel:
        return convert_unet(section.read(), config, where)

    hashes = {where: section.checkpoint.sha256}
    return StoredNetwork(empty().config, empty, load, coarsest_dtype(tensors), hashes)


def original_text_encoder(section: Section, facts: Facts) -> StoredNetwork[CLIPTextModel]:
    """The text encoder under original names without prefix.

    Raises:
        CheckpointError: keys missing, unexpected or of the wrong shape.
    """
    where, tensors = section.checkpoint.name, section.tensors
    config = text_config(KeyTable(where, "text encoder", shapes_of(tensors)), facts.text_encoder)

    def empty() -> CLIPTextModel:
        return empty_text_encoder(tensors, config, where)

    def load() -> CLIPTextModel:
        return convert_text_encoder(section.read(), config, where)

    hashes = {where: section.checkpoint.sha256}
    return StoredNetwork(empty().config, empty, load, coarsest_dtype(tensors), hashes)
