"""What is changed in the WebUI's model while it is trained through, each as it was afterwards.

Where its modules lie, the precision it computes in, gradient checkpointing, and what other parts of the WebUI have added
to the denoiser and the text encoders.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.utils.checkpoint import checkpoint as recompute_in_backward

from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.modules import host_module, lora_module, replaced
from celeb_basis.hosts.held_weights import DTYPES, HeldWeights, all_in, ready_for_autocast
from celeb_basis.hosts.torch_utils import check_autocast, upcast

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import Precision
    from celeb_basis.hosts.a1111.model import A1111Checkpoint

_log = logging.getLogger(__name__)

_Context: TypeAlias = "Callable[[], AbstractContextManager[Any]]"

# Disabled by hand in ModelPatches: activating them with nothing would bring in the user's default ones.
_BUILT_IN = ("hypernet", "lora", "lyco")
# Where the WebUI's built-in HyperTile, which computes attention tile by tile, stores a module's last settings.
_HYPERTILE = "__webui_hypertile_params"
_BLOCKS = ("ResBlock", "AttentionBlock", "BasicTransformerBlock")
# Switches of the original code's own checkpointing, which fails as soon as the weights ask for no gradients.
_OWN_CHECKPOINTING = ("use_checkpoint", "checkpoint")


class ModelPatches:
    """LoRAs of the last prompt, hypernetworks, UNet overrides, token merging, HyperTile and tiling, as they are now.

    :meth:`disable` may be called again at any time, as after a preview, which enables things; :meth:`restore` once at the
    end. Networks of other extensions are asked to deactivate; the next prompt activates them again.
    """

    def __init__(self, checkpoint: A1111Checkpoint) -> None:
        self._model = model = checkpoint.model
        shared, hijack, lora = host_module("shared"), host_module("sd_hijack").model_hijack, lora_module()
        option = host_module("sd_unet").current_unet_option
        self._unet = "None" if option is None else option.label
        self._merging = getattr(model, "applied_token_merged_ratio", 0)
        self._tiling = hijack.circular_enabled
        self._hypernetworks = shared.loaded_hypernetworks
        tiled = [part for part in model.modules() if hasattr(part, _HYPERTILE)]
        self._hypertile = [(params, params.enabled) for params in (getattr(part, _HYPERTILE) for part in tiled)]
        self._loras = None if lora is None else list(lora.loaded_networks)

    def disable(self) -> None:
        """From here on, only the checkpoint's own weights compute."""
        self._deactivate_other_networks()
        host_module("sd_unet").apply_unet("None")
        host_module("sd_models").apply_token_merging(self._model, 0)
        host_module("sd_hijack").model_hijack.apply_circular(False)
        host_module("shared").loaded_hypernetworks = []
        for params, _ in self._hypertile:
            params.enabled = False
        self._apply_loras([])

    def restore(self) -> None:
        """Everything as it was when this was made."""
        if self._loras is not None:
            self._apply_loras(self._loras)
        for params, enabled in self._hypertile:
            params.enabled = enabled
        host_module("shared").loaded_hypernetworks = self._hypernetworks
        host_module("sd_hijack").model_hijack.apply_circular(self._tiling)
        host_module("sd_models").apply_token_merging(self._model, self._merging)
        host_module("sd_unet").apply_unet(self._unet)

    def _apply_loras(self, wanted: list[Any]) -> None:
        lora = lora_module()
        if lora is None:
            return
        lora.loaded_networks[:] = wanted
        if host_module("shared").opts.lora_functional:
            return  # the layers add LoRAs to what they compute and leave their weights alone
        # The WebUI would change the weights at each layer's next forward pass; then hashes would differ until then.
        nn = torch.nn
        layers = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)  # what LoRAs can change
        with torch.no_grad():
            for part in self._model.modules():
                if isinstance(part, layers) and hasattr(part, "network_layer_name"):
                    lora.network_apply_weights(part)

    def _deactivate_other_networks(self) -> None:
        networks = host_module("extra_networks").extra_network_registry
        others = [network for name, network in networks.items() if name not in _BUILT_IN]
        if not others:
            return
        processing = host_module("processing").StableDiffusionProcessingTxt2Img()
        processing.all_prompts = [""]
        for network in others:
            try:
                network.activate(processing, [])
            except Exception:  # an error of another extension is no reason to stop; the WebUI logs it as well
                _log.warning("The extra network %s could not be disabled.", network.name, exc_info=True)


