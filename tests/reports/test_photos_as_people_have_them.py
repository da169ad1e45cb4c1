"""Photos as people have them: on their side, with small faces, gray, of the wrong person, or of a cat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.faces import ONE_PERSON, OTHER_PERSON, pixels_of

from celeb_basis.errors import FaceError
from celeb_basis.faces.face_search import find_faces
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.network import Pixels, Portrait
from celeb_basis.faces.portraits import likeness_warnings, portrait


def people_of(six_faces: Pixels, faces: InsightFaceNetwork) -> list[tuple[Pixels, np.ndarray]]:
    """Each of the six people in a photo of their own, with their face vector."""
    people = []
    for face in faces.detect(six_faces):
        left, top, right, bottom = face.box
        width, height = right - left, bottom - top
        rows = slice(int(max(0, top - 0.6 * height)), int(bottom + 0.6 * height))
        columns = slice(int(max(0, left - 0.6 * width)), int(right + 0.6 * width))
        part = Image.fromarray(six_faces[rows, columns])
        large = np.asarray(part.resize((part.width * 3, part.height * 3), Image.Resampling.BICUBIC))
        people.append((large, faces.embed([faces.align(six_faces, face.landmarks)])[0]))
    return people


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_photo_on_its_side_or_upside_down_is_turned_and_says_so(
    miniature_faces: InsightFaceNetwork, six_faces: Pixels, turns: int
) -> None:
    for photo, vector in people_of(six_faces, miniature_faces):
        made = portrait(np.ascontiguousarray(np.rot90(photo, turns)), miniature_faces, size=128)
        assert float(made.vector @ vector) > 0.8
        assert ("upside down" if turns == 2 else "on its side") in " ".join(made.warnings)


def test_an_upright_photo_stays_as_it_is(
    miniature_faces: InsightFaceNetwork, six_faces: Pixels, person_photos: dict[str, Path]
) -> None:
    photos = [six_faces, *(photo for photo, _ in people_of(six_faces, miniature_faces))]
    photos += [pixels_of(path) for path in person_photos.values()]
    for photo in photos:
        search = find_faces(photo, miniature_faces)
        assert search.picture is photo
        assert search.warnings == ()
        expected = miniature_faces.detect(photo)
        assert [face.box for face in search.faces] == [face.box for face in expected]
        vector = miniature_faces.embed([miniature_faces.align(photo, expected[0].landmarks)])[0]
        np.testing.assert_array_equal(search.embed(search.faces[0], miniature_faces)[1], vector)


def test_a_good_photo_is_looked_at_once(
    miniature_faces: InsightFaceNetwork, person_photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    miniature_faces.clear_face  # noqa: B018 - computed once for a network
    calls = []
    once = InsightFaceNetwork.detect_once
    monkeypatch.setattr(InsightFaceNetwork, "detect_once", lambda self, picture: calls.append(1) or once(self, picture))
    for name in ONE_PERSON:
        find_faces(pixels_of(person_photos[name]), miniature_faces)
    assert len(calls) == len(ONE_PERSON)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_point_is_meant_in_the_photo_as_it_was_given(
    miniature_faces: InsightFaceNetwork, six_faces: Pixels, turns: int
) -> None:
    height, width = six_faces.shape[:2]
    face = miniature_faces.detect(six_faces)[3]
    x, y = face.landmarks[2]
    point = {1: (y, width - x), 2: (width - x, height - y), 3: (height - y, x)}[turns]
    given = np.ascontiguousarray(np.rot90(six_faces, turns))
    vector = miniature_faces.embed([miniature_faces.align(six_faces, face.landmarks)])[0]
    made = portrait(given, miniature_faces, size=64, choose=(float(point[0]), float(point[1])))
    assert float(made.vector @ vector) > 0.95


@pytest.mark.parametrize("turns", [0, 1])
def test_a_small_face_in_a_large_photo_is_found(
    miniature_faces: InsightFaceNetwork, person_photos: dict[str, Path], turns: int
) -> None:
    person = Image.open(person_photos[ONE_PERSON[1]]).convert("RGB")
    person = person.crop((0, 0, person.width, 700)).resize((160, 179), Image.Resampling.LANCZOS)
    y, x = np.mgrid[:3000, :4000]
    background = np.stack([90 + x // 60, 110 + y // 60, 130 + (x + y) // 90], axis=-1).astype(np.uint8)
    scene = Image.fromarray(background)
    scene.paste(person, (2900, 1700))
    photo = np.asarray(scene)
    assert not miniature_faces.detect(photo)
    search = find_faces(np.ascontiguousarray(np.rot90(photo, turns)), miniature_faces)
    assert len(search.faces) == 1
    left, top, right, bottom = search.faces[0].box
    assert 2900 < (left + right) / 2 < 3060
    assert 1700 < (top + bottom) / 2 < 1879
    reference = find_faces(pixels_of(person_photos[ONE_PERSON[1]]), miniature_faces)
    assert (
        float(
            search.embed(search.faces[0], miniature_faces)[1] @ reference.embed(reference.faces[0], miniature_faces)[1]
        )
        > 0.6
    )


def cat() -> Image.Image:
    """A real photo of a cat; it comes with scikit-image, which insightface needs."""
    data = pytest.importorskip("skimage.data")
    return Image.fromarray(data.chelsea())


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7, 3.0])
@pytest.mark.parametrize("crop", [(0, 0, 1, 1), (0.15, 0, 0.75, 0.95), (0.2, 0.1, 0.7, 0.75)])
@pytest.mark.parametrize("degrees", [0, -15, 180])
def test_a_cat_is_not_learned_as_a_person(
    miniature_faces: InsightFaceNetwork, scale: float, crop: tuple[float, ...], degrees: int
) -> None:
    photo = cat()
    left, top, right, bottom = (round(share * side) for share, side in zip(crop, photo.size * 2, strict=True))
    photo = photo.crop((left, top, right, bottom))
    photo = photo.resize((round(photo.width * scale), round(photo.height * scale))).rotate(degrees, expand=True)
    with pytest.raises(FaceError, match=r"tom\.jpg.*(hardly a person's|No face)|No face was found in tom\.jpg"):
        portrait(np.asarray(photo), miniature_faces, size=64, source="tom.jpg")


@pytest.mark.parametrize(
    "name", ["coffee", "coins", "gravel", "grass", "rocket", "retina", "moon", "brick", "cell", "page", "colorwheel"]
)
def test_things_are_nobody(miniature_faces: InsightFaceNetwork, name: str) -> None:
    data = pytest.importorskip("skimage.data")
    picture = np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
    with pytest.raises(FaceError):
        portrait(picture, miniature_faces, size=64)


def test_small_drawn_people_are_people(miniature_faces: InsightFaceNetwork) -> None:
    folder = Path(__file__).resolve().parents[2] / "celeb_basis" / "miniature" / "photos"
    for path in sorted(folder.glob("*.png")):
        assert portrait(pixels_of(path), miniature_faces, size=64).source


def in_sepia(photo: Pixels) -> Pixels:
    light = np.asarray(Image.fromarray(photo).convert("L"), np.float64)[..., None] / 255
    return np.clip(light ** np.array([0.8, 1.0, 1.3]) * (255, 240, 200), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", ONE_PERSON)
def test_a_photo_without_colors_says_so(
    miniature_faces: InsightFaceNetwork, person_photos: dict[str, Path], name: str
) -> None:
    photo = pixels_of(person_photos[name])
    gray = np.asarray(Image.fromarray(photo).convert("L").convert("RGB"))
    for without in (gray, in_sepia(photo)):
        assert "black and white" in " ".join(portrait(without, miniature_faces, size=64).warnings)
    assert "black and white" not in " ".join(portrait(photo, miniature_faces, size=64).warnings)


def portraits_of(faces: InsightFaceNetwork, photos: dict[str, Path], *names: str) -> list[Portrait]:
    return [portrait(pixels_of(photos[name]), faces, size=64, source=name) for name in names]


def test_photos_of_two_people_given_as_one_are_named(
    miniature_faces: InsightFaceNetwork, person_photos: dict[str, Path]
) -> None:
    assert likeness_warnings(portraits_of(miniature_faces, person_photos, *ONE_PERSON)) == ()
    assert likeness_warnings(portraits_of(miniature_faces, person_photos, ONE_PERSON[0])) == ()
    (two,) = likeness_warnings(portraits_of(miniature_faces, person_photos, ONE_PERSON[0], OTHER_PERSON))
    assert ONE_PERSON[0] in two
    assert OTHER_PERSON in two
    (odd,) = likeness_warnings(portraits_of(miniature_faces, person_photos, OTHER_PERSON, *ONE_PERSON))
    assert odd.startswith(f"{OTHER_PERSON} seems to show another person")
