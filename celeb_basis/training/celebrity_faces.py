"""Face embeddings of the celebrities as a checkpoint renders them, generated as cheaply as the checkpoint allows.

The regression that they are for (:mod:`celeb_basis.training.first_guess`) gains by more names, and hardly by better
pictures: a face only has to be found and recognized. So there is one picture of a name, with few steps and no guidance;
a pilot of a few names shows whether the checkpoint renders recognizable people that way, and pays for more if it does not.
Checkpoints with the same text encoders share their results until each has its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from celeb_basis.diffusion_model import Conditioning, DiffusionModel, text_encoders_sha256
from celeb_basis.errors import TrainingError
from celeb_basis.events import DrawingNames, Event, Warned
from celeb_basis.faces.network import FaceNetwork, Pixels
from celeb_basis.method import FACE_WIDTH
from celeb_basis.sampling import sample, sampling_points
from celeb_basis.settings import PrecisionChoice
from celeb_basis.training.celebrity_files import (
    FILE_DTYPE,
    CelebrityFile,
    Drawing,
    file_name,
    related,
    stored_vectors,
)
from celeb_basis.training.precision import resolve_precision

PROMPT = "a photo of {}"

DRAWINGS = (Drawing(steps=2), Drawing(steps=4), Drawing(steps=8, guidance=3.0), Drawing(steps=20, guidance=5.0))
"""Ways to generate a picture, cheapest first: 2, 4, 16 and 40 evaluations of the denoiser."""

REFERENCE = Drawing(steps=8, guidance=3.0)
"""How the pilot's names are generated once more: as recognizable as a finished picture, with 16 evaluations."""

MOST = 640
"""Names that are used of a longer list by default, evenly spread."""

PILOT = 32
"""Names that are generated first and twice, cheaply and by :data:`REFERENCE`, to choose among :data:`DRAWINGS`, and to move
the faces of all cheap pictures by the mean difference: photos are as sharp as finished pictures."""

ENOUGH_RECOGNIZED = 0.25
"""Share of the pilot's names whose finished picture has to be most similar to their own cheap one; by chance, 1 in 32."""

REFINED = 128
"""Names that a run generates by itself where the other faces are those of a related checkpoint."""

SETTLED = 0.01
"""If the regression's leave-one-out error falls by a smaller share than this while the names double, more are not worth
their time. It is looked at from :data:`_FIRST_CHECK` names on."""

_FIRST_CHECK = 320
_ROUND, _ROUND_SECONDS = 64, 30.0
"""Pictures that are denoised before the VAE takes the denoiser's place, and the time after which it does so anyway."""

_MOST_AT_ONCE, _MOST_AT_ONCE_ON_CPU = 16, 4
_BYTES_PER_PIXEL = 2048
"""Generous estimate of the memory that denoising takes for a pixel of a picture, in half precision."""


@dataclass(frozen=True)
class CelebrityFaces:
    """Face embeddings of the celebrities as this checkpoint renders them."""

    names: tuple[str, ...]
    vectors: torch.Tensor
    """``(N, 512)`` float32, L2-normalized; NaN if no picture of a name shows a face."""


@dataclass(frozen=True)
class _Picture:
    name: str
    number: int = 0


_Vectors = dict[_Picture, torch.Tensor]


