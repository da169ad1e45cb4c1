"""Checkpoints in one ``.safetensors`` file, in the key layout of the original code, read without any model hub."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.base import Prediction
from celeb_basis.hosts.clip_vocabulary import clip_tokenizer
from celeb_basis.hosts.diffusers.configs import PIPELINE_CLASSES, Config, Family, component_configs, sample_sizes
from celeb_basis.hosts.diffusers.ldm_config import apply_yaml, read_yaml
from celeb_basis.hosts.diffusers.ldm_text import TEXT_PARTS, load_text_encoder, text_weights
from celeb_basis.hosts.freezing import widened
from celeb_basis.hosts.resolution import family_resolution, told_resolution

if TYPE_CHECKING:
    import torch

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
_FIRST_LAYER = UNET_PREFIX + "input_blocks.0.0.weight"
_ADVICE = "choose a checkpoint of Stable Diffusion 1.x, 2.x or XL"


def load_single_file(path: Path, dtype: torch.dtype, prediction: Prediction | None = None) -> Any:
    """A pipeline from one ``.safetensors`` file, with the ``.yaml`` beside it where there is one.

    Parameters:
        prediction: what the denoiser predicts; found out if ``None``: from the ``.yaml``, from marks that newer files
            carry, and for SD2, whose two kinds look alike, by asking the network.

    Raises: :class:`HostError` for a file that is no such checkpoint.
    """
    import diffusers

    if path.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin"):
        raise HostError(
            f"{path.name} is a pickle, which can run code when it is loaded: convert it to .safetensors, or download it "
            "in that format."
        )
    weights, marks = _read(path)
    family = detect_family(path, weights)
    configs = component_configs(family)
    texts = {}
    for part in TEXT_PARTS[family]:
        config, of_part = text_weights(weights, part, unused_layers=int(family == "sd2"))
        configs[part.component] = config
        texts[part.component] = of_part
    place = path.with_suffix(".yaml")
    recipe = read_yaml(place) if place.is_file() else None
    if recipe is not None:
        configs = apply_yaml(place, recipe, family, configs)
    _check_sizes(path, weights, configs, recipe is not None)
    parts = _networks(path, weights, configs, dtype)
    for component, of_part in texts.items():
        kind = _text_class(component)
        parts[component] = load_text_encoder(kind, configs[component], of_part, dtype)
    scheduler = configs["scheduler"]
    found: Prediction | None = prediction or _marked_prediction(marks)
    if found is None and recipe is None and family == "sd2":
        found = probe_prediction(parts["unet"])
    if found is not None:
        scheduler["prediction_type"] = found
    if family == "sd2" and told_resolution(recipe) is None:
        side = family_resolution(family, lambda: bool(scheduler["prediction_type"] == "v_prediction"))
        for component, size in zip(("vae", "unet"), sample_sizes(configs["vae"], side), strict=True):
            parts[component].register_to_config(sample_size=size)
    if "ztsnr" in marks:
        scheduler["rescale_betas_zero_snr"] = True
    parts["scheduler"] = diffusers.DDIMScheduler.from_config(scheduler)
    parts["tokenizer"] = clip_tokenizer("open_clip" if family == "sd2" else "clip")
    if family == "sdxl":
        parts["tokenizer_2"] = clip_tokenizer("open_clip")
    else:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return getattr(diffusers, PIPELINE_CLASSES[family])(**parts)


def detect_family(path: Path, weights: dict[str, torch.Tensor]) -> Family:
    """The family of a checkpoint by the text encoders that lie in it.

    Raises: :class:`HostError`, saying what the file is instead where its keys tell.
    """
    if _FIRST_LAYER not in weights:
        lora = any("lora" in key for key in weights)
        small = len(weights) < 10
        what = "a LoRA" if lora else "an embedding" if small else "no Stable Diffusion checkpoint, or a part of one"
        raise HostError(f"{path.name} is {what}: {_ADVICE}.")
    channels = weights[_FIRST_LAYER].shape[1]
    if channels != 4:
        kind = {9: "an inpainting", 5: "a depth-to-image", 8: "an InstructPix2Pix"}.get(channels, "a special")
        raise HostError(f"{path.name} is {kind} model, its UNet takes {channels} channels instead of 4: {_ADVICE}.")
    if not any(key.startswith(VAE_PREFIX) for key in weights):
        raise HostError(f"{path.name} holds no VAE: {_ADVICE} that is complete.")
    families: tuple[Family, ...] = ("sdxl", "sd2", "sd1")
    for family in families:
        if all(any(key.startswith(part.prefix) for key in weights) for part in TEXT_PARTS[family]):
            return family
    if any(key.startswith("conditioner.embedders.0.model.") for key in weights):
        raise HostError(f"{path.name} is SDXL's refiner: {_ADVICE}.")
    raise HostError(f"{path.name} holds no text encoder: {_ADVICE} that is complete.")


def probe_prediction(unet: Any) -> Prediction:
    """Ask a denoiser what it predicts, by a nearly pure noise that is constant.

    At the last timestep a predictor of noise gives back about what it gets; a predictor of velocity, minus the clean
    latent, gives something far below.
    """
    import torch

    # The CPU computes half precision with newer versions of torch only.
    with torch.no_grad(), widened([unet], torch.float32):
        noise = torch.full((1, 4, 8, 8), 0.5, dtype=unet.dtype, device=unet.device)
        context = torch.full((1, 2, unet.config.cross_attention_dim), 0.5, dtype=unet.dtype, device=unet.device)
        step = torch.tensor([999], device=unet.device)
        difference = (unet(noise, step, encoder_hidden_states=context, return_dict=False)[0] - noise).float().mean()
    return "v_prediction" if float(difference) < -1 else "epsilon"


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors of the file, and its marks: the header's metadata and keys that are there only to be there."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            marks = {str(key): str(value) for key, value in (file.metadata() or {}).items()}
            weights = {}
            for key in file.keys():  # noqa: SIM118 - not a mapping
                if key in ("v_pred", "ztsnr"):
                    marks[key] = ""
                elif not key.startswith("model_ema."):
                    weights[key] = file.get_tensor(key)
    except (SafetensorError, OSError, ValueError) as error:
        raise HostError(f"{path.name} is damaged or not a .safetensors file: download it again.") from error
    # Some early conversions leave out one level of names.
    short, long = "cond_stage_model.transformer.", "cond_stage_model.transformer.text_model."
    weights = {
        long + key[len(short) :] if key.startswith(short) and not key.startswith(long) else key: value
        for key, value in weights.items()
    }
    return weights, marks


def _marked_prediction(marks: dict[str, str]) -> Prediction | None:
    declared = marks.get("modelspec.predict_key") or marks.get("modelspec.prediction_type")
    if "v_pred" in marks or declared in ("v", "v_prediction"):
        return "v_prediction"
    return "epsilon" if declared == "epsilon" else None


def _check_sizes(path: Path, weights: dict[str, torch.Tensor], configs: dict[str, Config], has_recipe: bool) -> None:
    here = weights[_FIRST_LAYER].shape[0]
    expected = configs["unet"]["block_out_channels"][0]
    if here != expected:
        remedy = "repair the .yaml beside it" if has_recipe else f"put its config beside it as {path.stem}.yaml"
        raise HostError(f"The UNet of {path.name} starts with {here} channels instead of {expected}: {remedy}.")


def _networks(path: Path, weights: dict[str, torch.Tensor], configs: dict[str, Config], dtype: torch.dtype) -> Config:
    """UNet and VAE, by diffusers' own conversion of keys."""
    import diffusers

    kinds = {"unet": (diffusers.UNet2DConditionModel, UNET_PREFIX), "vae": (diffusers.AutoencoderKL, VAE_PREFIX)}
    parts: Config = {}
    with tempfile.TemporaryDirectory(prefix="celeb-basis-") as name:
        for component, (kind, prefix) in kinds.items():
            folder = Path(name, component)
            folder.mkdir()
            content = {"_class_name": kind.__name__, **configs[component]}
            (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
            own = {key: value for key, value in weights.items() if key.startswith(prefix)}
            try:
                model = kind.from_single_file(
                    own, config=name, subfolder=component, torch_dtype=dtype, local_files_only=True
                )
                needed = sum(parameter.numel() for parameter in model.parameters())
                whole = needed <= sum(value.numel() for value in own.values())
                whole = whole and not any(parameter.is_meta for parameter in model.parameters())
            except Exception as error:  # its converter meets what is missing in many ways
                raise _incomplete(path, component) from error
            if not whole:
                raise _incomplete(path, component)
            parts[component] = model
    return parts


def _incomplete(path: Path, component: str) -> HostError:
    return HostError(
        f"The {component.upper()} of {path.name} is incomplete or of another make: download it again, or put its config "
        f"beside it as {path.stem}.yaml."
    )


def _text_class(component: str) -> Any:
    import transformers

    return transformers.CLIPTextModel if component == "text_encoder" else transformers.CLIPTextModelWithProjection
