"""The checkpoint that AUTOMATIC1111's WebUI has loaded, as a :class:`celeb_basis.diffusion_model.DiffusionModel`."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111 import images, text
from celeb_basis.hosts.a1111 import model as models
from celeb_basis.hosts.a1111.family import FamilyHost, Internals, Learning
from celeb_basis.hosts.a1111.images import draw_one
from celeb_basis.hosts.a1111.model import AS_THE_HOST, Computing, in_precision, text_part, unet_of
from celeb_basis.hosts.a1111.modules import host_module, lora_module, replaced
from celeb_basis.hosts.torch_utils import ChannelsLast, frozen, preserved_random_state

if TYPE_CHECKING:
    import torch

    from celeb_basis.diffusion_model import DiffusionModel, LatentDistribution, Precision
    from celeb_basis.hosts.a1111.family import Encoded


# FOLDED: Where the host's modules lie: text encoders and denoiser together on the device while gradients flow.


@contextmanager
def kept_on_device(model: Any) -> Iterator[None]:
    """Text encoders and denoiser on the device, whatever ``--medvram`` would move; every tensor back home afterwards.

    ``--medvram`` moves modules by hooks before each forward pass. A backward pass through weights that have left the
    device would fail, so the hooks rest meanwhile.

    Raises: :class:`HostError` under ``--lowvram``, which never has the denoiser as a whole on the device.
    """
    lowvram = host_module("lowvram")
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
        keep_on_device(model)
        if getattr(model, "lowvram", False):
            model.first_stage_model.to(host_module("devices").cpu)
        yield


def keep_on_device(model: Any) -> None:
    """Bring text encoders and denoiser to the device; nothing happens if they are there."""
    device = host_module("devices").device
    model.model.to(device)
    text_part(model).to(device)


def _moves(hook: Any, lowvram: Any) -> bool:
    return bool(str(getattr(hook, "__module__", "")) == lowvram.__name__)


def _send_home(homes: list[tuple[Any, Any]]) -> None:
    for tensor, home in homes:
        # A model that the host threw away meanwhile has no data left to move.
        if tensor.device != home and not tensor.is_meta:
            tensor.data = tensor.data.to(home)


# FOLDED: Gradient checkpointing in the denoiser of ``ldm`` and ``sgm`` alike, one block at a time.

_BLOCKS = ("ResBlock", "AttentionBlock", "BasicTransformerBlock")
# Switches of the original code's own checkpointing, which fails as soon as the weights ask for no gradients.
_OWN = ("use_checkpoint", "checkpoint")


@contextmanager
def checkpointed(model: Any, wanted: bool, computing: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Blocks compute again in the backward pass what they forgot, if ``wanted``; never by the original code's own way.

    Parameters: ``computing`` makes the context that blocks run in; the backward pass is run outside of it.
    """
    with ExitStack() as stack:
        for part in unet_of(model).modules():
            own = {name: False for name in _OWN if vars(part).get(name) is True}
            stack.enter_context(replaced(part, **own))
            if wanted and any(kind.__name__ in _BLOCKS for kind in type(part).__mro__):
                stack.enter_context(replaced(part, forward=_forgetting(part.forward, computing)))
        yield


def _forgetting(
    forward: Callable[..., Any], computing: Callable[[], AbstractContextManager[Any]]
) -> Callable[..., Any]:
    from torch.utils.checkpoint import checkpoint

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), computing()

    # Nothing in a denoiser that evaluates is random, so the random state need not be kept. torch itself knows of no context
    # but its own autocast; the host has one that changes torch's layers.
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": contexts}

    def forward_and_forget(*arguments: Any, **named: Any) -> Any:
        return checkpoint(forward, *arguments, **options, **named)

    return forward_and_forget


# FOLDED: Switching off what other parts of the host add to the denoiser and text encoders, and putting it all
# FOLDED: back.

_log = logging.getLogger(__name__)

# Switched off by hand below: activating them with nothing would bring in the user's default ones.
_BUILT_IN = ("hypernet", "lora", "lyco")
# Where the host's built-in HyperTile, which computes attention tile by tile, keeps what it was last told of a module.
_HYPERTILE = "__webui_hypertile_params"


class Additions:
    """LoRAs of the last prompt, hypernetworks, UNet overrides, token merging, HyperTile and tiling, as they are now.

    :meth:`disable` may be called again at any time, as after a preview, which switches things on; :meth:`restore`
    once at the end. Networks of other extensions are told to switch off; they are activated anew by the next prompt.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        shared, hijack, lora = host_module("shared"), host_module("sd_hijack").model_hijack, lora_module()
        option = host_module("sd_unet").current_unet_option
        self._unet = "None" if option is None else option.label
        self._merging = getattr(model, "applied_token_merged_ratio", 0)
        self._tiling = hijack.circular_enabled
        self._hypernetworks = shared.loaded_hypernetworks
        tiled = [part for part in model.modules() if hasattr(part, _HYPERTILE)]
        self._hypertile = [(kept, kept.enabled) for kept in (getattr(part, _HYPERTILE) for part in tiled)]
        self._loras = None if lora is None else list(lora.loaded_networks)

    def disable(self) -> None:
        """Nothing but the checkpoint's own weights computes from here on."""
        self._other_networks_off()
        host_module("sd_unet").apply_unet("None")
        host_module("sd_models").apply_token_merging(self._model, 0)
        host_module("sd_hijack").model_hijack.apply_circular(False)
        host_module("shared").loaded_hypernetworks = []
        for kept, _ in self._hypertile:
            kept.enabled = False
        self._apply_loras([])

    def restore(self) -> None:
        """Everything as it was when this was made."""
        if self._loras is not None:
            self._apply_loras(self._loras)
        for kept, enabled in self._hypertile:
            kept.enabled = enabled
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
        # The host would change the weights at each layer's next forward pass; then hashes would differ until then.
        import torch

        nn = torch.nn
        layers = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)  # what LoRAs can change
        with torch.no_grad():
            for part in self._model.modules():
                if isinstance(part, layers) and hasattr(part, "network_layer_name"):
                    lora.network_apply_weights(part)

    def _other_networks_off(self) -> None:
        networks = host_module("extra_networks").extra_network_registry
        others = [network for name, network in networks.items() if name not in _BUILT_IN]
        if not others:
            return
        processing = host_module("processing").StableDiffusionProcessingTxt2Img()
        processing.all_prompts = [""]
        for network in others:
            try:
                network.activate(processing, [])
            except Exception:  # another extension's fault is not the user's reason to stop; the host logs it as well
                _log.warning("The extra network %s could not be switched off.", network.name, exc_info=True)


