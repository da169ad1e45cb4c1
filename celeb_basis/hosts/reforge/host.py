"""The checkpoint that reForge has loaded, as a :class:`celeb_basis.diffusion_model.DiffusionModel`."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111 import text
from celeb_basis.hosts.a1111.family import FamilyHost, Learning, through_unet
from celeb_basis.hosts.a1111.host import A1111Host, checkpointed
from celeb_basis.hosts.a1111.images import draw_one
from celeb_basis.hosts.a1111.model import AS_THE_HOST, Computing, in_precision
from celeb_basis.hosts.a1111.modules import host_module, replaced
from celeb_basis.hosts.reforge import model as models
from celeb_basis.hosts.reforge.model import attention_has_gradients
from celeb_basis.hosts.reforge.modules import reforge_module
from celeb_basis.hosts.torch_utils import ChannelsLast, clone_inference_tensors, frozen, preserved_random_state

if TYPE_CHECKING:
    import torch

    from celeb_basis.diffusion_model import DiffusionModel, Precision
    from celeb_basis.hosts.a1111.family import Encoded


# FOLDED: Where reForge's modules lie: text encoders and denoiser together on the device while gradients flow, free
# FOLDED: of LoRAs.


def keep_on_device(model: Any) -> None:
    """Bring text encoders and denoiser to the device as the checkpoint has them.

    The patchers that reForge keeps as the original ones know of no LoRA: loading them takes what was merged into the
    weights out again. What was loaded while reForge drew, in torch's inference mode, is made ready for gradients.

    Raises: :class:`HostError` if the denoiser has no room on the device as a whole.
    """
    originals = model.forge_objects_original
    patchers = [originals.unet, originals.clip.patcher]
    reforge_module("ldm_patched.modules.model_management").load_models_gpu(patchers)
    for patcher in patchers:
        if getattr(patcher.model, "model_lowvram", False):
            raise HostError(
                "reForge has room for a part of the checkpoint only: close what else uses the graphics card, or choose a "
                "smaller checkpoint, to learn."
            )
    clone_inference_tensors(patcher.model for patcher in patchers)


# FOLDED: Switching off what reForge's prompts and settings add to the denoiser and text encoders, and putting it
# FOLDED: all back.


class Additions:
    """LoRAs and other patches of the last prompt, UNet overrides and tiling, as they are now.

    :meth:`disable` may be called again at any time, as after a preview, which switches things on; :meth:`restore`
    once at the end.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        option = host_module("sd_unet").current_unet_option
        self._unet = "None" if option is None else option.label
        self._tiling = model.tiling_enabled
        self._patched = model.forge_objects
        self._stack = ExitStack()

    def disable(self) -> None:
        """Nothing but the checkpoint's own weights computes from here on."""
        host_module("sd_unet").apply_unet("None")
        reforge_module("modules_forge.forge_util").apply_circular_forge(self._model, False)
        self._model.forge_objects = self._model.forge_objects_original.shallow_copy()

    def freeze(self) -> None:
        """From here on no text encoder is moved, and attention is of a kind that gradients pass."""
        # reForge looks anew at what has room on the device before each prompt, and might send the denoiser away.
        for place in (reforge_module("modules_forge.forge_clip"), reforge_module("modules.sd_models_xl")):
            self._stack.enter_context(replaced(place, move_clip_to_gpu=_stay))
        attention = reforge_module("ldm_patched.ldm.modules.attention")
        if not attention_has_gradients():
            plain = attention.attention_pytorch
            self._stack.enter_context(replaced(attention, optimized_attention=plain, optimized_attention_masked=plain))

    def suspend(self) -> None:
        """What :meth:`freeze` held goes its own ways again, as for a preview."""
        self._stack.close()

    def restore(self) -> None:
        """Everything as it was when this was made."""
        self.suspend()
        self._model.forge_objects = self._patched
        reforge_module("modules_forge.forge_util").apply_circular_forge(self._model, self._tiling)
        host_module("sd_unet").apply_unet(self._unet)


def _stay() -> None:
    """In the place of what would move a text encoder."""


@dataclass(frozen=True)
class _Learning(Learning):
    additions: Additions
    computing: Computing
    layout: ChannelsLast

    def suspend(self) -> None:
        self.layout.restore()
        self.additions.suspend()

    def resume(self, model: Any) -> None:
        self.additions.disable()
        keep_on_device(model)
        self.additions.freeze()
        self.layout.enable()


def _no_scripts() -> Any:
    return host_module("scripts").ScriptRunner()


class ReForgeHost(FamilyHost[_Learning]):
    """Through reForge, which kept the WebUI's text encoders and has a denoiser, a VAE and a memory management of its own."""

    internals = replace(
        A1111Host.internals,
        program="reForge",
        check_model=models.check_model,
        family_of=models.family_of,
        resolution_of=models.resolution_of,
        noise_schedule=models.noise_schedule,
        unet_of=models.unet_of,
        weights_dtype=models.weights_dtype,
        keeps_scores=models.keeps_scores,
        vae_scale_factor_of=models.vae_scale_factor_of,
        encode_images=models.encode_images,
        send_vae_away=models.send_vae_away,
        draw_one=partial(draw_one, scripts=_no_scripts),
    )

    @property
    def device(self) -> torch.device:
        device: torch.device = host_module("devices").device
        return device

    @contextmanager
    def prepare_for_training(self, precision: Precision, *, checkpointing: bool = False) -> Iterator[None]:
        model = self._model
        additions = Additions(model)
        with ExitStack() as stack:
            stack.enter_context(preserved_random_state())
            stack.callback(additions.restore)
            additions.disable()
            keep_on_device(model)
            additions.freeze()
            computing = stack.enter_context(in_precision(model, precision))
            stack.enter_context(frozen([model]))
            layout = ChannelsLast([models.unet_of(model)] if self.device.type == "cpu" else [])
            stack.callback(layout.restore)
            layout.enable()
            stack.enter_context(checkpointed(model, checkpointing, computing.blocks))
            stack.callback(setattr, self, "_learning", self._learning)
            self._learning = _Learning(weakref.ref(model), additions, computing, layout)
            yield

    def _encoding(self) -> AbstractContextManager[Any]:
        text.check_emphasis("reForge's")
        return self._computing.text()

    def _denoised(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Encoded) -> torch.Tensor:
        model = self._model
        unet = models.unet_of(model)
        if self._learning is None:
            keep_on_device(model)
            dtype = models.weights_dtype(model)
        else:  # the weights were made what they are to be computed in
            dtype = next(unet.parameters()).dtype
        vector = self._vector(conditioning, latents)
        with self._computing.denoiser():
            return through_unet(
                unet, latents, timesteps, conditioning.crossattn, vector, device=self.device, dtype=dtype
            )

    @property
    def _computing(self) -> Computing:
        return AS_THE_HOST if self._learning is None else self._learning.computing


if TYPE_CHECKING:
    _FITS: type[DiffusionModel] = ReForgeHost  # the type checker's proof that the interface is met
