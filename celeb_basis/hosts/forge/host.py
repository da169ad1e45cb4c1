"""The checkpoint that Forge has loaded, as a :class:`celeb_basis.diffusion_model.DiffusionModel`."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celeb_basis.hosts.a1111.family import FamilyHost, Internals, Learning, through_unet
from celeb_basis.hosts.a1111.model import checkpoint_name
from celeb_basis.hosts.forge import model as models
from celeb_basis.hosts.forge.gradients import NormalWeights, ordinary, right_backward
from celeb_basis.hosts.forge.model import Casting, draw_one, dtype_of
from celeb_basis.hosts.forge.modules import backend_module, nothing_moves
from celeb_basis.hosts.torch_utils import frozen, preserved_random_state

if TYPE_CHECKING:
    import torch

    from celeb_basis.diffusion_model import DiffusionModel, Precision
    from celeb_basis.hosts.a1111.family import Encoded


@dataclass(frozen=True)
class _Learning(Learning):
    dtype: torch.dtype
    """What the denoiser computes in."""
    casting: Casting
    weights: NormalWeights

    def suspend(self) -> None:
        self.weights.restore()
        self.casting.restore()

    def resume(self, model: Any) -> None:
        _keep_on_device(model)
        self.casting.enable()
        self.weights.enable()


class ForgeHost(FamilyHost[_Learning]):
    """Through Forge, whose text encoders, denoiser, VAE and memory management are all its own."""

    internals = Internals(
        program="Forge",
        loaded_model_or_none=models.loaded_model_or_none,
        loaded_model=models.loaded_model,
        check_model=models.check_model,
        checkpoint_name=checkpoint_name,
        family_of=models.family_of,
        resolution_of=models.resolution_of,
        noise_schedule=models.noise_schedule,
        unet_of=models.unet_of,
        text_part=models.text_part,
        weights_dtype=models.weights_dtype,
        keeps_scores=models.keeps_scores,
        vae_scale_factor_of=models.vae_scale_factor_of,
        encode_images=models.encode_images,
        send_vae_away=models.send_vae_away,
        embedders=models.text_engines,
        text_encoder=models.ForgeTextEncoder,
        words_in_place=models.words_in_place,
        encode=models.encode,
        size_vector=models.size_vector,
        draw_one=draw_one,
    )

    @property
    def device(self) -> torch.device:
        device: torch.device = backend_module("memory_management").get_torch_device()
        return device

    @contextmanager
    def prepare_for_training(self, precision: Precision, *, checkpointing: bool = False) -> Iterator[None]:
        model = self._model
        unet, encoders = models.unet_of(model), models.text_part(model)
        with ExitStack() as stack:
            stack.enter_context(preserved_random_state())
            dtype = dtype_of(precision, self.device)
            # First, since Forge has layers cast whose weights it puts on the CPU for want of room.
            _keep_on_device(model)
            casting = Casting(unet, dtype)
            stack.callback(casting.restore)
            casting.enable()
            weights = NormalWeights([unet, encoders])
            stack.callback(weights.restore)
            weights.enable()
            stack.enter_context(frozen([unet, encoders]))
            stack.enter_context(right_backward(unet, checkpointing=checkpointing))
            stack.callback(setattr, self, "_learning", self._learning)
            self._learning = _Learning(weakref.ref(model), dtype, casting, weights)
            yield

    def _encoding(self) -> AbstractContextManager[Any]:
        return self._computing()

    def _denoised(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Encoded) -> torch.Tensor:
        model = self._model
        with self._computing() as dtype:
            unet, vector = models.unet_of(model), self._vector(conditioning, latents)
            output = through_unet(
                unet, latents, timesteps, conditioning.crossattn, vector, device=self.device, dtype=dtype
            )
        return ordinary(output)

    @contextmanager
    def _computing(self) -> Iterator[torch.dtype]:
        """The model on the device, ready to compute; yields what its denoiser computes in.

        Outside of :meth:`learning` nothing asks for gradients, so all is computed in inference mode, as by Forge itself.
        """
        import torch

        if self._learning is not None:
            with nothing_moves():
                yield self._learning.dtype
            return
        model = self._model
        _keep_on_device(model)
        with torch.inference_mode(), nothing_moves():
            yield models.unet_of(model).computation_dtype


def _keep_on_device(model: Any) -> None:
    """Bring text encoders and denoiser to the device, without the LoRAs of the last prompt; the next one brings its own.

    The patchers that Forge keeps as the original ones know of no LoRA: loading them takes what was merged into the weights
    out again.
    """
    import torch

    originals = model.forge_objects_original
    with torch.inference_mode():
        backend_module("memory_management").load_models_gpu([originals.unet, originals.clip.patcher])
        for engine in models.text_engines(model):
            # As Forge does before it encodes; here, so that it does not happen to what stands in for the weights.
            embeddings = engine.text_encoder.transformer.text_model.embeddings
            embeddings.position_embedding.to(torch.float32)
            embeddings.token_embedding.to(torch.float32)


if TYPE_CHECKING:
    _FITS: type[DiffusionModel] = ForgeHost  # the type checker's proof that the interface is met
