"""README's first picture, from the output of ``make demo``: ``python -m miniature.training.overview_picture demo-output``."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from celeb_basis.cli.demo import STRANGERS
from celeb_basis.provenance import marked, save_generated_image

TARGET = Path(__file__).resolve().parents[2] / "docs" / "images" / "overview.png"

_NAMES = ("max", "ben")
_SIDE, _GAP, _TEXT = 176, 10, 26
_WORD = 150
"""Width of the column between photo and pictures."""
_INK, _QUIET, _PAPER = "#1f2933", "#697586", "white"
_SCENES = (
    ("a photo of {}", "a photo of {}"),
    ("an oil painting of {}", "an oil painting of {}"),
    ("a photo of {} on a beach", "{} on a beach"),
    ("a photo of {} wearing a hat", "{} wearing a hat"),
)
_TOGETHER = (
    ("a photo of {} and {}", "{} and {}"),
    ("a photo of {} and {} in a forest", "{} and {} in a forest"),
)


def compose(drawn: Path) -> Image.Image:
    """A row for each person with the photo, the placeholder token and four scenes, and both people together at the right."""
    row = _SIDE + _TEXT + _GAP
    left = _GAP + _SIDE + _WORD
    sheet = Image.new("RGB", (left + (len(_SCENES) + 1) * (_SIDE + _GAP), 2 * row + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (name, photo) in enumerate(zip(_NAMES, STRANGERS, strict=True)):
        top = _GAP + number * row
        _place(sheet, Image.open(photo), (_GAP, top), _SIDE)
        _write(pen, "one photo", _GAP + _SIDE // 2, top + _SIDE + 4, _QUIET)
        _write(pen, f"<{name}>", _GAP + _SIDE + _WORD // 2, top + _SIDE // 2 - 14, _INK, 26)
        _write(pen, "is now a word", _GAP + _SIDE + _WORD // 2, top + _SIDE // 2 + 20, _QUIET)
        for column, (prompt, text) in enumerate(_SCENES):
            place = left + column * (_SIDE + _GAP)
            _place(sheet, _picture(drawn, prompt.format(f"person{number + 1}")), (place, top), _SIDE)
            _write(pen, text.format(f"<{name}>"), place + _SIDE // 2, top + _SIDE + 4, _INK)
    place = left + len(_SCENES) * (_SIDE + _GAP)
    for number, (prompt, text) in enumerate(_TOGETHER):
        top = _GAP + number * row
        _place(sheet, _picture(drawn, prompt.format("person1", "person2")), (place, top), _SIDE)
        words = [f"<{name}>" for name in _NAMES]
        _write(pen, text.format(*words), place + _SIDE // 2, top + _SIDE + 4, _INK)
    return sheet


def _picture(drawn: Path, prompt: str) -> Image.Image:
    stem = "".join(char if char.isalnum() else "-" for char in prompt)
    return Image.open(next((drawn / "pictures").glob(f"{stem}-[0-9]*.png")))


def _place(sheet: Image.Image, picture: Image.Image, corner: tuple[int, int], side: int) -> None:
    sheet.paste(picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), corner)


def _write(pen: ImageDraw.ImageDraw, text: str, middle: int, top: int, color: str, size: int = 14) -> None:
    pen.text((middle, top), text, fill=color, font=ImageFont.load_default(size), anchor="ma")


if __name__ == "__main__":
    save_generated_image(TARGET, marked(compose(Path(sys.argv[1])), [f"<{name}>" for name in _NAMES], composite=True))