@contextmanager
def held_on_device(checkpoint: A1111Checkpoint) -> Iterator[None]:
    """Text encoders and denoiser on the device, whatever ``--medvram`` would move; every tensor back home afterwards.

    ``--medvram`` moves modules by hooks before each forward pass. A backward pass through weights that have left the
    device would fail, so the hooks are removed inside the context.

    Raises:
        HostError: Under ``--lowvram``, which never has the denoiser as a whole on the device.
    """
    model, lowvram = checkpoint.model, host_module("lowvram")
    if getattr(model, "lowvram", False) and host_module("shared").cmd_opts.lowvram:
        raise HostError(
            "The WebUI runs with --lowvram, which keeps the denoiser in pieces: start it with --medvram, or without "
            "either, to learn."
        )
    homes = [(tensor, tensor.device) for tensor in (*model.parameters(), *model.buffers())]
    with ExitStack() as stack:
        stack.callback(_send_home, homes)
        stack.enter_context(replaced(lowvram, module_in_gpu=None))
        for part in model.modules():
            if any(_moves(hook, lowvram) for hook in part._forward_pre_hooks.values()):
                stack.callback(part._forward_pre_hooks.update, dict(part._forward_pre_hooks))
                stack.callback(part._forward_pre_hooks.clear)
                for key in [key for key, hook in part._forward_pre_hooks.items() if _moves(hook, lowvram)]:
                    del part._forward_pre_hooks[key]
        move_to_device(checkpoint)
        if getattr(model, "lowvram", False):
            model.first_stage_model.to(host_module("devices").cpu)
        yield


def move_to_device(checkpoint: A1111Checkpoint) -> None:
    """Move text encoders and denoiser to the device; nothing happens if they are there."""
    device = host_module("devices").device
    checkpoint.model.model.to(device)
    checkpoint.text_model.to(device)


def _moves(hook: Any, lowvram: Any) -> bool:
    return bool(str(getattr(hook, "__module__", "")) == lowvram.__name__)


def _send_home(homes: list[tuple[Any, Any]]) -> None:
    for tensor, home in homes:
        # A model that the WebUI has discarded in the meantime has no data left to move.
        if tensor.device != home and not tensor.is_meta:
            tensor.data = tensor.data.to(home)


class WeightsForAutocast:
    """The denoiser's weights in the half precision that autocast computes in, and the text encoders' in float32.

    Autocast itself would start from float32 and cast every weight again at every step. In float32 the text encoders' own
    gradients stay exact, and OpenCLIP's masks do not meet a half-precision query; they are a small part of the work.
    """

    def __init__(self, checkpoint: A1111Checkpoint, dtype: torch.dtype) -> None:
        self._checkpoint = checkpoint
        self._remember = checkpoint.weights_dtype != torch.float32
        self._denoiser = HeldWeights([checkpoint.model.model], ready_for_autocast(dtype))
        self._text = HeldWeights([checkpoint.text_model], all_in(torch.float32))
        self._remembered = ExitStack()

    def enable(self) -> None:
        """Cast what is not cast yet; what enters the denoiser is float32, as with float32 weights."""
        self._denoiser.enable()
        self._text.enable()
        if self._remember:
            self._remembered.enter_context(_host_remembers(self._checkpoint, torch.float32))

    def restore(self) -> None:
        """Every weight as it was, bit for bit, and what the WebUI remembers of them."""
        self._remembered.close()
        self._text.restore()
        self._denoiser.restore()


@dataclass(frozen=True)
class ComputeContexts:
    """Makers of the contexts that forward passes run in."""

    text: _Context
    denoiser: _Context
    weights: WeightsForAutocast | None = None
    """What is cast for them, and is not cast while the program generates a preview."""

    def suspend(self) -> None:
        """The program's own weights, as for a preview."""
        if self.weights is not None:
            self.weights.restore()

    def resume(self) -> None:
        """After :meth:`suspend`."""
        if self.weights is not None:
            self.weights.enable()

    @contextmanager
    def blocks(self) -> Iterator[None]:
        """What the denoiser's blocks run in: the WebUI casts once more as it hands them their input."""
        with self.denoiser(), _autocast():
            yield


