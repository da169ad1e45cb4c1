"""Choosing a face, the portrait made of it, and warnings about photos that were degraded on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support.faces import ONE_PERSON, pixels_of
from support.sample_photos import sample_photos

from celeb_basis.errors import FaceError
from celeb_basis.faces.face_search import choose_face
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.network import DetectedFace, Pixels
from celeb_basis.faces.portraits import portrait, quality_warnings


def box_face(left: float, top: float, side: float) -> DetectedFace:
    return DetectedFace((left, top, left + side, top + side), np.zeros((5, 2), np.float32), 0.9)


LARGE, SMALL = box_face(0, 0, 100), box_face(200, 200, 50)


@pytest.mark.parametrize(
    ("choose", "expected"),
    [
        (None, LARGE),
        (0, LARGE),
        (1, SMALL),
        ((10.0, 90.0), LARGE),
        ((240.0, 210.0), SMALL),
        ((190.0, 190.0), SMALL),
        ((110.0, 50.0), LARGE),
        ((9999.0, 9999.0), SMALL),
    ],
)
def test_choice(choose: int | tuple[float, float] | None, expected: DetectedFace) -> None:
    assert choose_face([LARGE, SMALL], choose) is expected


def test_a_point_in_two_boxes_chooses_the_inner_face() -> None:
    inner = box_face(20, 20, 30)
    assert choose_face([LARGE, inner], (30.0, 30.0)) is inner


@pytest.mark.parametrize(("count", "choose"), [(2, 2), (2, -1), (1, 5)])
def test_face_numbers_out_of_range_are_refused(count: int, choose: int) -> None:
    with pytest.raises(FaceError, match=r"choose from 0 \(the largest\)"):
        choose_face([LARGE, SMALL][:count], choose, "group.jpg")


def test_the_error_for_no_face_names_the_photo(miniature_faces: InsightFaceNetwork) -> None:
    with pytest.raises(FaceError, match=r"No face was found in wall\.jpg: use"):
        portrait(np.full((300, 400, 3), 130, np.uint8), miniature_faces, size=64, source="wall.jpg")


def test_a_portrait_of_the_largest_face(miniature_faces: InsightFaceNetwork, six_faces: Pixels) -> None:
    made = portrait(six_faces, miniature_faces, size=128, source="t1.jpg")
    face = miniature_faces.detect(six_faces)[0]
    assert made.picture.shape == (128, 128, 3)
    assert made.source == "t1.jpg"
    expected = miniature_faces.embed([miniature_faces.align(six_faces, face.landmarks)])[0]
    np.testing.assert_array_equal(made.vector, expected)
    assert any("6 faces" in warning for warning in made.warnings)
    assert not any(
        "6 faces" in warning for warning in portrait(six_faces, miniature_faces, size=128, choose=0).warnings
    )


def test_portraits_by_number_and_by_click_are_the_same(miniature_faces: InsightFaceNetwork, six_faces: Pixels) -> None:
    for number, face in list(enumerate(miniature_faces.detect(six_faces)))[2:4]:
        left, top, right, bottom = face.box
        clicked = portrait(six_faces, miniature_faces, size=64, choose=((left + right) / 2, (top + bottom) / 2))
        np.testing.assert_array_equal(
            clicked.picture, portrait(six_faces, miniature_faces, size=64, choose=number).picture
        )


def warnings_for(faces: InsightFaceNetwork, photo: Pixels, found: list[DetectedFace] | None = None) -> str:
    found = faces.detect(photo) if found is None else found
    return " ".join(quality_warnings(photo, found[0], found, faces.align(photo, found[0].landmarks)))


@pytest.mark.parametrize("name", ONE_PERSON)
def test_good_photos_get_no_warning(
    miniature_faces: InsightFaceNetwork, person_photos: dict[str, Path], name: str
) -> None:
    assert warnings_for(miniature_faces, pixels_of(person_photos[name])) == ""


@pytest.mark.parametrize("name", ONE_PERSON)
def test_degraded_copies_get_a_warning(
    miniature_faces: InsightFaceNetwork, person_photos: dict[str, Path], name: str
) -> None:
    photo = pixels_of(person_photos[name])
    image = Image.fromarray(photo)
    face = miniature_faces.detect(photo)[0]
    left, top, right, bottom = (round(value) for value in face.box)
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur((right - left) / 45)))
    assert "blurred" in warnings_for(miniature_faces, blurred)
    # Light alone moves no landmarks, and at these extremes the detector may see nothing.
    assert "very dark" in warnings_for(miniature_faces, (photo * 0.2).astype(np.uint8), [face])
    assert "overexposed" in warnings_for(miniature_faces, (255 - (255 - photo) * 0.15).astype(np.uint8), [face])
    assert "small" in warnings_for(miniature_faces, np.asarray(image.reduce(max(2, (right - left) // 50))))
    assert "tightly" in warnings_for(miniature_faces, photo[max(0, top) : bottom, max(0, left) : right])
    dim = (photo * 0.4).astype(np.uint8)
    assert "blurred" not in warnings_for(miniature_faces, dim, [face]), "less light is not less sharp"


def test_a_face_turned_away_gets_a_warning(miniature_faces: InsightFaceNetwork, six_faces: Pixels) -> None:
    """Of the six, one is seen nearly in profile: the man at the top right, fifth from the left."""
    turned = {}
    for face in miniature_faces.detect(six_faces):
        warnings = quality_warnings(six_faces, face, [face], miniature_faces.align(six_faces, face.landmarks))
        turned[round(face.box[0])] = any("turned away" in warning for warning in warnings)
    assert [turned[left] for left in sorted(turned)] == [False, False, False, False, True, False]


def test_the_tight_small_sample_gets_warnings(miniature_faces: InsightFaceNetwork) -> None:
    warnings = warnings_for(miniature_faces, pixels_of(sample_photos()["one"]))
    assert "small" in warnings
    assert "tightly" in warnings