def generate_celebrity_faces(
    model: DiffusionModel,
    names: Sequence[str],
    faces: FaceNetwork,
    folder: Path,
    *,
    known: Sequence[Path] = (),
    most: int = MOST,
    size: int = 0,
    precision: PrecisionChoice = "auto",
    explained: Callable[[CelebrityFaces], float] | None = None,
    drawings: Sequence[Drawing] = DRAWINGS,
) -> Generator[Event, None, CelebrityFaces]:
    """Generate a picture of every name and embed its largest face, yielding progress.

    Finished names are saved on the way, so that an interruption costs a few pictures at most. Faces that an earlier version
    has generated are used as they are.

    Args:
        model: The model that generates.
        names: The names of the basis.
        faces: Detects, aligns and embeds the faces, while the model generates the next pictures.
        folder: Where results are read from and saved to. If it cannot be written, only the time is lost.
        known: Folders that are searched too and never written: faces that come with a model need not be generated.
        most: How many names are used of a longer list, evenly spread.
        size: Side of the pictures in pixels; the checkpoint's own resolution if 0.
        precision: Precision of the denoiser.
        explained: The share of the coefficients' variance that a regression on these faces explains, to stop when it has
            settled.
        drawings: Ways to generate a picture, cheapest first.
    """
    store = _opened(model, names, faces.name, folder, known, size)
    names = tuple(dict.fromkeys(names))
    order = spread_order(names)
    wanted = min(most, len(order))
    if store.is_enough(order, wanted):
        return _faces(names, store.vectors)
    _check_size(model, size)
    source = _Source(model, faces, precision, size or model.info.resolution)
    with model.prepare_for_training(source.precision):
        store.text_encoders = text_encoders_sha256(model)
    relative = related(folder, store)
    if relative is not None and sum(name in relative.vectors for name in order) < wanted:
        relative = None
    missing = [name for name in order if name not in store.vectors]
    have = len(order) - len(missing)
    count = wanted - have if relative is None else min(REFINED, wanted - have)
    if relative is not None:
        yield Warned(
            f"This checkpoint has the same text encoder as {relative.checkpoint}: it begins with the faces of the "
            f"celebrities that {relative.checkpoint} generated, and generates {count} of {wanted} itself now. Each further "
            "run adds more of its own."
        )
    yield DrawingNames(have, wanted)  # on a CPU, the first pictures take minutes
    try:
        if store.drawing is None:
            pilot, missing = missing[: min(PILOT, count)], missing[min(PILOT, count) :]
            yield from _pilot(source, store, pilot, (have, wanted), drawings)
            have, count = have + len(pilot), count - len(pilot)
        check = None if explained is None or relative is not None else partial(_error, names, store, explained)
        yield from _rest(source, store, missing[:count], (have, wanted), check)
    finally:
        store.save()
    if relative is None:
        return _faces(names, store.vectors)
    return _faces(names, {**_shifted(relative.vectors, store.vectors), **store.vectors})


def stored_celebrity_faces(
    model: DiffusionModel,
    names: Sequence[str],
    faces: str,
    folder: Path,
    *,
    known: Sequence[Path] = (),
    most: int = MOST,
    size: int = 0,
) -> tuple[CelebrityFaces | None, bool]:
    """The faces that are there already, and whether :func:`generate_celebrity_faces` would generate no others.

    Its arguments are this function's as well, but for ``faces``, which is the name of the face network.

    Returns:
        ``None`` in place of the faces if there are none.
    """
    names = tuple(dict.fromkeys(names))
    store = _opened(model, names, faces, folder, known, size)
    found = _faces(names, store.vectors) if any(name in store.vectors for name in names) else None
    return found, store.is_enough(names, min(most, len(names)))


def _opened(
    model: DiffusionModel, names: Sequence[str], faces: str, folder: Path, known: Sequence[Path], size: int
) -> CelebrityFile:
    """The checkpoint's file, with what is known from elsewhere."""
    name = file_name(model, faces, PROMPT, size)
    store = CelebrityFile(folder / name, checkpoint=model.info.name, faces=faces)
    for place in (*known, folder):
        store.add(place / name)
        for row, vector in stored_vectors(place, model, names, faces).items():
            store.vectors.setdefault(row, vector)
    return store


def spread_order(names: Sequence[str]) -> tuple[str, ...]:
    """The names in an order of which every beginning is evenly spread over the list (van der Corput's sequence)."""
    bits = max(1, (len(names) - 1).bit_length())
    turned = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(2**bits))
    return tuple(names[row] for row in turned if row < len(names))


def _faces(names: Sequence[str], vectors: Mapping[str, torch.Tensor]) -> CelebrityFaces:
    known = tuple(name for name in names if name in vectors)
    return CelebrityFaces(known, torch.stack([vectors[name] for name in known]))