@dataclass(frozen=True)
class _Learning(Learning):
    additions: Additions
    computing: Computing
    layout: ChannelsLast

    def suspend(self) -> None:
        self.layout.restore()
        if (model := self.model()) is not None:
            images.bring_vae_for_drawing(model)

    def resume(self, model: Any) -> None:
        images.send_vae_away(model)
        keep_on_device(model)
        self.additions.disable()
        self.layout.enable()


class A1111Host(FamilyHost[_Learning]):
    """Through AUTOMATIC1111's WebUI. As a context manager it puts the VAE back on leaving to where it was on entering."""

    internals = Internals(
        program="The WebUI",
        loaded_model_or_none=models.loaded_model_or_none,
        loaded_model=models.loaded_model,
        check_model=models.check_model,
        checkpoint_name=models.checkpoint_name,
        family_of=models.family_of,
        resolution_of=models.resolution_of,
        noise_schedule=models.noise_schedule,
        unet_of=models.unet_of,
        text_part=models.text_part,
        weights_dtype=models.weights_dtype,
        keeps_scores=models.keeps_scores,
        vae_scale_factor_of=images.vae_scale_factor_of,
        encode_images=images.encode_images,
        send_vae_away=images.send_vae_away,
        embedders=models.text_embedders,
        text_encoder=text.A1111TextEncoder,
        words_in_place=text.words_in_place,
        encode=text.encode,
        size_vector=text.size_vector,
        draw_one=draw_one,
    )

    def __init__(self) -> None:
        super().__init__()
        self._vae_home: torch.device | None = None

    def __enter__(self) -> A1111Host:
        self._remember_vae()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._send_vae_home()

    @property
    def device(self) -> torch.device:
        device: torch.device = host_module("devices").device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What the denoiser's weights are held in, or computed in where they are stored in 8 bits."""
        dtype = super().dtype
        if dtype.itemsize > 1:
            return dtype
        computed: torch.dtype = host_module("devices").dtype
        return computed

    @contextmanager
    def prepare_for_training(self, precision: Precision, *, checkpointing: bool = False) -> Iterator[None]:
        model = self._model
        additions = Additions(model)
        with ExitStack() as stack:
            stack.enter_context(preserved_random_state())
            stack.callback(self._send_vae_home)
            self._remember_vae()
            stack.enter_context(kept_on_device(model))
            stack.callback(additions.restore)
            additions.disable()
            computing = stack.enter_context(in_precision(model, precision))
            stack.enter_context(frozen([model]))
            layout = ChannelsLast([models.unet_of(model)] if self.device.type == "cpu" else [])
            stack.callback(layout.restore)
            layout.enable()
            stack.enter_context(checkpointed(model, checkpointing, computing.blocks))
            stack.callback(setattr, self, "_learning", self._learning)
            self._learning = _Learning(weakref.ref(model), additions, computing, layout)
            yield

    def encode_images(self, pictures: torch.Tensor) -> LatentDistribution:
        self._remember_vae()
        return super().encode_images(pictures)

    def release_vae(self) -> None:
        self._remember_vae()
        super().release_vae()

    def _encoding(self) -> AbstractContextManager[Any]:
        text.check_emphasis("the WebUI's")
        return self._computing.text()

    def _denoised(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Encoded) -> torch.Tensor:
        model, vector = self._model, self._vector(conditioning, latents)
        if vector is None:
            given: dict[str, Any] = {"c_crossattn": [conditioning.crossattn]}
        else:
            given = {"crossattn": conditioning.crossattn, "vector": vector}
        with self._computing.denoiser():
            output: torch.Tensor = model.apply_model(latents.to(self.device), timesteps.to(self.device), given)
        return output.float()

    @property
    def _computing(self) -> Computing:
        return AS_THE_HOST if self._learning is None else self._learning.computing

    def _remember_vae(self) -> None:
        if self._vae_home is None:
            self._vae_home = next(self._model.first_stage_model.parameters()).device

    def _send_vae_home(self) -> None:
        home, self._vae_home = self._vae_home, None
        model = models.loaded_model()
        if home is not None and model.sd_checkpoint_info.filename == self._file:
            model.first_stage_model.to(home)


if TYPE_CHECKING:
    _FITS: type[DiffusionModel] = A1111Host  # the type checker's proof that the interface is met
