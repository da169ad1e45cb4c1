"""The checkpoint that reForge has loaded, as a :class:`celeb_basis.hosts.base.Host`."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from celeb_basis.hosts.freezing import frozen
from celeb_basis.hosts.memory_format import ChannelsLast
from celeb_basis.hosts.reforge import model as models
from celeb_basis.hosts.reforge import pictures
from celeb_basis.hosts.reforge.placing import hold_on_device
from celeb_basis.hosts.reforge.quiet import Additions
from celeb_basis.hosts.webui import text
from celeb_basis.hosts.webui.checkpointing import checkpointed
from celeb_basis.hosts.webui.drawing import draw_one
from celeb_basis.hosts.webui.host import WebUIHost
from celeb_basis.hosts.webui.precision import AS_THE_HOST, Computing, in_precision
from celeb_basis.hosts.webui.randomness import preserved_random_state
from celeb_basis.hosts.webui.shim import host_module
from celeb_basis.hosts.webui_family.host import FamilyHost, Learning
from celeb_basis.hosts.webui_family.unet import through_unet

if TYPE_CHECKING:
    import torch

    from celeb_basis.hosts.base import Precision
    from celeb_basis.hosts.webui_family.host import Encoded


@dataclass(frozen=True)
class _Learning(Learning):
    additions: Additions
    computing: Computing
    layout: ChannelsLast

    def let_go(self) -> None:
        self.layout.put_back()
        self.additions.let_go()

    def hold_again(self, model: Any) -> None:
        self.additions.switch_off()
        hold_on_device(model)
        self.additions.hold_still()
        self.layout.switch_on()


def _no_scripts() -> Any:
    return host_module("scripts").ScriptRunner()


class ReForgeHost(FamilyHost[_Learning]):
    """Through reForge, which kept the WebUI's text encoders and has a denoiser, a VAE and a memory management of its own."""

    internals = replace(
        WebUIHost.internals,
        program="reForge",
        check_model=models.check_model,
        family_of=models.family_of,
        resolution_of=models.resolution_of,
        noise_schedule=models.noise_schedule,
        unet_of=models.unet_of,
        weights_dtype=models.weights_dtype,
        keeps_scores=models.keeps_scores,
        pixels_of_latent=pictures.pixels_of_latent,
        encode_pictures=pictures.encode_pictures,
        send_vae_away=pictures.send_vae_away,
        draw_one=partial(draw_one, scripts=_no_scripts),
    )

    @property
    def device(self) -> torch.device:
        device: torch.device = host_module("devices").device
        return device

    @contextmanager
    def learning(self, precision: Precision, *, checkpointing: bool = False) -> Iterator[None]:
        model = self._model
        additions = Additions(model)
        with ExitStack() as stack:
            stack.enter_context(preserved_random_state())
            stack.callback(additions.put_back)
            additions.switch_off()
            hold_on_device(model)
            additions.hold_still()
            computing = stack.enter_context(in_precision(model, precision))
            stack.enter_context(frozen([model]))
            layout = ChannelsLast([models.unet_of(model)] if self.device.type == "cpu" else [])
            stack.callback(layout.put_back)
            layout.switch_on()
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
            hold_on_device(model)
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
    from celeb_basis.hosts.base import Host

    _FITS: type[Host] = ReForgeHost  # the type checker's proof that the interface is met
