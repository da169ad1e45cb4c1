"""The recognizer in torch and the alignment, against onnxruntime, insightface and finite differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from support.tiny_recognizer import network_file

from celeb_basis.errors import FacePackError
from celeb_basis.faces.guidance import open_recognizer
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.network import Pixels
from celeb_basis.faces.recognizer import Recognizer, align


def test_every_operator_gives_what_onnxruntime_gives(tmp_path: Path) -> None:
    file = network_file(tmp_path / "tiny.onnx")
    pixels = np.random.default_rng(1).uniform(0, 255, (3, 3, 112, 112)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"input": (pixels - 100) / 64})
    found = Recognizer(file, mean=100, std=64)(torch.from_numpy(pixels) / 127.5 - 1)
    wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(found.numpy(), wanted, atol=2e-5)


def test_the_gradient_is_that_of_finite_differences(tmp_path: Path) -> None:
    """Of the recognizer and the alignment together, with respect to the pixels of a picture."""
    recognizer = Recognizer(network_file(tmp_path / "tiny.onnx")).double()
    generator = torch.Generator().manual_seed(2)
    picture = torch.rand(1, 3, 48, 40, generator=generator, dtype=torch.float64) * 2 - 1
    landmarks = np.array([[12, 18], [26, 16], [19, 25], [13, 32], [25, 31]], np.float32)
    target = torch.nn.functional.normalize(torch.randn(16, generator=generator, dtype=torch.float64), dim=0)

    def likeness(values: torch.Tensor) -> torch.Tensor:
        return (recognizer(align(values, landmarks)) * target).sum()

    values = picture.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(likeness(values), values)
    assert gradient.abs().max() > 0
    for _ in range(6):
        direction = torch.randn(picture.shape, generator=generator, dtype=torch.float64)
        step = 1e-5 * direction
        difference = (likeness(picture + step) - likeness(picture - step)) / 2e-5
        assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=1e-3, abs=1e-7)


def test_an_operator_that_is_not_known_is_named(tmp_path: Path) -> None:
    with pytest.raises(FacePackError, match=r"tiny\.onnx has the operator Softmax, .*: use the pack buffalo_l"):
        Recognizer(network_file(tmp_path / "tiny.onnx", last="Softmax"))


@pytest.mark.parametrize("content", [b"", b"no graph at all", b"\x08\x08" * 40])
def test_a_file_that_is_no_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(FacePackError, match="get the pack again"):
        Recognizer(tmp_path / "bad.onnx")


def as_tensor(picture: Pixels) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1


def test_alignment_is_that_of_the_face_network(miniature_faces: InsightFaceNetwork, six_faces: Pixels) -> None:
    # Faces in the picture, and one that reaches over its edge.
    found = miniature_faces.detect(six_faces)
    left, top, _, bottom = (round(value) for value in found[0].box)
    cut = np.ascontiguousarray(six_faces[(top + bottom) // 2 :, left:])
    moved = found[0].moved(-left, -((top + bottom) // 2))
    for picture, landmarks in [(six_faces, one.landmarks) for one in found] + [(cut, moved.landmarks)]:
        wanted = miniature_faces.align(picture, landmarks).astype(float)
        aligned = (align(as_tensor(picture), landmarks)[0].permute(1, 2, 0).numpy() + 1) * 127.5
        # OpenCV rounds places to 1/32 of a pixel.
        assert np.abs(aligned - wanted).mean() < 0.75
        assert np.abs(aligned - wanted).max() < 24


def test_the_shipped_recognizer_gives_its_own_vectors(miniature_faces: InsightFaceNetwork, six_faces: Pixels) -> None:
    recognizer = open_recognizer(miniature_faces)
    crops = [miniature_faces.align(six_faces, one.landmarks) for one in miniature_faces.detect(six_faces)[:2]]
    found = recognizer(torch.cat([as_tensor(one) for one in crops]))
    np.testing.assert_allclose(found.numpy(), miniature_faces.embed(crops), atol=1e-3)


def test_a_pack_whose_vectors_come_out_otherwise_is_refused(
    miniature_faces: InsightFaceNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(miniature_faces, "embed", lambda crops: np.full((len(crops), 512), 512**-0.5, np.float32))
    with pytest.raises(FacePackError, match="cannot be differentiated for face guidance: use the pack buffalo_l"):
        open_recognizer(miniature_faces)
