"""The contact sheet: every picture where its prompt and seed say, readable captions, whole files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from celeb_basis.errors import EvaluationError, FileError
from celeb_basis.evaluation import EvaluationResult, ImageScores, ImageToEvaluate, contact_sheet, write_sheet
from celeb_basis.evaluation.contact_sheet import _wrapped, page_font
from celeb_basis.evaluation.metrics import mean_estimate, share_estimate

if TYPE_CHECKING:
    from pathlib import Path

COLORS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)]


def drawn(
    *places: tuple[str, int], shape: tuple[int, int] = (40, 40)
) -> tuple[list[ImageToEvaluate], EvaluationResult]:
    """One plain picture a place, each in a color of its own, and a result on them."""
    pictures = [
        ImageToEvaluate(np.full((*shape, 3), COLORS[i % 4], np.uint8), prompt, "<a>", seed)
        for i, (prompt, seed) in enumerate(places)
    ]
    scores = tuple(ImageScores("", one.prompt, one.seed, 1, 0.5, 0.25) for one in pictures)
    result = EvaluationResult(mean_estimate([0.5]), None, share_estimate(1, 1), "largest", "f", None, scores)
    return pictures, result


def extent(sheet: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what has exactly this color."""
    ys, xs = np.nonzero((np.asarray(sheet) == color).all(axis=2))
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def test_rows_are_prompts_and_columns_seeds() -> None:
    sheet = contact_sheet(*drawn(("p", 9), ("p", 3), ("q", 3), ("q", 9)), cell=100)
    red, green, blue, yellow = (extent(sheet, color) for color in COLORS)
    for box in (red, green, blue, yellow):
        assert (box[2] - box[0], box[3] - box[1]) == (100, 100)
    assert green[0] < red[0]  # seed 3 left of seed 9
    assert green[1] == red[1] < blue[1] == yellow[1]
    assert green[0] == blue[0]
    assert red[0] == yellow[0]
    assert sheet.width > red[2]
    assert sheet.height > blue[3]


def test_missing_places_and_repeated_seeds() -> None:
    sheet = contact_sheet(*drawn(("p", 1), ("q", 2), ("p", 1)), cell=60)
    red, green, blue = (extent(sheet, color) for color in COLORS[:3])
    assert red[1] == blue[1]
    assert red[0] < blue[0] < green[0]


def test_reference_is_fitted_whole() -> None:
    wide = np.full((30, 90, 3), (10, 150, 160), np.uint8)
    left, top, right, bottom = extent(contact_sheet(*drawn(("p", 1)), reference=wide), (10, 150, 160))
    assert (right - left) == pytest.approx(3 * (bottom - top), abs=3)


def test_captions_are_drawn() -> None:
    pictures, result = drawn(("p", 1))
    blind = EvaluationResult(
        None, None, share_estimate(0, 1), "largest", "f", None, (ImageScores("", "p", 1, 0, None, None),)
    )
    with_face, without = contact_sheet(pictures, result), contact_sheet(pictures, blind)
    below = extent(with_face, COLORS[0])[3]
    one, other = strips = [np.asarray(sheet)[below + 2 : below + 28] for sheet in (with_face, without)]
    assert all(strip.min() < 190 for strip in strips)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("cell", [40, 224])
def test_intervals_are_whole_in_narrow_sheets_too(monkeypatch: pytest.MonkeyPatch, cell: int) -> None:
    written: list[tuple[float, str]] = []
    real = ImageDraw.ImageDraw.text

    def text(pen: ImageDraw.ImageDraw, place: tuple[float, float], words: str, **more: Any) -> None:
        written.append((place[0] + more["font"].getlength(words), words))
        real(pen, place, words, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    pictures, result = drawn(("p", 1))
    result = replace(result, identity=mean_estimate([0.4, 0.5, 0.7]), detect=share_estimate(117, 120))
    sheet = contact_sheet(pictures, result, reference=np.zeros((90, 90, 3), np.uint8), cell=cell)
    intervals = [(end, words) for end, words in written if "(95 %)" in words]
    assert [words.split(", ")[-1] for _, words in intervals] == ["3 pictures", "120 pictures"]
    assert all(end <= sheet.width for end, _ in intervals)


@pytest.mark.parametrize("prompt", ["", "\x00\n\ud800", "x" * 3000, "宮崎 зима ‮ ß", "two words " * 300])
def test_any_prompt(prompt: str) -> None:
    sheet = contact_sheet(*drawn((prompt, 1)), title=prompt, cell=64)
    assert max(sheet.size) < 1000


def test_wrapping() -> None:
    pen, font = ImageDraw.Draw(Image.new("RGB", (9, 9))), page_font(14)
    text = "a photo of someone in a Donaudampfschifffahrtsgesellschaftskapitaenskajuete at sea"
    lines = _wrapped(pen, text, font, 120, 99)
    assert len(lines) > 4
    assert all(pen.textlength(line, font=font) <= 120 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    cut = _wrapped(pen, text, font, 120, 2)
    assert len(cut) == 2
    assert cut[1].endswith("…")
    assert all(pen.textlength(line, font=font) <= 120 for line in cut)


def test_many_pictures_stay_bearable() -> None:
    places = [(f"prompt {row}", seed) for row in range(40) for seed in range(5)]
    sheet = contact_sheet(*drawn(*places, shape=(8, 8)), cell=4096)
    assert sheet.width * sheet.height < 150_000_000


def test_too_long_for_jpeg(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"\.png"):
        write_sheet(tmp_path / "a.jpg", Image.new("RGB", (1, 65_501)))
    assert list(tmp_path.iterdir()) == []


def test_pictures_and_verdict_belong_together() -> None:
    pictures, result = drawn(("p", 1), ("p", 2))
    with pytest.raises(EvaluationError, match="evaluated"):
        contact_sheet(pictures[:1], result)


def test_written_whole(tmp_path: Path) -> None:
    sheet = contact_sheet(*drawn(("p", 1)))
    for name, kind in (("a.png", "PNG"), ("b.jpg", "JPEG")):
        write_sheet(tmp_path / name, sheet)
        with Image.open(tmp_path / name) as read:
            assert (read.format, read.size) == (kind, sheet.size)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError):
        write_sheet(tmp_path / "file" / "c.png", sheet)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.jpg", "file"]
