"""The pool of everyone's augmented views, encoded once, so that a training step runs neither VAE nor face network."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from celeb_basis.diffusion_model import DiffusionModel, LatentDistribution
from celeb_basis.errors import TrainingError
from celeb_basis.events import Event, Preparing
from celeb_basis.faces.network import FaceNetwork, Pixels, Portrait
from celeb_basis.training.augment import Augmentation, View, augment, draw_augmentation

THUMBNAIL = 192
# Views that are made while the VAE encodes, and by how many threads.
_AHEAD, _THREADS = 4, 2


@dataclass(frozen=True)
class PersonViews:
    """One person's encoded views, ``V`` of them."""

    name: str
    thumbnail: bytes
    """PNG of the first portrait."""
    latents: LatentDistribution
    """``(V, C, h, w)``."""
    vectors: torch.Tensor
    """``(V, 512)`` float32 face vectors of the views."""
    descriptions: tuple[str, ...]
    """What the augmentation did to each view."""


@dataclass(frozen=True)
class ViewPool:
    """Everything that training steps sample from."""

    people: tuple[PersonViews, ...]
    face_model: str
    """Name of the face network that made the vectors."""


@dataclass(frozen=True)
class PortraitsFound(Event):
    """A face was found in every photo; views are encoded next."""

    portraits: Mapping[str, Sequence[Portrait]]
    """Portraits by the person's name."""

    def as_dict(self) -> dict[str, Any]:
        """Names and warnings, without the pictures."""
        return {
            "event": type(self).__name__,
            "people": {
                name: [warning for portrait in portraits for warning in portrait.warnings]
                for name, portraits in self.portraits.items()
            },
        }


def encode_views(
    model: DiffusionModel,
    portraits: Mapping[str, Sequence[Portrait]],
    faces: FaceNetwork,
    *,
    views: int,
    smallest: float,
    generator: torch.Generator,
) -> Generator[Preparing, None, ViewPool]:
    """Make and encode the views of each person, yielding progress, and return the pool.

    Args:
        model: Encodes the views with its VAE.
        portraits: By the person's name, one or more, all of the same size; views are made of each in turn.
        faces: Aligns and embeds the face in each view.
        views: Number of views of each person, ``V``.
        smallest: Smallest width of the picture inside a view, as a share of the frame.
        generator: The source of all random choices.

    Raises:
        TrainingError: For no people, a person without a portrait, or portraits of different sizes.
    """
    _check(portraits, model.info.size_multiple)
    total = views * len(portraits)
    done = 0
    encoded = []
    made: deque[View] = deque()

    def pictures() -> Generator[torch.Tensor, None, None]:
        """The views one after the other; each is at the end of ``made`` when it is encoded."""
        sources = (of_person[index % len(of_person)] for of_person in portraits.values() for index in range(views))
        choices = ((source, draw_augmentation(generator, smallest)) for source in sources)
        with closing(_made_ahead(choices)) as finished:
            for view, picture in finished:
                made.append(view)
                yield picture

    try:
        with closing(pictures()) as source, closing(_stream(model, source)) as latents_of_views:
            for name, of_person in portraits.items():
                latents, aligned, descriptions = [], [], []
                for _ in range(views):
                    latents.append(next(latents_of_views))
                    view = made.popleft()
                    aligned.append(faces.align(view.picture, view.landmarks))
                    descriptions.append(view.description)
                    done += 1
                    yield Preparing(done, total)
                encoded.append(
                    PersonViews(
                        name=name,
                        thumbnail=_thumbnail(of_person[0].picture),
                        latents=LatentDistribution(
                            torch.cat([one.mean for one in latents]), torch.cat([one.std for one in latents])
                        ),
                        vectors=torch.from_numpy(np.ascontiguousarray(faces.embed(aligned), dtype=np.float32)),
                        descriptions=tuple(descriptions),
                    )
                )
    finally:
        model.release_vae()
    return ViewPool(tuple(encoded), faces.name)


def _stream(model: DiffusionModel, pictures: Iterator[torch.Tensor]) -> Generator[LatentDistribution, None, None]:
    """The model's own stream of encoded pictures, as a generator that can be closed."""
    yield from model.encode_one_by_one(pictures)


def _made_ahead(
    choices: Iterable[tuple[Portrait, Augmentation]],
) -> Generator[tuple[View, torch.Tensor], None, None]:
    """Make views in order, some of them while the ones before are encoded."""
    waiting: deque[Future[tuple[View, torch.Tensor]]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="views") as workers:
        try:
            for portrait, choice in choices:
                waiting.append(workers.submit(_make_view, portrait, choice))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()


def _make_view(portrait: Portrait, choice: Augmentation) -> tuple[View, torch.Tensor]:
    view = augment(portrait, choice)
    return view, to_model_range(view.picture)


def to_model_range(picture: Pixels) -> torch.Tensor:
    """``(H, W, 3)`` uint8 to ``(1, 3, H, W)`` float32 in [-1, 1]."""
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    return tensor.float() / 127.5 - 1.0


def _check(portraits: Mapping[str, Sequence[Portrait]], size_multiple: int) -> None:
    if not portraits:
        raise TrainingError("There is nobody to learn: give at least one photo.")
    for name, of_person in portraits.items():
        if not of_person:
            raise TrainingError(f"{name} has no usable photo: give at least one with a clear face.")
    sides = sorted({portrait.picture.shape[:2] for of_person in portraits.values() for portrait in of_person})
    if len(sides) > 1 or sides[0][0] != sides[0][1]:
        raise TrainingError(f"The portraits have different sizes ({sides}): crop all of them to one square size.")
    if sides[0][0] % size_multiple:
        raise TrainingError(
            f"Pictures of {sides[0][0]} pixels do not fit this model: choose a size that is a multiple of {size_multiple}."
        )


def _thumbnail(picture: Pixels) -> bytes:
    image = Image.fromarray(picture)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
