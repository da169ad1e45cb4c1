"""What checkpoint Forge has loaded, whether it can be learned through, and its noise schedule."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.diffusion_model import LatentDistribution, NoiseSchedule, check_images
from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.family import FamilyTextEncoder, means_and_stds
from celeb_basis.hosts.a1111.images import drawn, plain_processing
from celeb_basis.hosts.a1111.model import Family, checkpoint_name, own_resolution
from celeb_basis.hosts.a1111.modules import host_module, replaced
from celeb_basis.hosts.a1111.text import Slot, words_spliced
from celeb_basis.hosts.forge.gradients import ordinary
from celeb_basis.hosts.forge.modules import backend_module
from celeb_basis.hosts.torch_utils import torch_attention_keeps_scores

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from celeb_basis.diffusion_model import GenerationRequest, PlaceholderTokens, Precision


_ADVICE = "choose a plain text-to-image checkpoint of Stable Diffusion 1.x, 2.x or XL"


def loaded_model_or_none() -> Any | None:
    """Forge's model as it is now; ``None`` before the first one is loaded. Never keep it."""
    model = host_module("sd_models").model_data.sd_model
    return model if getattr(model, "sd_checkpoint_info", None) is not None else None


def loaded_model() -> Any:
    """Forge's model as it is now. Never keep it.

    Raises: :class:`HostError` if no checkpoint is loaded.
    """
    model = loaded_model_or_none()
    if model is None:
        raise HostError("Forge has no checkpoint loaded: choose one at the top of its page, and try again.")
    return model


def load_chosen() -> None:
    """Load the checkpoint that is chosen at the top of the page, as Forge itself does before it draws, and not earlier.

    Raises: :class:`HostError` if it cannot be loaded.
    """
    models = host_module("sd_models")
    try:
        if not models.model_data.forge_loading_parameters:  # without a page, Forge has looked for none yet
            importlib.import_module("modules_forge.main_entry").refresh_model_loading_parameters()
        models.forge_model_reload()
    except Exception as error:  # whatever its loader meets in a file
        chosen = models.model_data.forge_loading_parameters.get("checkpoint_info")
        name = getattr(chosen, "name_for_extra", None) or "a checkpoint"
        raise HostError(f"Forge cannot load {name} ({error}): choose another checkpoint.") from error


def check_model(model: Any) -> None:
    """Raise :class:`HostError` unless the model denoises plain latents by its prompt alone."""
    name = checkpoint_name(model)
    if not (model.is_sd1 or model.is_sd2 or model.is_sdxl):
        raise HostError(f"{name} is none of Stable Diffusion 1.x, 2.x or XL: {_ADVICE}.")
    engines = text_engines(model)
    if model.is_sdxl and len(engines) != 2:
        raise HostError(f"{name} has one of SDXL's two text encoders only, as its refiner does: {_ADVICE}.")
    unet = unet_of(model)
    if unet.in_channels != model.forge_objects_original.vae.latent_channels:
        raise HostError(f"{name} is an inpainting or another special checkpoint: {_ADVICE}.")
    if isinstance(unet.storage_dtype, str):
        raise HostError(
            f'{name} is held in {unet.storage_dtype}, which lets no gradients through: set "Diffusion in Low Bits" at '
            "the top of Forge's page to Automatic, and use a file that is not quantized."
        )
    if getattr(predictor_of(model), "alphas_cumprod", None) is None or _prediction(model) is None:
        raise HostError(f"{name} has a noise schedule of another kind than Stable Diffusion's: {_ADVICE}.")


def family_of(model: Any) -> Family:
    """Forge's own finding."""
    if model.is_sdxl:
        return "sdxl"
    return "sd2" if model.is_sd2 else "sd1"


def resolution_of(model: Any) -> int:
    """Side in pixels of the checkpoint's own square pictures: what the ``.yaml`` beside it says for us, else the family's."""
    config = Path(str(model.sd_checkpoint_info.filename)).with_suffix(".yaml")
    return own_resolution(config, family_of(model), lambda: _prediction(model) == "v_prediction")


def unet_of(model: Any) -> Any:
    return model.forge_objects_original.unet.model.diffusion_model


def predictor_of(model: Any) -> Any:
    """What turns Forge's noise levels into timesteps and back."""
    return model.forge_objects_original.unet.model.predictor


def text_part(model: Any) -> Any:
    """The module that holds all text encoders."""
    return model.forge_objects_original.clip.cond_stage_model


def text_engines(model: Any) -> list[Any]:
    """What turns prompts into conditioning: one of CLIP's engines, or (SDXL) two; none for models without CLIP."""
    kind = backend_module("text_processing.classic_engine").ClassicTextProcessingEngine
    names = ("text_processing_engine", "text_processing_engine_l", "text_processing_engine_g")
    return [engine for name in names if isinstance(engine := getattr(model, name, None), kind)]


