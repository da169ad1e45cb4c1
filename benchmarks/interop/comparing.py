"""From a tool's answers to verdicts: are its vectors ours, and is its conditioning what these vectors give?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.interop.people import World
from benchmarks.interop.running import Answer

ROUNDING = 2.0
"""With a person in the prompt, a tool may be so many times as far from this project as it is without anybody at most:
other numbers are rounded otherwise, but not by another order."""


@dataclass(frozen=True)
class PromptVerdict:
    """One prompt in one tool."""

    prompt: str
    own: float
    """Largest difference to the tool's own conditioning of plain words whose rows hold the vectors; ``inf`` for shapes."""
    ours: float | None
    """Largest difference to this project's conditioning; ``None`` where tools mean to differ."""
    anyway: float | None
    """The same for plain words in the person's place: how far apart the two are anyway."""
    same: bool


@dataclass(frozen=True)
class EvaluationResult:
    """One tool on one model."""

    version: str
    torch_version: str
    vectors: dict[str, bool]
    """``person/text encoder``: whether bit for bit."""
    prompts: tuple[PromptVerdict, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs. Nothing at all is not the same."""
        return bool(self.vectors and self.prompts) and all(self.vectors.values()) and all(p.same for p in self.prompts)


def compared(answer: Answer, world: World) -> EvaluationResult:
    """The verdict on a tool's answer."""
    vectors = {}
    for key, rows in world.vectors().items():
        theirs = answer.values.get(f"vectors/{key}")
        vectors[key] = theirs is not None and torch.equal(theirs, rows)
    measured = []
    for number, (case, prompt) in enumerate(zip(answer.cases, answer.prompts, strict=True)):
        said = {way: _parts(answer, way, number) for way in ("word", "plain", "placed")}
        ours = anyway = None
        if not case.emphasis and not case.long:
            ours = largest_difference(said["word"], world.encode(case, plain=False))
            anyway = largest_difference(said["plain"], world.encode(case, plain=True))
        # A word that changed nothing would agree with everything.
        matters = largest_difference(said["word"], said["plain"]) > 0
        own = largest_difference(said["word"], said["placed"]) if matters else float("inf")
        measured.append((prompt, own, ours, anyway))
    allowed = ROUNDING * max((anyway for *_, anyway in measured if anyway is not None), default=0.0)
    verdicts = [
        PromptVerdict(prompt, own, ours, anyway, own == 0 and (ours is None or ours <= allowed))
        for prompt, own, ours, anyway in measured
    ]
    return EvaluationResult(answer.version, answer.torch_version, vectors, tuple(verdicts))


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Over all numbers of all parts; infinite if there are none, or shapes or parts differ, or a number is NaN."""
    if not one or set(one) != set(other) or any(one[part].shape != other[part].shape for part in one):
        return float("inf")
    found = [float((one[part].float() - other[part].float()).abs().max()) for part in one]
    return max(difference if difference == difference else float("inf") for difference in found)


def _parts(answer: Answer, way: str, number: int) -> dict[str, torch.Tensor]:
    start = f"{way}/{number}/"
    return {key.removeprefix(start): value for key, value in answer.values.items() if key.startswith(start)}
