"""Training on a model that follows token vectors finds a stranger: the held-out loss falls below all alternatives."""

from __future__ import annotations

import statistics

import pytest
import torch
from support.steerable import COMPONENTS, World, train_world

from celeb_basis.settings import PRESETS, Mode, Start, TrainingSettings
from celeb_basis.training.trainer import Trainer


# The head's 512 inputs all move an output; a coefficient of its own moves one step at a time and wants larger ones.
@pytest.mark.parametrize(
    ("mode", "start", "learning_rate"),
    [
        ("head", "random", 0.01),
        pytest.param("direct", "random", 0.03, marks=pytest.mark.slow),
        ("direct", "mean", 0.03),
    ],
)
def test_learned_strangers_beat_the_mean_and_random_identities(
    steerable: World, mode: Mode, start: Start, learning_rate: float
) -> None:
    settings = TrainingSettings(
        steps=300,
        components=COMPONENTS,
        mode=mode,
        start=start,
        learning_rate=learning_rate,
        batch_size=4,
        early_stop=False,
    )
    gains_over_mean, gains_over_random = [], []
    for seed in range(5):
        pool = steerable.stranger(seed)
        trainer = Trainer(steerable.model, steerable.bases, pool, settings.changed({"seed": seed}))
        for _ in trainer.run():
            pass
        person = pool.people[0]
        learned = steerable.held_out_loss(person, trainer.results()["stranger"])
        mean = steerable.held_out_loss(person, [torch.zeros(2, COMPONENTS)])
        generator = torch.Generator().manual_seed(seed)
        random = [
            steerable.held_out_loss(
                person, [torch.nn.functional.normalize(torch.randn(2, COMPONENTS, generator=generator), dim=-1)]
            )
            for _ in range(5)
        ]
        assert learned < mean, f"seed {seed}: {learned} against the mean vector's {mean}"
        assert learned < min(random), f"seed {seed}: {learned} against random identities' {random}"
        gains_over_mean.append(1 - learned / mean)
        gains_over_random.append(1 - learned / statistics.mean(random))
    # Far from chance: every one of five seeds, and by a margin.
    assert statistics.mean(gains_over_mean) > 0.05
    assert statistics.mean(gains_over_random) > 0.05


@pytest.mark.slow
def test_with_two_text_encoders_separate_coefficients_beat_shared_ones() -> None:
    """Why ``shared`` is off by default: components of two bases do not mean the same, so one set cannot serve both."""
    world = train_world("v_prediction", encoders=2)
    losses: dict[bool, list[float]] = {True: [], False: []}
    for shared, of_setting in losses.items():
        for seed in range(6):
            settings = PRESETS["paper"].changed(
                {"steps": 300, "components": COMPONENTS, "batch_size": 4, "seed": seed, "shared": shared}
            )
            pool = world.stranger(seed)
            trainer = Trainer(world.model, world.bases, pool, settings)
            for _ in trainer.run():
                pass
            of_setting.append(world.held_out_loss(pool.people[0], trainer.results()["stranger"]))
    assert statistics.mean(losses[False]) < statistics.mean(losses[True])
