"""Checkpoints in one ``.safetensors`` file: which family they are, and loading them with diffusers' own loader, offline.

diffusers' ``from_single_file`` converts the weights. It would ask the model hub for the configs of the components; ours
come from :mod:`celeb_basis.hosts.diffusers.configs` and, for checkpoints of unusual sizes, from the ``.yaml`` beside them.
"""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from celeb_basis.diffusion_model import Prediction, configured_resolution, family_resolution
from celeb_basis.errors import HostError
from celeb_basis.exports.foreign_files import content_of, kind_of_file
from celeb_basis.files import explained_os_errors, open_regular
from celeb_basis.hosts.diffusers.configs import (
    PIPELINE_CLASSES,
    Config,
    Family,
    apply_yaml,
    clip_tokenizer,
    component_configs,
    missing_package,
    read_config,
    sample_sizes,
    text_config,
    write_configs,
)
from celeb_basis.hosts.torch_utils import upcast
from celeb_basis.model_files import LATENT_CONSISTENCY, SAFETENSORS, VIDEO, Shapes, kind_of
from celeb_basis.reading import MAX_LARGE_HEADER, UnreadableError, read_header


@dataclass(frozen=True)
class TextPart:
    """Where a checkpoint holds a text encoder."""

    component: str
    """Name of the component in diffusers."""
    prefix: str
    open_clip: bool
    """Whether the keys are OpenCLIP's; else they are those of transformers' CLIP."""


TEXT_PARTS: dict[Family, list[TextPart]] = {
    "sd1": [TextPart("text_encoder", "cond_stage_model.transformer.text_model.", False)],
    "sd2": [TextPart("text_encoder", "cond_stage_model.model.", True)],
    "sdxl": [
        TextPart("text_encoder", "conditioner.embedders.0.transformer.text_model.", False),
        TextPart("text_encoder_2", "conditioner.embedders.1.model.", True),
    ],
}
_TEXT_PREFIXES = ("cond_stage_model.", "conditioner.")
_SPECIAL = {
    5: "a depth-to-image",
    7: "an upscaling",
    8: "an InstructPix2Pix",
}
"""Kinds of models by the channels that their UNets take."""

INPAINTING = 9
"""What the UNet of an inpainting model takes: the latents, a mask, and the latents of the masked image."""

_UNET = "model.diffusion_model."
_VAE = "first_stage_model."
_FIRST_LAYER = _UNET + "input_blocks.0.0.weight"
# Some early conversions of SD1 leave out one level of names.
_EARLY_TEXT, _TEXT = "cond_stage_model.transformer.", "cond_stage_model.transformer.text_model."
_ADVICE = "choose a checkpoint of Stable Diffusion 1.x, 2.x or XL"


def load_single_file(path: Path, dtype: torch.dtype, prediction: Prediction | None = None) -> Any:
    """Load a pipeline from one ``.safetensors`` file, and the ``.yaml`` beside it if there is one.

    Args:
        path: The checkpoint.
        dtype: What the weights are held in.
        prediction: What the denoiser predicts. If ``None``, it is taken from the ``.yaml``, or from flags that newer
            files carry; for SD2, whose two kinds look alike, it is found by running the denoiser once.

    Raises:
        HostError: The file is not such a checkpoint, or it is incomplete.
        MissingPackageError: accelerate or CLIP's vocabulary is missing.
    """
    import diffusers

    _check_suffix(path)
    shapes, flags = _read_header(path)
    family = detect_family(path, shapes)
    configs = component_configs(family)
    configs["unet"]["in_channels"] = shapes[_FIRST_LAYER][1]
    for part in TEXT_PARTS[family]:
        configs[part.component] = _text_config(part, shapes, unused_layers=int(family == "sd2"))
    config_file = path.with_suffix(".yaml")
    original = read_config(config_file) if config_file.is_file() else None
    if original is not None:
        configs = apply_yaml(config_file, original, family, configs)
    _check_sizes(path, shapes, configs, has_yaml=original is not None)
    pipeline = _from_single_file(path, family, configs, dtype)

    scheduler = configs["scheduler"]
    found: Prediction | None = prediction or _flagged_prediction(flags)
    if found is None and original is None and family == "sd2":
        found = probe_prediction(pipeline.unet)
    if found is not None:
        scheduler["prediction_type"] = found
    if "ztsnr" in flags:
        scheduler["rescale_betas_zero_snr"] = True
    pipeline.register_modules(scheduler=diffusers.DDIMScheduler.from_config(scheduler))
    if family == "sd2" and configured_resolution(original) is None:
        side = family_resolution(family, lambda: bool(scheduler["prediction_type"] == "v_prediction"))
        for component, size in zip(("vae", "unet"), sample_sizes(configs["vae"], side), strict=True):
            getattr(pipeline, component).register_to_config(sample_size=size)
    return pipeline


