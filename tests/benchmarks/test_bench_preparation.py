"""The comparison of preparations, from end to end on a tiny random model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.evidence_testbeds import make_testbed, stranger
from support.models import make_host

from benchmarks.preparation import BASELINE, BASELINE_EVALUATIONS, FOUR, TWO, Preparation, Prepared, measure, table
from celeb_basis.names.lists import name_list, shipped_names
from celeb_basis.settings import PRESETS
from celeb_basis.training.celebrity_files import Drawing


def test_preparations_are_compared_in_pairs_and_what_is_measured_is_kept(tmp_path: Path) -> None:
    model = make_host("sd1", width=64)
    vae = model._pipeline.vae

    def decode(latents: torch.Tensor) -> list[np.ndarray]:
        with torch.no_grad():
            images = vae.decode(latents / vae.config.scaling_factor).sample
        return list(((images.permute(0, 2, 3, 1) + 1) * 127.5).clamp(0, 255).byte().numpy())

    random = np.random.default_rng(0)
    people = [stranger(f"s{number}", random.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for number in range(2)]
    names = name_list([name for name in shipped_names().names if len(name.split()) == 2][:24], "a test's list")
    testbed = make_testbed(model, names, people, decode, steps=1)
    chosen = [
        Preparation(BASELINE, Drawing(steps=1)),
        Preparation("two", TWO, names=24),
        Preparation("few", TWO, names=12),
    ]
    short = replace(PRESETS["quick"], steps=2, views=2)
    calls = []
    predict = model.predict

    def counted(latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Any) -> torch.Tensor:
        calls.append(len(latents))
        return predict(latents, timesteps, conditioning)

    model.predict = counted  # type: ignore[method-assign]

    def run() -> tuple[dict[str, Prepared], list[Any], str]:
        ready, finished = {}, []
        for one, result, cell in measure(testbed, chosen, 2, tmp_path, short):
            if result is not None:
                ready[one.name] = result
            if cell is not None:
                finished.append(cell)
        return ready, finished, table(chosen, ready, finished)

    ready, finished, text = run()
    assert len(finished) == 6
    assert [len(one.faces.names) for one in ready.values()] == [24, 24, 12]
    assert set(ready["few"].faces.names) < set(ready["two"].faces.names)
    assert len(text.splitlines()) == 5
    spent = sum(calls)
    assert run()[2] == text
    assert sum(calls) == spent, "everything was known"
    # As docs/evidence.md counts them.
    assert (BASELINE_EVALUATIONS, FOUR.evaluations, TWO.evaluations) == (51_200, 4, 2)
