"""The evaluation prompts, and prompts with "person" in place of a placeholder token."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EVALUATION_PROMPTS: Mapping[str, Sequence[str]] = {
    "plain": (
        "a photo of {}",
        "a close-up portrait of {}, soft window light",
        "a full-length photo of {} standing on a pavement",
        "{} seen from the side, looking into the distance",
        "a black and white photo of {}",
    ),
    "action": (
        "{} riding a bicycle through a puddle",
        "{} cooking noodles in a small kitchen",
        "{} playing the cello on a stage",
        "{} reading a newspaper at breakfast",
        "{} repairing an old radio",
        "{} laughing out loud in the rain",
        "{} throwing a snowball",
        "{} carrying a basket of apples",
        "{} asleep in a hammock",
    ),
    "dress": (
        "{} wearing a yellow raincoat",
        "{} as an astronaut, helmet in hand",
        "{} in a tailored black suit",
        "{} wearing round glasses and a woollen hat",
        "{} dressed as a medieval knight",
        "{} in a chef's white jacket",
    ),
    "place": (
        "{} on a beach at sunset",
        "{} in front of the pyramids of Giza",
        "{} in a crowded night market, neon signs",
        "{} on top of a snowy mountain",
        "{} in a library between tall shelves",
        "{} at the window of a moving train",
        "{} in a field of sunflowers",
    ),
    "style": (
        "an oil painting of {} with thick brush strokes",
        "a pencil sketch of {}",
        "a watercolour of {} in pale colours",
        "a marble bust of {}",
        "{} as a character of a hand-drawn animated film",
        "a stained glass window showing {}",
        "a mosaic portrait of {}",
        "a comic book panel with {} flying over a city",
    ),
    "company": (
        "{} shaking hands with a farmer",
        "{} and a small dog on a sofa",
        "{} dancing with an old woman in a ballroom",
        "{} teaching a class of children",
        "{} playing chess against a robot",
    ),
}
"""Prompts by kind, with ``{}`` for the placeholder token.

Images of ``"company"`` may show other people, so the largest face need not be the person's: evaluate those with
``face="best"`` (:func:`celeb_basis.evaluation.evaluate_images`).
"""


def evaluation_prompts(word: str, kinds: Sequence[str] | None = None) -> list[str]:
    """The evaluation prompts of the given ``kinds``, or of all, for a placeholder token ``word``."""
    chosen = EVALUATION_PROMPTS if kinds is None else kinds
    return [prompt.replace("{}", word) for kind in chosen for prompt in EVALUATION_PROMPTS[kind]]


def as_person(prompt: str, word: str | Sequence[str]) -> str:
    """Replace every whole occurrence of a placeholder token, or of each of several, by "person".

    A "person" that already follows the token, as in ``"sks person"``, is dropped, so that CLIP does not see "person"
    twice. ``"<p1>"`` does not match inside ``"<p10>"``, nor ``"ann"`` inside ``"anna"``.
    """
    words = [word] if isinstance(word, str) else list(word)
    words = sorted((one for one in words if one), key=len, reverse=True)
    if not words:
        return prompt
    pattern = "|".join(re.escape(one) for one in words)
    return re.sub(rf"(?<!\w)(?:{pattern})(?!\w)(?:\s+person\b)?", "person", prompt)
