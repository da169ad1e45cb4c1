"""Face guidance: the predicted clean picture is moved towards a person's photo while an image is generated.

In the last steps, the predicted clean latents are decoded, the faces in the picture are aligned and recognized, and the
gradient of their cosine similarity to the people's face vectors moves the latents that the sampler goes on with. The
gradient goes through the recognizer, the alignment and the VAE's decoder, not through the denoiser (as in MPGD and FreeDoM).
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from celeb_basis.errors import FacePackError, HostError
from celeb_basis.faces.network import DetectedFace, FaceNetwork, Floats, Pixels
from celeb_basis.faces.recognizer import SIDE, Recognizer, align
from celeb_basis.sampling import Refinement

if TYPE_CHECKING:
    from celeb_basis.faces.insight import InsightFaceNetwork

_log = logging.getLogger(__name__)

FACE_GUIDANCE = "Face guidance"
"""Key of the strength in the parameters of an image."""

BEGIN = 2 / 3
"""Share of the steps after which guidance begins."""

FULL_STEP = 0.25
"""How far the latents of a face are moved in a step at strength 1, in units of the clean latents' standard deviation, while
the face is not alike at all. It is less, the more alike the face is."""

_SAME_NETWORK = 0.99
"""Least cosine similarity of what a pack's recognizer gives here and in onnxruntime."""

_LOSS_SCALE = 1024.0
"""The gradient is normalized, so this only keeps it above half precision's smallest numbers on its way."""


def open_recognizer(network: InsightFaceNetwork) -> Recognizer:
    """The recognizer of a pack's networks, with gradients.

    Raises:
        FacePackError: If it has operators that are not known, or gives other vectors than the pack's own.
    """
    file, mean, std = network.recognizer_file
    recognizer = Recognizer(file, mean=mean, std=std)
    crop = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    try:
        with torch.no_grad():
            own = recognizer(_tensor_of(crop))[0].numpy()
        alike = float(own @ network.embed([crop])[0])
    except (RuntimeError, ValueError, IndexError):  # shapes that do not fit
        alike = math.nan
    if not alike >= _SAME_NETWORK:
        raise FacePackError(
            f"The recognizer {Path(file).name} cannot be differentiated for face guidance: use the pack buffalo_l or "
            "antelopev2."
        )
    return recognizer