def token_embedding(engine: Any) -> Any:
    """Forge's wrapper around a text encoder's token table."""
    return engine.text_encoder.transformer.text_model.embeddings.token_embedding


def noise_schedule(model: Any) -> NoiseSchedule:
    """The schedule that Forge would draw with: the checkpoint's own, or with zero terminal SNR where that is set."""
    import torch

    alphas = ordinary(predictor_of(model).alphas_cumprod.detach()).to("cpu", torch.float32).clone()
    if host_module("shared").opts.sd_noise_schedule == "Zero Terminal SNR" or getattr(
        model.model_config, "ztsnr", False
    ):
        sigmas = ((1 - alphas) / alphas) ** 0.5
        sigmas = backend_module("modules.k_prediction").rescale_zero_terminal_snr_sigmas(sigmas)
        alphas = 1 / (sigmas**2 + 1)
    return NoiseSchedule(alphas, "v_prediction" if _prediction(model) == "v_prediction" else "epsilon")


def keeps_scores(device: torch.device) -> bool:
    """Whether the attention that Forge chose keeps its scores for the backward pass."""
    attention = backend_module("attention")
    chosen = getattr(attention.attention_function, "__name__", "")
    return chosen != "attention_xformers" and (chosen != "attention_pytorch" or torch_attention_keeps_scores(device))


def weights_dtype(model: Any) -> torch.dtype:
    """What the denoiser's weights are held in, or computed in where they are stored in 8 bits."""
    unet = unet_of(model)
    dtype: torch.dtype = unet.storage_dtype if unet.storage_dtype.itemsize > 1 else unet.computation_dtype
    return dtype


def _prediction(model: Any) -> str | None:
    kind = predictor_of(model).prediction_type
    return kind if kind in ("epsilon", "v_prediction") else None


# FOLDED: Prompts with words in them, encoded by Forge's own code, with gradients to the words' vectors.


class ForgeTextEncoder(FamilyTextEncoder):
    """One of Forge's."""

    def token_table(self) -> torch.Tensor:
        return ordinary(token_embedding(self._embedder()).wrapped.weight.detach())


def words_in_place(
    model: Any, words: PlaceholderTokens, encoder_names: Sequence[str]
) -> AbstractContextManager[Callable[[str], str]]:
    """Yields what turns a prompt into one in which Forge, while this lasts, reads every word as its vectors.

    Raises: :class:`HostError` for vectors that do not fit the text encoders.
    """
    engines = text_engines(model)
    slots = [_slot(name, engine) for name, engine in zip(encoder_names, engines, strict=True)]
    return words_spliced(words, slots, engines, [engine.embeddings for engine in engines])


def encode(model: Any, prompts: Sequence[str], width: int, height: int) -> dict[str, torch.Tensor]:
    """Forge's conditioning: ``crossattn`` ``(N, 77 n, width)`` and, for SDXL, ``vector`` for pictures of that size.

    Both are fit for gradients, whatever mode they were computed in.
    """
    model.set_clip_skip(int(host_module("shared").opts.CLIP_stop_at_last_layers))
    batch = host_module("prompt_parser").SdConditioning(list(prompts), width=width, height=height)
    engines = backend_module("text_processing.classic_engine")
    # Forge prints a line for every embedding in every prompt, and would write them into the next picture's parameters.
    with replaced(engines, print=lambda *_: None, last_extra_generation_params={}):
        conditioning = _without_inference_mode(model.get_learned_conditioning)(batch)
    parts = conditioning if isinstance(conditioning, dict) else {"crossattn": conditioning}
    return {name: ordinary(part) for name, part in parts.items()}


def size_vector(model: Any, count: int, width: int, height: int) -> torch.Tensor:
    """SDXL's part of ``vector`` that tells a picture's size, ``(count, S)``: original size, crop and target size."""
    import torch

    opts = host_module("shared").opts
    sizes = [height, width, opts.sdxl_crop_top, opts.sdxl_crop_left, height, width]
    parts = [model.embedder(torch.Tensor([size])) for size in sizes]
    return torch.cat(parts).flatten()[None].repeat(count, 1)


def _slot(name: str, engine: Any) -> Slot:
    device = backend_module("memory_management").text_encoder_device()
    return Slot(name, engine.embedding_key, int(token_embedding(engine).wrapped.weight.shape[1]), device)


def _without_inference_mode(method: Any) -> Callable[..., Any]:
    """A method as it was before ``torch.inference_mode`` decorated it."""
    plain = getattr(method.__func__, "__wrapped__", None)
    return method if plain is None else plain.__get__(method.__self__)  # type: ignore[no-any-return]


# FOLDED: Pictures into latents, through the VAE that the user chose in Forge.


