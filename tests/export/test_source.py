"""Whole models from disk: every form gives the same networks, and what does not fit is named."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from latentrt.engines.errors import CheckpointError, InputError, LatentrtError
from latentrt.export.architecture import METADATA_KEY
from latentrt.export.demo.config import TEXT, UNET, VAE
from latentrt.export.demo.pack import pack_demo
from latentrt.export.source import SourceModel, load_source
from latentrt.export.vocabulary import clip_tokenizer

# A model of the same kind, so small that a test may write it many times.
TINY_UNET = UNET | {
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 24,
}
TINY_VAE = VAE | {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
TINY_TEXT = TEXT | {
    "vocab_size": 99,
    "hidden_size": 24,
    "intermediate_size": 48,
    "bos_token_id": 97,
    "eos_token_id": 98,
    "pad_token_id": 98,
}

Sources = dict[str, Any]


def _fresh(unet: dict[str, Any], vae: dict[str, Any], text: dict[str, Any]) -> Sources:
    """Seeded fresh modules; the refined autoencoders differ from the first in the decoder alone."""
    torch.manual_seed(0)
    own = AutoencoderKL(**vae)
    vaes = {"kl-f8": own, "ft-ema": copy.deepcopy(own), "ft-mse": copy.deepcopy(own)}
    for factor, name in ((1.1, "ft-ema"), (0.9, "ft-mse")):
        for parameter in vaes[name].decoder.parameters():
            parameter.data *= factor
    modules = {"unet": UNet2DConditionModel(**unet), "unet_ema": UNet2DConditionModel(**unet), "vaes": vaes}
    return modules | {"text_encoder": CLIPTextModel(CLIPTextConfig(**text))}


@functools.cache
def _tiny() -> Sources:
    return _fresh(TINY_UNET, TINY_VAE, TINY_TEXT)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    pack_demo(**_tiny(), folder=folder)
    return folder


def _halved(module: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.half().float() for key, tensor in module.state_dict().items()}


def _same(module: nn.Module, tensors: dict[str, Tensor]) -> bool:
    found = module.state_dict()
    return found.keys() == tensors.keys() and all(torch.equal(found[key], tensors[key]) for key in tensors)


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    plain = all(p.dtype == torch.float32 and not p.requires_grad and not p.is_meta for p in parameters)
    return plain and not any(b.is_meta for b in module.buffers()) and not any(m.training for m in module.modules())


@torch.no_grad()
def test_the_demo_model_survives_packing(tmp_path: Path) -> None:
    """Through diffusers' own conversion: the same float16 weights bit for bit, so the same outputs bit for bit."""
    modules = _fresh(UNET, VAE, TEXT)
    pack_demo(**modules, folder=tmp_path)
    paths = {name: tmp_path / f"demo-vae-{name}.safetensors" for name in ("ft-ema", "ft-mse")}
    source = load_source(tmp_path / "demo.safetensors", vaes=paths)
    assert dict(source.unet.config) == dict(modules["unet"].config)
    assert list(source.vaes) == ["kl-f8", "ft-ema", "ft-mse"]
    pairs: list[tuple[nn.Module, nn.Module]] = [(source.unet, modules["unet_ema"])]
    pairs += [(source.text_encoder, modules["text_encoder"])]
    pairs += [(source.vaes[name], module) for name, module in modules["vaes"].items()]
    for loaded, original in pairs:
        assert _same(loaded, _halved(original))
        assert _is_frozen(loaded)
        original.load_state_dict(_halved(original))
        original.eval()
    ids = source.tokenizer(["a red circle"], padding="max_length", return_tensors="pt").input_ids  # (1, 77)
    context = source.text_encoder(ids).last_hidden_state  # (1, 77, 96)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(context, modules["text_encoder"](ids).last_hidden_state)
    assert torch.equal(source.unet(latents, 7, context).sample, modules["unet_ema"](latents, 7, context).sample)
    for name, vae in source.vaes.items():
        image = vae.decode(latents).sample  # (1, 3, 64, 64)
        assert torch.equal(image, modules["vaes"][name].decode(latents).sample)
        assert torch.equal(vae.encode(image).latent_dist.mean, modules["vaes"][name].encode(image).latent_dist.mean)