def _shifted(relative: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A related checkpoint's vectors, moved so that the mean of the names that both have is the same."""
    both = [name for name in own if name in relative and bool((own[name] + relative[name]).isfinite().all())]
    shift = torch.zeros(FACE_WIDTH)
    if both:
        shift = torch.stack([own[name] - relative[name] for name in both]).mean(dim=0)
    return {name: functional.normalize(vector + shift, dim=0) for name, vector in relative.items()}


def _check_size(model: DiffusionModel, size: int) -> None:
    if size % model.info.size_multiple:
        raise TrainingError(
            f"Pictures of {size} pixels do not fit this model: choose a size that is a multiple of "
            f"{model.info.size_multiple}."
        )


def _pilot(
    source: _Source,
    store: CelebrityFile,
    names: Sequence[str],
    progress: tuple[int, int],
    drawings: Sequence[Drawing],
) -> Generator[Event, None, None]:
    """Choose how to generate: the first of ``drawings`` by which the names are recognizable, or else the best."""
    have, wanted = progress
    finished: _Vectors = {}
    for done in source.vectors([_Picture(name, 1) for name in names], REFERENCE, finished.update):
        yield DrawingNames(have + done // 2, wanted)
    sharp = torch.stack([finished[_Picture(name, 1)] for name in names])
    best = -1.0
    for drawing in drawings:
        found: _Vectors = {}
        for done in source.vectors([_Picture(name) for name in names], drawing, found.update):
            yield DrawingNames(have + (len(names) if best >= 0.0 else (len(names) + done) // 2), wanted)
        cheap = torch.stack([found[_Picture(name)] for name in names])
        share = recognized_share(cheap, sharp)
        if share > best:
            best, store.drawing = share, drawing
            both = (cheap + sharp).isfinite().all(dim=1)
            dear = drawing.evaluations >= REFERENCE.evaluations
            store.offset = (
                (sharp - cheap)[both].mean(dim=0) if bool(both.any()) and not dear else torch.zeros(FACE_WIDTH)
            )
            means = [_mean([one + store.offset, other]) for one, other in zip(cheap, sharp, strict=True)]
            store.vectors |= dict(zip(names, means, strict=True))
        if share >= ENOUGH_RECOGNIZED:
            break
    store.save()


def recognized_share(first: torch.Tensor, second: torch.Tensor) -> float:
    """The share of names whose second picture is most similar to their own first one.

    Args:
        first: ``(N, 512)`` normalized vectors; NaN without a face, which counts as not recognized.
        second: The same of other pictures.
    """
    similar = (second.nan_to_num(0.0) @ first.nan_to_num(0.0).T).masked_fill(first.isnan().any(dim=1), -2.0)
    right = similar.argmax(dim=1) == torch.arange(len(first))
    return float((right & ~second.isnan().any(dim=1) & ~first.isnan().any(dim=1)).float().mean())


def _mean(vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    seen = [vector for vector in vectors if bool(vector.isfinite().all())]
    return _rounded(functional.normalize(torch.stack(seen).mean(dim=0), dim=0)) if seen else vectors[0]


def _rounded(vector: torch.Tensor) -> torch.Tensor:
    """Rounded as files store it, so that the run that generates the faces learns the same as later ones."""
    return vector.to(FILE_DTYPE).float()


def _rest(
    source: _Source,
    store: CelebrityFile,
    names: Sequence[str],
    progress: tuple[int, int],
    error: Callable[[], float] | None,
) -> Generator[Event, None, None]:
    """Generate one picture of each name until they are done, or until the regression has settled.

    Args:
        source: Generates the pictures.
        store: Where their vectors go.
        names: The names.
        progress: How many names were done before, and how many there are in the end.
        error: The regression's leave-one-out error with the names so far, if it is to be looked at.
    """
    drawing, (have, wanted) = store.drawing or DRAWINGS[0], progress
    errors: dict[int, float] = {}

    def keep(found: _Vectors) -> None:
        store.vectors |= {picture.name: _mean([vector + store.offset]) for picture, vector in found.items()}

    place, check = 0, _FIRST_CHECK
    while place < len(names):
        while check <= have + place:
            check *= 2
        some = names[place : check - have]
        for done in source.vectors([_Picture(name) for name in some], drawing, keep):
            store.save()
            yield DrawingNames(have + place + done, wanted)
        place += len(some)
        if error is not None and have + place == check < wanted:
            errors[check] = error()
            if errors[check] > errors.get(check // 2, math.inf) * (1.0 - SETTLED):
                store.settled = True
                return


def _error(names: Sequence[str], store: CelebrityFile, explained: Callable[[CelebrityFaces], float]) -> float:
    """The regression's leave-one-out error in units of the variance; infinite if there are too few faces to tell."""
    with contextlib.suppress(TrainingError):
        return 1.0 - explained(_faces(names, store.vectors))
    return math.inf


class _Source:
    """Generates pictures of names and embeds their faces.

    Args:
        model: The model that generates.
        faces: The face network.
        choice: The precision that was asked for.
        size: Side of the pictures in pixels.
    """

    def __init__(self, model: DiffusionModel, faces: FaceNetwork, choice: PrecisionChoice, size: int) -> None:
        self._model, self._faces, self._size = model, faces, size
        self.precision = resolve_precision(choice, model.dtype, model.device)
        self._at_once = _pictures_at_once(model, size)

    def vectors(
        self, pictures: Sequence[_Picture], drawing: Drawing, keep: Callable[[_Vectors], object]
    ) -> Iterator[int]:
        """Generate pictures and embed their faces, some after the others; yields how many are done.

        The faces are looked for while the next pictures are generated.

        Args:
            pictures: What to generate.
            drawing: How to generate it.
            keep: Is given the face vectors, NaN where no face was found; also when it ends early.
        """
        waiting: Future[_Vectors] | None = None
        place = done = 0
        with ThreadPoolExecutor(1, thread_name_prefix="celebrity-faces") as beside:
            try:
                while place < len(pictures):
                    latents = self._latents(pictures[place:], drawing)
                    drawn = pictures[place : place + len(latents)]
                    place += len(latents)
                    try:
                        images = self._model.decode_latents(latents)
                    finally:
                        self._model.release_vae()
                    before, waiting = waiting, beside.submit(self._embedded, drawn, images)
                    if before is not None:
                        keep(found := before.result())
                        done += len(found)
                        yield done
            finally:
                if waiting is not None:
                    keep(waiting.result())
        if place:
            yield place

    def _latents(self, pictures: Sequence[_Picture], drawing: Drawing) -> torch.Tensor:
        """``(N, C, h, w)`` clean latents of the first pictures, on the CPU: a round of them, or fewer if it takes long."""
        begun, parts = time.monotonic(), list[torch.Tensor]()
        place, last = 0, min(_ROUND, len(pictures))
        plain: dict[int, Conditioning] = {}  # the empty prompt is encoded once for every size of a batch
        with self._model.prepare_for_training(self.precision), torch.no_grad():
            while place < last and (not parts or time.monotonic() - begun < _ROUND_SECONDS):
                some = pictures[place : min(place + self._at_once, last)]
                try:
                    parts.append(self._sampled(some, drawing, plain))
                except RuntimeError as error:
                    if self._at_once == 1 or type(error).__name__ != "OutOfMemoryError":
                        raise
                    self._at_once = max(1, self._at_once // 2)
                    continue
                place += len(some)
        return torch.cat(parts)

    def _sampled(self, pictures: Sequence[_Picture], drawing: Drawing, plain: dict[int, Conditioning]) -> torch.Tensor:
        model, count = self._model, len(pictures)
        info, device = model.info, model.device
        named = model.encode_prompts([PROMPT.replace("{}", picture.name) for picture in pictures], {})
        guided = drawing.guidance != 1.0
        if guided and count not in plain:
            plain[count] = model.encode_prompts([""] * count, {})

        def denoise(latents: torch.Tensor, timestep: int) -> torch.Tensor:
            times = torch.full((len(latents),), timestep, device=device)
            output = model.predict(latents, times, named)
            if not guided:
                return output
            without = model.predict(latents, times, plain[count])
            return without + drawing.guidance * (output - without)

        side = self._size // info.vae_scale_factor
        noise = torch.stack([_noise(picture, (info.latent_channels, side, side)) for picture in pictures]).to(device)
        points = sampling_points(model.schedule, drawing.steps)
        return sample(denoise, noise, points, model.schedule.prediction, drawing.sampler).float().cpu()

    def _embedded(self, pictures: Sequence[_Picture], images: torch.Tensor) -> _Vectors:
        found: _Vectors = {picture: torch.full((FACE_WIDTH,), torch.nan) for picture in pictures}
        seen: list[tuple[_Picture, Pixels]] = []
        for picture, image in zip(pictures, images, strict=True):
            pixels = ((image.permute(1, 2, 0).nan_to_num(0.0) + 1.0) * 127.5).round().clamp(0, 255).byte().numpy()
            if people := self._faces.detect(pixels):
                seen.append((picture, self._faces.align(pixels, people[0].landmarks)))
        if seen:
            vectors = np.asarray(self._faces.embed([aligned for _, aligned in seen]), np.float32)
            for (picture, _), vector in zip(seen, torch.from_numpy(vectors), strict=True):
                found[picture] = _rounded(functional.normalize(vector, dim=0))
        return found


def _noise(picture: _Picture, shape: tuple[int, int, int]) -> torch.Tensor:
    """A picture's own noise, the same whatever else is generated with it."""
    what = picture.name if picture.number == 0 else f"{picture.name} {picture.number}"
    seed = int.from_bytes(hashlib.sha256(what.encode()).digest()[:7], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _pictures_at_once(model: DiffusionModel, size: int) -> int:
    """How many pictures are denoised together: what fits half of the free memory, and few where more are not faster."""
    if model.device.type == "cpu":
        return _MOST_AT_ONCE_ON_CPU
    free = model.memory().free
    if free is None:
        return _MOST_AT_ONCE_ON_CPU
    each = size * size * _BYTES_PER_PIXEL * max(1, model.dtype.itemsize // 2)
    return int(min(max(free // 2 // each, 1), _MOST_AT_ONCE))
