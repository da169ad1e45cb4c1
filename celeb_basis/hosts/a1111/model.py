"""What checkpoint the WebUI has loaded, whether it can be learned through, and its noise schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from celeb_basis.diffusion_model import NoiseSchedule, Prediction, configured_resolution, family_resolution
from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.modules import host_module, replaced
from celeb_basis.hosts.torch_utils import check_autocast, torch_attention_keeps_scores, upcast

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from celeb_basis.diffusion_model import Precision


Family = Literal["sd1", "sd2", "sdxl"]

_ADVICE = "choose a plain text-to-image checkpoint of Stable Diffusion 1.x, 2.x or XL"
_NOT_PLAIN = {
    "hybrid": "an inpainting or depth checkpoint",
    "concat": "an inpainting checkpoint",
    "crossattn-adm": "an unCLIP checkpoint",
    "adm": "an unCLIP checkpoint",
    "hybrid-adm": "an upscaler",
}


def loaded_model_or_none() -> Any | None:
    """The host's model as it is now; ``None`` if no checkpoint is loaded. Never keep it."""
    model = host_module("shared").sd_model
    return model if getattr(model, "sd_checkpoint_info", None) is not None else None


def loaded_model() -> Any:
    """The host's model as it is now. Never keep it: a switch of checkpoints leaves the old object without weights.

    Raises: :class:`HostError` if no checkpoint is loaded.
    """
    model = loaded_model_or_none()
    if model is None:
        raise HostError(
            "The WebUI has no checkpoint loaded: choose one at the top of its page, and wait until it is there."
        )
    return model


def check_model(model: Any) -> None:
    """Raise :class:`HostError` unless the model denoises plain latents by its prompt alone."""
    name = checkpoint_name(model)
    if getattr(model, "is_sd3", False):
        raise HostError(f"{name} is a checkpoint of Stable Diffusion 3: {_ADVICE}.")
    if getattr(model, "cond_stage_key", None) == "edit":
        raise HostError(f"{name} is an InstructPix2Pix checkpoint: {_ADVICE}.")
    key = getattr(model.model, "conditioning_key", "crossattn")
    inputs = unet_of(model).in_channels
    if key != "crossattn" or getattr(model, "is_sdxl_inpaint", False) or inputs != model.latent_channels:
        kind = _NOT_PLAIN.get(key, "an inpainting checkpoint" if inputs == 9 else "a special checkpoint")
        raise HostError(f"{name} is {kind}, which wants more than a prompt: {_ADVICE}.")
    embedders = text_embedders(model)
    if family_of(model) == "sdxl" and len(embedders) != 2:
        raise HostError(f"{name} has one of SDXL's two text encoders only, as its refiner does: {_ADVICE}.")
    for embedder in embedders:
        if not (hasattr(embedder.wrapped, "transformer") or hasattr(embedder.wrapped, "model")):
            raise HostError(f"The text encoder of {name} is none of CLIP's: {_ADVICE}.")


def checkpoint_name(model: Any) -> str:
    """What people call the checkpoint: its file's name without the ending."""
    info = model.sd_checkpoint_info
    return str(getattr(info, "name_for_extra", None) or getattr(info, "model_name", None) or info.name)


def family_of(model: Any) -> Family:
    """The host's own finding; SSD is a smaller SDXL with the same text encoders."""
    if model.is_sdxl:
        return "sdxl"
    return "sd2" if model.is_sd2 else "sd1"


def resolution_of(model: Any) -> int:
    """Side in pixels of the checkpoint's own square pictures: what its ``.yaml`` says for us, else the family's."""
    config = getattr(model, "used_config", None)
    return own_resolution(config, family_of(model), lambda: bool(model.parameterization == "v"))


def own_resolution(config: Any, family: Family, predicts_v: Callable[[], bool]) -> int:
    """What the file ``config`` says for us, which the host built the model from, else the family's."""
    return configured_resolution(_content(config)) or family_resolution(family, predicts_v)


