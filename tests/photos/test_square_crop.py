"""The FFHQ square against the published alignment code's formulas, and crops of real photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support.faces import ONE_PERSON, pixels_of

from celeb_basis.errors import FaceError
from celeb_basis.faces.crops import face_square, outside_share, square_crop
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.network import Pixels

FRONTAL = np.array([[100, 100], [140, 100], [120, 120], [105, 145], [135, 145]], np.float32)


def published_quad(landmarks: np.ndarray) -> np.ndarray:
    """FFHQ's `recreate_aligned_images`, step by step, with the five landmarks' means already taken."""
    eye_left, eye_right, _, mouth_left, mouth_right = landmarks.astype(np.float64)
    eye_avg = (eye_left + eye_right) * 0.5
    eye_to_eye = eye_right - eye_left
    mouth_avg = (mouth_left + mouth_right) * 0.5
    eye_to_mouth = mouth_avg - eye_avg
    x = eye_to_eye - np.flipud(eye_to_mouth) * [-1, 1]
    x /= np.hypot(*x)
    x *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8)
    y = np.flipud(x) * [-1, 1]
    c = eye_avg + eye_to_mouth * 0.1
    return np.stack([c - x - y, c - x + y, c + x + y, c + x - y])


def turned(landmarks: np.ndarray, degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return ((landmarks - 120) @ matrix.T + 120).astype(np.float32)


@pytest.mark.parametrize("degrees", [0, 10, -35, 90, 180])
def test_the_square_is_ffhqs(degrees: float) -> None:
    landmarks = turned(FRONTAL, degrees)
    np.testing.assert_allclose(face_square(landmarks).corners - 0.5, published_quad(landmarks), atol=1e-4)


def test_coinciding_landmarks_are_refused() -> None:
    with pytest.raises(FaceError, match="landmarks coincide"):
        face_square(np.full((5, 2), 7, np.float32))
    with pytest.raises(FaceError, match="landmarks coincide"):
        face_square(np.full((5, 2), np.nan, np.float32))


def test_share_outside() -> None:
    square = face_square(FRONTAL)
    assert outside_share((1000, 1000), square) == 0
    left = float(square.corners[:, 0].min())
    # Moved left until a quarter of its width is beyond the edge.
    moved = face_square(FRONTAL - np.array([left + square.side / 4, 0], np.float32))
    assert outside_share((1000, 1000), moved) == pytest.approx(0.25, abs=0.02)


def marked(landmarks: np.ndarray, size: int = 400) -> Pixels:
    """A dark picture with a soft bright dot at each landmark."""
    y, x = np.mgrid[:size, :size]
    dots = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / 8) for px, py in landmarks)
    return np.repeat((200 * np.clip(dots, 0, 1)).astype(np.uint8)[..., None], 3, -1)


def dots_in(picture: Pixels, near: np.ndarray, reach: int) -> np.ndarray:
    """Centers of brightness around given points."""
    grey = picture[..., 0].astype(np.float64)
    centers = []
    for px, py in near:
        left, top = round(float(px)) - reach, round(float(py)) - reach
        part = grey[top : top + 2 * reach + 1, left : left + 2 * reach + 1]
        y, x = np.mgrid[: part.shape[0], : part.shape[1]]
        centers.append(((part * x).sum() / part.sum() + left, (part * y).sum() / part.sum() + top))
    return np.array(centers)


@pytest.mark.parametrize("size", [64, 160, 512])
@pytest.mark.parametrize("degrees", [0, 25, -100])
def test_landmarks_in_the_crop_lie_where_the_picture_shows_them(size: int, degrees: float) -> None:
    landmarks = turned(FRONTAL, degrees) + 80
    crop = square_crop(marked(landmarks), landmarks, size)
    assert crop.picture.shape == (size, size, 3)
    assert crop.landmarks.dtype == np.float32
    found = dots_in(crop.picture, crop.landmarks, reach=max(3, size // 24))
    assert np.abs(found - crop.landmarks).max() < 0.25 * max(1, size / 160)


def test_the_crop_stands_upright() -> None:
    for degrees in (0, 40, 130, -90):
        points = square_crop(marked(FRONTAL), turned(FRONTAL, degrees), 128).landmarks
        np.testing.assert_allclose(points[0, 1], points[1, 1], atol=0.5)
        assert points[0, 0] < points[1, 0]
        assert points[3, 1] > points[0, 1]


def test_the_face_in_a_crop_has_its_landmarks_where_they_were_mapped(
    miniature_faces: InsightFaceNetwork, person_photos: dict[str, Path], six_faces: Pixels
) -> None:
    photos = [six_faces, *(pixels_of(person_photos[name]) for name in ONE_PERSON)]
    checked = 0
    for photo in photos:
        for face in miniature_faces.detect(photo):
            crop = square_crop(photo, face.landmarks, 256)
            refound = miniature_faces.detect(crop.picture)
            errors = [np.abs(other.landmarks - crop.landmarks).mean() for other in refound]
            assert min(errors) < 0.02 * 256
            checked += 1
    assert checked == 9


def test_the_face_vector_survives_the_crop(miniature_faces: InsightFaceNetwork, person_photos: dict[str, Path]) -> None:
    photo = pixels_of(person_photos[ONE_PERSON[0]])
    face = miniature_faces.detect(photo)[0]
    crop = square_crop(photo, face.landmarks, 512)
    before, after = miniature_faces.embed(
        [miniature_faces.align(photo, face.landmarks), miniature_faces.align(crop.picture, crop.landmarks)]
    )
    assert before @ after > 0.95


def test_reduction_does_not_alias() -> None:
    """A fine checkerboard must become even gray, not a moire pattern."""
    y, x = np.mgrid[:3000, :3000]
    board = np.repeat((((x // 2 + y // 2) % 2) * 255).astype(np.uint8)[..., None], 3, -1)
    landmarks = (turned(FRONTAL, 7) - 120) * 12 + 1500
    crop = square_crop(board, landmarks.astype(np.float32), 128)
    assert np.abs(crop.picture.astype(float) - 127.5).max() < 8


def test_an_enlarged_crop_keeps_the_photo() -> None:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)).filter(ImageFilter.GaussianBlur(4))
    photo = np.asarray(smooth)
    side = face_square(FRONTAL).side
    crop = square_crop(photo, FRONTAL, round(side))
    left, top = face_square(FRONTAL).corners[0]
    expected = photo[round(top) : round(top) + round(side), round(left) : round(left) + round(side)]
    assert np.abs(crop.picture.astype(int) - expected)[2:-2, 2:-2].mean() < 3


def test_the_area_beyond_the_photo_is_filled_softly(six_faces: Pixels) -> None:
    photo = six_faces[:300, :300]
    landmarks = FRONTAL - np.array([60, 70], np.float32)
    crop = square_crop(photo, landmarks, 256).picture.astype(float)
    corner = crop[:40, :40]
    assert corner.std() < photo.std() / 2, "far outside it is nearly plain"
    assert corner.min() > 0, "and not black"
    steps = np.abs(np.diff(crop.mean(-1), axis=1))
    assert steps.max(0).max() < 150, "no hard frame"


@pytest.mark.parametrize("shape", [(32, 32), (32, 400), (400, 32)])
def test_photos_smaller_than_the_square(shape: tuple[int, int]) -> None:
    photo = np.full((*shape, 3), 120, np.uint8)
    crop = square_crop(photo, FRONTAL - 100, 64)
    assert crop.picture.shape == (64, 64, 3)
    np.testing.assert_allclose(crop.picture, 120, atol=1)
