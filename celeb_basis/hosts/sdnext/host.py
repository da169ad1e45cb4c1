"""The checkpoint that SD.Next has loaded, as a :class:`celeb_basis.diffusion_model.DiffusionModel`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.diffusers.host import DiffusersHost, check_pipeline, family_of, sha256_of_weights
from celeb_basis.hosts.sdnext.modules import sdnext_module
from celeb_basis.hosts.torch_utils import clone_inference_tensors, numbered, preserved_random_state

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from celeb_basis.diffusion_model import (
        Conditioning,
        DiffusionModel,
        GenerationRequest,
        LatentDistribution,
        PlaceholderTokens,
        Precision,
    )


# FOLDED: Which pipeline SD.Next has loaded, whether it can be learned through, and the file that it came from.

_ADVICE = "choose a plain text-to-image checkpoint of Stable Diffusion 1.x, 2.x or XL"


def loaded_pipeline_or_none() -> Any | None:
    """SD.Next's pipeline as it is now, without loading one. Never keep it: SD.Next makes a new one for each task."""
    pipeline = sdnext_module("modeldata").model_data.sd_model
    return getattr(pipeline, "pipe", pipeline)


def loaded_pipeline() -> Any:
    """SD.Next's pipeline as it is now.

    Raises: :class:`HostError` if no checkpoint is loaded.
    """
    pipeline = loaded_pipeline_or_none()
    if pipeline is None:
        raise HostError(
            "SD.Next has no checkpoint loaded: choose one at the top of its page, and wait until it is there."
        )
    return pipeline


def is_stable_diffusion(pipeline: Any) -> bool:
    """Whether it is a Stable Diffusion 1, 2 or XL of diffusers, by its parts."""
    return all(getattr(pipeline, name, None) is not None for name in ("unet", "text_encoder", "tokenizer"))


def check_loaded(pipeline: Any) -> None:
    """Raise :class:`HostError` unless a gradient can pass the pipeline, and its prompt alone says what it draws."""
    name = checkpoint_name(pipeline)
    if not is_stable_diffusion(pipeline):
        raise HostError(f"{name} is no Stable Diffusion 1, 2 or XL ({type(pipeline).__name__}): {_ADVICE}.")
    check_pipeline(pipeline)
    for part in (pipeline.unet, *text_parts(pipeline)):
        if hasattr(part, "_orig_mod"):
            raise HostError("The checkpoint is compiled: switch model compile off in SD.Next's settings to learn.")
        weights = list(part.parameters())
        if getattr(part.config, "quantization_config", None) or not all(one.is_floating_point() for one in weights):
            raise HostError("The checkpoint is quantised: switch quantization off in SD.Next's settings to learn.")
    if getattr(sdnext_module("lora.lora_common"), "previously_loaded_networks", None):
        raise HostError(
            "The LoRA of the last picture is still in the checkpoint: draw one picture without any, then learn."
        )


def text_parts(pipeline: Any) -> list[Any]:
    """The text encoders, one or (SDXL) two."""
    second = getattr(pipeline, "text_encoder_2", None)
    return [pipeline.text_encoder] if second is None else [pipeline.text_encoder, second]


def checkpoint_name(pipeline: Any) -> str:
    """What people call the checkpoint: its file's or folder's name without the ending."""
    described = getattr(pipeline, "sd_checkpoint_info", None)
    name = str(getattr(described, "name", None) or getattr(pipeline, "sd_model_checkpoint", None) or "model")
    return Path(name).stem if name.endswith(".safetensors") else Path(name).name


def sha256_of(pipeline: Any) -> str | None:
    """Hex digest of the weights that it was loaded from, remembered on disk; ``None`` where they cannot be found."""
    described = getattr(pipeline, "sd_checkpoint_info", None)
    if known := getattr(described, "sha256", None):
        return str(known)
    for place in (getattr(described, "path", None), getattr(described, "filename", None)):
        if place and Path(str(place)).exists():
            return sha256_of_weights(Path(str(place)))
    return None


# FOLDED: Where SD.Next's modules lie: text encoders and denoiser together on the device while gradients flow.


@contextmanager
def kept_on_device(pipeline: Any) -> Iterator[None]:
    """Text encoders and denoiser on the device, whatever SD.Next would move between its steps; its own ways afterwards.

    What SD.Next made in torch's inference mode is made ready for gradients.
    """
    models, device = sdnext_module("sd_models"), sdnext_module("devices").device
    parts = [pipeline.unet, *text_parts(pipeline)]
    offloading = bool(getattr(pipeline, "has_accelerate", False))
    if offloading:
        models.disable_offload(pipeline)
    homes = [next(part.parameters()).device for part in parts]
    try:
        for part in parts:
            part.to(device)
        clone_inference_tensors(parts)
        yield
    finally:
        for part, home in zip(parts, homes, strict=True):
            part.to(home)
        if offloading:
            # Balanced offloading believes that its hooks are still there unless it is forced.
            models.set_diffuser_offload(pipeline, force=True)


