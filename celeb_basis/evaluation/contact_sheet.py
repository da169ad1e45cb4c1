"""A contact sheet of generated images: a row for each prompt, a column for each seed, and figures under every image."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from celeb_basis.errors import EvaluationError
from celeb_basis.provenance import marked, save_generated_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celeb_basis.evaluation.metrics import EvaluationResult, ImageScores, ImageToEvaluate
    from celeb_basis.faces.network import Pixels

_PAPER = (250, 250, 248)
_INK = (29, 36, 48)
_QUIET = (98, 107, 120)
_LINE = (222, 225, 230)
_EMPTY = (236, 238, 241)
_WARN = (163, 63, 0)
_MARGIN = 28
_GAP = 14
_MAX_CAPTION = 1000
"""Longest part of a prompt that is laid out, in characters: more than a sheet has room for."""
_JPEG_SIDE = 65_500
_MAX_PIXELS = 120_000_000
"""Images are made smaller if a sheet would have more pixels."""


def contact_sheet(
    pictures: Sequence[ImageToEvaluate],
    result: EvaluationResult,
    *,
    reference: Pixels | None = None,
    title: str = "",
    cell: int = 224,
) -> Image.Image:
    """Lay out evaluated images: rows are prompts in their order, columns are seeds in ascending order.

    The sheet carries the names of the people that it shows (:func:`celeb_basis.provenance.marked`).

    Args:
        pictures: The images that ``result`` was computed from, in the same order.
        result: Their figures.
        reference: The photo ``(H, W, 3)``.
        title: A line above the figures.
        cell: Side of an image on the sheet in pixels. It is smaller if the sheet would be too large.

    Raises:
        EvaluationError: The images and the result do not belong together.
    """
    if not pictures or len(pictures) != result.count:
        raise EvaluationError("The contact sheet needs the images that were evaluated: evaluate them again.")
    words = dict.fromkeys(word for item in pictures for word in _words(item))
    sheet = _Sheet(pictures, result, reference, _clean(title), cell).draw()
    return marked(sheet, tuple(words), composite=True)


def write_sheet(path: Path, sheet: Image.Image) -> None:
    """Write a sheet atomically, as JPEG if ``path`` ends in .jpg and as PNG otherwise, with its provenance.

    Raises:
        EvaluationError: The sheet is larger than JPEG allows.
        FileError: The file cannot be written.
    """
    jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    if jpeg and max(sheet.size) > _JPEG_SIDE:
        raise EvaluationError(
            f"The contact sheet is {max(sheet.size)} pixels long, too long for JPEG: write a .png file."
        )
    save_generated_image(path, sheet)


@dataclass
class _Row:
    prompt: str
    cells: dict[tuple[int, int], tuple[Pixels, ImageScores]] = field(default_factory=dict)
    """By seed, and by occurrence if a seed was used more than once, for instance with other settings."""


class _Sheet:
    """The layout of one sheet; all lengths are pixels."""

    def __init__(
        self,
        pictures: Sequence[ImageToEvaluate],
        result: EvaluationResult,
        reference: Pixels | None,
        title: str,
        cell: int,
    ) -> None:
        rows: dict[str, _Row] = {}
        for item, scores in zip(pictures, result.pictures, strict=True):
            row = rows.setdefault(item.prompt, _Row(item.prompt))
            again = sum(seed == item.seed for seed, _ in row.cells)
            row.cells[item.seed, again] = (item.picture, scores)
        self.rows = list(rows.values())
        self.columns = sorted({place for row in self.rows for place in row.cells})
        self.result, self.reference, self.title = result, reference, title
        places = (len(self.columns) + 1) * (len(self.rows) + 1)
        largest = int((_MAX_PIXELS / places) ** 0.5) - 60
        self.cell = max(32, min(cell, largest))
        self.text_size = max(9, min(15, self.cell // 15))
        self.side = max(120, int(self.cell * 0.85))
        """Width of the column of prompts, in pixels."""
        self.font, self.bold = page_font(self.text_size), page_font(self.text_size, bold=True)
        self.note = self.text_size * 2
        """Height of the figures under an image, in pixels."""

    def draw(self) -> Image.Image:
        head = self._head_height()
        pitch = self.cell + self.note + _GAP
        details = max(self.font.getlength(detail) for _, _, detail in self._figures())
        figures = self._head_left() + self.text_size * 10 + int(details) + 1 + _MARGIN
        width = max(self._column(len(self.columns)) - _GAP + _MARGIN, _MARGIN * 2 + 420, figures)
        height = head + len(self.rows) * pitch + _MARGIN
        sheet = Image.new("RGB", (width, height), _PAPER)
        pen = ImageDraw.Draw(sheet)
        self._draw_head(sheet, pen, width)
        for column, (seed, _) in enumerate(self.columns):
            x = self._column(column) + self.cell // 2
            pen.text((x, head - 10), f"seed {seed}", font=self.font, fill=_QUIET, anchor="ms")
        for index, row in enumerate(self.rows):
            self._draw_row(sheet, pen, row, head + index * pitch, width)
        return sheet

    def _column(self, index: int) -> int:
        return _MARGIN + self.side + _GAP + index * (self.cell + _GAP)

    def _head_height(self) -> int:
        photo = self._photo_side() if self.reference is not None else 0
        return _MARGIN + max(photo, self.text_size * 9) + 24 + self.text_size * 2

    def _photo_side(self) -> int:
        return max(140, min(self.side, self.cell))

    def _head_left(self) -> int:
        """Left edge of the title and the figures: beside the photo, if there is one."""
        return _MARGIN if self.reference is None else max(_MARGIN + self._photo_side() + _GAP, self._column(0))

    def _draw_head(self, sheet: Image.Image, pen: ImageDraw.ImageDraw, width: int) -> None:
        left = self._head_left()
        if self.reference is not None:
            _paste(sheet, self.reference, (_MARGIN, _MARGIN), self._photo_side())
        large, plain = page_font(self.text_size * 5 // 3, bold=True), self.font
        y = _MARGIN
        for line in _wrapped(pen, self.title, large, width - left - _MARGIN, 2) if self.title else []:
            pen.text((left, y), line, font=large, fill=_INK)
            y += self.text_size * 2 + 2
        y += 6
        for name, figure, detail in self._figures():
            pen.text((left, y), name, font=self.bold, fill=_INK)
            pen.text((left + self.text_size * 6, y), figure, font=plain, fill=_INK)
            room = width - left - _MARGIN - self.text_size * 10
            for line in _wrapped(pen, detail, plain, room, 1):
                pen.text((left + self.text_size * 10, y), line, font=plain, fill=_QUIET)
            y += int(self.text_size * 1.7)

    def _figures(self) -> list[tuple[str, str, str]]:
        rows = []
        for name, figure in (
            ("Identity", self.result.identity),
            ("Prompt", self.result.prompt),
            ("Detect", self.result.detect),
        ):
            if figure is None:
                rows.append((name, "–", "no face found" if name == "Identity" else "no CLIP given"))
                continue
            between = "" if figure.low is None else f"{figure.low:.2f} to {figure.high:.2f} (95 %), "
            rows.append((name, f"{figure.value:.3f}", f"{between}{figure.count} pictures"))
        return rows

    def _draw_row(self, sheet: Image.Image, pen: ImageDraw.ImageDraw, row: _Row, top: int, width: int) -> None:
        if top + self.cell < sheet.height:
            pen.line((_MARGIN, top - _GAP // 2 - 1, width - _MARGIN, top - _GAP // 2 - 1), fill=_LINE)
        font = self.font
        lines = max(2, self.cell // int(self.text_size * 1.4) - 1)
        for index, line in enumerate(_wrapped(pen, _clean(row.prompt), font, self.side - 8, lines)):
            pen.text((_MARGIN, top + int(index * self.text_size * 1.4)), line, font=font, fill=_INK)
        for column, place in enumerate(self.columns):
            x = self._column(column)
            if place not in row.cells:
                pen.rectangle((x, top, x + self.cell - 1, top + self.cell - 1), fill=_EMPTY)
                continue
            picture, scores = row.cells[place]
            _paste(sheet, picture, (x, top), self.cell)
            caption, color = _caption(scores)
            pen.text((x + self.cell // 2, top + self.cell + 5), caption, font=font, fill=color, anchor="ma")


def _words(item: ImageToEvaluate) -> tuple[str, ...]:
    return (item.word,) if isinstance(item.word, str) else item.word


def _caption(scores: ImageScores) -> tuple[str, tuple[int, int, int]]:
    prompt = "" if scores.prompt_score is None else f"prompt {scores.prompt_score:.2f}"
    if scores.identity is None:
        return ("no face" + (f" · {prompt}" if prompt else "")), _WARN
    return (f"identity {scores.identity:.2f}" + (f" · {prompt}" if prompt else "")), _QUIET


def _paste(sheet: Image.Image, picture: Pixels, corner: tuple[int, int], side: int) -> None:
    """Fit an image into a square without cropping it, centered on gray."""
    image = Image.fromarray(picture)
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    square = Image.new("RGB", (side, side), _EMPTY)
    square.paste(image.resize(size, Image.Resampling.LANCZOS), ((side - size[0]) // 2, (side - size[1]) // 2))
    sheet.paste(square, corner)


def _clean(text: str) -> str:
    """One line without control characters, which fonts draw as boxes and which break the layout."""
    return " ".join("".join(" " if unicodedata.category(char)[0] == "C" else char for char in text).split())


def _wrapped(pen: ImageDraw.ImageDraw, text: str, font: Any, width: int, most: int) -> list[str]:
    """Wrap ``text`` into at most ``most`` lines no wider than ``width``. Long words are broken, the rest becomes "…"."""
    lines: list[str] = []
    line = ""
    for word in text[:_MAX_CAPTION].split(" "):
        if len(lines) > most:
            break
        candidate = f"{line} {word}".strip()
        if pen.textlength(candidate, font=font) <= width:
            line = candidate
            continue
        if line:
            lines.append(line)
        line = word
        while pen.textlength(line, font=font) > width and len(line) > 1:
            fits = _fitting(pen, line, font, width)
            lines.append(line[:fits])
            line = line[fits:]
    lines.append(line)
    if len(lines) > most:
        last = lines[most - 1]
        while last and pen.textlength(last + "…", font=font) > width:
            last = last[:-1]
        lines = [*lines[: most - 1], last.rstrip() + "…"]
    return lines


def _fitting(pen: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> int:
    """How many characters of ``text`` fit into ``width``, at least one; the whole ``text`` is too wide."""
    fits, too_many = 1, len(text)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if pen.textlength(text[:middle], font=font) <= width:
            fits = middle
        else:
            too_many = middle
    return fits


def page_font(size: int, *, bold: bool = False) -> Any:
    """DejaVu Sans, which matplotlib ships and which covers most alphabets; otherwise Pillow's own font."""
    try:
        import matplotlib

        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        return ImageFont.truetype(str(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")), size)
    except (ImportError, OSError):
        return ImageFont.load_default()
