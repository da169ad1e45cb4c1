"""The picture at the top of the README: from one photo to a word, with an invented person as the photo.

``python -m miniature.people3d.scheme docs/images/scheme.png``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from celeb_basis.files import atomic_path
from miniature.people3d.looks import draw_clothes, draw_lighting
from miniature.people3d.person import draw_person, linear
from miniature.people3d.portrait import Model, Pose

SIZE = (1280, 400)
PEOPLE = {"ada": (243932, -8.0), "ben": (281822, 8.0)}
"""The two people of the documentation's pictures: number and yaw in degrees by name."""
_SPREAD = 1.4
_PROMPTS = (
    "a photo of <ada> on a beach",
    "a pencil sketch of <ben>",
    "<ada> and <ben> baking a cake, oil painting",
)
_INK, _QUIET, _LINE, _BLUE, _PAPER, _CARD = "#1f2933", "#6b7785", "#d5dbe1", "#2563eb", "#ffffff", "#f5f7fa"
_PHOTO = 150


def scheme() -> Image.Image:
    """Draw the picture, twice as large as it is shown."""
    image = Image.new("RGB", (2 * SIZE[0], 2 * SIZE[1]), _PAPER)
    draw = ImageDraw.Draw(image)
    for row, name in enumerate(PEOPLE):
        top = 60 + 350 * row
        image.paste(photo(name, 2 * _PHOTO), (80, top), _rounded(2 * _PHOTO, 28))
        _arrow(draw, 420, 880, top + _PHOTO)
        _text(draw, (650, top + _PHOTO - 34), "learn: minutes", 36, _INK)
        _text(draw, (650, top + _PHOTO + 36), "1,024 numbers, 1 file", 32, _QUIET)
        draw.rounded_rectangle((910, top + 90, 1190, top + 210), 28, fill=_BLUE)
        _text(draw, (1050, top + _PHOTO), f"<{name}>", 56, _PAPER)
    _arrow(draw, 1240, 1420, SIZE[1])
    for row, prompt in enumerate(_PROMPTS):
        top = 100 + 210 * row
        draw.rounded_rectangle((1450, top, 2490, top + 160), 24, fill=_CARD, outline=_LINE, width=3)
        _text(draw, (1500, top + 80), prompt, 42, _INK, anchor="lm")
    return image


def photo(name: str, side: int) -> Image.Image:
    """A photo of one of :data:`PEOPLE`, ``side`` by ``side`` pixels."""
    number, yaw = PEOPLE[name]
    rng = np.random.default_rng((number, 5))
    background = np.ones((side, side, 3), np.float32) * linear(176, 192, 208).astype(np.float32)
    cutout = Model(draw_person(number, _SPREAD)).picture(
        side,
        Pose(yaw, 0, 0),
        "smile",
        lighting=draw_lighting("soft", rng),
        clothes=draw_clothes(rng),
        seed=number,
        zoom=1.15,
    )
    return Image.fromarray(cutout.over(background))


def _rounded(side: int, radius: int) -> Image.Image:
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, side - 1, side - 1), radius, fill=255)
    return mask


def _arrow(draw: ImageDraw.ImageDraw, left: int, right: int, y: int) -> None:
    draw.line((left, y, right - 24, y), fill=_LINE, width=6)
    draw.polygon(((right, y), (right - 34, y - 20), (right - 34, y + 20)), fill=_LINE)


def _text(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, color: str, anchor: str = "mm"
) -> None:
    draw.text(place, text, font=ImageFont.load_default(size), fill=color, anchor=anchor)


def main() -> None:
    """Write the picture to the file that is named."""
    with atomic_path(Path(sys.argv[1])) as temporary:
        scheme().quantize(256).save(temporary, "PNG", optimize=True)


if __name__ == "__main__":
    main()
