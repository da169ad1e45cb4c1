"""Files of other tools are read, or refused by the name of what they are."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

from celeb_basis.errors import CelebBasisError, ExportError, HostError
from celeb_basis.exports.textual_inversion import OtherKindError, import_embedding
from celeb_basis.hosts.diffusers import load_host
from celeb_basis.identities.identity import load_identity
from celeb_basis.model_files import kind_of

UNET = "model.diffusion_model.input_blocks.0.0.weight"

# Names of tensors as the families' own files have them, and what a user is to read.
CHECKPOINTS: dict[str, tuple[Sequence[str], str]] = {
    "sd3": (["model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight"], "Stable Diffusion 3"),
    "sd3 with encoders": (
        [
            "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",
            "first_stage_model.decoder.conv_in.weight",
            "text_encoders.clip_l.transformer.text_model.final_layer_norm.weight",
        ],
        "Stable Diffusion 3",
    ),
    "flux": (["double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"], "Flux"),
    "flux for ComfyUI": (["model.diffusion_model.double_blocks.0.img_mod.lin.weight"], "Flux"),
    "flux 2": (["double_blocks.0.img_attn.qkv.weight", "single_stream_modulation.lin.weight"], "Flux 2"),
    "chroma": (["double_blocks.0.img_attn.qkv.weight", "distilled_guidance_layer.in_proj.bias"], "Chroma"),
    "hunyuan video": (
        ["double_blocks.0.img_attn_qkv.weight", "txt_in.individual_token_refiner.blocks.0.norm1.bias"],
        "Hunyuan",
    ),
    "hunyuan dit": (["mlp_t5.0.weight", "text_embedding_padding", "blocks.0.attn1.Wqkv.weight"], "Hunyuan-DiT"),
    "auraflow": (["model.double_layers.0.attn.w2q.weight", "cond_seq_linear.weight"], "AuraFlow"),
    "cascade c": (["clip_txt_mapper.weight", "down_blocks.0.0.channelwise.0.weight"], "Stable Cascade"),
    "cascade b": (["down_blocks.1.0.channelwise.0.weight"], "Stable Cascade"),
    "pixart": (["y_embedder.y_embedding", "t_block.1.weight", "blocks.0.attn.qkv.weight"], "PixArt"),
    "lumina 2": (["model.diffusion_model.cap_embedder.0.weight", "noise_refiner.0.attention.qkv.weight"], "Lumina"),
    "z-image": (["cap_embedder.0.weight", "x_pad_token", "layers.0.adaLN_modulation.0.weight"], "Z-Image"),
    "wan": (["blocks.0.self_attn.q.weight", "blocks.0.cross_attn.k.weight", "head.modulation"], "Wan"),
    "qwen": (["transformer_blocks.0.img_mod.1.weight", "txt_norm.weight", "txt_in.weight"], "Qwen"),
    "sana": (["blocks.0.cross_attn.q_linear.weight", "attention_y_norm.weight"], "Sana"),
    "hidream": (["double_stream_blocks.0.block.adaLN_modulation.1.bias"], "HiDream"),
    "ltx": (["model.diffusion_model.patchify_proj.weight"], "LTX"),
    "mochi": (["blocks.0.attn.qkv_x.weight"], "Mochi"),
    "kandinsky 2.2": (["add_embedding.image_proj.weight", "down_blocks.0.resnets.0.conv1.weight"], "Kandinsky"),
    "kandinsky 5": (["visual_transformer_blocks.0.self_attention.to_query.weight"], "Kandinsky"),
    "cosmos": (["net.x_embedder.proj.1.weight", "net.extra_pos_embedder.pos_emb_h"], "Cosmos"),
    "video": ([UNET, "model.diffusion_model.input_blocks.1.0.time_stack.in_layers.0.weight"], "Stable Video Diffusion"),
    "another transformer": (["transformer_blocks.0.new.weight", "in.weight"], "diffusion transformer"),
    "lora of kohya": (["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"], "LoRA"),
    "lora of diffusers": (["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"], "LoRA"),
    "lora of flux": (["transformer.single_transformer_blocks.0.attn.to_k.lora_B.weight"], "LoRA"),
    "locon": (["lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w1_a"], "LyCORIS"),
    "lokr": (["lycoris_blocks_0_attn.lokr_w1"], "LyCORIS"),
    "controlnet": (["control_model.input_hint_block.0.weight", "control_model.time_embed.0.weight"], "ControlNet"),
    "controlnet of diffusers": (["controlnet_cond_embedding.conv_in.weight", "conv_in.weight"], "ControlNet"),
    "ip-adapter": (["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], "IP-Adapter"),
    "t2i-adapter": (["adapter.body.0.in_conv.weight"], "T2I-Adapter"),
    "motion": (["down_blocks.0.motion_modules.0.temporal_transformer.norm.bias"], "AnimateDiff"),
    "vae": (["encoder.conv_in.weight", "decoder.up.0.block.0.conv1.weight"], "VAE"),
    "vae of a checkpoint": (["first_stage_model.encoder.conv_in.weight", "first_stage_model.quant_conv.weight"], "VAE"),
    "taesd": (["taesd_decoder.1.weight"], "VAE"),
    "clip": (["text_model.embeddings.token_embedding.weight"], "text encoder"),
    "t5": (["encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"], "T5"),
    "esrgan": (["model.1.sub.0.RDB1.conv1.0.weight"], "upscaler"),
    "real-esrgan": (["params_ema.conv_first.weight", "params_ema.body.0.rdb1.conv1.weight"], "upscaler"),
    "unet": (["diffusion_model.input_blocks.0.0.weight"], "UNet"),
    "unet of a checkpoint": ([UNET, "model.diffusion_model.out.2.weight"], "UNet"),
    "unet of diffusers": (["down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"], "UNet"),
}


def _files(name: str, folder: Path) -> list[Path]:
    """A file of each make with these tensors, under names that say nothing."""
    tensors = {
        key: torch.zeros(8, 4, 3, 3) if key.endswith("input_blocks.0.0.weight") else torch.zeros(4, 4)
        for key in CHECKPOINTS[name][0]
    }
    filler = {f"k{index}": torch.zeros(1) for index in range(12)}
    save_file(tensors | filler, folder / "x.safetensors")
    torch.save(tensors | filler, folder / "x.pt")
    torch.save({"state_dict": tensors | filler}, folder / "x.ckpt", _use_new_zipfile_serialization=False)
    return [folder / "x.safetensors", folder / "x.pt", folder / "x.ckpt"]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_file_of_another_kind_is_named_wherever_it_is_given(name: str, tmp_path: Path) -> None:
    for path in _files(name, tmp_path):
        with pytest.raises(HostError) as refused:
            load_host(path, device="cpu")
        if "UNet" not in CHECKPOINTS[name][1] or path.suffix == ".safetensors":  # such a pickle is to be converted
            assert CHECKPOINTS[name][1] in str(refused.value).split(": choose")[0]
        with pytest.raises(OtherKindError, match=CHECKPOINTS[name][1]):
            import_embedding(path)
    with pytest.raises(CelebBasisError, match=CHECKPOINTS[name][1]):
        load_identity(tmp_path / "x.safetensors")


OF_DIFFUSERS = {
    "FluxTransformer2DModel": "Flux",
    "SD3Transformer2DModel": "Stable Diffusion 3",
    "AuraFlowTransformer2DModel": "AuraFlow",
    "PixArtTransformer2DModel": "PixArt",
    "SanaTransformer2DModel": "Sana",
    "WanTransformer3DModel": "Wan",
    "QwenImageTransformer2DModel": "Qwen-Image",
    "Lumina2Transformer2DModel": "Lumina",
    "HunyuanVideoTransformer3DModel": "Hunyuan",
    "LTXVideoTransformer3DModel": "LTX",
    "CosmosTransformer3DModel": "Cosmos",
    "MochiTransformer3DModel": "Mochi",
    "CogVideoXTransformer3DModel": "CogVideoX",
    "CogView4Transformer2DModel": "CogView",
    "ChromaTransformer2DModel": "Chroma",
    "PriorTransformer": "Kandinsky",
    "StableCascadeUNet": "Stable Cascade",
    "AutoencoderKL": "VAE",
    "AutoencoderTiny": "VAE",
    "ControlNetModel": "ControlNet",
    "T2IAdapter": "T2I-Adapter",
    "MotionAdapter": "AnimateDiff",
    "UNet2DConditionModel": "UNet",
}


@pytest.mark.parametrize("name", OF_DIFFUSERS)
def test_models_of_diffusers_are_named(name: str) -> None:
    if (kind := getattr(diffusers, name, None)) is None:
        pytest.skip(f"this version of diffusers has no {name}")
    with torch.device("meta"):
        shapes = {key: tuple(tensor.shape) for key, tensor in kind().state_dict().items()}
    assert OF_DIFFUSERS[name] in str(kind_of(shapes))


def test_a_latent_consistency_model_in_one_file_is_named(tmp_path: Path) -> None:
    names = [
        "cond_stage_model.transformer.text_model.final_layer_norm.weight",
        "first_stage_model.decoder.conv_in.weight",
    ]
    tensors = {key: torch.zeros(4, 4) for key in [*names, "model.diffusion_model.time_embed.cond_proj.weight"]}
    save_file(tensors | {UNET: torch.zeros(8, 4, 3, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(HostError, match=r"Latent Consistency Model \(LCM\)"):
        load_host(tmp_path / "x.safetensors", device="cpu")


def test_what_is_no_file_of_weights_is_named(tmp_path: Path) -> None:
    for content, says in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS"),
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "web page"),
        (b"GGUF\x03\0\0\0" + bytes(64), "GGUF"),
        (b"\xff\xd8\xff\xe0" + bytes(64), "JPEG"),
        (b"Rar!\x1a\x07\x01\0" + bytes(64), "RAR"),
    ):
        for suffix in (".safetensors", ".pt"):
            (tmp_path / f"x{suffix}").write_bytes(content)
            with pytest.raises(HostError, match=says):
                load_host(tmp_path / f"x{suffix}")
            with pytest.raises(ExportError, match=says):
                import_embedding(tmp_path / f"x{suffix}")
    (tmp_path / "x.gguf").write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(HostError, match="GGUF"):
        load_host(tmp_path / "x.gguf")


# Embeddings


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    ("widths", "says"),
    [
        ({"clip_l": 768, "t5xxl": 4096}, "Flux"),
        ({"clip_l": 768, "t5": 4096}, "Flux"),
        ({"clip_l": 768, "clip_g": 1280, "t5xxl": 4096}, "Stable Diffusion 3"),
        ({"t5xxl": 4096}, "T5"),
        ({"emb_params": 4096}, "T5"),
        ({"hydit_clip": 1024, "mt5xl": 2048}, "Hunyuan-DiT"),
        ({"gemma2_2b": 2304}, "Lumina"),
        ({"qwen25_7b": 3584}, "Qwen"),
        ({"umt5xxl": 4096}, "Wan"),
        ({"clip_l": 768, "clip_g": 1280, "other": 99}, "another kind of model"),
    ],
)
def test_embeddings_for_other_families_are_named(
    widths: dict[str, int], says: str, suffix: str, tmp_path: Path
) -> None:
    tensors = {key: torch.randn(2, width) for key, width in widths.items()}
    path = tmp_path / f"x{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    with pytest.raises(ExportError, match=says):
        import_embedding(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_view_of_the_whole_token_table_is_read(zipped: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    """diffusers' script saved the learned row with the storage of the whole table: 150 MB for 3 KB."""
    table = torch.zeros(49_409, 768, dtype=dtype)
    table[-1] = torch.randn(768).to(dtype)
    torch.save({"<ada>": table[-1]}, tmp_path / "learned_embeds.bin", _use_new_zipfile_serialization=zipped)
    assert (tmp_path / "learned_embeds.bin").stat().st_size > 70_000_000
    vectors = import_embedding(tmp_path / "learned_embeds.bin").vectors[""]
    assert np.array_equal(vectors, table[-1:].float().numpy())


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_of_a_whole_token_table_the_learned_rows_are_read(suffix: str, tmp_path: Path) -> None:
    table = torch.zeros(49_410, 768)
    table[-2:] = torch.randn(2, 768)
    path = tmp_path / f"learned_embeds{suffix}"
    save_file({"<ada>": table}, path) if suffix == ".safetensors" else torch.save({"<ada>": table}, path)
    assert np.array_equal(import_embedding(path).vectors[""], table[-2:].numpy())


