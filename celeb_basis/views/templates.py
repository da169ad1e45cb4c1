"""Neutral training prompts in textual inversion's tradition, and words for what the augmentation did to a view."""

from __future__ import annotations

from collections.abc import Sequence

_MEDIA = (
    "photo", "picture", "photograph", "image", "portrait", "snapshot", "rendering", "depiction", "shot", "close-up photo",
)  # fmt: skip
_MANNERS = ("a", "a good", "a clear", "a plain", "a simple", "one")

TEMPLATES: tuple[str, ...] = tuple(f"{manner} {medium} of the {{}}" for manner in _MANNERS for medium in _MEDIA)
"""Sixty prompts that say nothing of the person, each with one ``{}``."""

SUBJECT = "face of {} person"
"""What stands in a template's ``{}``: the word, with a class noun behind it (the paper's training prompt)."""

# Upper bounds of a view's width as a share of the frame.
_SIZES = ((0.25, "very small"), (0.5, "small"), (0.8, "smaller"))
_WHOLE_FRAME = 0.95


def training_prompt(template: str, word: str, description: str) -> str:
    """``template`` about ``word``, followed by the view's ``description`` if there is one.

    >>> training_prompt("a photo of the {}", "<p>", "small, on a plain grey background")
    'a photo of the face of <p> person, small, on a plain grey background'
    """
    prompt = template.format(SUBJECT.format(word))
    return f"{prompt}, {description}" if description else prompt


def describe_view(scale: float, centre: Sequence[float], background: str) -> str:
    """What the augmentation did: size, place and background; empty where the picture fills the frame.

    Parameters: ``scale`` is the picture's width as a share of the frame's, ``centre`` its middle (x, y), 0 to 1.

    >>> describe_view(0.2, (0.15, 0.5), "grey")
    'very small, on the left, on a plain grey background'
    """
    if scale >= _WHOLE_FRAME:
        return ""
    words = [name for bound, name in _SIZES if scale < bound][:1]
    x, y = centre
    vertical = "at the top" if y < 1 / 3 else "at the bottom" if y > 2 / 3 else ""
    horizontal = "on the left" if x < 1 / 3 else "on the right" if x > 2 / 3 else ""
    words += [" ".join(filter(None, (vertical, horizontal)))] if vertical or horizontal else []
    return ", ".join([*words, f"on a plain {background} background"])
