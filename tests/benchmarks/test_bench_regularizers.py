"""Two published regularizers against their definitions, and their comparison from end to end on a toy model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.evidence_testbeds import decode_toy, make_testbed, stranger
from support.models import make_host

from benchmarks.evidence.methods import Trained
from benchmarks.evidence.precompute import Precomputed, view_generator
from benchmarks.evidence.testbed import EvidenceTestbed
from benchmarks.regularizers import (
    METHODS,
    METRICS,
    ClassGuidedLearner,
    ContextLearner,
    Regularized,
    class_guided_loss,
    face_masks,
    measure,
    table,
)
from celeb_basis.names.lists import name_list, shipped_names
from celeb_basis.settings import PRESETS
from celeb_basis.training.augment import draw_augmentation
from celeb_basis.training.trainer import Trainer

SHORT = replace(PRESETS["balanced"], steps=3, views=3, early_stop=False)


@pytest.fixture
def testbed() -> EvidenceTestbed:
    random = np.random.default_rng(0)
    people = [stranger(f"s{number}", random.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for number in range(2)]
    names = name_list([name for name in shipped_names().names if len(name.split()) == 2][:24], "a test's list")
    return make_testbed(make_host("sd1", width=64), names, people, decode_toy, steps=1)


def _trainer(testbed: EvidenceTestbed, folder: Path, kind: Any, weight: float) -> Trainer:
    method = Regularized("one", SHORT, regularizer=kind, weight=weight)
    shared = Precomputed(testbed, folder)
    group = testbed.strangers[:1]
    pool, _ = shared.pool(group, 0, SHORT.views, SHORT.smallest)
    return method._learner(shared, group, pool, 0, timed=False)


def test_the_distance_of_the_context_is_zero_for_the_class_word_and_leaves_the_person_out(
    testbed: EvidenceTestbed, tmp_path: Path
) -> None:
    trainer = _trainer(testbed, tmp_path, "CoRe", 1.0)
    assert isinstance(trainer, ContextLearner)
    batch = trainer.sample_batch()
    learned = trainer.coefficients(batch)
    assert float(trainer.context_distance(learned).detach()) > 0
    expand = trainer.token_vectors

    def class_word(coefficients: torch.Tensor) -> Sequence[torch.Tensor]:
        del coefficients
        return trainer._class

    trainer.token_vectors = class_word  # type: ignore[method-assign]
    assert float(trainer.context_distance(learned).detach()) == 0
    trainer.token_vectors = expand  # type: ignore[method-assign]

    real, encoder = trainer._states, testbed.model.text_encoders[0]
    prompts_seen = []

    def changed_at_the_person(prompts: list[str], tokens: Any) -> torch.Tensor:
        """The outputs for the class word, but far off at the person's own places."""
        states = real(prompts, dict.fromkeys(tokens, trainer._class)).clone()
        for row, prompt in enumerate(prompts):
            placed = encoder._tokenized(prompt, {f"<view{row}>": trainer._class[0]}).positions  # type: ignore[attr-defined]
            assert len(placed) == trainer.shape.positions
            for place, _, _ in placed:
                states[row, place] += 100.0 * torch.is_grad_enabled()
        prompts_seen.extend(prompts)
        return states

    trainer._states = changed_at_the_person  # type: ignore[method-assign, assignment]
    assert float(trainer.context_distance(learned).detach()) == 0
    assert len(set(prompts_seen)) > 1, "prompts are random"


def test_core_draws_the_same_batches_as_a_run_without_it(testbed: EvidenceTestbed, tmp_path: Path) -> None:
    trainer = _trainer(testbed, tmp_path, "CoRe", 0.0)
    plain = Trainer(testbed.model, trainer.bases, trainer.pool, trainer.settings)
    for _ in trainer.run():
        pass
    for _ in plain.run():
        pass
    assert torch.equal(trainer.sample_batch().noise, plain.sample_batch().noise)
    (one,), (other,) = trainer.results()["s0"], plain.results()["s0"]
    assert torch.allclose(one, other, atol=1e-6)


