"""insightface's networks on real photos: counts, identities, tight crops, repeatability."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.faces import ONE_PERSON, OTHER_PERSON, pixels_of
from support.sample_photos import sample_photos

from celeb_basis.errors import FacePackError, MissingPackageError
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.network import Pixels

SAME_PERSON, OTHER_PEOPLE = 0.55, 0.4
"""Cosines measured with the miniature recognizer: one person 0.67 and more, different people 0.36 and less."""


def test_six_faces_are_found_largest_first(miniature_faces: InsightFaceNetwork, six_faces: Pixels) -> None:
    found = miniature_faces.detect(six_faces)
    assert len(found) == 6
    assert [face.area for face in found] == sorted((face.area for face in found), reverse=True)
    for face in found:
        left, top, right, bottom = face.box
        assert face.landmarks.shape == (5, 2)
        assert face.landmarks.dtype == np.float32
        assert 0.5 <= face.score <= 1
        assert (face.landmarks > (left, top)).all()
        assert (face.landmarks < (right, bottom)).all()
        left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
        assert left_eye[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < max(left_mouth[1], right_mouth[1])


@pytest.mark.parametrize("seed", range(3))
def test_no_face_in_noise(miniature_faces: InsightFaceNetwork, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    assert miniature_faces.detect(noise) == []


def test_no_face_in_slivers(miniature_faces: InsightFaceNetwork) -> None:
    assert miniature_faces.detect(np.full((4, 4, 3), 90, np.uint8)) == []
    assert miniature_faces.detect(np.full((32, 4096, 3), 90, np.uint8)) == []


def vector(faces: InsightFaceNetwork, picture: Pixels) -> np.ndarray:
    return faces.embed([faces.align(picture, faces.detect(picture)[0].landmarks)])[0]


def test_one_person_is_like_itself_and_unlike_others(
    miniature_faces: InsightFaceNetwork, six_faces: Pixels, person_photos: dict[str, Path]
) -> None:
    same = np.stack([vector(miniature_faces, pixels_of(person_photos[name])) for name in ONE_PERSON])
    aligned = [miniature_faces.align(six_faces, face.landmarks) for face in miniature_faces.detect(six_faces)]
    others = np.stack(
        [vector(miniature_faces, pixels_of(person_photos[OTHER_PERSON])), *miniature_faces.embed(aligned)]
    )
    np.testing.assert_allclose(np.linalg.norm(same, axis=1), 1, atol=1e-5)
    assert (same @ same.T).min() > SAME_PERSON
    assert (same @ others.T).max() < OTHER_PEOPLE
    assert (others @ others.T - np.eye(len(others))).max() < OTHER_PEOPLE


def test_a_batch_gives_the_same_vectors_as_single_crops(
    miniature_faces: InsightFaceNetwork, miniature_folder: Path, six_faces: Pixels
) -> None:
    aligned = [miniature_faces.align(six_faces, face.landmarks) for face in miniature_faces.detect(six_faces)[:2]]
    together = miniature_faces.embed(aligned)
    assert together.shape == (2, 512)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(together, np.concatenate([miniature_faces.embed([crop]) for crop in aligned]))
    again = InsightFaceNetwork(miniature_folder, name="miniature")
    np.testing.assert_array_equal(together, again.embed(aligned))
    assert miniature_faces.embed([]).shape == (0, 512)


def test_alignment_puts_landmarks_on_the_template(miniature_faces: InsightFaceNetwork, six_faces: Pixels) -> None:
    # ArcFace's published 112x112 template.
    template = np.array(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    )
    for face in miniature_faces.detect(six_faces):
        crop = miniature_faces.align(six_faces, face.landmarks)
        assert crop.shape == (112, 112, 3)
        found = miniature_faces.detect(crop)
        assert len(found) == 1
        assert np.abs(found[0].landmarks - template).mean() < 5


def test_a_tight_crop_is_found_by_looking_again_with_a_border(
    miniature_faces: InsightFaceNetwork, six_faces: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = miniature_faces.detect(six_faces)
    crops = []
    for face in whole:
        left, top, right, bottom = (round(value) for value in face.box)
        inset = round((right - left) * 0.1)
        crops.append((left + inset, top + inset, six_faces[top + inset : bottom - inset, left + inset : right - inset]))
    found = [miniature_faces.detect(crop) for _, _, crop in crops]
    assert [len(faces) for faces in found] == [1] * 6
    for face, (left, top, crop), (refound,) in zip(whole, crops, found, strict=True):
        assert np.abs(refound.landmarks + np.array((left, top)) - face.landmarks).mean() < 0.08 * crop.shape[1]
    monkeypatch.setattr("celeb_basis.faces.insight.BORDERS", ())
    without = [len(miniature_faces.detect(crop)) for _, _, crop in crops]
    assert sum(without) < 6, "the crops are not tight enough to need a border"


def test_a_tightly_cropped_sample_is_found(miniature_faces: InsightFaceNetwork) -> None:
    assert len(miniature_faces.detect(pixels_of(sample_photos()["one"]))) == 1


def test_the_name_identifies_pack_and_recognizer(miniature_faces: InsightFaceNetwork) -> None:
    assert miniature_faces.name == "miniature:87aacdfe"


def test_nothing_is_printed(miniature_folder: Path, capfd: pytest.CaptureFixture[str], six_faces: Pixels) -> None:
    faces = InsightFaceNetwork(miniature_folder)
    found = faces.detect(six_faces)
    faces.align(six_faces, found[0].landmarks)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


@pytest.mark.parametrize("package", ["insightface", "onnxruntime"])
def test_the_error_for_a_missing_package_names_the_command(
    miniature_folder: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("insightface", "onnxruntime")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"-m pip install --no-deps .*{package}"):
        InsightFaceNetwork(miniature_folder)


def test_a_missing_folder_is_an_error_and_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(FacePackError, match="There is no folder"):
        InsightFaceNetwork(tmp_path / "buffalo_l")
    assert list(tmp_path.iterdir()) == []


def test_importing_the_face_modules_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "import celeb_basis.faces.portraits, celeb_basis.photos, celeb_basis.download\n"
        "import celeb_basis.faces.insight, miniature.face_pack.build\n"
        "heavy = {'torch', 'insightface', 'onnx', 'onnxruntime', 'cv2', 'skimage', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_broken_model_is_explained_in_a_sentence(miniature_folder: Path, tmp_path: Path) -> None:
    for path in miniature_folder.glob("*.onnx"):
        (tmp_path / path.name).write_bytes(path.read_bytes()[:200_000])
    with pytest.raises(FacePackError, match="cannot load the pack"):
        InsightFaceNetwork(tmp_path)
