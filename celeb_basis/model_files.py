"""Names what a file of weights is, by the names and shapes of its tensors or by its first bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

Shapes: TypeAlias = "Mapping[str, tuple[int, ...]]"
"""The shape of every tensor of a file, by its name."""

LATENT_CONSISTENCY = "model.diffusion_model.time_embed.cond_proj.weight"
"""The tensor that only the UNet of a Latent Consistency Model has."""

_MAX_EMBEDDING_TENSORS = 8
_TABLE = 10_000
_MOST_TEXT = 1 << 20
_UNET = "only a UNet"
VIDEO = "a checkpoint of Stable Video Diffusion"


def _kinds(*kinds: tuple[str, str]) -> tuple[tuple[str, tuple[re.Pattern[str], ...]], ...]:
    """Kinds of files, each known by tensors whose names begin with all of the expressions that `` & `` joins."""
    return tuple(
        (name, tuple(re.compile(f"^(?:{part})", re.MULTILINE) for part in parts.split(" & "))) for name, parts in kinds
    )


# In the order in which they are tried: what sits on a model comes before the model. Names of tensors are matched from their
# start, without the prefixes that tools put before a whole model.
_KINDS = _kinds(
    # Additions to a model
    ("a LyCORIS file, a kind of LoRA", r".*\.(hada_w1_a|hada_w1_b|lokr_w1|lokr_w2|lokr_w1_a|lokr_w2_a|oft_blocks|oft_diag)$"),
    ("a LoRA", r".*(lora_up|lora_down|lora_A|lora_B|lora\.up|lora\.down|lora_linear_layer|dora_scale)"),
    ("a LoRA", r"lora_(unet|te|te1|te2|transformer)_"),
    ("a ControlNet-LLLite", r"lllite_"),
    ("an IP-Adapter", r".*to_k_ip\."),
    ("an IP-Adapter", r"ip_adapter\."),
    ("a motion module of AnimateDiff", r".*motion_modules\.\d"),
    ("a T2I-Adapter", r"(adapter\.)?body\.\d+\.(in_conv|block1|resnets)"),
    ("a ControlNet", r"(control_model\.|control_layers\.|control_all_x_embedder)"),
    ("a ControlNet", r"(input_hint_block|controlnet_cond_embedding|controlnet_\w*blocks|controlnet_x_embedder)"),
    ("a hypernetwork", r"(320|640|768|1024|1280)\.\d\."),
    ("a GLIGEN model", r"position_net\."),
    # Files of this package
    ("an identity of celeb-basis", r"coefficients\.\w+$ & vectors\.\w+$"),
    ("a learning state or a cache of celeb-basis", r"(average\.sums|name_coefficients|token_ids)$"),
    # Checkpoints of other families
    ("a checkpoint of Stable Diffusion 3", r"joint_blocks\.\d"),
    ("a checkpoint of Stable Diffusion 3", r"transformer_blocks\.\d+\.attn\.add_q_proj & pos_embed\.(proj|pos_embed)"),
    ("a checkpoint of Chroma", r"distilled_guidance_layer\."),
    ("a checkpoint of AuraFlow", r"(double_layers\.\d+\.attn\.w|cond_seq_linear\.|joint_transformer_blocks\.\d)"),
    ("a checkpoint of HunyuanVideo or HunyuanImage", r"(txt_in\.individual_token_refiner|context_embedder\.token_refiner)"),
    ("a checkpoint of Bria", r"single_transformer_blocks\.\d & time_embed\.timestep_embedder"),
    ("a checkpoint of Flux 2", r"(single_stream_modulation|double_stream_modulation_img)\."),
    ("a checkpoint of Flux", r"double_blocks\.\d+\.(img|txt)_ & single_blocks\.\d"),
    ("a checkpoint of Flux", r"double_blocks\.\d+\.(img|txt)_(attn|mod|mlp)"),
    ("a checkpoint of Flux", r"single_transformer_blocks\.\d & context_embedder\."),
    ("a checkpoint of Stable Cascade", r"(clip_txt_mapper\.|clip_txt_pooled_mapper\.|down_blocks\.\d+\.\d+\.channelwise)"),
    ("a checkpoint of Hunyuan-DiT", r"(mlp_t5\.\d|text_embedding_padding$|pooler\.positional_embedding)"),
    ("a checkpoint of LTX-Video", r"(patchify_proj\.|transformer_blocks\.\d+\.audio_)"),
    ("a checkpoint of Sana", r"transformer_blocks\.\d+\.ff\.conv_inverted"),
    ("a checkpoint of LTX-Video", r"caption_projection\. & time_embed\.emb\. & proj_in\."),
    ("a checkpoint of PixArt", r"adaln_single\."),
    ("a checkpoint of PixArt", r"y_embedder\.y_embedding & t_block\."),
    ("a checkpoint of Sana", r"(blocks\.\d+\.cross_attn\.(q_linear|kv_linear)|attention_y_norm)"),
    ("a checkpoint of HiDream", r"double_stream_blocks\.\d"),
    ("a checkpoint of Qwen-Image", r"transformer_blocks\.\d+\.(img_mod|img_mlp|txt_mod) & (txt_norm|txt_in)\."),
    ("a checkpoint of Qwen-Image", r"txt_in\.text_norm"),
    ("a checkpoint of Z-Image", r"(x_pad_token|cap_pad_token)$"),
    ("a checkpoint of Lumina", r"(cap_embedder|context_refiner|noise_refiner|time_caption_embed)\."),
    ("a checkpoint of Mochi", r"(blocks\.\d+\.attn\.qkv_x|t5_yproj\.|time_embed\.caption_proj)"),
    ("a checkpoint of Kandinsky", r"(visual_transformer_blocks|text_transformer_blocks)\.\d"),
    ("a checkpoint of Kandinsky", r"(add_embedding\.(image_proj|image_norm|text_norm|text_proj)|prd_embedding$|clip_mean$)"),
    ("a checkpoint of Cosmos", r"(extra_pos_embedder\.|learnable_pos_embed\.|pos_embedder\.dim_spatial_range)"),
    ("a checkpoint of Cosmos", r"(time_embed\.t_embedder\.|blocks\.block\d+\.)"),
    ("a checkpoint of Wan", r"(head\.modulation$|vace_blocks\.\d)"),
    ("a checkpoint of Wan", r"blocks\.\d+\.self_attn\.(q|norm_q)\. & (text_embedding|blocks\.\d+\.cross_attn)"),
    ("a checkpoint of Wan", r"condition_embedder\.text_embedder\."),
    ("a checkpoint of CogView", r"time_condition_embed\."),
    ("a checkpoint of CogVideoX", r"patch_embed\.text_proj\."),
    ("a checkpoint of aMUSEd", r"mlm_layer\."),
    ("a checkpoint of OmniGen", r"time_token\."),
    ("a checkpoint of DeepFloyd IF", r"add_embedding\.pool\."),
    ("a checkpoint of Kolors", r"encoder_hid_proj\.weight$"),
    (VIDEO, r".*(time_stack|time_mixer|temporal_transformer_blocks|temporal_res_block)"),
    # Parts of a model
    ("an upscaler", r"(model\.\d+\.sub\.\d+\.(RDB|rdb)|RRDB_trunk|trunk_a\.|body\.\d+\.rdb\d|layers\.\d+\.residual_group)"),
    ("an upscaler", r"(conv_first|upconv1|upsampler|params_ema\.conv_first|body\.0)\.(weight|\d)"),
    ("a small VAE for previews (TAESD)", r"(taesd_|(encoder|decoder)\.layers\.\d+\.(conv|weight)|\d+\.conv\.\d\.weight)"),
    ("only a VAE", r"(encoder|decoder)\.(conv_in|conv_out|(mid|down|up)(_blocks?)?|middle|head|stages|project_in)\."),
    ("a T5 text encoder", r"encoder\.block\.\d+\.layer\."),
    ("a CLIP model", r"(vision_model\.|embeddings\.patch_embedding\.|visual\.transformer\.)"),
    ("only a text encoder", r"((transformer\.)?text_model\.|transformer\.resblocks\.|text_projection$)"),
    ("only a text encoder", r"(embeddings\.)?token_embedding\."),
    ("a language model", r"(model\.)?layers\.\d+\.self_attn\."),
    ("a diffusion transformer, no UNet", r"(single_|joint_)?transformer_blocks\.\d"),
    (_UNET, r"(input_blocks|middle_block|output_blocks)\.\d+"),
    ("only a UNet, in diffusers' layout", r"(down_blocks|up_blocks)\.\d+\.(resnets|attentions)\."),
)  # fmt: skip

_PREFIXES = re.compile(
    r"(?:module\.|params_ema\.|params\.|state_dict\.|base_model\.model\.|model\.diffusion_model\.|diffusion_model\."
    r"|unet\.|transformer\.(?!text_model|resblocks)|net\.)"
)
# Parts of a whole checkpoint in one file, each below a name of its own.
_WHOLE = re.compile(r"(first_stage_model|cond_stage_model|conditioner|text_encoders|vae)\.")
_ENCODER = re.compile(r"clip_[lgh]|\w*t5\w*|gemma\w*|llama\w*|llava\w*|qwen\w*|hydit\w*|mistral\w*|jina\w*|emb_params")


def kind_of(shapes: Shapes) -> str | None:
    """What the file with these tensors is, with an article: ``"a LoRA"``. ``None`` where they do not show it.

    Args:
        shapes: Names and shapes of its tensors.
    """
    bare = [_bare(name) for name in shapes]
    names = "\n".join(bare)[:_MOST_TEXT]
    found = next((name for name, parts in _KINDS if all(part.search(names) for part in parts)), None)
    roots = {match[1] for name in bare if (match := _WHOLE.match(name))}
    if found == _UNET and roots:
        return "a Stable Diffusion checkpoint"
    if found is None and roots and not any("diffusion_model." in name for name in shapes):
        return "only a VAE" if roots <= {"first_stage_model", "vae"} else "only a text encoder"
    if len(shapes) <= _MAX_EMBEDDING_TENSORS and any(
        len(shape) == 2 and shape[0] >= _TABLE for shape in shapes.values()
    ):
        return found or "the whole token table of a text encoder"
    return found or ("an embedding" if is_embedding(shapes) else None)


def is_embedding(shapes: Shapes) -> bool:
    """Whether the tensors are those of a textual inversion: a few rows for each text encoder."""
    if any(name.startswith("string_to_param") for name in shapes):
        return True
    rows = [shape for name, shape in shapes.items() if len(shapes) == 1 or _ENCODER.fullmatch(name)]
    return 0 < len(rows) <= len(shapes) <= _MAX_EMBEDDING_TENSORS and all(
        len(shape) == 1 or (len(shape) == 2 and shape[0] <= 256) for shape in rows
    )


def _bare(name: str) -> str:
    """The name of a tensor without the prefixes that tools put before a whole model."""
    for _ in range(2):
        if match := _PREFIXES.match(name):
            name = name[match.end() :]
    return name


SAFETENSORS = "a safetensors file"
TORCH = ("a zip archive, as torch writes .pt files", "a pickle, as torch writes .pt files")
PICTURES = (
    *("a PNG picture", "a WebP picture", "a JPEG picture"),
    *("a GIF picture", "an AVIF or HEIF picture", "a JPEG XL picture"),
)

_HEADS: tuple[tuple[bytes, str], ...] = (
    (
        b"version https://git-lfs",
        "a pointer of Git LFS, not the file itself: download it, for instance with git lfs pull",
    ),
    (b"GGUF", "a GGUF file, whose numbers are quantized: choose the .safetensors version"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"%PDF", "a PDF document"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"\x89HDF", "an HDF5 file"),
    *zip((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04"), (TORCH[0], *[TORCH[1]] * 3), strict=True),
)


def kind_of_content(head: bytes) -> str | None:
    """What a file that is not what its name says really is, by its first bytes, with an article; else ``None``."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a WebP picture"
    if head[4:8] == b"ftyp":
        return "an AVIF or HEIF picture" if head[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1") else "a film"
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "a JPEG XL picture"
    if head[:512].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page that was saved in place of the file: download it again, logged in if the site asks for it"
    if head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < 2**40:
        return SAFETENSORS
    return next((name for start, name in _HEADS if head.startswith(start)), None)
