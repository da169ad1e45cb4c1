"""On a model that follows token vectors, learning finds a stranger: the loss on what was held out falls below the rest."""

from __future__ import annotations

import statistics

import pytest
import torch
from support.steerable import COMPONENTS, World

from celeb_basis.learning.learner import Learner
from celeb_basis.settings import LearnSettings


# The head's 512 inputs all move an output; a coefficient of its own moves one step at a time and wants larger ones.
@pytest.mark.parametrize(("mode", "learning_rate"), [("head", 0.01), ("direct", 0.03)])
def test_learned_strangers_beat_the_mean_and_random_identities(
    steerable: World, mode: str, learning_rate: float
) -> None:
    settings = LearnSettings(
        steps=300, components=COMPONENTS, mode=mode, learning_rate=learning_rate, batch_size=4, early_stop=False
    )
    gains_over_mean, gains_over_random = [], []
    for seed in range(5):
        pool = steerable.stranger(seed)
        learner = Learner(steerable.host, [steerable.basis], pool, settings.changed({"seed": seed}))
        for _ in learner.run():
            pass
        person = pool.people[0]
        learned = steerable.held_out_loss(person, learner.results()[0].coefficients[0])
        mean = steerable.held_out_loss(person, torch.zeros(2, COMPONENTS))
        generator = torch.Generator().manual_seed(seed)
        random = [
            steerable.held_out_loss(
                person, torch.nn.functional.normalize(torch.randn(2, COMPONENTS, generator=generator), dim=-1)
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
