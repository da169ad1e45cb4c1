"""ComfyUI's MODEL, CLIP and VAE as a :class:`celeb_basis.diffusion_model.DiffusionModel`, and people in its prompts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from celeb_basis.diffusion_model import (
    DiffusionModel,
    LatentDistribution,
    MemoryStats,
    ModelInfo,
    NoiseSchedule,
    check_batch,
    image_size,
)
from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.modules import replaced
from celeb_basis.hosts.comfyui.model import ComfyModel, ComfyTextEncoder
from celeb_basis.hosts.comfyui.modules import (
    comfy_module,
    comfy_part,
    evictable,
    memory_management,
    method_of,
    no_model_moves,
)
from celeb_basis.hosts.torch_utils import (
    NormalWeights,
    frozen,
    memory_stats,
    normal_tensor,
    on_a_copy,
    preserved_random_state,
    recomputed,
    torch_attention_keeps_scores,
)
from celeb_basis.prompts.syntax import with_emphasis

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import Conditioning, GenerationRequest, PlaceholderTokens, Precision
    from celeb_basis.hosts.comfyui.model import ComfyClip


@dataclass(frozen=True)
class _Encoded:
    """What :meth:`ComfyHost.encode_prompts` returns for :meth:`ComfyHost.predict`."""

    states: torch.Tensor
    """``(N, 77 n, width)``."""
    pooled: torch.Tensor | None
    """``(N, P)`` for SDXL."""


class ComfyHost(DiffusionModel):
    """Stable Diffusion 1.x, 2.x or XL in ComfyUI, with the LoRAs and the noise schedule of the connected MODEL.

    ComfyUI runs nodes in torch's inference mode: leave it before training (:func:`torch.inference_mode` with ``False``).

    Args:
        model: The connected models. Their weights are never changed.
    """

    def __init__(self, model: ComfyModel) -> None:
        self._model = model
        self._training: TrainingMode | None = None

    @cached_property
    def info(self) -> ModelInfo:
        """Name, family, digest and image sizes."""
        model = self._model
        return ModelInfo(
            name=model.name,
            family=model.family,
            sha256=model.sha256,
            resolution=model.resolution,
            size_multiple=model.vae_scale_factor * 2 ** (len(model.unet.channel_mult) - 1),
            vae_scale_factor=model.vae_scale_factor,
            latent_channels=model.latent_channels,
        )

    @property
    def text_encoders(self) -> Sequence[ComfyTextEncoder]:
        """One or (SDXL) two."""
        return self._model.text.encoders

    @property
    def schedule(self) -> NoiseSchedule:
        """As the connected MODEL has it."""
        return self._model.schedule

    @property
    def device(self) -> torch.device:
        """Where ComfyUI computes the denoiser."""
        return self._model.device

    @property
    def dtype(self) -> torch.dtype:
        """What ComfyUI computes the denoiser in."""
        return self._model.dtype

    def memory(self) -> MemoryStats:
        """Memory of the denoiser and the text encoders; whatever else ComfyUI has loaded, it unloads for training."""
        model, device = self._model, self.device
        parts, keeps = [model.unet, model.text.text_model], torch_attention_keeps_scores(device)
        factor = model.vae_scale_factor
        found = memory_stats(model.unet, parts, device, vae_scale_factor=factor, keeps_scores=keeps, casting="layers")
        more = 0 if device.type == "cpu" else evictable(device, model.patchers)
        return replace(found, free=None if found.free is None else found.free + more)

    @contextmanager
    def prepare_for_training(self, precision: Precision, *, checkpointing: bool = False) -> Iterator[None]:
        """Denoiser and text encoders loaded as a whole by ComfyUI, with their LoRAs, frozen, as normal tensors."""
        mode = TrainingMode(self._model, compute_dtype(precision, self.device), checkpointing=checkpointing)
        with ExitStack() as stack:
            stack.enter_context(preserved_random_state())
            stack.callback(mode.restore)
            mode.enable()
            stack.callback(setattr, self, "_training", self._training)
            self._training = mode
            yield

    def encode_images(self, pictures: torch.Tensor) -> LatentDistribution:
        """With the connected VAE."""
        return self._model.encode_images(pictures)

    def release_vae(self) -> None:
        """Have ComfyUI unload the VAE."""
        self._model.release_vae()

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """With the connected VAE."""
        return self._model.decode_latents(latents)

    def encode_prompts(self, prompts: Sequence[str], placeholder_tokens: PlaceholderTokens) -> Conditioning:
        """By ComfyUI's own code: its syntax, its chunks, its weights, its clip skip."""
        if not prompts:
            raise HostError("There are no prompts to encode: give at least one.")
        text, encoded = self._model.text, {}
        with self._computing(), names_as_vectors(text, placeholder_tokens) as rewrite:
            for prompt in dict.fromkeys(prompts):
                encoded[prompt] = encode(text, rewrite(prompt))
        parts = [encoded[prompt] for prompt in prompts]
        # Repeated states change nothing that attention computes.
        length = math.lcm(*(states.shape[1] for states, _ in parts))
        states = torch.cat([normal_tensor(states).repeat(1, length // states.shape[1], 1) for states, _ in parts])
        pooled = [normal_tensor(of_prompt) for _, of_prompt in parts if of_prompt is not None]
        return _Encoded(states, torch.cat(pooled) if self._model.family == "sdxl" else None)

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The denoiser's output, float32."""
        check_batch(latents, timesteps, len(conditioning.states))
        with self._computing() as dtype:
            device = self.device
            added: dict[str, Any] = {}
            if conditioning.pooled is not None:
                height, width = (side * self._model.vae_scale_factor for side in latents.shape[-2:])
                sizes = {"width": width, "height": height, "crop_w": 0, "crop_h": 0}
                vector = self._model.base.encode_adm(pooled_output=conditioning.pooled, **sizes)
                added["y"] = vector.to(device, dtype)
            output: torch.Tensor = self._model.unet(
                self._model.denoiser_input(latents.to(device, dtype)),
                timesteps.to(device).float(),
                context=conditioning.states.to(device, dtype),
                transformer_options={},
                **added,
            )
        return normal_tensor(output.float())

    def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
        """By ComfyUI's own sampling (DDIM), without nodes; ComfyUI's exception passes through if the user interrupts it."""
        model = self._model
        if request.sampler != "ddim":
            raise HostError(f"The sampler {request.sampler} is for the command line and Python: choose ddim here.")
        size = image_size(request, self.info, model.vae_scale_factor, self.schedule.timesteps)
        for number in range(request.count):
            with self._suspended(), preserved_random_state(), torch.inference_mode():
                image = self._sampled(request, (request.seed + number) % 2**63, size)
            yield image

    def _sampled(self, request: GenerationRequest, seed: int, size: tuple[int, int]) -> Image.Image:
        model, sampling = self._model, comfy_module("comfy.sample")
        conditionings = []
        with names_as_vectors(model.text, request.placeholder_tokens) as rewrite:
            for prompt in (request.prompt, request.negative_prompt):
                states, pooled = encode(model.text, rewrite(prompt))
                conditionings.append([[states, {"pooled_output": pooled}]])
        width, height = (side // model.vae_scale_factor for side in size)
        empty = torch.zeros(1, model.latent_channels, height, width)
        noise = sampling.prepare_noise(empty, seed)
        positive, negative = conditionings
        latents = sampling.sample(
            model.patcher,
            noise,
            request.steps,
            request.guidance,
            "ddim",
            "ddim_uniform",
            positive,
            negative,
            empty,
            disable_pbar=True,
            seed=seed,
        )
        pixels = model.vae.decode(latents)[0].float().clamp(0, 1)
        return Image.fromarray((pixels.cpu().numpy() * 255).round().astype(np.uint8)).convert("RGB")

    @contextmanager
    def _computing(self) -> Iterator[torch.dtype]:
        """The model ready to compute; yields what its denoiser computes in.

        Outside of :meth:`prepare_for_training` nothing asks for gradients, so all is computed in inference mode, as by
        ComfyUI itself.
        """
        if self._training is not None:
            with no_model_moves():
                yield self._training.dtype
            return
        with torch.inference_mode():
            memory_management().load_models_gpu(self._model.patchers)
            with no_model_moves():
                yield self.dtype

    def _suspended(self) -> AbstractContextManager[None]:
        return _suspended(self._training)


@contextmanager
def _suspended(mode: TrainingMode | None) -> Iterator[None]:
    """While training: ComfyUI generates with its own tensors, and training goes on with what it then has loaded."""
    if mode is None:
        yield
        return
    mode.restore()
    try:
        yield
    finally:
        mode.enable()


# What is changed in the models while they are trained through: weights, casts, attention and forward passes.

_CASTS = "comfy_cast_weights"
"""ComfyUI's switch of a layer that casts its weights to the dtype of its input."""

_ALL = 1e20
"""Bytes to ask ComfyUI for, so that it unloads everything else: how much a backward pass needs is not known to it."""


class TrainingMode:
    """Models that gradients can pass, between :meth:`enable` and :meth:`restore`.

    ComfyUI loads weights in torch's inference mode, and no gradient may pass such tensors. It also computes with attention
    that has no backward pass, and adds to tensors in place that the backward pass needs as they were.

    Args:
        model: The models, which ComfyUI's memory management has as they are.
        dtype: What the denoiser computes in.
        checkpointing: Whether the denoiser's blocks compute their activations again in the backward pass.
    """

    def __init__(self, model: ComfyModel, dtype: torch.dtype, *, checkpointing: bool) -> None:
        self.dtype = dtype
        self._model, self._checkpointing = model, checkpointing
        self._changes = ExitStack()

    def enable(self) -> None:
        """Load denoiser and text encoders, with their LoRAs, and change what has to be changed."""
        modules = [self._model.unet, self._model.text.text_model]
        try:
            load_for_training(self._model)
            stack = self._changes
            stack.enter_context(casting(self._model.unet, self.dtype))
            weights = NormalWeights(modules)
            stack.callback(weights.restore)
            weights.enable()
            stack.enter_context(frozen(modules))
            stack.enter_context(gradients_through(*modules, checkpointing=self._checkpointing))
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Everything as ComfyUI has it."""
        changes, self._changes = self._changes, ExitStack()
        changes.close()


def load_for_training(model: ComfyModel) -> None:
    """Have ComfyUI load denoiser and text encoders as a whole, and unload everything else."""
    with torch.inference_mode():
        memory_management().load_models_gpu(model.patchers, memory_required=_ALL, force_full_load=True)


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of a precision.

    Raises:
        HostError: For fp16 on the CPU.
    """
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if wanted == torch.float16 and device.type == "cpu":
        raise HostError("The CPU cannot compute in fp16: set precision to fp32 or bf16.")
    return wanted


@contextmanager
def casting(module: torch.nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Layers whose weights are stored in another dtype than ``dtype`` cast them to that of their input."""
    with ExitStack() as stack:
        for part in module.modules():
            others = any(weight.dtype != dtype for weight in part.parameters(recurse=False))
            if others and getattr(part, _CASTS, None) is False:
                stack.enter_context(replaced(part, **{_CASTS: True}))
        yield


@contextmanager
def gradients_through(unet: torch.nn.Module, text_model: torch.nn.Module, *, checkpointing: bool) -> Iterator[None]:
    """A denoiser and text encoders whose backward pass is right. Nothing that is computed changes.

    Args:
        unet: ComfyUI's denoiser.
        text_model: The module that holds all text encoders.
        checkpointing: Whether the denoiser's blocks compute their activations again in the backward pass.
    """
    attention = comfy_module("comfy.ldm.modules.attention")
    with_gradients = comfy_part("comfy.ldm.modules.attention", "attention_pytorch")
    layer = comfy_part("comfy.clip_model", "CLIPLayer")
    block = comfy_part("comfy.ldm.modules.attention", "BasicTransformerBlock")
    resnet = comfy_part("comfy.ldm.modules.diffusionmodules.openaimodel", "ResBlock")
    with ExitStack() as stack:
        stack.enter_context(
            replaced(attention, optimized_attention=with_gradients, optimized_attention_masked=with_gradients)
        )
        for part in text_model.modules():
            if isinstance(part, layer):
                # What they normalize is added to in place afterwards.
                for norm in (part.layer_norm1, part.layer_norm2):
                    stack.enter_context(replaced(norm, forward=on_a_copy(norm.forward)))
        for part in unet.modules():
            if isinstance(part, resnet):
                stack.enter_context(replaced(part, use_checkpoint=False))  # ComfyUI's own fails with frozen weights
            if checkpointing and isinstance(part, (block, resnet)):
                stack.enter_context(replaced(part, forward=recomputed(_method(part))))
        yield


def _method(part: Any) -> Any:
    return part.forward


# Prompts: a name becomes ComfyUI's own "embedding:" with a word of ours, for which its tokenizer is given the person's
# vectors. Chunks, weights and all else are ComfyUI's, so the result is bit for bit that of the person's exported file.

_WORD = "celeb-basis-person-"
_OURS = re.compile(rf"{_WORD}(\d+)$")
_LOOKUP = "_try_get_embedding"
"""ComfyUI's method that finds an embedding's file."""


@contextmanager
def names_as_vectors(clip: ComfyClip, placeholder_tokens: PlaceholderTokens) -> Iterator[Callable[[str], str]]:
    """Have ComfyUI's tokenizers read placeholder tokens as their vectors inside the context.

    Args:
        clip: The text encoders.
        placeholder_tokens: The tokens with their vectors for each text encoder.

    Yields:
        A function that rewrites a prompt for ComfyUI's tokenizers.

    Raises:
        HostError: For vectors that do not fit the text encoders.
    """
    numbers = {token: number for number, token in enumerate(placeholder_tokens)}
    with ExitStack() as stack:
        for index, encoder in enumerate(clip.encoders):
            vectors = [_checked(token, of_token, index, encoder) for token, of_token in placeholder_tokens.items()]
            tokenizer = encoder.tokenizer
            lookup = _finding(vectors, method_of(tokenizer, _LOOKUP))
            # Without a folder of embeddings ComfyUI would read "embedding:" as text.
            folder = method_of(tokenizer, "__dict__").get("embedding_directory") or []
            stack.enter_context(replaced(tokenizer, **{_LOOKUP: lookup, "embedding_directory": folder}))

        def rewrite(prompt: str) -> str:
            return _with_words(prompt, numbers)

        yield rewrite


def _finding(vectors: Sequence[torch.Tensor], ordinary: Callable[[str], Any]) -> Callable[[str], Any]:
    """ComfyUI's lookup of an embedding, which also knows our words; it answers what follows the word as well."""

    def lookup(name: str) -> Any:
        word, *rest = name.split()
        found = _OURS.match(word)
        return (vectors[int(found[1])], " ".join(rest)) if found else ordinary(name)

    return lookup


def _checked(token: str, of_token: Sequence[torch.Tensor], index: int, encoder: ComfyTextEncoder) -> torch.Tensor:
    if len(of_token) <= index:
        raise HostError(
            f"The placeholder token {token} has no vectors for the text encoder {encoder.name}: learn it on this model."
        )
    vectors = of_token[index]
    if vectors.ndim != 2 or vectors.shape[1] != encoder.width or not len(vectors):
        raise HostError(
            f"The vectors of the placeholder token {token} have the shape {tuple(vectors.shape)}, but the text encoder "
            f"{encoder.name} takes rows of {encoder.width} numbers: use vectors made for this model."
        )
    return vectors


def _with_words(prompt: str, numbers: Mapping[str, int]) -> str:
    """``prompt`` with every placeholder token as ``embedding:`` and our word, between spaces."""
    if not numbers:
        return prompt
    known = {token[1:-1]: token for token in numbers if token.startswith("<") and token.endswith(">")}
    text = with_emphasis(prompt, known.get)
    pattern = "|".join(re.escape(token) for token in sorted(numbers, key=len, reverse=True))
    return re.sub(pattern, lambda found: f" embedding:{_WORD}{numbers[found[0]]} ", text)


def encode(clip: ComfyClip, prompt: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """ComfyUI's conditioning of one prompt, by its own code, as its node *CLIP Text Encode* does it.

    Returns:
        ``(1, 77 n, width)`` and the pooled output ``(1, P)``, on ComfyUI's intermediate device.
    """
    tokens = method_of(clip.clip, "tokenize")(prompt)
    states, pooled = method_of(clip.clip, "encode_from_tokens")(tokens, return_pooled=True)
    return states, pooled


def encode_scheduled(clip: ComfyClip, prompt: str) -> Any:
    """ComfyUI's CONDITIONING of one prompt, exactly as its node *CLIP Text Encode* gives it, hooks and schedules included."""
    tokens = method_of(clip.clip, "tokenize")(prompt)
    return method_of(clip.clip, "encode_from_tokens_scheduled")(tokens)