def detect_family(path: Path, shapes: Shapes) -> Family:
    """Find the family of a checkpoint by the text encoders in it.

    Raises:
        HostError: It is not a complete text-to-image checkpoint; the message names what it is, where its keys show it.
    """
    if _FIRST_LAYER not in shapes or len(shapes[_FIRST_LAYER]) != 4:
        kind = kind_of(shapes) or (
            "an embedding" if len(shapes) < 10 else "no Stable Diffusion checkpoint, or a part of one"
        )
        raise HostError(f"{path.name} is {kind}: {_ADVICE}.")
    if kind_of(shapes) == VIDEO:
        raise HostError(f"{path.name} is {VIDEO}: {_ADVICE}.")
    channels = shapes[_FIRST_LAYER][1]
    if channels not in (4, INPAINTING):
        kind = _SPECIAL.get(channels, "a special")
        raise HostError(f"{path.name} is {kind} model, its UNet takes {channels} channels instead of 4: {_ADVICE}.")
    if LATENT_CONSISTENCY in shapes:
        raise HostError(
            f"{path.name} is a Latent Consistency Model (LCM), whose UNet takes the guidance as an input: {_ADVICE} that is "
            "not distilled, for instance the one that it was made of."
        )
    if not any(key.startswith((_VAE, *_TEXT_PREFIXES)) for key in shapes):
        raise HostError(f"{path.name} is only a UNet, it holds no VAE and no text encoder: {_ADVICE} that is complete.")
    if not any(key.startswith(_VAE) for key in shapes):
        raise HostError(f"{path.name} holds no VAE: {_ADVICE} that is complete.")
    families: tuple[Family, ...] = ("sdxl", "sd2", "sd1")
    for family in families:
        if all(any(key.startswith(part.prefix) for key in shapes) for part in TEXT_PARTS[family]):
            return family
    if any(key.startswith("conditioner.embedders.0.model.") for key in shapes):
        raise HostError(f"{path.name} is SDXL's refiner: {_ADVICE}.")
    raise HostError(f"{path.name} holds no text encoder: {_ADVICE} that is complete.")


def probe_prediction(unet: Any) -> Prediction:
    """Find out what a denoiser predicts by giving it a constant latent as if it were nearly pure noise.

    At the last timestep a predictor of noise returns about its input. A predictor of velocity, which is minus the clean
    latent there, returns something far below it.
    """
    # The CPU computes half precision with newer versions of torch only.
    with torch.no_grad(), upcast([unet], torch.float32):
        noise = torch.full((1, 4, 8, 8), 0.5, dtype=unet.dtype, device=unet.device)
        # Beside it, an inpainting model takes a mask that covers everything, and the latents of what is not covered.
        beside = torch.zeros((1, unet.config.in_channels - 4, 8, 8), dtype=unet.dtype, device=unet.device)
        beside[:, :1] = 1.0
        context = torch.full((1, 2, unet.config.cross_attention_dim), 0.5, dtype=unet.dtype, device=unet.device)
        step = torch.tensor([999], device=unet.device)
        difference = (
            (unet(torch.cat([noise, beside], 1), step, encoder_hidden_states=context, return_dict=False)[0] - noise)
            .float()
            .mean()
        )
    return "v_prediction" if float(difference) < -1 else "epsilon"


# Reading the file


