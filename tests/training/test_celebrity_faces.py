"""The celebrities' faces: generated once, saved on the way, and where training starts with them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from support.bases import toy_bases
from support.celebrity_faces import CountingModel, PixelFaces
from support.full_disk import full_disk
from support.toys import ToyModel

from celeb_basis.diffusion_model import GenerationRequest
from celeb_basis.errors import SettingsError, TrainingError
from celeb_basis.events import DrawingNames, Event, StepDone, follow
from celeb_basis.faces.network import Portrait
from celeb_basis.method import Basis
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.first_guess import CelebrityFaces, first_guesses, generate_celebrity_faces, guess_coefficients
from celeb_basis.training.run import prepare_trainer
from celeb_basis.training.state import resume_trainer, save_state
from celeb_basis.training.trainer import Trainer

NAMES = tuple(f"Ann Name{number}" for number in range(45))


@pytest.fixture
def model() -> CountingModel:
    return CountingModel()


def _generate(model: CountingModel, names: tuple[str, ...], folder: Path) -> tuple[CelebrityFaces, list[Event]]:
    events: list[Event] = []
    return follow(generate_celebrity_faces(model, names, PixelFaces(), folder), events.append), events


def test_every_name_is_generated_once(model: CountingModel, tmp_path: Path) -> None:
    faces, events = _generate(model, NAMES, tmp_path)
    assert model.drawn == [f"a photo of {name}" for name in NAMES]
    assert events == [DrawingNames(number, len(NAMES)) for number in range(1, len(NAMES) + 1)]
    without = ~torch.isfinite(faces.vectors).all(dim=1)
    assert 0 < int(without.sum()) < len(NAMES) / 2
    assert torch.allclose(faces.vectors[~without].norm(dim=1), torch.ones(int((~without).sum())))
    again, events = _generate(model, NAMES, tmp_path)
    assert len(model.drawn) == len(NAMES)
    assert events == []
    assert torch.equal(again.vectors.nan_to_num(9), faces.vectors.nan_to_num(9))


def test_faces_that_come_with_a_model_are_not_generated(model: CountingModel, tmp_path: Path) -> None:
    shipped, cache = tmp_path / "shipped", tmp_path / "cache"
    drawn, _ = _generate(model, NAMES, shipped)
    model.drawn.clear()
    again = follow(generate_celebrity_faces(model, NAMES, PixelFaces(), cache, known=[shipped]))
    assert model.drawn == []
    assert not cache.exists()
    assert torch.equal(again.vectors.nan_to_num(9), drawn.vectors.nan_to_num(9))
    # Of other names nothing is known there.
    follow(generate_celebrity_faces(model, NAMES[:5], PixelFaces(), cache, known=[shipped]))
    assert len(model.drawn) == 5


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists mapped files")
def test_the_file_is_not_kept_open(model: CountingModel, tmp_path: Path) -> None:
    """Windows refuses to overwrite a file that is mapped into memory."""
    _generate(model, NAMES, tmp_path)
    (path,) = tmp_path.iterdir()
    again, _ = _generate(model, NAMES, tmp_path)
    assert path.name not in Path("/proc/self/maps").read_text()
    assert len(again.vectors) == len(NAMES)


def test_a_name_is_the_mean_of_its_pictures(model: CountingModel, tmp_path: Path) -> None:
    faces, _ = _generate(model, NAMES, tmp_path)
    network = PixelFaces()
    for row in range(6):
        request = GenerationRequest(f"a photo of {NAMES[row]}", count=2, seed=2 * row)
        pictures = [np.asarray(picture) for picture in model.generate(request)]
        shown = [picture for picture in pictures if network.detect(picture)]
        if not shown:
            assert faces.vectors[row].isnan().all()
            continue
        mean = network.embed(shown).mean(0)
        np.testing.assert_allclose(faces.vectors[row], mean / np.linalg.norm(mean), rtol=1e-5)


def test_of_a_long_list_a_selection_is_generated(
    model: CountingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeb_basis.training.first_guess.MOST", 12)
    faces, events = _generate(model, NAMES, tmp_path)
    assert len(faces.names) == len(events) == len(set(faces.names)) == 12
    assert (faces.names[0], faces.names[-1]) == (NAMES[0], NAMES[-1])


def test_an_interruption_loses_no_finished_name(model: CountingModel, tmp_path: Path) -> None:
    running = generate_celebrity_faces(model, NAMES, PixelFaces(), tmp_path)
    for _ in range(7):
        next(running)
    running.close()
    _generate(model, NAMES, tmp_path)
    assert len(model.drawn) == len(NAMES)


def test_an_interrupted_host_is_an_error(model: CountingModel, tmp_path: Path) -> None:
    model.broken_after = 5
    with pytest.raises(TrainingError, match="start again to continue"):
        _generate(model, NAMES, tmp_path)
    model.broken_after = 10_000
    _generate(model, NAMES, tmp_path)
    assert len(model.drawn) == len(NAMES) + 1


def test_a_full_disk_only_costs_time(model: CountingModel, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with full_disk():
        faces, _ = _generate(model, NAMES, tmp_path)
    assert torch.isfinite(faces.vectors).any()
    assert "are not saved" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_other_names_and_damaged_files_are_generated_again(model: CountingModel, tmp_path: Path) -> None:
    _generate(model, NAMES[:4], tmp_path)
    _generate(model, NAMES[:3], tmp_path)
    assert len(model.drawn) == 7
    for path in tmp_path.iterdir():
        path.write_bytes(b"nothing of use")
    _generate(model, NAMES[:4], tmp_path)
    assert len(model.drawn) == 11


def _started_trainer(
    model: ToyModel, *, shared: bool = False, steps: int = 1
) -> tuple[Trainer, torch.Tensor, Sequence[Basis]]:
    """A trainer that starts at a guess, the ``(2, E, K)`` guess itself, and the bases."""
    bases = toy_bases(model, components=6)
    generator = torch.Generator().manual_seed(1)
    names = bases[0].names
    # Faces that follow from all encoders' coefficients, so that the regression has something to learn.
    known = torch.cat([basis.name_coefficients.flatten(1) for basis in bases], dim=1)
    shown = torch.randn(known.shape[1], 512, generator=generator)
    faces = CelebrityFaces(names, torch.nn.functional.normalize(known @ shown, dim=1))
    guesses = first_guesses(bases, faces)
    settings = TrainingSettings(
        mode="direct",
        start="guess",
        steps=steps,
        views=2,
        components=6,
        shared=shared,
        early_stop=False,
        average_decay=0,
    )
    vector = faces.vectors[3].numpy()
    marks = np.array([[20, 24], [44, 24], [32, 36], [22, 48], [42, 48]], np.float32)
    picture = np.full((64, 64, 3), 120, np.uint8)
    portrait = Portrait(picture=picture, landmarks=marks, vector=vector, source="", warnings=())
    trainer = follow(prepare_trainer(model, bases, {"ann": [portrait]}, PixelFaces(), settings, guesses=guesses))
    return trainer, torch.stack(guess_coefficients(bases, guesses, torch.from_numpy(vector))), bases


@pytest.mark.parametrize("shared", [False, True])
def test_training_starts_at_the_guess_and_steps_in_units_of_the_spread(shared: bool) -> None:
    trainer, wanted, bases = _started_trainer(ToyModel((32, 48)), shared=shared)
    for basis, rows in zip(bases, wanted, strict=True):
        lengths = np.sqrt(np.mean(np.sum(basis.name_coefficients.numpy() ** 2, axis=-1), axis=0))
        np.testing.assert_allclose(rows.norm(dim=-1), lengths, rtol=1e-4)
    begun = trainer.coefficients(trainer.sample_batch())[0].detach()
    torch.testing.assert_close(begun, wanted.mean(dim=0, keepdim=True) if shared else wanted)
    list(trainer.run())
    moved = (trainer.coefficients(trainer.sample_batch())[0].detach() - begun).abs()
    spread = torch.stack([basis.name_coefficients.pow(2).mean(dim=0).sqrt() for basis in bases])
    unit = spread.mean(dim=0, keepdim=True) if shared else spread
    # AdamW's first step is its learning rate in every coordinate, apart from its decay.
    torch.testing.assert_close(moved / unit, torch.full_like(moved, 0.01), rtol=0.1, atol=1e-4)


def test_a_run_from_a_guess_resumes_bit_identical(tmp_path: Path) -> None:
    whole, _, _ = _started_trainer(ToyModel(), steps=8)
    list(whole.run())
    half, _, bases = _started_trainer(ToyModel(), steps=8)
    interrupt = threading.Event()
    for event in half.run(interrupt):
        if isinstance(event, StepDone) and event.step == 4:
            interrupt.set()
    save_state(half, tmp_path / "state.safetensors")
    again = resume_trainer(tmp_path / "state.safetensors", ToyModel(), bases)
    list(again.run())
    assert torch.equal(again.results()["ann"][0], whole.results()["ann"][0])


def test_a_guess_needs_direct_coefficients() -> None:
    with pytest.raises(SettingsError, match="mode = direct"):
        TrainingSettings(mode="head", start="guess")
    with pytest.raises(SettingsError, match="start = random"):
        TrainingSettings(mode="head")
