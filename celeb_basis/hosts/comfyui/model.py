"""MODEL, CLIP and VAE as ComfyUI's nodes pass them on: their family, their parts, their noise schedule."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch

from celeb_basis.diffusion_model import (
    LatentDistribution,
    NoiseSchedule,
    TextEncoder,
    check_images,
    check_latents,
    configured_resolution,
    family_resolution,
)
from celeb_basis.errors import FileError, HostError
from celeb_basis.hosts.comfyui.modules import UNKNOWN, Source, comfy_part, memory_management, method_of
from celeb_basis.hosts.diffusers.digests import sha256_of_modules, sha256_of_weights
from celeb_basis.hosts.torch_utils import decode_each, encode_each, leave_inference_mode, normal_tensor, upcast
from celeb_basis.reading import read_yaml

Family = Literal["sd1", "sd2", "sdxl"]

ADVICE = "connect a text-to-image or inpainting checkpoint of Stable Diffusion 1.x, 2.x or XL"
"""The end of every sentence that refuses a model."""

_FAMILIES: Mapping[tuple[str, ...], Family] = {("clip_l",): "sd1", ("clip_h",): "sd2", ("clip_l", "clip_g"): "sdxl"}
_REFINER = ("clip_g",)
_NOT_PLAIN = {5: "a depth model", 8: "an InstructPix2Pix model"}


class ComfyTextEncoder(TextEncoder):
    """One of the text encoders of a CLIP.

    Args:
        name: Its name in exported files, which is ComfyUI's own: ``"clip_l"``, ``"clip_g"``, ``"clip_h"``.
        clip: ComfyUI's CLIP.
    """

    def __init__(self, name: str, clip: Any) -> None:
        self._name, self._clip = name, clip

    @property
    def name(self) -> str:
        """Its name in exported files."""
        return self._name

    @property
    def width(self) -> int:
        """The width of a token embedding."""
        return int(self._table().shape[1])

    @property
    def tokenizer(self) -> Any:
        """ComfyUI's tokenizer of this text encoder, which makes chunks with weights and embeddings."""
        return method_of(self._clip.tokenizer, self._name)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        if not texts:
            return []
        tokenizer = method_of(self.tokenizer, "tokenizer")
        return [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    def token_table(self) -> torch.Tensor:
        """``(V, D)`` token embeddings, a normal tensor over the memory of ComfyUI's."""
        return normal_tensor(self._table().detach())

    def weights(self) -> Iterator[torch.Tensor]:
        """Those of ComfyUI's module, but for a projection that its checkpoints do not hold and nothing computes with."""
        parts = [self._module.text_model, *([self._module.text_projection] if self._name == "clip_g" else [])]
        return (normal_tensor(weight.detach()) for part in parts for weight in part.parameters())

    @property
    def _module(self) -> Any:
        return method_of(self._clip.cond_stage_model, self._name).transformer

    def _table(self) -> torch.Tensor:
        table: torch.Tensor = method_of(self._module, "get_input_embeddings")().weight
        return table


class ComfyClip:
    """A CLIP: the text encoders of one of the three families.

    Args:
        clip: ComfyUI's CLIP.
        source: The checkpoint that it is from.

    Raises:
        HostError: There is none, or it is of another family; the message names it.
    """

    def __init__(self, clip: Any, source: Source = UNKNOWN) -> None:
        if clip is None:
            raise HostError(
                "This checkpoint has no text encoder of its own: connect the clip of a loader of text encoders, of Stable "
                "Diffusion 1.x, 2.x or XL."
            )
        self.clip, self.source = clip, source
        self.family, names = _family(clip)
        self.encoders = tuple(ComfyTextEncoder(name, clip) for name in names)

    @property
    def text_model(self) -> Any:
        """The module that holds all text encoders."""
        return self.clip.cond_stage_model

    @property
    def name(self) -> str:
        """What users call it: the checkpoint's file without its suffix."""
        return self.source.name or "the connected clip"


def _family(clip: Any) -> tuple[Family, tuple[str, ...]]:
    """The family of a CLIP, and the names of its text encoders in the family's order."""
    model = method_of(clip, "cond_stage_model")
    one = comfy_part("comfy.sd1_clip", "SDClipModel")
    names = tuple(
        sorted((name for name, part in model.named_children() if isinstance(part, one)), reverse=True)
    )  # clip_l before clip_g
    kinds = (
        comfy_part("comfy.sd1_clip", "SD1ClipModel"),
        comfy_part("comfy.sdxl_clip", "SDXLClipModel"),
    )
    if isinstance(model, kinds) and names in _FAMILIES:
        return _FAMILIES[names], names
    if isinstance(model, comfy_part("comfy.sdxl_clip", "SDXLRefinerClipModel")) and names == _REFINER:
        return "sdxl", names
    raise HostError(
        f"The clip is {_plain(type(model).__name__)}'s, and only Stable Diffusion 1.x, 2.x and XL have a celeb basis: connect "
        "the clip of such a checkpoint."
    )


def _plain(name: str) -> str:
    """A model's name as users know it, from the name of ComfyUI's class: ``FluxClipModel_`` is Flux."""
    name = name.rstrip("_")
    for ending in ("ClipModel", "TEModel", "CLIPModel", "Model"):
        name = name.removesuffix(ending)
    return name or "another model"


class ComfyModel:
    """A MODEL with its CLIP and VAE, to learn on.

    Args:
        model: ComfyUI's MODEL. Its LoRAs count, and so does its noise schedule; patches of its attention do not.
        clip: ComfyUI's CLIP.
        vae: ComfyUI's VAE.
        source: The checkpoint that the model is from.
        clip_source: The checkpoint that the clip is from.

    Raises:
        HostError: One of them cannot be learned on, or they do not belong together; the message names it.
    """

    def __init__(
        self, model: Any, clip: Any, vae: Any, source: Source = UNKNOWN, clip_source: Source = UNKNOWN
    ) -> None:
        self.source = source
        self._check_denoiser(model)
        self.text = ComfyClip(clip, clip_source)
        self.patcher = _without_attention_patches(model)
        self.clip, self.vae = clip, vae
        self._check_widths()
        self._check_vae()
        self.schedule = noise_schedule(self.sampling, self.name)

    @property
    def name(self) -> str:
        """What users call it: the checkpoint's file without its suffix."""
        return self.source.name or "the connected model"

    @property
    def family(self) -> Family:
        """The family of the text encoders, which is the denoiser's too."""
        return self.text.family

    @property
    def base(self) -> Any:
        """ComfyUI's model around the denoiser."""
        return self.patcher.model

    @property
    def unet(self) -> Any:
        """The denoiser."""
        return self.base.diffusion_model

    @property
    def sampling(self) -> Any:
        """What turns noise levels into timesteps and back, as the user set it."""
        return method_of(self.patcher, "get_model_object")("model_sampling")

    @cached_property
    def sha256(self) -> str:
        """Hex digest: of the checkpoint's file if all is from there as it is, else of what was made of it."""
        files = {self.source.file, self.text.source.file}
        changes = (*self.source.changes, *self.text.source.changes)
        if files != {self.source.file} or self.source.file is None:
            patches = f"{self.patcher.patches_uuid} {self.clip.patcher.patches_uuid}"
            return _digest(sha256_of_modules([self.unet, self.text.text_model]), patches)
        of_file = sha256_of_weights(self.source.file)
        return _digest(of_file, *changes) if changes else of_file

    @property
    def resolution(self) -> int:
        """Side in pixels of the checkpoint's own square images: from the ``.yaml`` beside it, else the family's."""
        config: Any = None
        if self.source.file is not None:
            try:
                config = read_yaml(self.source.file.with_suffix(".yaml"))
            except (FileError, ValueError):
                config = None
        predicts_v = self.schedule.prediction == "v_prediction"
        return configured_resolution(config) or family_resolution(self.family, lambda: predicts_v)

    @property
    def weights_dtype(self) -> torch.dtype:
        """What the denoiser's weights are stored in."""
        dtype: torch.dtype = next(self.unet.parameters()).dtype
        return dtype

    @property
    def dtype(self) -> torch.dtype:
        """What ComfyUI computes the denoiser in: it casts weights that are stored otherwise."""
        dtype: torch.dtype = getattr(self.base, "manual_cast_dtype", None) or self.weights_dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Where ComfyUI computes the denoiser."""
        return torch.device(self.patcher.load_device)

    @property
    def patchers(self) -> list[Any]:
        """What ComfyUI's memory management loads for training: denoiser and text encoders, with their LoRAs."""
        return [self.patcher, self.clip.patcher]

    @property
    def latent_channels(self) -> int:
        """Channels of the latents; an inpainting denoiser takes more."""
        return int(self.base.latent_format.latent_channels)

    def denoiser_input(self, latents: torch.Tensor) -> torch.Tensor:
        """What the denoiser takes for noisy latents ``(N, C, h, w)``, where a prompt alone says what is drawn.

        For an inpainting denoiser these are ``(N, 2 C + 1, h, w)``: with a mask that covers everything and the latents of a
        gray image, which for ComfyUI are the same numbers for every VAE.
        """
        if not _is_inpainting(self.base):
            return latents
        beside = method_of(self.base, "concat_cond")(noise=latents, latent_image=latents, device=latents.device)
        return torch.cat([latents, beside.to(latents)], dim=1)

    @property
    def vae_scale_factor(self) -> int:
        """Pixels along a side of an image for each place of its latent."""
        return int(self.vae.downscale_ratio)

    def encode_images(self, images: torch.Tensor) -> LatentDistribution:
        """Encode images with the connected VAE, one at a time.

        Args:
            images: ``(N, 3, H, W)`` in [-1, 1].

        Raises:
            HostError: For no images, or for sides that the VAE cannot halve.
        """
        check_images(images, self.vae_scale_factor)
        vae, used = self.vae, self.vae.memory_used_encode((1, *images.shape[1:]), self.vae.vae_dtype)
        with torch.inference_mode():
            memory_management().load_models_gpu([vae.patcher], memory_required=used)
            pictures, module = (image[None] for image in images), vae.first_stage_model
            with upcast([module], vae.vae_dtype):
                encoded = list(encode_each(pictures, self._encoded, lambda: upcast([module], torch.float32)))
            latents = self.base.process_latent_in(torch.cat([mean for mean, _ in encoded]))
            scale = float(self.base.latent_format.scale_factor)
        with leave_inference_mode():
            return LatentDistribution(latents.float().clone(), torch.cat([std for _, std in encoded]) * scale)

    def _encoded(self, image: torch.Tensor, wide: bool) -> torch.Tensor:
        module = self.vae.first_stage_model
        output: torch.Tensor = module.encoder(image.to(self.vae.device, torch.float32 if wide else self.vae.vae_dtype))
        quant: Callable[[torch.Tensor], torch.Tensor] | None = getattr(module, "quant_conv", None)
        return output if quant is None else quant(output)

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode scaled latents ``(N, C, h, w)`` with the connected VAE, one at a time, to pictures in about [-1, 1]."""
        check_latents(latents)
        vae, used = self.vae, self.vae.memory_used_decode((1, *latents.shape[1:]), self.vae.vae_dtype)
        with torch.inference_mode():
            memory_management().load_models_gpu([vae.patcher], memory_required=used)
            unscaled = self.base.process_latent_out(latents.float())
            pictures = decode_each(unscaled, self._decoder(vae.vae_dtype), self._decoder(torch.float32))
        with leave_inference_mode():
            return pictures.clone()

    def _decoder(self, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
        module, device = self.vae.first_stage_model, self.vae.device

        def decode(latent: torch.Tensor) -> torch.Tensor:
            with upcast([module], dtype):
                picture: torch.Tensor = module.decode(latent.to(device, dtype))
                return picture

        return decode

    def release_vae(self) -> None:
        """Have ComfyUI unload the VAE, where that frees memory."""
        memory, patcher = memory_management(), self.vae.patcher
        if torch.device(self.vae.device).type == "cpu":
            return
        for loaded in [one for one in memory.current_loaded_models if one.model is patcher]:
            memory.current_loaded_models.remove(loaded)
            with torch.inference_mode():
                loaded.model_unload()
        memory.soft_empty_cache()

    def _check_denoiser(self, model: Any) -> None:
        base, name = method_of(model, "model"), self.name
        unet = getattr(base, "diffusion_model", None)
        plain = comfy_part("comfy.model_base", "BaseModel"), comfy_part("comfy.model_base", "SDXL")
        if not isinstance(unet, comfy_part("comfy.ldm.modules.diffusionmodules.openaimodel", "UNetModel")):
            kind = type(getattr(base, "model_config", base)).__name__
            raise HostError(f"{_of(name)} is a model of the family {kind}, which has no celeb basis: {ADVICE}.")
        if type(base) not in plain:
            raise HostError(
                f"{_of(name)} is a model of the kind {type(base).__name__}, neither text-to-image nor inpainting: {ADVICE}."
            )
        if unet.in_channels != base.latent_format.latent_channels and not _is_inpainting(base):
            kind = _NOT_PLAIN.get(unet.in_channels, f"a model of {unet.in_channels} channels")
            raise HostError(f"{_of(name)} is {kind}: {ADVICE}.")

    def _check_widths(self) -> None:
        attention = next((part for part in self.unet.modules() if type(part).__name__ == "BasicTransformerBlock"), None)
        wanted = int(attention.attn2.to_k.in_features) if attention is not None else 0
        width = sum(encoder.width for encoder in self.text.encoders)
        if wanted != width or (self.family == "sdxl") != (type(self.base) is comfy_part("comfy.model_base", "SDXL")):
            raise HostError(
                f"{_of(self.name)} takes text of {wanted} numbers a token, and the connected clip gives {width}: connect the "
                "model and the clip of one checkpoint."
            )

    def _check_vae(self) -> None:
        module = getattr(self.vae, "first_stage_model", None)
        if not isinstance(module, comfy_part("comfy.ldm.models.autoencoder", "AutoencodingEngine")):
            kind = "missing" if module is None else f"of the kind {type(module).__name__}"
            raise HostError(f"The VAE is {kind}, which cannot be learned with: connect the checkpoint's own.")
        channels = self.base.latent_format.latent_channels
        if self.vae.latent_channels != channels:
            raise HostError(
                f"The VAE makes latents of {self.vae.latent_channels} channels, and {self.name} takes {channels}: connect the "
                "checkpoint's own VAE."
            )


def _is_inpainting(base: Any) -> bool:
    """Whether ComfyUI gives the denoiser a mask and the latents of a masked image beside the noisy latents."""
    channels = 2 * base.latent_format.latent_channels + 1
    asked = tuple(getattr(base, "concat_keys", ()))
    return bool(base.diffusion_model.in_channels == channels) and asked == ("mask", "masked_image")


def _of(name: str) -> str:
    return f"{name[0].upper()}{name[1:]}" if name.startswith("the ") else name


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _without_attention_patches(model: Any) -> Any:
    """A clone of a MODEL, over the same weights, with its LoRAs and noise schedule and nothing else that nodes added."""
    clone = method_of(model, "clone")()
    kept = {name: patch for name, patch in clone.object_patches.items() if name.split(".")[0] == "model_sampling"}
    clone.object_patches = kept
    clone.model_options = {"transformer_options": {}}
    return clone


def noise_schedule(sampling: Any, name: str) -> NoiseSchedule:
    """The forward process of ComfyUI's object for noise levels, with zero terminal SNR where it has that.

    Raises:
        HostError: It is not one of discrete steps, or the model predicts neither noise nor velocity.
    """
    discrete = comfy_part("comfy.model_sampling", "ModelSamplingDiscrete")
    kinds = {
        comfy_part("comfy.model_sampling", "EPS").calculate_denoised: "epsilon",
        comfy_part("comfy.model_sampling", "V_PREDICTION").calculate_denoised: "v_prediction",
    }
    prediction = kinds.get(type(sampling).calculate_denoised)
    # The kinds with other timesteps are subclasses.
    usual = isinstance(sampling, discrete) and type(sampling).timestep is discrete.timestep
    if prediction is None or not usual:
        raise HostError(
            f"{_of(name)} has a noise schedule of another kind than Stable Diffusion's ({type(sampling).__mro__[1].__name__}): "
            f"{ADVICE}, without an LCM or another distilled sampling."
        )
    sigmas = normal_tensor(sampling.sigmas.detach()).to("cpu", torch.float64)
    alphas = (1 / (sigmas**2 + 1)).float()
    return NoiseSchedule(alphas, "epsilon" if prediction == "epsilon" else "v_prediction")