def test_outside_of_the_face_the_target_is_the_models_own_prediction() -> None:
    random = torch.Generator().manual_seed(0)
    target, guide = (torch.randn(2, 4, 8, 8, generator=random) for _ in range(2))
    face = torch.zeros(2, 1, 8, 8)
    face[:, :, 2:5, 2:5] = 1
    perfect = torch.where(face.bool(), target, guide)
    assert float(class_guided_loss(perfect, target, guide, face, 4.0)) == 0
    everywhere = torch.ones_like(face)
    wrong = class_guided_loss(guide, target, guide, everywhere, 4.0)
    assert torch.isclose(wrong, (guide - target).square().mean())
    outside = class_guided_loss(target, target, guide, face, 4.0)
    assert torch.isclose(outside, 4 * ((target - guide).square() * (1 - face)).mean())


def test_the_class_is_asked_for_without_gradients_and_without_the_person(
    testbed: EvidenceTestbed, tmp_path: Path
) -> None:
    trainer = _trainer(testbed, tmp_path, "class guidance", 1.0)
    assert isinstance(trainer, ClassGuidedLearner)
    asked: list[tuple[bool, list[str]]] = []
    encode = testbed.model.encode_prompts

    def noted(prompts: Any, placeholder_tokens: Any) -> Any:
        asked.append((torch.is_grad_enabled(), list(prompts)))
        return encode(prompts, placeholder_tokens)

    trainer.model.encode_prompts = noted  # type: ignore[method-assign]
    batch = trainer.sample_batch()
    trainer.loss(batch, trainer.coefficients(batch)).backward()
    of_class, of_person = asked
    assert not of_class[0]
    assert of_person == (True, batch.prompts)
    assert all("face of a person" in prompt and "<" not in prompt for prompt in of_class[1])
    gradient = next(trainer.module.parameters()).grad
    assert gradient is not None
    assert bool(gradient.any())


def test_masks_lie_on_the_face_of_the_same_view(testbed: EvidenceTestbed) -> None:
    person = testbed.strangers[0]
    masks = face_masks(person, 0, 4, 0.5, (8, 8))
    generator = view_generator(person, 0)
    for mask in masks:
        choice = draw_augmentation(generator, 0.5)
        rows, columns = (torch.arange(8) + 0.5) / 8, (torch.arange(8) + 0.5) / 8
        assert 0 < float(mask.sum()) < 64
        middle = (
            float((mask[0].sum(0) * columns).sum() / mask.sum()),
            float((mask[0].sum(1) * rows).sum() / mask.sum()),
        )
        # The stand-in's face is about in the middle of its picture.
        height = min(1.0, choice.width * choice.aspect)
        wanted = (1 - choice.width) * choice.left + choice.width / 2, (1 - height) * choice.top + height / 2
        assert middle == pytest.approx(wanted, abs=0.12)


def test_recipes_are_compared_in_pairs_and_what_is_measured_is_kept(testbed: EvidenceTestbed, tmp_path: Path) -> None:
    methods = [
        Trained("balanced", SHORT),
        Regularized("balanced, CoRe 1", SHORT, regularizer="CoRe", weight=1.0),
        Regularized("balanced, class guidance 1", SHORT, regularizer="class guidance", weight=1.0),
    ]
    finished = list(measure(testbed, methods, 2, 1, tmp_path))
    assert len(finished) == 6
    assert len({cell.key for cell, _ in finished}) == 6
    lines = table(methods, finished).splitlines()
    assert len(lines) == 2 + 1 + 2 * 2
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].count("|") == 3 + len(METRICS)
    learn = Trained.learn
    try:
        Trained.learn = None  # type: ignore[method-assign, assignment]
        assert list(measure(testbed, methods, 2, 1, tmp_path)) == finished, "everything was known"
    finally:
        Trained.learn = learn  # type: ignore[method-assign]


def test_every_candidate_has_the_recipe_that_it_changes() -> None:
    names = [one.name for one in METHODS]
    assert len(set(names)) == len(names) == 10
    for one in METHODS:
        if isinstance(one, Regularized):
            (plain,) = (other for other in METHODS if other.name == one.name.split(",")[0])
            assert one.settings == plain.settings
            assert {key: one.describe()[key] for key in plain.describe()} == plain.describe()
