"""The checkpoint that AUTOMATIC1111's WebUI has loaded, as a :class:`celeb_basis.hosts.base.Host`."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from celeb_basis.hosts.freezing import frozen
from celeb_basis.hosts.memory_format import ChannelsLast
from celeb_basis.hosts.webui import model as models
from celeb_basis.hosts.webui import pictures, text
from celeb_basis.hosts.webui.checkpointing import checkpointed
from celeb_basis.hosts.webui.drawing import draw_one
from celeb_basis.hosts.webui.placing import held_on_device, hold_on_device
from celeb_basis.hosts.webui.precision import AS_THE_HOST, Computing, in_precision
from celeb_basis.hosts.webui.quiet import Additions
from celeb_basis.hosts.webui.randomness import preserved_random_state
from celeb_basis.hosts.webui.shim import host_module
from celeb_basis.hosts.webui_family.host import FamilyHost, Learning
from celeb_basis.hosts.webui_family.internals import Internals

if TYPE_CHECKING:
    import torch

    from celeb_basis.hosts.base import LatentDistribution, Precision
    from celeb_basis.hosts.webui_family.host import Encoded


@dataclass(frozen=True)
class _Learning(Learning):
    additions: Additions
    computing: Computing
    layout: ChannelsLast

    def let_go(self) -> None:
        self.layout.put_back()
        if (model := self.model()) is not None:
            pictures.bring_vae_for_drawing(model)

    def hold_again(self, model: Any) -> None:
        pictures.send_vae_away(model)
        hold_on_device(model)
        self.additions.switch_off()
        self.layout.switch_on()


class WebUIHost(FamilyHost[_Learning]):
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
        pixels_of_latent=pictures.pixels_of_latent,
        encode_pictures=pictures.encode_pictures,
        send_vae_away=pictures.send_vae_away,
        embedders=models.text_embedders,
        text_encoder=text.WebUITextEncoder,
        words_in_place=text.words_in_place,
        encode=text.encode,
        size_vector=text.size_vector,
        draw_one=draw_one,
    )

    def __init__(self) -> None:
        super().__init__()
        self._vae_home: torch.device | None = None

    def __enter__(self) -> WebUIHost:
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
    def learning(self, precision: Precision, *, checkpointing: bool = False) -> Iterator[None]:
        model = self._model
        additions = Additions(model)
        with ExitStack() as stack:
            stack.enter_context(preserved_random_state())
            stack.callback(self._send_vae_home)
            self._remember_vae()
            stack.enter_context(held_on_device(model))
            stack.callback(additions.put_back)
            additions.switch_off()
            computing = stack.enter_context(in_precision(model, precision))
            stack.enter_context(frozen([model]))
            layout = ChannelsLast([models.unet_of(model)] if self.device.type == "cpu" else [])
            stack.callback(layout.put_back)
            layout.switch_on()
            stack.enter_context(checkpointed(model, checkpointing, computing.blocks))
            stack.callback(setattr, self, "_learning", self._learning)
            self._learning = _Learning(weakref.ref(model), additions, computing, layout)
            yield

    def encode_pictures(self, pictures: torch.Tensor) -> LatentDistribution:
        self._remember_vae()
        return super().encode_pictures(pictures)

    def release_picture_encoder(self) -> None:
        self._remember_vae()
        super().release_picture_encoder()

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
    from celeb_basis.hosts.base import Host

    _FITS: type[Host] = WebUIHost  # the type checker's proof that the interface is met
