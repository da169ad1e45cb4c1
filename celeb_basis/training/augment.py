"""Random views of a portrait and training prompts that describe them (paper section 4, "implementation details").

A view is the portrait with a random flip, color, size and place on a plain background. The prompts are neutral templates
in textual inversion's tradition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance

from celeb_basis.faces.network import Floats, Pixels, Portrait

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "light grey": (200, 200, 200),
    "grey": (128, 128, 128),
    "dark grey": (64, 64, 64),
    "black": (0, 0, 0),
    "beige": (225, 210, 180),
    "brown": (110, 75, 45),
    "blue": (60, 100, 190),
    "light blue": (165, 205, 235),
    "green": (70, 140, 80),
    "red": (180, 50, 50),
    "yellow": (235, 205, 80),
}
"""Plain backgrounds (RGB) by the name that prompts use."""

# Ranges of the random choices. Brightness, contrast and saturation share one.
_COLOR = (0.8, 1.2)
_HUE = 0.01
_ASPECT = (0.9, 1.1)
# The left eye of a mirrored face is the original's right eye; the same holds for the corners of the mouth.
_MIRRORED_LANDMARKS = (1, 0, 2, 4, 3)


@dataclass(frozen=True)
class View:
    """One augmented view."""

    picture: Pixels
    """``(S, S, 3)``."""
    landmarks: Floats
    """``(5, 2)`` x, y of the face's landmarks in the view's pixels."""
    description: str
    """What the augmentation did, in words for a prompt; empty if nothing visible."""


@dataclass(frozen=True)
class Augmentation:
    """The random choices behind a view, so that they can be inspected and repeated."""

    flip: bool
    brightness: float
    contrast: float
    saturation: float
    hue: float
    """Shift around the color circle, as a share of it."""
    width: float
    """Width of the picture, as a share of the frame."""
    aspect: float
    """Height over width."""
    left: float
    """Place within the remaining space, 0 (left) to 1 (right)."""
    top: float
    """Place within the remaining space, 0 (top) to 1 (bottom)."""
    background: str


def draw_augmentation(generator: torch.Generator, smallest: float) -> Augmentation:
    """Draw random choices, all uniform.

    Args:
        generator: The source of randomness.
        smallest: Smallest width of the picture, as a share of the frame.
    """
    uniform = torch.rand(9, generator=generator, dtype=torch.float64).tolist()
    names = list(BACKGROUNDS)
    within: Callable[[float, float, float], float] = lambda u, low, high: low + u * (high - low)  # noqa: E731
    return Augmentation(
        flip=uniform[0] < 0.5,
        brightness=within(uniform[1], *_COLOR),
        contrast=within(uniform[2], *_COLOR),
        saturation=within(uniform[3], *_COLOR),
        hue=within(uniform[4], -_HUE, _HUE),
        width=within(uniform[5], smallest, 1.0),
        aspect=within(uniform[6], *_ASPECT),
        left=uniform[7],
        top=uniform[8],
        background=names[int(torch.randint(len(names), (), generator=generator))],
    )


def augment(portrait: Portrait, choice: Augmentation) -> View:
    """The view of ``portrait`` that ``choice`` describes. The landmarks are moved too, so no face has to be detected again."""
    side = portrait.picture.shape[0]
    landmarks = portrait.landmarks.astype(np.float64)
    picture = Image.fromarray(portrait.picture)
    if choice.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        landmarks = (landmarks * (-1, 1) + (side - 1, 0))[list(_MIRRORED_LANDMARKS)]
    picture = _shift_hue(picture, choice.hue)
    for enhancer, factor in (
        (ImageEnhance.Brightness, choice.brightness),
        (ImageEnhance.Contrast, choice.contrast),
        (ImageEnhance.Color, choice.saturation),
    ):
        picture = enhancer(picture).enhance(factor)
    width = max(1, round(side * choice.width))
    height = max(1, min(side, round(width * choice.aspect)))
    left, top = round((side - width) * choice.left), round((side - height) * choice.top)
    frame = Image.new("RGB", (side, side), BACKGROUNDS[choice.background])
    frame.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (left, top))
    scale = np.array([width / side, height / side])
    # Landmarks are pixel centers: half a pixel is added before scaling and subtracted after it.
    moved = (landmarks + 0.5) * scale - 0.5 + (left, top)
    center = ((left + width / 2) / side, (top + height / 2) / side)
    return View(
        picture=np.asarray(frame),
        landmarks=moved.astype(np.float32),
        description=describe_view(width / side, center, choice.background),
    )


def _shift_hue(picture: Image.Image, shift: float) -> Image.Image:
    steps = round(shift * 256)
    if steps == 0:
        return picture
    hue, saturation, value = picture.convert("HSV").split()
    turned = hue.point([(level + steps) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


# Training prompts.

_MEDIA = (
    "photo", "picture", "photograph", "image", "portrait", "snapshot", "rendering", "depiction", "shot", "close-up photo",
)  # fmt: skip
_MANNERS = ("a", "a good", "a clear", "a plain", "a simple", "one")

TEMPLATES: tuple[str, ...] = tuple(f"{manner} {medium} of the {{}}" for manner in _MANNERS for medium in _MEDIA)
"""Sixty prompts that say nothing about the person, each with one ``{}``."""

SUBJECT = "face of {} person"
"""What replaces a template's ``{}``: the placeholder token with a class noun behind it (the paper's training prompt)."""

# Upper bounds of a view's width as a share of the frame.
_SIZES = ((0.25, "very small"), (0.5, "small"), (0.8, "smaller"))
_WHOLE_FRAME = 0.95


def training_prompt(template: str, token: str, description: str) -> str:
    """The prompt of one training sample.

    Args:
        template: One of :data:`TEMPLATES`.
        token: The placeholder token.
        description: What the augmentation did to the view; may be empty.

    >>> training_prompt("a photo of the {}", "<p>", "small, on a plain grey background")
    'a photo of the face of <p> person, small, on a plain grey background'
    """
    prompt = template.format(SUBJECT.format(token))
    return f"{prompt}, {description}" if description else prompt


def describe_view(scale: float, center: Sequence[float], background: str) -> str:
    """Describe the size, place and background of a view; empty if the picture fills the frame.

    Args:
        scale: Width of the picture as a share of the frame's.
        center: Middle (x, y) of the picture, 0 to 1.
        background: Name of the background, a key of :data:`BACKGROUNDS`.

    >>> describe_view(0.2, (0.15, 0.5), "grey")
    'very small, on the left, on a plain grey background'
    """
    if scale >= _WHOLE_FRAME:
        return ""
    words = [name for bound, name in _SIZES if scale < bound][:1]
    x, y = center
    vertical = "at the top" if y < 1 / 3 else "at the bottom" if y > 2 / 3 else ""
    horizontal = "on the left" if x < 1 / 3 else "on the right" if x > 2 / 3 else ""
    words += [" ".join(filter(None, (vertical, horizontal)))] if vertical or horizontal else []
    return ", ".join([*words, f"on a plain {background} background"])
