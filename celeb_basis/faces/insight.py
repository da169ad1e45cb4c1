"""The face network that runs insightface's models: the one module that imports insightface."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from celeb_basis.errors import CelebBasisError, FacePackError
from celeb_basis.faces.network import ClearFace, DetectedFace, DiscerningNetwork, Floats, Pixels
from celeb_basis.faces.packages import limit_telemetry, loading_error
from celeb_basis.faces.packs import check_pack, onnx_files
from celeb_basis.files import sha256_of_file
from celeb_basis.photos import open_photo

_log = logging.getLogger(__name__)

BORDERS = (0.25, 0.5)
"""Borders added to a picture in which no face was found, as shares of its longer side: detectors miss tight crops."""

_BORDER_GRAY = 127
_SMALLEST_SIDE = 8
_THINNEST = 100
"""Pictures longer than this many times their width would vanish in the detector's input."""

_KINDS = {"detection": "detector", "recognition": "recognizer"}
"""insightface's names of the two networks that are used, and ours."""

_CLEAR_FACE = Path(__file__).resolve().parents[1] / "miniature" / "photos" / "stranger1.png"


class InsightFaceNetwork(DiscerningNetwork):
    """A detector and an ArcFace-family recognizer from one pack's folder, run by unmodified insightface.

    Runs on the CPU by default, so that a photo gives the same vector on every machine. Never downloads.
    """

    def __init__(self, folder: Path, *, name: str | None = None, providers: Sequence[str] | None = None) -> None:
        """Load the pack.

        Args:
            folder: The pack's folder.
            name: Name of the pack; the folder's name by default.
            providers: onnxruntime's execution providers, best first.

        Raises:
            MissingPackageError: If insightface is missing or does not work.
            FacePackError: If the folder is not a complete pack.
        """
        pack = check_pack(folder)
        pack.verify()
        self._detector, self._recognizer = _load(pack.folder, list(providers or ["CPUExecutionProvider"]))
        if not getattr(self._detector, "use_kps", False):
            raise FacePackError(f"The detector in {pack.folder} gives no landmarks: choose another pack.")
        shape = list(self._recognizer.output_shape)
        if tuple(self._recognizer.input_size) != (112, 112) or shape[-1] != 512:
            raise FacePackError(
                f"The recognizer in {pack.folder} gives no 512 numbers for 112x112 pixels: choose another pack."
            )
        self._one_by_one = isinstance(self._recognizer.input_shape[0], int)
        digest = sha256_of_file(Path(self._recognizer.model_file))
        self._name = f"{name or pack.name}:{digest[:8]}"

    @property
    def name(self) -> str:
        """The pack's name and the first eight hex digits of the recognizer's SHA-256, e.g. ``buffalo_l:4c06341c``."""
        return self._name

    @property
    def recognizer_file(self) -> tuple[Path, float, float]:
        """The recognizer's ONNX file, and what is subtracted from pixels before it and what they are divided by then."""
        one = self._recognizer
        return Path(one.model_file), float(one.input_mean), float(one.input_std)

    def detect(self, picture: Pixels) -> list[DetectedFace]:
        """Every face in an RGB picture, largest first. If none is found, it looks again with a border: a crop may be tight."""
        faces = self.detect_once(picture)
        for border in BORDERS:
            if faces:
                break
            margin = round(border * max(picture.shape[:2]))
            padded = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), constant_values=_BORDER_GRAY)
            faces = [face.moved(-margin, -margin) for face in self.detect_once(padded)]
        # The box makes the order of faces of one size stable.
        return sorted(faces, key=lambda face: (-face.area, face.box))

    def align(self, picture: Pixels, landmarks: Floats) -> Pixels:
        """The ``(112, 112, 3)`` ArcFace-aligned crop for ``(5, 2)`` landmarks (similarity transform, black outside)."""
        from insightface.utils import face_align

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # scikit-image's, about insightface's own call
            crop: Pixels = face_align.norm_crop(picture, np.asarray(landmarks, np.float32), image_size=112)
        return crop

    def embed(self, aligned: Sequence[Pixels]) -> Floats:
        """``(N, 512)`` L2-normalized face vectors of N aligned crops."""
        return self.embed_with_lengths(aligned)[0]

    def embed_with_lengths(self, aligned: Sequence[Pixels]) -> tuple[Floats, Floats]:
        """What :meth:`embed` gives, and the ``(N,)`` lengths of the vectors before they were normalized."""
        if not len(aligned):
            return np.zeros((0, 512), np.float32), np.zeros(0, np.float32)
        crops = [_bgr(crop) for crop in aligned]
        batches = [[crop] for crop in crops] if self._one_by_one else [crops]
        vectors = np.concatenate([self._recognizer.get_feat(batch) for batch in batches]).astype(np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        normalized: Floats = vectors / np.maximum(lengths, np.float32(1e-12))
        return normalized, lengths[:, 0]

    @functools.cached_property
    def clear_face(self) -> ClearFace:
        """Score and length for the clear face of a photo that ships; zero demands if it is not found there."""
        with contextlib.suppress(CelebBasisError):
            picture = open_photo(_CLEAR_FACE)
            if found := self.detect(picture):
                length = self.embed_with_lengths([self.align(picture, found[0].landmarks)])[1][0]
                return ClearFace(found[0].score, max(float(length), 1e-9))
        _log.warning("The face models find no face in %s: what they find in photos is not doubted.", _CLEAR_FACE)
        return ClearFace(1e-9, 1e-9)

    def detect_once(self, picture: Pixels) -> list[DetectedFace]:
        """The faces of a single look at a picture, in no order."""
        height, width = picture.shape[:2]
        if min(height, width) < _SMALLEST_SIDE or max(height, width) > _THINNEST * min(height, width):
            return []
        boxes, landmarks = self._detector.detect(_bgr(picture))
        return [
            DetectedFace(_box(box), np.asarray(points, np.float32), float(box[4]))
            for box, points in zip(boxes, landmarks, strict=True)
        ]


def _load(folder: Path, providers: list[str]) -> tuple[Any, Any]:
    """The pack's detector and recognizer, ready to use: of each kind the first among its files, as insightface takes them.

    They are loaded by their paths, because insightface's own ``FaceAnalysis`` looks for files by a pattern, and fails below a
    folder with brackets in its name.
    """
    with _quiet():
        try:
            import onnxruntime
            from insightface.app import face_analysis
        except Exception as error:  # a broken onnxruntime or OpenCV fails in ways of its own
            raise loading_error(error) from error
        limit_telemetry(onnxruntime)
        onnxruntime.set_default_logger_severity(3)
        options = onnxruntime.SessionOptions()
        # Threads that spin while they wait for the next photo would take CPU time from torch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            models = _models(folder, providers=providers, sess_options=options)
            context = -1 if providers == ["CPUExecutionProvider"] else 0
            sizes = getattr(face_analysis, "DEFAULT_DET_SIZES", (640, 640))  # as FaceAnalysis prepares it
            for kind, model in models.items():
                model.prepare(context, **({"input_size": sizes, "det_thresh": 0.5} if kind == "detection" else {}))
        except Exception as error:  # onnxruntime's errors have no common base, and insightface asserts
            reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
            raise FacePackError(f"insightface cannot load the pack in {folder} ({reason}): get it again.") from error
    for kind, called in _KINDS.items():
        if kind not in models:
            raise FacePackError(
                f"No {called} is among the files in {folder}: get the pack again or choose another one."
            )
    return models["detection"], models["recognition"]


def _models(folder: Path, **session: Any) -> dict[str, Any]:
    """The first detector and the first recognizer among the folder's files, by ``"detection"`` and ``"recognition"``."""
    from insightface import model_zoo

    models: dict[str, Any] = {}
    if getattr(model_zoo, "has_model_package_manifest", lambda _: False)(str(folder)):  # a pack of insightface 2
        for kind in _KINDS:
            models[kind] = model_zoo.get_model(str(folder), model_task=kind, **session)
        return models
    for file in onnx_files(folder):
        model = model_zoo.get_model(str(file), **session)
        kind = getattr(model, "taskname", "")
        if kind in _KINDS and kind not in models:
            models[kind] = model
        if len(models) == len(_KINDS):
            break
    return models


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send insightface's output to the log."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            _log.debug("insightface: %s", line)


def _bgr(picture: Pixels) -> Pixels:
    return np.ascontiguousarray(picture[:, :, ::-1])


def _box(values: Any) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(value) for value in values[:4])
    return left, top, right, bottom
