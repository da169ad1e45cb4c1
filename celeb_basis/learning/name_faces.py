"""How the model draws the celebrities: a face vector for every name, drawn once for each checkpoint and kept on the disk."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from celeb_basis.errors import FileError, LearningError
from celeb_basis.faces.types import FaceNetwork
from celeb_basis.files import write_bytes
from celeb_basis.hosts.base import GenerationRequest, Host
from celeb_basis.learning.events import DrawingNames

_log = logging.getLogger(__name__)

PROMPT = "a photo of {}"
PICTURES, STEPS, GUIDANCE = 2, 20, 5.0
"""Of each name: one picture alone says less of how the model sees somebody."""
MOST = 640
"""Names that are drawn of a longer list, evenly spread: a regression needs no more, and every picture takes time."""
_WIDTH = 512
_KEEP_EVERY = 20


@dataclass(frozen=True)
class NameFaces:
    """Who the model believes that its celebrities are."""

    names: tuple[str, ...]
    vectors: torch.Tensor
    """``(N, 512)`` float32, of length 1; NaN where no picture of a name shows a face."""


def draw_name_faces(
    host: Host, names: tuple[str, ...], faces: FaceNetwork, folder: Path, *, known: Sequence[Path] = ()
) -> Generator[DrawingNames, None, NameFaces]:
    """Draw two pictures of every name and look at their largest faces; yields after each name. Of more than
    :data:`MOST` names some are chosen.

    What was drawn before is read from ``folder``, and kept there on the way: whoever stops loses a few pictures at most.
    A folder that cannot be written costs the time again, nothing else. ``known`` are folders that are looked into first,
    and never written: what comes with a model need not be drawn.
    """
    names = chosen(names)
    path = folder / file_name(host, names, faces)
    found = next((file for place in known if (file := place / path.name).is_file()), path)
    vectors, drawn = _kept(found, len(names))
    missing = (~drawn).nonzero()[:, 0].tolist()
    try:
        for number, row in enumerate(missing, 1):
            vectors[row] = _look(host, names[row], row, faces)
            drawn[row] = True
            if number % _KEEP_EVERY == 0:
                _keep(path, vectors, drawn)
            yield DrawingNames(len(names) - len(missing) + number, len(names))
    finally:
        if missing:
            _keep(path, vectors, drawn)
    return NameFaces(names, vectors)


def chosen(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names that are drawn of a list: :data:`MOST` at most, evenly spread."""
    return tuple(names[row] for row in np.linspace(0, len(names) - 1, min(len(names), MOST)).round().astype(int))


def file_name(host: Host, names: tuple[str, ...], faces: FaceNetwork) -> str:
    """What the file is called that keeps the faces of :func:`chosen` names."""
    parts = [host.info.sha256, host.info.resolution, faces.name, PROMPT, PICTURES, STEPS, GUIDANCE, *names]
    return f"faces-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.safetensors"


def _look(host: Host, name: str, seed: int, faces: FaceNetwork) -> torch.Tensor:
    request = GenerationRequest(
        PROMPT.replace("{}", name), count=PICTURES, seed=PICTURES * seed, steps=STEPS, guidance=GUIDANCE
    )
    pictures = [np.asarray(picture.convert("RGB")) for picture in host.generate(request)]
    if len(pictures) < PICTURES:
        raise LearningError("Drawing the celebrities was interrupted; what was drawn is kept: start again to go on.")
    aligned = [faces.align(picture, found[0].landmarks) for picture in pictures if (found := faces.detect(picture))]
    if not aligned:
        return torch.full((_WIDTH,), torch.nan)
    return torch.nn.functional.normalize(torch.from_numpy(faces.embed(aligned).mean(0)).float(), dim=0)


def _kept(path: Path, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``(N, 512)`` vectors and ``(N,)`` which of them were drawn."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.is_file():
        try:
            stored = load_file(str(path))
            # Copies: what is mapped from the file holds it, and Windows would then refuse to write over it.
            vectors, drawn = stored["vectors"].float().clone(), stored["drawn"].bool().clone()
            if vectors.shape == (count, _WIDTH) and drawn.shape == (count,):
                return vectors, drawn
        except (SafetensorError, OSError, KeyError) as error:
            _log.warning("The faces of the names in %s are not readable and are drawn anew: %s", path, error)
    return torch.full((count, _WIDTH), torch.nan), torch.zeros(count, dtype=torch.bool)


def _keep(path: Path, vectors: torch.Tensor, drawn: torch.Tensor) -> None:
    from safetensors.torch import save

    try:
        write_bytes(path, save({"vectors": vectors, "drawn": drawn}))
    except FileError as error:
        _log.warning("The faces of the names are not kept. %s", error)