def _check_suffix(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in (".ckpt", ".pt", ".pth", ".bin"):
        kind = kind_of_file(path)  # read without unpickling
        if kind not in (None, "a Stable Diffusion checkpoint", "only a UNet"):
            raise HostError(f"{path.name} is {kind}: {_ADVICE}.")
        raise HostError(
            f"{path.name} is a pickle, which can run code when it is loaded: convert it to .safetensors, or download it "
            "in that format."
        )
    if suffix == ".gguf":
        raise HostError(f"{path.name} is a GGUF file, whose numbers are quantized: {_ADVICE} in a .safetensors file.")
    if path.suffix != ".safetensors":  # diffusers would open it as a pickle
        raise HostError(f"{path.name} is not named .safetensors: rename it if it is such a file, or {_ADVICE}.")


def _read_header(path: Path) -> tuple[Shapes, dict[str, str]]:
    """Shapes of the tensors, and flags: the header's metadata, and keys whose presence alone says something."""
    try:
        with open_regular(path) as file, explained_os_errors(path, "read"):
            header = read_header(file, most_bytes=MAX_LARGE_HEADER)
    except UnreadableError as error:
        kind = content_of(path)
        if kind is None or kind == SAFETENSORS:
            raise HostError(f"{path.name} is damaged or not a .safetensors file: download it again.") from error
        raise HostError(
            f"{path.name} is named .safetensors but is {kind}{'' if ':' in kind else ': ' + _ADVICE}."
        ) from error
    flags = dict(header.metadata)
    shapes = {key: entry.shape for key, entry in header.entries.items()}
    flags |= {key: "" for key in ("v_pred", "ztsnr") if shapes.pop(key, None) is not None}
    return {_whole_key(key): shape for key, shape in shapes.items()}, flags


def _flagged_prediction(flags: dict[str, str]) -> Prediction | None:
    declared = flags.get("modelspec.predict_key") or flags.get("modelspec.prediction_type")
    if "v_pred" in flags or declared in ("v", "v_prediction"):
        return "v_prediction"
    return "epsilon" if declared == "epsilon" else None


def _whole_key(key: str) -> str:
    early = key.startswith(_EARLY_TEXT) and not key.startswith(_TEXT)
    return _TEXT + key[len(_EARLY_TEXT) :] if early else key


# Configs from what the file holds


def _text_config(part: TextPart, shapes: Shapes, *, unused_layers: int) -> Config:
    """The config of a text encoder by the shapes of its weights.

    Args:
        part: The text encoder.
        shapes: Of the whole checkpoint.
        unused_layers: Layers at the end that are not part of the model. SD2 stops before its last one.
    """
    own = {key[len(part.prefix) :]: shape for key, shape in shapes.items() if key.startswith(part.prefix)}
    table, hidden, layer = "embeddings.token_embedding.weight", "encoder.layers.0.mlp.fc1.weight", "encoder.layers."
    if part.open_clip:
        table, hidden, layer = (
            "token_embedding.weight",
            "transformer.resblocks.0.mlp.c_fc.weight",
            "transformer.resblocks.",
        )
    try:
        vocabulary, width = own[table]
        layers = 1 + max(int(key[len(layer) :].split(".")[0]) for key in own if key.startswith(layer)) - unused_layers
        projection = own["text_projection"][1] if part.open_clip and "text_projection" in own else None
        config = text_config("gelu" if part.open_clip else "quick_gelu", width, layers, projection=projection)
        return config | {"vocab_size": vocabulary, "intermediate_size": own[hidden][0]}
    except (KeyError, IndexError, ValueError) as error:
        raise HostError(
            f"The checkpoint's text encoder is incomplete ({part.prefix}* lacks {error}): download it again."
        ) from error


def _check_sizes(path: Path, shapes: Shapes, configs: dict[str, Config], *, has_yaml: bool) -> None:
    here = shapes[_FIRST_LAYER][0]
    expected = configs["unet"]["block_out_channels"][0]
    if here != expected:
        remedy = "repair the .yaml beside it" if has_yaml else f"put its config beside it as {path.stem}.yaml"
        raise HostError(f"The UNet of {path.name} starts with {here} channels instead of {expected}: {remedy}.")


# Loading


def _from_single_file(path: Path, family: Family, configs: dict[str, Config], dtype: torch.dtype) -> Any:
    """The pipeline as diffusers loads it with these configs."""
    import diffusers

    # Without accelerate diffusers fills missing weights with random numbers; with it they stay on the device "meta".
    if importlib.util.find_spec("accelerate") is None:
        raise missing_package("accelerate", "0.31")
    components: dict[str, Any] = {
        "scheduler": diffusers.DDIMScheduler.from_config(configs["scheduler"]),
        "tokenizer": clip_tokenizer("open_clip" if family == "sd2" else "clip"),
    }
    if family == "sdxl":
        components["tokenizer_2"] = clip_tokenizer("open_clip")
    else:
        components |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    with tempfile.TemporaryDirectory(prefix="celeb-basis-") as folder:
        write_configs(Path(folder), family, configs)
        try:
            early = _early_text_encoder(path, folder, dtype)
            if early is not None:
                components["text_encoder"] = early
            pipeline = getattr(diffusers, PIPELINE_CLASSES[family]).from_single_file(
                str(path), config=folder, torch_dtype=dtype, local_files_only=True, **components
            )
        except Exception as error:  # its converter fails in many ways where weights are missing
            raise _incomplete(path, path.name) from error
    for name, module in pipeline.components.items():
        if isinstance(module, torch.nn.Module) and any(parameter.is_meta for parameter in module.parameters()):
            raise _incomplete(path, f"The {name} of {path.name}")
    return pipeline


def _early_text_encoder(path: Path, folder: str, dtype: torch.dtype) -> Any:
    """The text encoder of an early conversion, whose keys ``from_single_file`` does not know; ``None`` for other files."""
    import transformers
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm

    with safe_open(str(path), framework="pt", device="cpu") as file:
        early = [key for key in file.keys() if _whole_key(key) != key]  # noqa: SIM118 - not a mapping
        weights = {_whole_key(key): file.get_tensor(key) for key in early}
    if not weights:
        return None
    return create_diffusers_clip_model_from_ldm(
        transformers.CLIPTextModel, weights, subfolder="text_encoder", config=folder, torch_dtype=dtype
    )


def _incomplete(path: Path, what: str) -> HostError:
    return HostError(
        f"{what} is incomplete or of another make: download it again, or put its config beside it as {path.stem}.yaml."
    )