class SDNextHost(DiffusersHost):
    """Stable Diffusion 1.x, 2.x or XL through the pipeline that SD.Next has loaded; its weights are never copied.

    Pictures are drawn by diffusers itself with the same parts. Once SD.Next has switched to another checkpoint, every use
    raises :class:`HostError`. The caller holds SD.Next's queue lock for as long as it works with this.

    Raises: :class:`HostError` if no checkpoint is loaded, or one that people cannot be learned on.
    """

    def __init__(self) -> None:
        loaded = loaded_pipeline()
        check_loaded(loaded)
        super().__init__(_plain(loaded), name=checkpoint_name(loaded), sha256=sha256_of(loaded))
        self._loaded = loaded

    @property
    def device(self) -> torch.device:
        """SD.Next's own: between pictures its offloading may keep the denoiser elsewhere."""
        return numbered(sdnext_module("devices").device)

    @contextmanager
    def prepare_for_training(self, precision: Precision, *, checkpointing: bool = False) -> Iterator[None]:
        self._check_still_loaded()
        with ExitStack() as stack:
            stack.enter_context(preserved_random_state())
            stack.enter_context(kept_on_device(self._loaded))
            stack.enter_context(super().prepare_for_training(precision, checkpointing=checkpointing))
            yield

    def encode_images(self, pictures: torch.Tensor) -> LatentDistribution:
        self._check_still_loaded()
        return super().encode_images(pictures)

    def encode_prompts(self, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens) -> Conditioning:
        self._check_still_loaded()
        return super().encode_prompts(prompts, placeholder_tokens)

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        self._check_still_loaded()
        return super().predict(latents, timesteps, conditioning)

    def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
        self._check_still_loaded()
        with kept_on_device(self._loaded):
            yield from super().generate(request)

    def _check_still_loaded(self) -> None:
        now = loaded_pipeline_or_none()
        if getattr(now, "unet", None) is not self._unet:
            raise HostError(
                f"SD.Next has switched from {self._name} to {'nothing' if now is None else checkpoint_name(now)}: switch "
                "back, or start anew with the checkpoint that is loaded now."
            )


def _plain(loaded: Any) -> Any:
    """Diffusers' own text-to-image pipeline over the parts of ``loaded``, which SD.Next may have made for another task.

    The noise schedule is the checkpoint's, whichever sampler is chosen.
    """
    import diffusers

    parts = {name: getattr(loaded, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
    parts["scheduler"] = getattr(loaded, "default_scheduler", None) or loaded.scheduler
    if family_of(loaded) != "sdxl":
        nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return diffusers.StableDiffusionPipeline(**parts, **nothing)
    parts |= {name: getattr(loaded, name) for name in ("text_encoder_2", "tokenizer_2")}
    zeros = bool(loaded.config.get("force_zeros_for_empty_prompt", True))
    return diffusers.StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False)


if TYPE_CHECKING:
    _FITS: type[DiffusionModel] = SDNextHost  # the type checker's proof that the interface is met


# FOLDED: Vectors as tokens of SD.Next's tokenizers and text encoders, put there by SD.Next's own functions for
# FOLDED: embeddings.
# FOLDED:
# FOLDED: So a prompt with them is encoded bit for bit as with the same vectors in SD.Next's folder of embeddings,
# FOLDED: by each of its
# FOLDED: ways to read prompts.


def put_token(token: str, vectors: Sequence[torch.Tensor]) -> None:
    """Have the loaded checkpoint read ``token`` in a prompt as ``vectors``, one ``(E, D_i)`` tensor a text encoder.

    Of a token that is there already nothing is changed.

    Raises: :class:`HostError` for vectors that no text encoder takes.
    """
    inversion = sdnext_module("textual_inversion")
    encoders, tokenizers, widths = inversion.get_text_encoders()
    for of_encoder in vectors:
        if of_encoder.shape[1] not in widths:
            raise HostError(
                f"No text encoder of the loaded checkpoint takes vectors of {of_encoder.shape[1]} numbers: choose a "
                "checkpoint of the family that the person was learned on."
            )
    places = [(encoders[widths.index(one.shape[1])], tokenizers[widths.index(one.shape[1])], one) for one in vectors]
    tokens = [token if number == 0 else f"{token}_{number}" for number in range(len(vectors[0]))]
    if all(_is_there(*place, tokens) for place in places):
        return
    embedding = inversion.Embedding(vec=list(vectors), name=token, filename=None)
    embedding.tokens = tokens
    embedding.vector_sizes = [int(one.shape[1]) for one in vectors]
    inversion.insert_tokens([embedding], tokenizers)
    for encoder, tokenizer in zip(encoders, tokenizers, strict=True):
        rows = encoder.get_input_embeddings().weight.shape[0]
        if rows < len(tokenizer):
            # Else new rows would be drawn like the old ones, which takes seconds; they are written over at once.
            encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    inversion.insert_vectors(embedding, tokenizers, encoders, widths)


def _is_there(encoder: Any, tokenizer: Any, vectors: torch.Tensor, tokens: Sequence[str]) -> bool:
    import torch

    known = tokenizer.added_tokens_encoder
    table = encoder.get_input_embeddings().weight
    ids = [known.get(token, len(table)) for token in tokens]
    return max(ids) < len(table) and torch.equal(table[ids].detach(), vectors.to(table))