def encode_images(model: Any, pictures: torch.Tensor) -> LatentDistribution:
    """Mean and standard deviation of the latents of ``(N, 3, H, W)`` pictures in [-1, 1], times the scaling factor.

    Raises: :class:`HostError` for no pictures or sides that the VAE cannot halve.
    """
    import torch

    check_images(pictures, vae_scale_factor_of(model))
    vae = vae_of(model)
    with torch.inference_mode():
        backend_module("memory_management").load_models_gpu([vae.patcher])
    with torch.no_grad():
        means, stds = means_and_stds(pictures, partial(_encoded, vae, vae.vae_dtype), partial(_encoded_in_float32, vae))
    module = vae.first_stage_model
    return LatentDistribution(module.process_in(means), stds * float(module.scaling_factor))


def vae_of(model: Any) -> Any:
    """Forge's wrapper of the VAE."""
    return model.forge_objects_original.vae


def vae_scale_factor_of(model: Any) -> int:
    """Side in pixels of what one place of a latent stands for."""
    return int(vae_of(model).downscale_ratio)


def send_vae_away(model: Any) -> None:
    """The VAE off the device, where that frees memory."""
    import torch

    memory = backend_module("memory_management")
    if memory.cpu_mode():
        return
    patcher = vae_of(model).patcher
    for loaded in [one for one in memory.current_loaded_models if one.model is patcher]:
        memory.current_loaded_models.remove(loaded)
        with torch.inference_mode():
            loaded.model_unload()
    memory.soft_empty_cache()


def _encoded(vae: Any, dtype: torch.dtype, picture: torch.Tensor) -> torch.Tensor:
    module = vae.first_stage_model
    output: torch.Tensor = module.encoder(picture.to(vae.device, dtype))
    return output if module.quant_conv is None else module.quant_conv(output)


def _encoded_in_float32(vae: Any, picture: torch.Tensor) -> torch.Tensor:
    import torch

    with casting(vae.first_stage_model, torch.float32):
        return _encoded(vae, torch.float32, picture)


# FOLDED: Pictures drawn by Forge's own processing, as previews are: nothing saved, nothing remembered, no scripts
# FOLDED: run.


def draw_one(
    request: GenerationRequest, prompts: tuple[str, str], seed: int, size: tuple[int, int]
) -> Image.Image | None:
    """One picture by DDIM, or ``None`` if the user interrupted Forge.

    Parameters: ``prompts`` are the positive and the negative one, with words already in place; ``size`` is in pixels.
    """
    processing, models = host_module("processing"), host_module("sd_models")
    p = plain_processing(request, prompts, seed, size)
    # Forge remembers conditionings by prompt for all generations, and would draw a word's old vectors.
    p.cached_c, p.cached_uc = [None, None, None], [None, None, None]
    # Forge loads what is chosen at the top of its page before it draws, which may be another checkpoint meanwhile; told
    # that this is the loaded one, it stays, and finds out at the next picture of the user's own.
    chosen = str(models.model_data.forge_loading_parameters)
    stays = replaced(models.model_data, forge_hash=chosen), replaced(processing, need_global_unload=False)
    return drawn(p, *stays)


# FOLDED: Computing in the precision that was asked for, by Forge's own means: its layers can cast their weights as
# FOLDED: they go.

_CASTS = "parameters_manual_cast"
# Forge's memory of it, where it has put a layer's weights on the CPU for want of room and has it cast for that reason.
_CAST_BEFORE = "prev_parameters_manual_cast"


def dtype_of(precision: Precision, device: torch.device) -> torch.dtype:
    """What ``precision`` means.

    Raises: :class:`HostError` for fp16 on the CPU.
    """
    import torch

    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if wanted == torch.float16 and device.type == "cpu":
        raise HostError("The CPU cannot compute in fp16: set precision to fp32 or bf16.")
    return wanted


class Casting:
    """Has layers of ``module`` cast weights that are held in another dtype than ``dtype`` to that of their input.

    Forge uses the same switch when it loads a module: it is to do that before :meth:`enable`, or after :meth:`restore`.
    """

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self._module, self._dtype = module, dtype
        self._switched: list[Any] = []

    def enable(self) -> None:
        """Layers that do not cast by themselves do."""
        for part in self._module.modules():
            casts = getattr(part, _CASTS, None)
            if casts is False and any(weight.dtype != self._dtype for weight in part.parameters(recurse=False)):
                setattr(part, _CASTS, True)
                self._switched.append(part)

    def restore(self) -> None:
        """Every layer as it was, or as Forge will have it again if it moved the layer's weights meanwhile."""
        while self._switched:
            part = self._switched.pop()
            setattr(part, _CAST_BEFORE if hasattr(part, _CAST_BEFORE) else _CASTS, False)


@contextmanager
def casting(module: Any, dtype: torch.dtype) -> Iterator[None]:
    """:class:`Casting` for a while."""
    cast = Casting(module, dtype)
    try:
        cast.enable()
        yield
    finally:
        cast.restore()
