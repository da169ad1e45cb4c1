"""A checkpoint that AUTOMATIC1111's WebUI or one of its forks has loaded, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import torch

from celeb_basis.diffusion_model import (
    ENCODER_NAMES,
    LatentDistribution,
    NoiseSchedule,
    TextEncoder,
    VaeMemory,
    configured_resolution,
    family_resolution,
)
from celeb_basis.errors import FileError, HostError
from celeb_basis.files import sha256_of_file
from celeb_basis.hosts.a1111.embedding_injection import EncoderSlot, inject_embeddings
from celeb_basis.reading import read_yaml

if TYPE_CHECKING:
    from PIL import Image

    from celeb_basis.diffusion_model import GenerationRequest, PlaceholderTokens

Family = Literal["sd1", "sd2", "sdxl"]
ADVICE = "choose a text-to-image or inpainting checkpoint of Stable Diffusion 1.x, 2.x or XL"
"""The end of every sentence that refuses a checkpoint."""

CheckpointT = TypeVar("CheckpointT", bound="LoadedCheckpoint")


class LoadedCheckpoint(ABC):
    """The checkpoint that a program has loaded, read from the program's own model object.

    It is made from the live model at each use (:meth:`current`) and never kept: a switch of checkpoints leaves the old
    model object without weights.

    Args:
        model: The program's object for the loaded checkpoint, of whatever class.
    """

    program: ClassVar[str]
    """The program's name as a sentence about it begins: ``"The WebUI"``."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @classmethod
    @abstractmethod
    def live_model(cls) -> Any:
        """The program's model object as it is now; without ``sd_checkpoint_info`` it counts as no checkpoint."""

    @classmethod
    def current_or_none(cls: type[CheckpointT]) -> CheckpointT | None:
        """The checkpoint that is loaded now, or ``None``."""
        model = cls.live_model()
        return None if getattr(model, "sd_checkpoint_info", None) is None else cls(model)

    @classmethod
    def current(cls: type[CheckpointT]) -> CheckpointT:
        """The checkpoint that is loaded now.

        Raises:
            HostError: If no checkpoint is loaded.
        """
        if (checkpoint := cls.current_or_none()) is None:
            raise HostError(
                f"{cls.program} has no checkpoint loaded: choose one at the top of its page, and try again once it is "
                "loaded."
            )
        return checkpoint

    @abstractmethod
    def check(self) -> None:
        """Raise :class:`HostError` unless the model draws by its prompt alone, an inpainting model the whole image."""

    @property
    @abstractmethod
    def is_inpainting(self) -> bool:
        """Whether the denoiser takes a mask and the latents of a masked image beside the noisy latents."""

    @property
    def file(self) -> str:
        """The path of the checkpoint's file."""
        return str(self.model.sd_checkpoint_info.filename)

    @property
    def sha256(self) -> str:
        """Hex digest of the file: the program's own, or computed where it has none yet."""
        return str(self.model.sd_checkpoint_info.sha256 or sha256_of_file(Path(self.file)))

    @property
    def name(self) -> str:
        """What users call the checkpoint: its file's name without the suffix."""
        info = self.model.sd_checkpoint_info
        return str(getattr(info, "name_for_extra", None) or getattr(info, "model_name", None) or info.name)

    @property
    def family(self) -> Family:
        """The program's own finding; SSD is a smaller SDXL with the same text encoders."""
        if self.model.is_sdxl:
            return "sdxl"
        return "sd2" if getattr(self.model, "is_sd2", False) else "sd1"  # Forge Neo has no SD2

    @property
    def config_file(self) -> Path:
        """The ``.yaml`` file that describes the checkpoint, whether or not there is one."""
        return Path(self.file).with_suffix(".yaml")

    @property
    @abstractmethod
    def predicts_velocity(self) -> bool:
        """Whether the denoiser predicts v instead of the noise."""

    @property
    def resolution(self) -> int:
        """Side in pixels of the checkpoint's own square images: from its ``.yaml`` file, else the family's."""
        try:
            config = read_yaml(self.config_file)
        except (FileError, ValueError):
            config = None
        return configured_resolution(config) or family_resolution(self.family, lambda: self.predicts_velocity)

    @property
    @abstractmethod
    def schedule(self) -> NoiseSchedule:
        """The noise schedule that the program would sample with."""

    @property
    @abstractmethod
    def unet(self) -> Any:
        """The denoiser."""

    @property
    @abstractmethod
    def text_model(self) -> Any:
        """The module that holds all text encoders."""

    @property
    def weights_dtype(self) -> torch.dtype:
        """The dtype in which the denoiser's weights are stored."""
        dtype: torch.dtype = next(self.unet.parameters()).dtype
        return dtype

    @property
    def dtype(self) -> torch.dtype:
        """:attr:`weights_dtype`, or what the denoiser computes in where the program casts its weights."""
        return self.weights_dtype

    @abstractmethod
    def keeps_attention_scores(self, device: torch.device) -> bool:
        """Whether the attention that the user chose keeps its scores for the backward pass."""

    @property
    @abstractmethod
    def vae_scale_factor(self) -> int:
        """Pixels along a side of an image for each place of its latent."""

    @abstractmethod
    def encode_one_by_one(self, images: Iterable[torch.Tensor]) -> Iterator[LatentDistribution]:
        """Encode images as they come, with the VAE that the user chose; it is prepared once for all of them.

        Args:
            images: Each ``(1, 3, H, W)`` in [-1, 1].

        Yields:
            Mean and standard deviation of the latent, multiplied by the VAE's scaling factor.

        Raises:
            HostError: For sides that the VAE cannot halve.
        """

    @property
    def vae_memory(self) -> VaeMemory | None:
        """What encoding and decoding an image takes; ``None`` if unknown."""
        return None

    @abstractmethod
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents with the VAE that the user chose.

        Args:
            latents: ``(N, C, h, w)``, multiplied by the VAE's scaling factor.

        Returns:
            ``(N, 3, H, W)`` float32 pictures in about [-1, 1], on the CPU.
        """

    @abstractmethod
    def offload_vae(self) -> None:
        """Move the VAE off the device, where that frees memory."""

    @property
    @abstractmethod
    def text_encoders(self) -> list[Any]:
        """The program's wrappers of the text encoders, in order: one or (SDXL) two."""

    @property
    @abstractmethod
    def embedding_keys(self) -> list[str]:
        """For each text encoder, the name by which the program looks up an embedding's vectors."""

    @property
    @abstractmethod
    def embedding_databases(self) -> Sequence[Any]:
        """The program's databases of embeddings, which the text encoders search."""

    @property
    @abstractmethod
    def text_device(self) -> torch.device:
        """The device on which text encoders compute."""

    @abstractmethod
    def token_embedding(self, text_encoder: Any) -> Any:
        """The program's ``EmbeddingsWithFixes`` around the token table of one of :attr:`text_encoders`."""

    def token_table(self, index: int) -> torch.Tensor:
        """``(V, D)`` token embeddings of a text encoder, detached."""
        table: torch.Tensor = self.token_embedding(self.text_encoders[index]).wrapped.weight.detach()
        return table

    @abstractmethod
    def text_encoder_module(self, text_encoder: Any) -> torch.nn.Module:
        """The module that holds the weights of one of :attr:`text_encoders`."""

    def inject(self, placeholder_tokens: PlaceholderTokens) -> AbstractContextManager[Callable[[str], str]]:
        """Have the program read placeholder tokens as their vectors inside the context.

        Returns:
            A context manager that yields a function. It rewrites a prompt for the program's own code.

        Raises:
            HostError: On entering, for vectors that do not fit the text encoders.
        """
        encoders, device = self.text_encoders, self.text_device
        slots = [
            EncoderSlot(name, key, int(self.token_embedding(encoder).wrapped.weight.shape[1]), device)
            for name, key, encoder in zip(ENCODER_NAMES[self.family], self.embedding_keys, encoders, strict=True)
        ]
        return inject_embeddings(placeholder_tokens, slots, encoders, self.embedding_databases)

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str], width: int, height: int) -> Mapping[str, torch.Tensor]:
        """The program's own conditioning for images of a size in pixels.

        Returns:
            ``crossattn`` ``(N, 77 n, width)`` and, for SDXL, ``vector`` ``(N, P + S)``.
        """

    @abstractmethod
    def size_embedding(self, count: int, width: int, height: int) -> torch.Tensor:
        """SDXL's part of ``vector`` for an image's size in pixels: ``(count, S)`` of original size, crop and target."""

    @abstractmethod
    def generate_image(
        self, request: GenerationRequest, prompts: tuple[str, str], seed: int, size: tuple[int, int]
    ) -> Image.Image | None:
        """Generate one image by DDIM with the program's own processing, as a preview: nothing saved, no scripts run.

        Args:
            request: Steps and guidance.
            prompts: The positive and the negative prompt, rewritten by :meth:`inject`.
            seed: The image's own seed.
            size: Width and height in pixels.

        Returns:
            The image, or ``None`` if the user interrupted the program.
        """


class FamilyTextEncoder(TextEncoder):
    """One of the loaded checkpoint's text encoders, looked up again at each use.

    Args:
        name: Its lasting name, as exported files use it.
        checkpoint: Looks the checkpoint up.
        index: Its place among the checkpoint's text encoders.
    """

    def __init__(self, name: str, checkpoint: Callable[[], LoadedCheckpoint], index: int) -> None:
        self._name, self._checkpoint, self._index = name, checkpoint, index

    @property
    def name(self) -> str:
        """The lasting name."""
        return self._name

    @property
    def width(self) -> int:
        """The width of a token embedding."""
        return int(self.token_table().shape[1])

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        if not texts:
            return []
        return [list(ids) for ids in self._checkpoint().text_encoders[self._index].tokenize(list(texts))]

    def token_table(self) -> torch.Tensor:
        """The token embeddings."""
        return self._checkpoint().token_table(self._index)

    def weights(self) -> Iterator[torch.Tensor]:
        """Those of the text encoder's module."""
        checkpoint = self._checkpoint()
        module = checkpoint.text_encoder_module(checkpoint.text_encoders[self._index])
        return (weight.detach() for weight in module.parameters())