def test_facts_and_provenance_of_the_demo(packed: Path) -> None:
    source = load_source(packed / "demo.safetensors", vaes={"ft-mse": packed / "demo-vae-ft-mse.safetensors"})
    assert (source.prediction_type, source.scaling_factor, source.default_size) == ("epsilon", 0.18215, 128)
    assert (source.beta_start, source.beta_end, source.num_train_timesteps, source.steps_offset) == (
        0.00085,
        0.012,
        1000,
        1,
    )
    assert (source.licence_name, source.licence_files, source.safety_checker) == ("Apache-2.0", {}, None)
    hashes = {key: value for key, value in source.provenance.items() if key.endswith("sha256")}
    assert all(len(value) == 64 for value in hashes.values())
    assert source.provenance == hashes | {
        "source": "demo.safetensors",
        "weights": "ema",
        "source.ignored": "2 averaging counters, 1 position_ids",
        "vae.ft-mse": "demo-vae-ft-mse.safetensors",
    }
    assert set(hashes) == {"source.sha256", "vae.ft-mse.sha256"}


@pytest.mark.parametrize(("weights", "name"), [("ema", "unet_ema"), ("raw", "unet")])
def test_the_asked_weights_are_loaded_as_diffusers_converts_them(weights: Any, name: str, packed: Path) -> None:
    file = load_file(packed / "demo.safetensors")
    unet = load_source(packed / "demo.safetensors", vaes={}, weights=weights).unet
    # diffusers looks for averaged weights from 100 keys up
    converted = convert_ldm_unet_checkpoint(file, dict(unet.config), extract_ema=weights == "ema")
    assert _same(unet, {key: tensor.float() for key, tensor in converted.items()})
    assert _same(unet, _halved(_tiny()[name]))


def _without_averages(file: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in file.items() if not key.startswith("model_ema.")}


