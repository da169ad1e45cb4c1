"""The model that ships: small, loadable by others, and drawing people by their names."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml  # type: ignore[import-untyped]

from celeb_basis import miniature
from celeb_basis.basis import BasisOptions, build_bases
from celeb_basis.diffusion_model import DiffusionModel, GenerationRequest
from celeb_basis.errors import HostError
from celeb_basis.events import Event, follow
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.network import Floats
from celeb_basis.hosts.diffusers import load_host
from celeb_basis.miniature import CELEBRITY_FACES, shipped_model, shipped_model_names
from celeb_basis.names.lists import shipped_names
from celeb_basis.training.celebrity_faces import MOST, generate_celebrity_faces
from miniature.small_models import for_webui
from miniature.small_models.ldm_layout import save_single_file


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    return load_host(shipped_model(), device="cpu")


def test_its_weights_take_forty_megabytes_at_most() -> None:
    files = list(shipped_model().rglob("*"))
    assert sum(file.stat().st_size for file in files if file.suffix == ".safetensors") <= 40_000_000
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".ckpt", ".pkl")]


def test_it_is_a_stable_diffusion_1_that_predicts_velocity(model: DiffusionModel) -> None:
    assert model.info.family == "sd1"
    assert model.info.resolution == 192
    assert model.schedule.prediction == "v_prediction"
    assert [encoder.width for encoder in model.text_encoders] == [192]


def test_its_names_are_of_the_shipped_list_and_make_a_basis_of_two_thirds_of_its_width(model: DiffusionModel) -> None:
    names = shipped_model_names()
    assert len(names.names) == 960
    assert set(names.names) <= set(shipped_names().names)
    (built,) = build_bases(model.text_encoders, names, BasisOptions(components=128))
    assert len(built.basis.names) == len(names.names)


def test_a_copy_without_the_model_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(miniature, "MODEL", tmp_path)
    with pytest.raises(HostError, match="install celeb-basis again"):
        shipped_model()


def face_vector(model: DiffusionModel, faces: InsightFaceNetwork, prompt: str, seed: int) -> Floats | None:
    request = GenerationRequest(prompt, seed=seed, steps=15, guidance=3.0)
    picture = np.asarray(next(iter(model.generate(request))))
    found = faces.detect(picture)
    return faces.embed([faces.align(picture, found[0].landmarks)])[0] if found else None


def test_a_name_is_somebody(model: DiffusionModel, miniature_faces: InsightFaceNetwork) -> None:
    names = shipped_model_names().names[::80]
    drawn = {
        (name, seed): face_vector(model, miniature_faces, f"a photo of {name}", seed)
        for name in names
        for seed in (1, 2)
    }
    vectors = {key: vector for key, vector in drawn.items() if vector is not None}
    assert len(vectors) >= 0.9 * len(drawn)
    alike: dict[bool, list[float]] = {True: [], False: []}
    for (one, a), (other, b) in itertools.combinations(vectors.items(), 2):
        alike[one[0] == other[0]].append(float(a @ b))
    assert np.mean(alike[True]) > np.mean(alike[False]) + 0.2


def test_one_file_of_the_same_weights_draws_the_same(model: DiffusionModel, tmp_path: Path) -> None:
    import diffusers

    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(str(shipped_model()), torch_dtype=torch.float32)
    save_single_file(pipeline, tmp_path / "miniature.safetensors")
    other = load_host(tmp_path / "miniature.safetensors", device="cpu")
    assert other.schedule.prediction == "v_prediction"
    request = GenerationRequest(f"a photo of {shipped_model_names().names[0]}", seed=3, steps=4)
    one, again = (np.asarray(next(iter(model.generate(request))), np.float32) for model in (model, other))
    assert np.abs(one - again).max() <= 2


def test_it_is_put_into_a_webui(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert for_webui.main([str(tmp_path / "none")]) == 1
    assert "models/Stable-diffusion" in capsys.readouterr().err
    assert for_webui.main([str(tmp_path)]) == 0
    assert "--celeb-basis-names" in capsys.readouterr().out
    config = yaml.safe_load((tmp_path / "miniature.yaml").read_text(encoding="utf-8"))["model"]["params"]
    assert config["parameterization"] == "v"
    assert config["unet_config"]["params"]["context_dim"] == 192
    assert config["unet_config"]["params"]["attention_resolutions"] == [2]
    assert (tmp_path / "miniature-names.txt").read_text(encoding="utf-8").split("\n")[0] in shipped_model_names().names
    other = load_host(tmp_path / "miniature.safetensors", device="cpu")
    assert [encoder.width for encoder in other.text_encoders] == [192]


def test_its_names_faces_come_with_it(
    model: DiffusionModel, miniature_faces: InsightFaceNetwork, tmp_path: Path
) -> None:
    (built,) = build_bases(model.text_encoders, shipped_model_names(), BasisOptions(components=128))
    drawing = generate_celebrity_faces(model, built.basis.names, miniature_faces, tmp_path, known=[CELEBRITY_FACES])
    events: list[Event] = []
    faces = follow(drawing, events.append)
    assert events == [], "nothing was generated"
    assert len(faces.names) == MOST, "as many as quick uses of a longer list"
    seen = torch.isfinite(faces.vectors).all(dim=1)
    assert float(seen.float().mean()) > 0.98
    # They are the faces that it draws: a picture of a name is nearer to its own than to the others'.
    row = 100
    picture = next(
        iter(model.generate(GenerationRequest(f"a photo of {faces.names[row]}", seed=99, steps=20, guidance=4)))
    )
    pixels = np.asarray(picture)
    (found, *_) = miniature_faces.detect(pixels)
    vector = torch.from_numpy(miniature_faces.embed([miniature_faces.align(pixels, found.landmarks)])[0])
    assert int((faces.vectors[seen] @ vector).argmax()) == int(seen[:row].sum())