def _autocast() -> AbstractContextManager[Any]:
    context: AbstractContextManager[Any] = host_module("devices").autocast()
    return context


def _sampling() -> AbstractContextManager[Any]:
    """With ``--upcast-sampling`` the WebUI's denoiser casts by itself."""
    devices = host_module("devices")
    context: AbstractContextManager[Any] = (
        devices.without_autocast() if devices.unet_needs_upcast else devices.autocast()
    )
    return context


HOST_CONTEXTS = ComputeContexts(text=_autocast, denoiser=_sampling)
"""What the WebUI itself encodes prompts and samples in."""


@contextmanager
def in_precision(checkpoint: A1111Checkpoint, precision: Precision) -> Iterator[ComputeContexts]:
    """Text encoders and denoiser ready to compute in ``precision``; their weights exactly as they were afterwards.

    In the precision of the weights themselves, the WebUI's own autocast serves. Otherwise weights are cast once and one
    after the other; the device never holds a second copy of the model.

    Raises:
        HostError: For fp16 on the CPU, or what torch cannot compute in on another device.
    """
    wanted = DTYPES[precision]
    devices = host_module("devices")
    if wanted == torch.float16 and devices.device.type == "cpu":
        raise HostError("The CPU cannot compute in fp16: set precision to fp32 or bf16.")
    stored = checkpoint.weights_dtype
    if stored == wanted:
        yield HOST_CONTEXTS
        return
    if wanted != torch.float32:
        check_autocast(devices.device, wanted)

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast(devices.device.type, dtype=wanted)

    with ExitStack() as stack:
        if wanted == torch.float32 or stored.itemsize == 1:
            stack.enter_context(upcast([checkpoint.model.model, checkpoint.text_model], wanted))
            stack.enter_context(_host_remembers(checkpoint, wanted))
            context: _Context = nullcontext if wanted == torch.float32 else autocast
            yield ComputeContexts(context, context)
            return
        weights = WeightsForAutocast(checkpoint, wanted)
        stack.callback(weights.restore)
        weights.enable()
        yield ComputeContexts(nullcontext, autocast, weights)


@contextmanager
def _host_remembers(checkpoint: A1111Checkpoint, dtype: torch.dtype) -> Iterator[None]:
    """The WebUI casts what enters the denoiser to the dtype that it remembers of its weights."""
    remembered = {
        "dtype": dtype,
        "dtype_unet": dtype,
        "dtype_inference": dtype,
        "unet_needs_upcast": False,
        "fp8": False,
        "force_fp16": False,
    }
    with replaced(host_module("devices"), **remembered), replaced(checkpoint.unet, dtype=dtype):
        yield


@contextmanager
def gradient_checkpointing(checkpoint: A1111Checkpoint, enabled: bool, compute_context: _Context) -> Iterator[None]:
    """Gradient checkpointing in the denoiser of ``ldm`` and ``sgm`` alike, one block at a time.

    The original code's own checkpointing is always disabled: it fails with frozen weights.

    Args:
        checkpoint: The loaded checkpoint.
        enabled: Whether blocks compute their activations again in the backward pass.
        compute_context: Makes the context that blocks run in; the backward pass is run outside of it.
    """
    with ExitStack() as stack:
        for part in checkpoint.unet.modules():
            own = {name: False for name in _OWN_CHECKPOINTING if vars(part).get(name) is True}
            stack.enter_context(replaced(part, **own))
            if enabled and any(kind.__name__ in _BLOCKS for kind in type(part).__mro__):
                stack.enter_context(replaced(part, forward=_recomputed(part.forward, compute_context)))
        yield


def _recomputed(forward: Callable[..., Any], compute_context: _Context) -> Callable[..., Any]:
    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), compute_context()

    # Nothing in a denoiser in evaluation mode is random, so the random state need not be preserved. torch itself knows of
    # no context but its own autocast; the WebUI has one that changes torch's layers.
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": contexts}

    def forward_and_recompute(*arguments: Any, **named: Any) -> Any:
        return recompute_in_backward(forward, *arguments, **options, **named)

    return forward_and_recompute
