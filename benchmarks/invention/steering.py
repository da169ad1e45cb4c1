"""Whether *more like this* and *less like that* do what they say: how alike the next people are to the marked one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.evidence.testbed import EvidenceTestbed, FaceJudge, generate
from celeb_basis.identities.invention import Inventor

MARKED = 12
"""People who are marked, one at a time."""

MORE, LESS = (0.3, 0.5, 0.7, 0.9), (0.5,)
"""Values of the sliders."""

_SEED, _IMAGE_SEED = 500, 70_000


def steered(testbed: EvidenceTestbed, inventor: Inventor, judges: Sequence[FaceJudge]) -> dict[str, np.ndarray]:
    """Invent people more and less like others, and let the judges compare plain images of both.

    Args:
        testbed: What generates and detects.
        inventor: Invents the marked people, and the others with its own settings.
        judges: Face networks.

    Returns:
        ``(MARKED,)`` likenesses by ``"judge: more 0.7"`` and the like; ``"plain"`` is that of unmarked draws.
    """
    kinds = ["itself", "plain", *(f"more {value}" for value in MORE), *(f"less {value}" for value in LESS)]
    found: dict[str, list[float]] = {f"{judge.name}: {kind}": [] for judge in judges for kind in kinds}
    for number in range(MARKED):
        marked = inventor.invent(number, name=f"marked {number}")
        seed = _SEED + number
        people = {"marked": marked, "itself": marked, "plain": inventor.invent(seed)}
        for value in MORE:
            people[f"more {value}"] = _with(inventor, alike=value).invent(seed, more=[marked])
        for value in LESS:
            people[f"less {value}"] = _with(inventor, unlike=value).invent(seed, less=[marked])
        tokens = {f"<{kind}>": one.token_vectors() for kind, one in people.items()}
        seeds = [_IMAGE_SEED + 10 * number + (kind != "marked") for kind in people]
        prompt = testbed.prompts[0].prompt
        images = generate(testbed, [prompt.format(f"<{kind}>") for kind in people], tokens, seeds)
        faces = dict(zip(people, ((image, testbed.detect(image)) for image in images), strict=True))
        for judge in judges:
            seen = {k: judge.embed(image, one[0]) for k, (image, one) in faces.items() if one}
            for kind in kinds:
                alike = np.nan
                if kind in seen and "marked" in seen:
                    alike = float(judge.likeness(seen[kind][None], seen["marked"][None])[0, 0])
                found[f"{judge.name}: {kind}"].append(alike)
        testbed.report.step("steered people", number + 1, MARKED)
    return {kind: np.array(values) for kind, values in found.items()}


def _with(inventor: Inventor, **changes: float) -> Inventor:
    """The same inventor with other sliders."""
    return inventor.changed(replace(inventor.settings, **changes))  # type: ignore[arg-type]