@dataclass(frozen=True)
class FaceGuidance(Refinement):
    """Moves predicted clean latents so that their faces become more like given people."""

    faces: FaceNetwork
    """Finds the faces."""
    recognizer: Recognizer
    """Of the same pack."""
    targets: Sequence[Floats | None]
    """The ``(512,)`` face vectors of the people in the image, from left to right; ``None`` for one who is left alone."""
    strength: float
    """0 to 1."""
    begin: float = BEGIN
    """Share of the steps after which it begins."""

    def __post_init__(self) -> None:
        """Check the strength.

        Raises:
            HostError: If it is out of range.
        """
        if not 0 <= self.strength <= 1:
            raise HostError(f"Face guidance of {self.strength:g} is not possible: choose 0 to 1.")

    def acts(self, step: int, steps: int) -> bool:
        """Whether the latents of a step are moved."""
        wanted = self.strength > 0 and any(one is not None for one in self.targets)
        return wanted and step >= min(math.ceil(self.begin * steps), steps - 1)

    def __call__(
        self, clean: torch.Tensor, step: int, steps: int, decode: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Move the predicted clean latents of one image; see :class:`Refinement`.

        They stay as they are where not everybody's face is found, and where the gradient is not finite.
        """
        if not self.acts(step, steps):
            return clean
        with torch.enable_grad():
            latents = clean.detach().float().requires_grad_()
            picture = decode(latents).float()
            found = self.found(_pixels_of(picture))
            if not found:
                return clean
            likeness = self._likeness(picture, found)
            (gradient,) = torch.autograd.grad(likeness.sum() * _LOSS_SCALE, latents)
        norm = gradient.norm()
        if not bool(torch.isfinite(norm)) or not norm > 0:
            _log.info("Face guidance left out step %d: its gradient is not finite, or zero.", step + 1)
            return clean
        # As if every latent of the faces was moved by so much; elsewhere the gradient is close to zero.
        share = min(1.0, sum(face.area for face in found) / (picture.shape[-2] * picture.shape[-1]))
        remaining = 1.0 - float(likeness.detach().mean().clamp(0.0, 1.0))
        length = (
            self.strength * FULL_STEP * remaining * float(latents.detach().std()) * math.sqrt(share * clean.numel())
        )
        moved: torch.Tensor = latents.detach() + length / norm * gradient
        return moved.to(clean.dtype)

    def found(self, picture: Pixels) -> list[DetectedFace]:
        """The largest faces, from left to right, as many as there are people; none if one is missing."""
        largest = self.faces.detect(picture)[: len(self.targets)]
        found = sorted(largest, key=lambda face: face.box[0] + face.box[2])
        return found if len(found) == len(self.targets) else []

    def _likeness(self, picture: torch.Tensor, found: Sequence[DetectedFace]) -> torch.Tensor:
        """``(P,)`` cosine similarities of the faces to the people who have a vector."""
        device = picture.device
        if next(self.recognizer.buffers()).device != device:
            self.recognizer.to(device)
        pairs = [(face, one) for face, one in zip(found, self.targets, strict=True) if one is not None]
        crops = torch.cat([align(picture, face.landmarks) for face, _ in pairs])
        targets = torch.from_numpy(np.stack([one for _, one in pairs])).to(device, torch.float32)
        cosines: torch.Tensor = (self.recognizer(crops) * targets).sum(1)
        return cosines


class GuidedBatch:
    """Face guidance of the images of a batch, as the sampler of a user's program calls it.

    Args:
        images: Answers the guidance of each image, ``None`` for one that is left alone; asked once, at the first step.
        stopped: Called with the reason, a sentence, where the program cannot go on with guidance.
    """

    def __init__(
        self, images: Callable[[], Sequence[FaceGuidance | None]], stopped: Callable[[str], None] = lambda _: None
    ) -> None:
        self._make, self._stopped = images, stopped
        self._active = True

    @functools.cached_property
    def images(self) -> Sequence[FaceGuidance | None]:
        """The guidance of each image."""
        return tuple(self._make())

    def acts(self, step: int, steps: int) -> bool:
        """Whether latents of a step are moved."""
        return self._active and any(one is not None and one.acts(step, steps) for one in self.images)

    def correct(
        self, clean: torch.Tensor, step: int, steps: int, decode: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Move the predicted clean latents of a batch, one image after the other.

        Args:
            clean: ``(N, C, h, w)`` predicted clean latents, made outside of inference mode.
            step: The step, from 0.
            steps: How many steps there are.
            decode: The VAE's decoder for one image, with gradients; see :class:`~celeb_basis.sampling.Refinement`.

        Returns:
            ``(N, C, h, w)``; ``clean`` itself where no image is moved.
        """
        if len(clean) != len(self.images):  # the program draws something else than the prompts of its batch
            return clean
        rows = [clean[place : place + 1] for place in range(len(clean))]
        moved = [
            row if one is None else one(row, step, steps, decode) for row, one in zip(rows, self.images, strict=True)
        ]
        unchanged = all(one is row for one, row in zip(moved, rows, strict=True))
        return clean if unchanged else torch.cat(moved)

    def stop(self, reason: str) -> None:
        """Leave all further steps as they are."""
        self._active = False
        self._stopped(reason)


def portrait_vector(portrait: Pixels, faces: FaceNetwork) -> Floats | None:
    """The face vector of the portrait that an identity has as its thumbnail; ``None`` if no face is found in it.

    Args:
        portrait: The portrait; the face in its middle counts.
        faces: The networks to use, whichever the person was learned with.
    """
    middle = np.array([portrait.shape[1], portrait.shape[0]]) / 2
    found = faces.detect(portrait)
    if not found:
        return None
    nearest = min(found, key=lambda face: float(np.linalg.norm(face.landmarks.mean(0) - middle)))
    vector: Floats = faces.embed([faces.align(portrait, nearest.landmarks)])[0]
    return vector


def _pixels_of(picture: torch.Tensor) -> Pixels:
    values = ((picture.detach()[0].permute(1, 2, 0) + 1) * 127.5).nan_to_num().round().clamp(0, 255)
    return np.ascontiguousarray(values.byte().cpu().numpy())


def _tensor_of(picture: Pixels) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