@pytest.mark.parametrize("weights", ["ema", "raw"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_pickle_with_one_set_of_weights(weights: Any, wrapped: bool, packed: Path, tmp_path: Path) -> None:
    """v1-5-pruned-emaonly.ckpt: averaged weights under plain names, and no metadata, so SD 1.5's facts hold."""
    unet = UNet2DConditionModel(**TINY_UNET | {"attention_head_dim": 8, "sample_size": 64})
    vae = AutoencoderKL(**TINY_VAE | {"block_out_channels": (32, 32), "norm_num_groups": 32})
    text = CLIPTextModel(CLIPTextConfig(**TINY_TEXT | {"num_attention_heads": 1}))
    pack_demo(unet, unet, {"kl-f8": vae}, text, tmp_path)
    file = _without_averages(load_file(tmp_path / "demo.safetensors"))
    torch.save({"state_dict": file, "global_step": 1} if wrapped else file, tmp_path / "emaonly.ckpt")
    source = load_source(tmp_path / "emaonly.ckpt", vaes={}, weights=weights)
    assert _same(source.unet, _halved(unet))
    assert (source.unet.config["attention_head_dim"], source.default_size) == (8, 512)
    assert (source.provenance["weights"], source.licence_name) == ("as stored", "CreativeML OpenRAIL-M")


def test_refined_autoencoders_share_every_byte_of_the_encoder(packed: Path) -> None:
    prefix = "first_stage_model."
    main = load_file(packed / "demo.safetensors")
    own = {key.removeprefix(prefix): tensor for key, tensor in main.items() if key.startswith(prefix)}
    for name in ("ft-ema", "ft-mse"):
        refined = load_file(packed / f"demo-vae-{name}.safetensors")
        assert refined.keys() == own.keys()
        differs = {key.partition(".")[0] for key in own if not torch.equal(own[key], refined[key])}
        assert differs == {"decoder"}
        converted = convert_ldm_vae_checkpoint(refined, TINY_VAE)
        assert {key: t.dtype for key, t in converted.items()} == dict.fromkeys(converted, torch.float16)


def test_packing_twice_gives_the_same_bytes(packed: Path, tmp_path: Path) -> None:
    pack_demo(**_tiny(), folder=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in packed.iterdir())
    assert all((tmp_path / path.name).read_bytes() == path.read_bytes() for path in packed.iterdir())


def _edited(
    file: Path, to: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], facts: dict[str, Any] | None = None
) -> Path:
    stated = {"unet": {"num_heads": 4}, "vae": {"norm_num_groups": 8}, "text_encoder": {"num_attention_heads": 3}}
    save_file(change(load_file(file)), to, metadata={METADATA_KEY: json.dumps(stated | (facts or {}))})
    return to


def _drop(*keys: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda file: {key: tensor for key, tensor in file.items() if key not in keys}


def _put(**tensors: Tensor) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda file: file | tensors


U, V, T = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
RES = f"{U}input_blocks.1.0.in_layers.2.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: _drop(f"{U}out.0.weight")(_without_averages(f)), f"1 key missing: {U}out.0.weight"),
        (_drop("model_ema.diffusion_modelout0weight"), "1 key missing: model_ema.diffusion_modelout0weight"),
        (_drop(f"{V}decoder.mid.attn_1.q.weight"), f"1 key missing: {V}decoder.mid.attn_1.q.weight"),
        (_drop(f"{T}encoder.layers.1.mlp.fc2.bias"), f"1 key missing: {T}encoder.layers.1.mlp.fc2.bias"),
        (_put(**{f"{V}decoder.extra": torch.ones(1)}), f"1 key unexpected: {V}decoder.extra"),
        (_put(**{f"{T}extra": torch.ones(1)}), f"1 key unexpected: {T}extra"),
        (
            lambda f: _put(**{RES: torch.ones(32, 32, 1, 1)})(_without_averages(f)),
            r"expected float \(32, 32, 3, 3\), found float32 \(32, 32, 1, 1\)",
        ),
        (_put(**{f"{T}final_layer_norm.bias": torch.ones(24).int()}), r"expected float \(24,\), found int32 \(24,\)"),
        (
            lambda f: {k: t for k, t in f.items() if not k.startswith(V + "decoder.up")},
            r"\d+ keys missing: .*, … and \d+ more",
        ),
        (
            lambda f: {k: t for k, t in f.items() if not k.startswith(V)},
            "the autoencoder's architecture cannot be read",
        ),
        (
            lambda f: {k: t for k, t in f.items() if not k.startswith(T)},
            "the text encoder's architecture cannot be read",
        ),
        (lambda f: {k: t for k, t in f.items() if k.startswith(V)}, "is no Stable Diffusion checkpoint"),
        (
            lambda f: {
                k: torch.ones(t.shape[0], 1024).half() if ".attn2.to_k" in k or ".attn2.to_v" in k else t
                for k, t in _without_averages(f).items()
            },
            r"is Stable Diffusion 2\.x",
        ),
        (
            lambda f: {
                k: t[:, :20].clone() if ".attn2.to_k" in k or ".attn2.to_v" in k else t
                for k, t in _without_averages(f).items()
            },
            "the UNet expects texts 20 wide, its text encoder gives 24",
        ),
        (_put(**{"conditioner.embedders.0.x": torch.ones(1)}), "is Stable Diffusion XL"),
    ],
)
def test_a_file_that_does_not_fit_is_named(change: Any, message: str, packed: Path, tmp_path: Path) -> None:
    path = _edited(packed / "demo.safetensors", tmp_path / "edited.safetensors", change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_source(path, vaes={})
    assert str(caught.value).startswith("edited.safetensors")
    assert "\n" not in str(caught.value)


def test_metadata_changes_heads_and_prediction_type(packed: Path, tmp_path: Path) -> None:
    facts = {"unet": {"num_heads": 2}, "prediction_type": "v_prediction", "default_size": 256}
    source = load_source(_edited(packed / "demo.safetensors", tmp_path / "v.safetensors", dict, facts), vaes={})
    assert source.unet.config["attention_head_dim"] == 2
    assert (source.prediction_type, source.default_size) == ("v_prediction", 256)


VAE_FILE = "demo-vae-ft-mse.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _put(**{"encoder.conv_in.bias": torch.ones(8).half()}),
            "its encoder is not the checkpoint's .1 of .* only the decoder may differ",
        ),
        (_drop("decoder.conv_out.bias"), "1 key missing: decoder.conv_out.bias"),
        (_drop("encoder.mid.attn_1.k.bias"), "1 key missing: encoder.mid.attn_1.k.bias"),
    ],
)
def test_an_autoencoder_that_does_not_fit_is_named(change: Any, message: str, packed: Path, tmp_path: Path) -> None:
    path = _edited(packed / VAE_FILE, tmp_path / "other.safetensors", change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_source(packed / "demo.safetensors", vaes={"mine": path})
    assert "other.safetensors" in str(caught.value)


def test_other_latent_channels_are_refused(packed: Path, tmp_path: Path) -> None:
    AutoencoderKL(**TINY_VAE | {"latent_channels": 8}).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="has 8 latent channels, the checkpoint's has 4"):
        load_source(packed / "demo.safetensors", vaes={"mine": tmp_path})