def test_a_token_table_without_a_learned_row_is_named(tmp_path: Path) -> None:
    save_file({"<ada>": torch.zeros(49_408, 768)}, tmp_path / "x.safetensors")
    with pytest.raises(OtherKindError, match="whole token table"):
        import_embedding(tmp_path / "x.safetensors")


# Pictures of the WebUI's trainer


VECTORS = np.random.default_rng(0).standard_normal((2, 768)).astype(np.float32)


def _dictionary(vectors: npt.NDArray[np.float32] = VECTORS) -> str:
    rows = {"*": {"TORCHTENSOR": vectors.astype(np.float64).tolist()}}
    return json.dumps({"string_to_token": {"*": 265}, "string_to_param": rows, "name": "ada", "step": 500})


def _picture() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(1).integers(1, 255, (512, 512, 3), dtype=np.uint8)


def _numbers(count: int) -> npt.NDArray[np.uint8]:
    """The numbers that scramble the pixels, one after the other, as the trainer makes them."""
    numbers, seed = [], 0
    for _ in range(count):
        seed = (1664525 * seed + 1013904223) % 2**32
        numbers.append(seed % 255 & 0x0F)
    return np.array(numbers, np.uint8)


def _with_hidden(data: bytes) -> Image.Image:
    """A picture between two blocks of pixels that hold ``data``: the lower four bits to the left, the upper to the right."""
    picture = _picture()
    height = len(picture)
    packed = np.frombuffer(zlib.compress(data, 9), np.uint8)
    packed = np.resize(packed, (len(packed) // (3 * height) + 1) * 3 * height).reshape(height, -1, 3)
    ornament = np.full_like(packed, 0x70)
    blocks = [(half ^ _numbers(half.size).reshape(half.shape)) | ornament for half in (packed & 0x0F, packed >> 4)]
    line = np.zeros((height, 1, 3), np.uint8)
    return Image.fromarray(np.concatenate([blocks[0], line, picture, line, blocks[1]], axis=1))


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "compressed iTXt"])
def test_an_embedding_in_the_text_of_a_png_is_read(kind: str, tmp_path: Path) -> None:
    text, info = base64.b64encode(_dictionary().encode()).decode(), PngImagePlugin.PngInfo()
    if "iTXt" in kind:
        info.add_itxt("sd-ti-embedding", text, zip="compressed" in kind)
    else:
        info.add_text("sd-ti-embedding", text, zip=kind == "zTXt")
    Image.fromarray(_picture()).save(tmp_path / "ada.png", pnginfo=info)
    embedding = import_embedding(tmp_path / "ada.png")
    assert embedding.steps == 500
    assert np.array_equal(embedding.vectors[""], VECTORS)


