"""The sheet of invented people: their images side by side, and in how many of them a face is found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from celeb_basis.errors import CelebBasisError
from celeb_basis.evaluation.contact_sheet import page_font
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.packs import MINIATURE, find_pack
from celeb_basis.provenance import generated_image_bytes, marked, reduced, words_in

if TYPE_CHECKING:
    from celeb_basis.identities.identity import Identity

THUMBNAIL = 256
"""Side in pixels of the picture that a person's file keeps."""

FEW_FACES = 2 / 3
"""Share of faces below which the checkpoint seems not to know the celebrities."""

_REMEDY = "use another checkpoint, or a list of names that it knows"
_GAP, _LINE, _TEXT = 12, 26, 15
_PAPER, _INK, _WARN = (250, 250, 248), (29, 36, 48), (163, 63, 0)


def faces_in(pictures: Sequence[Image.Image]) -> tuple[bool, ...] | None:
    """Whether each picture shows a face, by the small detector that ships: nothing is downloaded and no license is needed.

    Returns:
        ``None`` where the packages of face detection are not installed.
    """
    try:
        network = InsightFaceNetwork(find_pack(MINIATURE).folder)
        return tuple(bool(network.detect(np.asarray(one.convert("RGB"), np.uint8))) for one in pictures)
    except CelebBasisError:
        return None


def few_faces(found: Sequence[bool] | None) -> bool:
    """Whether so few images show a face that the checkpoint seems not to know the celebrities."""
    return found is not None and sum(found) < FEW_FACES * len(found)


def faces_sentence(found: Sequence[bool] | None, checkpoint: str) -> str:
    """In how many images there is a face, and what to do if they are few; empty where that is not known.

    Args:
        found: From :func:`faces_in`.
        checkpoint: The checkpoint's name.
    """
    if not found:
        return ""
    count, total = sum(found), len(found)
    images = "image" if total == 1 else f"{total} images"
    sentence = (
        f"A face was found in {count} of {images}." if total > 1 else f"A face was {'' if count else 'not '}found."
    )
    if few_faces(found):
        sentence += f" {checkpoint} seems to know few of the celebrities: {_REMEDY}."
    return sentence


def thumbnail(picture: Image.Image) -> bytes:
    """A small PNG file for the person's identity, marked as generated."""
    return generated_image_bytes(reduced(picture, THUMBNAIL))


def invented_sheet(
    people: Sequence[Identity], pictures: Sequence[Image.Image], found: Sequence[bool] | None = None
) -> Image.Image:
    """Lay the images out in rows of three, each with its number and the suggested name.

    Args:
        people: The invented people.
        pictures: An image of each.
        found: From :func:`faces_in`.
    """
    columns = min(3, len(pictures))
    rows = -(-len(pictures) // columns)
    pitch = THUMBNAIL + _GAP
    sheet = Image.new("RGB", (_GAP + columns * pitch, _GAP + rows * (pitch + _LINE)), _PAPER)
    pen, font = ImageDraw.Draw(sheet), page_font(_TEXT)
    for place, (one, picture) in enumerate(zip(people, pictures, strict=True)):
        left, top = _GAP + place % columns * pitch, _GAP + place // columns * (pitch + _LINE)
        small = reduced(picture, THUMBNAIL)
        sheet.paste(small, (left + (THUMBNAIL - small.width) // 2, top + (THUMBNAIL - small.height) // 2))
        missing = found is not None and not found[place]
        caption = f"{place + 1}  {one.name}" + (" (no face)" if missing else "")
        pen.text((left, top + THUMBNAIL + 5), caption, font=font, fill=_WARN if missing else _INK)
    words = dict.fromkeys(word for picture in pictures for word in words_in(picture))
    return marked(sheet, tuple(words))
