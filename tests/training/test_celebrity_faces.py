"""The celebrities' faces: generated once and cheaply, saved on the way, shared, and where training starts with them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.bases import toy_bases
from support.celebrity_faces import CountingModel, PixelFaces, pattern
from support.full_disk import full_disk
from support.toys import ToyModel

from celeb_basis.errors import HostError, SettingsError, TrainingError
from celeb_basis.events import DrawingNames, Event, StepDone, Warned, follow
from celeb_basis.faces.network import Portrait
from celeb_basis.method import Basis
from celeb_basis.settings import TrainingSettings
from celeb_basis.training import celebrity_faces
from celeb_basis.training.celebrity_faces import (
    CelebrityFaces,
    generate_celebrity_faces,
    recognized_share,
    spread_order,
)
from celeb_basis.training.first_guess import first_guesses, guess_coefficients
from celeb_basis.training.run import prepare_trainer
from celeb_basis.training.state import resume_trainer, save_state
from celeb_basis.training.trainer import Trainer

NAMES = tuple(f"Ann Name{number}" for number in range(45))


@pytest.fixture
def model() -> CountingModel:
    return CountingModel()


def _generate(
    model: CountingModel, names: tuple[str, ...], folder: Path, **options: Any
) -> tuple[CelebrityFaces, list[Event]]:
    events: list[Event] = []
    return follow(generate_celebrity_faces(model, names, PixelFaces(), folder, **options), events.append), events


def _same(one: CelebrityFaces, other: CelebrityFaces) -> bool:
    return one.names == other.names and torch.equal(one.vectors.nan_to_num(9), other.vectors.nan_to_num(9))


def _shown(name: str) -> torch.Tensor | None:
    """The vector of a name as the model renders it; ``None`` if it shows no face."""
    image = torch.nn.functional.interpolate(pattern(f"a photo of {name}")[None, :3], scale_factor=8)[0]
    pixels = ((image.permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()
    return torch.from_numpy(PixelFaces().embed([pixels])[0]) if PixelFaces().detect(pixels) else None


def test_every_name_is_generated_once_and_cheaply(model: CountingModel, tmp_path: Path) -> None:
    faces, events = _generate(model, NAMES, tmp_path)
    assert faces.names == NAMES
    assert sorted(set(model.drawn)) == sorted(f"a photo of {name}" for name in NAMES)
    # Two evaluations for every picture, and a few finished ones, to see whether the cheap ones are recognized.
    assert model.evaluations == 2 * len(NAMES) + 16 * 32
    assert not model.decoded_while_training
    done = [event.done for event in events if isinstance(event, DrawingNames)]
    assert done == sorted(done)
    assert events[-1] == DrawingNames(len(NAMES), len(NAMES))
    missing = ~torch.isfinite(faces.vectors).all(dim=1)
    assert 0 < int(missing.sum()) < len(NAMES) * 0.7
    for name, vector in zip(NAMES, faces.vectors, strict=True):
        # The last step leaves a little noise, by which a dark pixel may be a bright one.
        if (shown := _shown(name)) is not None and bool(vector.isfinite().all()):
            assert float(vector @ shown) > 0.995
            assert float(vector.norm()) == pytest.approx(1.0, abs=1e-3)
    before = model.evaluations
    again, events = _generate(model, NAMES, tmp_path)
    assert (model.evaluations, events) == (before, [])
    assert _same(again, faces)


def test_a_picture_does_not_depend_on_what_is_generated_with_it(tmp_path: Path) -> None:
    together, _ = _generate(CountingModel(), NAMES, tmp_path / "all")
    alone, _ = _generate(CountingModel(), NAMES[33:34], tmp_path / "one")
    torch.testing.assert_close(alone.vectors[0].nan_to_num(9), together.vectors[33].nan_to_num(9), rtol=1e-3, atol=2e-3)


def test_faces_that_come_with_a_model_are_not_generated(model: CountingModel, tmp_path: Path) -> None:
    shipped, cache = tmp_path / "shipped", tmp_path / "cache"
    drawn, _ = _generate(model, NAMES, shipped)
    model.drawn.clear()
    again, _ = _generate(model, NAMES, cache, known=[shipped])
    assert model.drawn == []
    assert not cache.exists()
    assert _same(again, drawn)
    # Of another list, only the names that are new.
    other, _ = _generate(model, (*NAMES[:5], "Bob Else"), cache, known=[shipped])
    assert set(model.drawn) == {"a photo of Bob Else"}
    assert other.names == (*NAMES[:5], "Bob Else")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists mapped files")
def test_the_file_is_not_kept_open(model: CountingModel, tmp_path: Path) -> None:
    """Windows refuses to overwrite a file that is mapped into memory."""
    _generate(model, NAMES, tmp_path)
    (path,) = tmp_path.iterdir()
    again, _ = _generate(model, NAMES, tmp_path)
    assert path.name not in Path("/proc/self/maps").read_text()
    assert len(again.vectors) == len(NAMES)


def test_of_a_long_list_an_even_selection_is_generated(model: CountingModel, tmp_path: Path) -> None:
    faces, _ = _generate(model, NAMES, tmp_path, most=12)
    rows = [NAMES.index(name) for name in faces.names]
    assert len(rows) == len(set(rows)) == 12
    assert rows[0] == 0
    assert max(np.diff([*rows, len(NAMES)])) <= 8
    # More of them later: the first ones are not generated again.
    model.drawn.clear()
    more, _ = _generate(model, NAMES, tmp_path, most=20)
    assert len(more.names) == 20
    assert set(faces.names) < set(more.names)
    assert len(set(model.drawn)) == 8


@pytest.mark.parametrize("count", [1, 2, 7, 64, 100])
def test_every_beginning_of_the_order_is_spread_evenly(count: int) -> None:
    names = [str(number) for number in range(count)]
    order = [int(name) for name in spread_order(names)]
    assert sorted(order) == list(range(count))
    for part in (count // 4, count // 2):
        if part:
            assert max(np.diff([*sorted(order[:part]), count])) <= 4 * count / part


def test_an_interruption_loses_no_finished_name(model: CountingModel, tmp_path: Path) -> None:
    names = tuple(f"Ann Name{number}" for number in range(200))
    running = generate_celebrity_faces(model, names, PixelFaces(), tmp_path)
    done = 0
    for event in running:
        if isinstance(event, DrawingNames) and event.done > 60:
            done = event.done
            break
    running.close()
    assert 60 < done < len(names)
    model.drawn.clear()
    faces, _ = _generate(model, names, tmp_path)
    assert len(faces.names) == len(names)
    assert len(set(model.drawn)) <= len(names) - done


def test_an_error_of_the_host_loses_no_finished_name(model: CountingModel, tmp_path: Path) -> None:
    names = tuple(f"Ann Name{number}" for number in range(200))
    model.broken_after = 150
    with pytest.raises(HostError, match="switched"):
        _generate(model, names, tmp_path)
    model.broken_after = 10_000
    model.drawn.clear()
    faces, _ = _generate(model, names, tmp_path)
    assert len(faces.names) == len(names)
    assert len(set(model.drawn)) < len(names) - 32


def test_a_full_disk_only_costs_time(model: CountingModel, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with full_disk():
        faces, _ = _generate(model, NAMES, tmp_path)
    assert torch.isfinite(faces.vectors).any()
    assert "are not saved" in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"nothing of use", b"", "other header", "another shape"])
def test_damaged_files_are_generated_again(model: CountingModel, tmp_path: Path, damage: Any) -> None:
    _generate(model, NAMES[:4], tmp_path)
    (path,) = tmp_path.iterdir()
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        header = {"names": list(NAMES[:4]), "faces": "pixels", "drawing": None, "text_encoders": "", "settled": False}
        vectors = torch.zeros(4, 512 if damage == "other header" else 511)
        kept = {"names": NAMES[:4]} if damage == "other header" else {**header, "checkpoint": "a"}
        save_file({"vectors": vectors, "offset": torch.zeros(512)}, path, {"celebrities": json.dumps(kept)})
    model.drawn.clear()
    faces, _ = _generate(model, NAMES[:4], tmp_path)
    assert len(set(model.drawn)) == 4
    assert faces.vectors.nan_to_num(9).abs().sum() > 0


def _first_versions_file(model: CountingModel, names: Sequence[str], folder: Path, done: int) -> torch.Tensor:
    """A file as version 0.1.0 wrote it, with ``done`` of the names."""
    parts = [model.info.sha256, model.info.resolution, "pixels", "a photo of {}", 2, 20, 5.0, *names]
    vectors = torch.nn.functional.normalize(torch.randn(len(names), 512), dim=1)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"faces-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.safetensors"
    save_file({"vectors": vectors, "drawn": torch.arange(len(names)) < done}, folder / name)
    return vectors


def test_faces_of_the_first_version_are_used(model: CountingModel, tmp_path: Path) -> None:
    vectors = _first_versions_file(model, NAMES, tmp_path, len(NAMES))
    faces, events = _generate(model, NAMES, tmp_path)
    assert (model.evaluations, events) == (0, [])
    assert torch.equal(faces.vectors, vectors)


def test_what_the_first_version_began_is_completed(model: CountingModel, tmp_path: Path) -> None:
    vectors = _first_versions_file(model, NAMES, tmp_path, 30)
    faces, _ = _generate(model, NAMES, tmp_path)
    assert set(model.drawn) == {f"a photo of {name}" for name in NAMES[30:]}
    torch.testing.assert_close(faces.vectors[:30], vectors[:30], rtol=1e-3, atol=1e-3)
    again, _ = _generate(model, NAMES, tmp_path)
    assert len(again.names) == len(NAMES)
    assert len(set(model.drawn)) == 15


def test_the_total_is_known_and_an_interruption_seen_before_the_first_picture(
    model: CountingModel, tmp_path: Path
) -> None:
    work = generate_celebrity_faces(model, NAMES, PixelFaces(), tmp_path)
    assert next(work) == DrawingNames(0, len(NAMES))
    work.close()
    assert model.evaluations == 0


def test_a_checkpoint_that_needs_more_steps_gets_them(model: CountingModel, tmp_path: Path) -> None:
    model.sharp_below = 300  # with two steps, the last is at 500
    faces, events = _generate(model, NAMES, tmp_path)
    assert model.evaluations == (16 + 2 + 4) * 32 + 4 * (len(NAMES) - 32)
    done = [event.done for event in events if isinstance(event, DrawingNames)]
    assert done == sorted(done)
    shown = [(_shown(name), vector) for name, vector in zip(NAMES, faces.vectors, strict=True)]
    near = [float(vector @ one) for one, vector in shown if one is not None and bool(vector.isfinite().all())]
    assert near
    assert min(near) > 0.99
    # A list that has grown goes on in the same way.
    before = model.evaluations
    _generate(model, (*NAMES, "Bob Else"), tmp_path)
    assert model.evaluations == before + 4


def test_a_checkpoint_that_knows_nobody_gets_an_answer(model: CountingModel, tmp_path: Path) -> None:
    model.sharp_below = -1
    faces, _ = _generate(model, NAMES, tmp_path)
    assert faces.names == NAMES


def test_cheap_faces_are_moved_to_where_finished_ones_are(tmp_path: Path) -> None:
    """A model whose few steps all have the same flaw, such as blur: the regression is to be used on sharp photos."""

    class Blurred(CountingModel):
        def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
            # The second batch is the cheap one: that of the pilot and of all others.
            images = super().decode_latents(latents)
            self.batches = getattr(self, "batches", 0) + 1
            if self.batches > 1:
                images[:, :, :, 32:] = 0.9
            return images

    faces, _ = _generate(Blurred(), NAMES, tmp_path)
    sharp, _ = _generate(CountingModel(), NAMES, tmp_path / "sharp")
    both = (faces.vectors + sharp.vectors).isfinite().all(dim=1)
    own = (faces.vectors[both] * sharp.vectors[both]).sum(dim=1)
    blurred = torch.stack([_blurred(name) for name, seen in zip(NAMES, both, strict=True) if seen])
    without = (blurred * sharp.vectors[both]).sum(dim=1)
    assert float(own.mean()) > float(without.mean()) + 0.02


def _blurred(name: str) -> torch.Tensor:
    image = torch.nn.functional.interpolate(pattern(f"a photo of {name}")[None, :3], scale_factor=8)[0].clone()
    image[:, :, 32:] = 0.9
    pixels = ((image.permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()
    return torch.from_numpy(PixelFaces().embed([pixels])[0])


def test_the_share_of_recognized_names() -> None:
    first = torch.eye(4, 512)
    assert recognized_share(first, first) == 1.0
    assert recognized_share(first, first.roll(1, dims=0)) == 0.0
    unseen = first.clone()
    unseen[1] = torch.nan
    assert recognized_share(unseen, first) == recognized_share(first, unseen) == 0.75


def test_a_checkpoint_with_the_same_text_encoder_begins_with_its_relatives_faces(
    model: CountingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(celebrity_faces, "REFINED", 20)
    whole, _ = _generate(model, NAMES, tmp_path)
    tuned = CountingModel()
    tuned.info = replace(tuned.info, name="tuned", sha256="1" * 64)
    first, events = _generate(tuned, NAMES, tmp_path)
    (warning,) = [event.message for event in events if isinstance(event, Warned)]
    assert "toy" in warning
    assert "20 of 45" in warning
    assert len(set(tuned.drawn)) == 20
    assert first.names == NAMES
    both = torch.isfinite(whole.vectors).all(dim=1) & torch.isfinite(first.vectors).all(dim=1)
    assert float((whole.vectors[both] * first.vectors[both]).sum(dim=1).min()) > 0.98
    second, events = _generate(tuned, NAMES, tmp_path)
    assert len(set(tuned.drawn)) == 40
    third, events = _generate(tuned, NAMES, tmp_path)
    assert len(set(tuned.drawn)) == 45
    evaluations = tuned.evaluations
    fourth, events = _generate(tuned, NAMES, tmp_path)
    assert (tuned.evaluations, events) == (evaluations, [])
    assert _same(third, fourth)
    assert second.names == NAMES


def test_relatives_faces_are_moved_to_where_the_checkpoints_own_are() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(6, 512, generator=generator), dim=1)
    style = torch.randn(512, generator=generator) * 0.03
    relative = dict(zip(NAMES, rows, strict=False))
    own = {name: torch.nn.functional.normalize(row + style, dim=0) for name, row in list(relative.items())[:4]}
    moved = celebrity_faces._shifted(relative, own)
    there = torch.nn.functional.normalize(rows[5] + style, dim=0)
    assert float(moved[NAMES[5]] @ there) > float(rows[5] @ there) + 0.01


def test_other_text_encoders_share_nothing(model: CountingModel, tmp_path: Path) -> None:
    _generate(model, NAMES, tmp_path)
    other = CountingModel(seed=1)
    _, events = _generate(other, NAMES, tmp_path)
    assert not [event for event in events if isinstance(event, Warned)]
    assert len(set(other.drawn)) == len(NAMES)


@pytest.mark.parametrize(("gain", "wanted"), [(0.0, 80), (0.02, 200)])
def test_it_ends_when_the_regressions_error_has_settled(
    model: CountingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gain: float, wanted: int
) -> None:
    monkeypatch.setattr(celebrity_faces, "_FIRST_CHECK", 40)
    names = tuple(f"Ann Name{number}" for number in range(200))

    def explained(faces: CelebrityFaces) -> float:
        return 0.1 + gain * float(np.log2(len(faces.names)))

    faces, _ = _generate(model, names, tmp_path, explained=explained)
    assert len(faces.names) == wanted
    before = model.evaluations
    again, _ = _generate(model, names, tmp_path, explained=explained)
    assert model.evaluations == before
    assert _same(again, faces)


def test_too_little_memory_for_a_batch_makes_smaller_ones(model: CountingModel, tmp_path: Path) -> None:
    model.most_at_once = 1
    faces, _ = _generate(model, NAMES[:5], tmp_path)
    assert len(faces.names) == 5
    model.most_at_once = 0
    with pytest.raises(RuntimeError, match="out of memory"):
        _generate(model, NAMES[5:8], tmp_path)


def test_pictures_can_be_smaller(model: CountingModel, tmp_path: Path) -> None:
    own, _ = _generate(model, NAMES[:3], tmp_path)
    small, _ = _generate(model, NAMES[:3], tmp_path, size=32)
    assert len(model.drawn) == 2 * 2 * 3  # each name twice for each size
    assert not _same(own, small)
    with pytest.raises(TrainingError, match="multiple of 8"):
        _generate(model, NAMES[:3], tmp_path, size=30)


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