@pytest.mark.parametrize(("suffix", "options"), [(".png", {}), (".webp", {"lossless": True, "exact": True})])
def test_an_embedding_in_the_pixels_is_read(suffix: str, options: dict[str, Any], tmp_path: Path) -> None:
    _with_hidden(_dictionary().encode()).save(tmp_path / f"ada{suffix}", **options)
    assert np.array_equal(import_embedding(tmp_path / f"ada{suffix}").vectors[""], VECTORS)


@pytest.mark.parametrize(
    ("name", "says"),
    [("x.png", "PNG picture"), ("x.webp", "WebP picture"), ("x.jpg", "JPEG picture"), ("x.gif", "GIF picture")],
)
def test_a_picture_without_an_embedding_is_named(name: str, says: str, tmp_path: Path) -> None:
    Image.fromarray(_picture()).save(tmp_path / name)
    with pytest.raises(ExportError, match=says):
        import_embedding(tmp_path / name)


def test_bombs_in_pictures_are_refused(tmp_path: Path) -> None:
    rows = "[" * 100_000 + "]" * 100_000
    for text in (
        base64.b64encode(rows.encode()).decode(),
        "A" * 20_000_000,
        base64.b64encode(b" " * 10_000_000).decode(),
    ):
        info = PngImagePlugin.PngInfo()
        info.add_text("sd-ti-embedding", text, zip=True)
        Image.fromarray(_picture()).save(tmp_path / "x.png", pnginfo=info)
        with pytest.raises(ExportError, match="PNG picture"):
            import_embedding(tmp_path / "x.png")
    _with_hidden(b"0" * 200_000_000).save(tmp_path / "x.png")
    with pytest.raises(ExportError, match="PNG picture"):
        import_embedding(tmp_path / "x.png")