def _content(config: Any) -> Any:
    import yaml  # type: ignore[import-untyped]

    try:
        return yaml.safe_load(Path(str(config)).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def unet_of(model: Any) -> Any:
    return model.model.diffusion_model


def weights_dtype(model: Any) -> torch.dtype:
    """What the denoiser's weights are held in."""
    dtype: torch.dtype = next(unet_of(model).parameters()).dtype
    return dtype


def text_part(model: Any) -> Any:
    """The module that holds all text encoders."""
    return model.conditioner if model.is_sdxl else model.cond_stage_model


def text_embedders(model: Any) -> list[Any]:
    """The host's wrappers of the text encoders, one or (SDXL) two."""
    if model.is_sdxl:
        return [part for part in model.conditioner.embedders if hasattr(part, "encode_embedding_init_text")]
    return [model.cond_stage_model]


def token_embedding(embedder: Any) -> Any:
    """The host's ``EmbeddingsWithFixes`` around a text encoder's token table."""
    wrapped = embedder.wrapped
    if hasattr(wrapped, "transformer"):
        return wrapped.transformer.text_model.embeddings.token_embedding
    return wrapped.model.token_embedding


def noise_schedule(model: Any) -> NoiseSchedule:
    """The schedule the host would draw with: the checkpoint's own, or with zero terminal SNR where the user set that.

    ``alphas_cumprod`` of the model itself depends on the last generation; the setting that rounds it to half precision
    only reproduces old pictures and is not learned with.
    """
    import torch

    alphas = getattr(model, "alphas_cumprod_original", model.alphas_cumprod).detach().to("cpu", torch.float32).clone()
    if host_module("shared").opts.sd_noise_schedule == "Zero Terminal SNR":
        alphas = host_module("sd_models").rescale_zero_terminal_snr_abar(alphas)
    kind: Prediction = "v_prediction" if model.parameterization == "v" else "epsilon"
    return NoiseSchedule(alphas, kind)


def keeps_scores(device: torch.device) -> bool:
    """Whether the attention that the user chose keeps its scores for the backward pass.

    xformers and, on graphics cards, torch's own keep a row's sum. Sub-quadratic attention would compute its chunks again
    while the denoiser trains; here it evaluates, and every chunk's scores are kept.
    """
    chosen = getattr(host_module("sd_hijack").current_optimizer, "name", None) or ""
    if chosen == "xformers":
        return False
    return not chosen.startswith("sdp") or torch_attention_keeps_scores(device)


# FOLDED: Computing in the precision that was asked for, by the host's own means where it already does.

_Context: TypeAlias = "Callable[[], AbstractContextManager[Any]]"


@dataclass(frozen=True)
class Computing:
    """Makers of the contexts that forward passes run in."""

    text: _Context
    denoiser: _Context

    @contextmanager
    def blocks(self) -> Iterator[None]:
        """What the denoiser's blocks run in: the host casts once more as it hands them their input."""
        with self.denoiser(), _autocast():
            yield


def _autocast() -> AbstractContextManager[Any]:
    context: AbstractContextManager[Any] = host_module("devices").autocast()
    return context


def _sampling() -> AbstractContextManager[Any]:
    """With ``--upcast-sampling`` the host's denoiser casts by itself."""
    devices = host_module("devices")
    context: AbstractContextManager[Any] = (
        devices.without_autocast() if devices.unet_needs_upcast else devices.autocast()
    )
    return context


AS_THE_HOST = Computing(text=_autocast, denoiser=_sampling)
"""What the host itself encodes prompts and samples in."""


@contextmanager
def in_precision(model: Any, precision: Precision) -> Iterator[Computing]:
    """Text encoders and denoiser ready to compute in ``precision``; their weights exactly as they were afterwards.

    In the precision of the weights themselves, the host's own autocast serves. Weights that are narrower than what is
    asked for are upcast in their place, one after the other; there is never a second copy of the model.

    Raises: :class:`HostError` for fp16 on the CPU, or what torch cannot compute in on another device.
    """
    import torch

    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    devices = host_module("devices")
    if wanted == torch.float16 and devices.device.type == "cpu":
        raise HostError("The CPU cannot compute in fp16: set precision to fp32 or bf16.")
    held = weights_dtype(model)
    if held == wanted:
        yield AS_THE_HOST
        return
    with ExitStack() as stack:
        if held != torch.float32:
            wide = _wide_enough(held, wanted)
            stack.enter_context(upcast([model.model, text_part(model)], wide))
            stack.enter_context(_host_believes(model, wide))
        if wanted == torch.float32:
            yield Computing(nullcontext, nullcontext)
            return
        device = devices.device
        check_autocast(device, wanted)

        def autocast() -> AbstractContextManager[Any]:
            return torch.autocast(device.type, dtype=wanted)

        # In float32 the text encoders' own gradients stay exact, and OpenCLIP's masks would not meet a half-precision
        # query; they are a small part of the work.
        in_float32 = weights_dtype(model) == torch.float32
        yield Computing(nullcontext if in_float32 else autocast, autocast)


def _wide_enough(held: torch.dtype, wanted: torch.dtype) -> torch.dtype:
    """Between the two half precisions there is no way but float32, from which autocast starts."""
    import torch

    return wanted if held.itemsize < wanted.itemsize else torch.float32


@contextmanager
def _host_believes(model: Any, dtype: torch.dtype) -> Iterator[None]:
    """The host casts what enters the denoiser to the dtype that it remembers of its weights."""
    devices = host_module("devices")
    remembered = {
        "dtype": dtype,
        "dtype_unet": dtype,
        "dtype_inference": dtype,
        "unet_needs_upcast": False,
        "fp8": False,
        "force_fp16": False,
    }
    with replaced(devices, **remembered), replaced(unet_of(model), dtype=dtype):
        yield