@pytest.mark.parametrize("name", ["kl-f8", "", "../x", "a b", "x" * 65])
def test_names_that_no_decoder_may_have(name: str, packed: Path) -> None:
    with pytest.raises(InputError, match="give it another name"):
        load_source(packed / "demo.safetensors", vaes={name: packed / VAE_FILE})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_encoder_stored_in_another_precision_is_the_same(dtype: torch.dtype, packed: Path, tmp_path: Path) -> None:
    vae = {key: tensor.to(dtype) for key, tensor in load_file(packed / VAE_FILE).items()}
    torch.save({"state_dict": vae, "loss.logvar": torch.zeros(1)}, tmp_path / "vae.ckpt")
    source = load_source(packed / "demo.safetensors", vaes={"mine": tmp_path / "vae.ckpt"})
    assert torch.equal(source.vaes["mine"].decoder.conv_in.bias, vae["decoder.conv_in.bias"].float())
    assert source.provenance["vae.mine.ignored"] == "1 other entries"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny model as diffusers saves one."""
    root, tiny = tmp_path / "model", _tiny()
    tiny["unet_ema"].save_pretrained(root / "unet")
    tiny["vaes"]["kl-f8"].save_pretrained(root / "vae")
    tiny["text_encoder"].save_pretrained(root / "text_encoder")
    clip_tokenizer().save_pretrained(root / "tokenizer")
    (root / "scheduler").mkdir()
    schedule = {
        "_class_name": "PNDMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
    }
    schedule |= {
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    }
    (root / "scheduler/scheduler_config.json").write_text(json.dumps(schedule))
    return root


def _check_folder(source: SourceModel) -> None:
    tiny = _tiny()
    pairs = [
        (source.unet, tiny["unet_ema"]),
        (source.vaes["kl-f8"], tiny["vaes"]["kl-f8"]),
        (source.text_encoder, tiny["text_encoder"]),
    ]
    for loaded, original in pairs:
        assert _same(loaded, original.state_dict())
        assert _is_frozen(loaded)


def test_a_diffusers_folder_gives_the_same_model(folder: Path, packed: Path) -> None:
    (folder / "NOTICE.txt").write_text("notice")
    source = load_source(folder, vaes={"ft-mse": packed / VAE_FILE})  # float16 beside float32: the encoder is the same
    _check_folder(source)
    assert source.tokenizer("a red circle").input_ids == clip_tokenizer()("a red circle").input_ids
    assert (source.default_size, source.beta_end, source.steps_offset) == (128, 0.012, 1)
    assert (source.provenance["source"], source.provenance["weights"]) == ("model", "as stored")
    assert source.licence_files == {"NOTICE": folder / "NOTICE.txt"}


def test_a_diffusers_folder_of_pickles_and_old_names(folder: Path) -> None:
    """As SD 1.5 was published: pickles, and the text encoder's names with an inner `text_model.`."""
    for part, stem, pickled in (
        ("unet", "diffusion_pytorch_model", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model", "diffusion_pytorch_model"),
        ("text_encoder", "model", "pytorch_model"),
    ):
        file = folder / part / f"{stem}.safetensors"
        tensors = load_file(file)
        if part == "text_encoder":
            tensors = {f"text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in tensors.items()}
            tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        torch.save(tensors, file.with_name(f"{pickled}.bin"))
        file.unlink()
    _check_folder(load_source(folder, vaes={}))


def _rewrite_json(file: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text()) | changes
        (folder / file).write_text(json.dumps(content))

    return change


def _rewrite_weights(file: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Path], None]:
    return lambda folder: save_file(change(load_file(folder / file)), folder / file, metadata={"format": "pt"})


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_rewrite_weights(WEIGHTS, _drop("conv_in.weight")), "unet: 1 missing keys: conv_in.weight"),
        (_rewrite_weights(WEIGHTS, _put(extra=torch.ones(1))), "unet: 1 unexpected keys: extra"),
        (_rewrite_weights(WEIGHTS, _put(**{"conv_in.bias": torch.ones(5)})), "unet.*conv_in.bias"),
        (
            _rewrite_weights("text_encoder/model.safetensors", _drop("final_layer_norm.bias")),
            "text_encoder: 1 missing keys",
        ),
        (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100]), r"truncated: expected \d+ bytes"),
        (lambda f: (f / WEIGHTS).unlink(), "unet has no weights: expected diffusion_pytorch_model.safetensors"),
        (lambda f: (f / "vae/config.json").write_text("{"), "vae/config.json is not valid JSON"),
        (lambda f: (f / "unet/config.json").unlink(), "unet/config.json cannot be read"),
        (lambda f: (f / "scheduler/scheduler_config.json").unlink(), "scheduler_config.json cannot be read"),
        (lambda f: (f / "tokenizer/tokenizer.json").write_text("{"), "tokenizer cannot be read"),
        (lambda f: (f / "text_encoder_2").mkdir(), "is Stable Diffusion XL"),
        (_rewrite_json("unet/config.json", cross_attention_dim=1024), r"is Stable Diffusion 2\.x"),
        (_rewrite_json("scheduler/scheduler_config.json", beta_schedule="linear"), "beta_schedule"),
        (_rewrite_json("scheduler/scheduler_config.json", prediction_type="sample"), "prediction_type"),
    ],
)
def test_a_damaged_folder_is_named(change: Callable[[Path], Any], message: str, folder: Path) -> None:
    change(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_source(folder, vaes={})
    assert "\n" not in str(caught.value)


def test_raw_weights_are_not_in_a_folder(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="leave out --weights raw"):
        load_source(folder, vaes={}, weights="raw")


def test_licence_files_beside_the_checkpoint_are_found(packed: Path, tmp_path: Path) -> None:
    names = ["LICENSE-MODEL.md", "MODEL_CARD.md", "NOTICE", "USE_RESTRICTIONS.txt"]
    for name in (*names, "LICENSE", "README.md"):
        (tmp_path / name).write_text("text")
    (tmp_path / "demo.safetensors").write_bytes((packed / "demo.safetensors").read_bytes())
    source = load_source(tmp_path / "demo.safetensors", vaes={})
    assert sorted(path.name for path in source.licence_files.values()) == names


@pytest.mark.parametrize("change", ["encoder", "overflow"])
def test_what_may_not_be_packed(change: str, tmp_path: Path) -> None:
    modules = _tiny() | {"vaes": copy.deepcopy(_tiny()["vaes"])}
    weight = (
        modules["vaes"]["ft-mse"].encoder.conv_in.weight
        if change == "encoder"
        else modules["vaes"]["kl-f8"].decoder.conv_in.weight
    )
    weight.data += 1e-2 if change == "encoder" else 1e6
    with pytest.raises(
        LatentrtError, match="only the decoder may be refined" if change == "encoder" else "float16 cannot hold"
    ):
        pack_demo(**modules, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()
