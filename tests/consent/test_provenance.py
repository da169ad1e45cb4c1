"""Every image of a learned person is marked in its file as generated, and with whom it shows."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from celeb_basis.evaluation.contact_sheet import contact_sheet, write_sheet
from celeb_basis.evaluation.metrics import EvaluationResult, ImageScores, ImageToEvaluate, share_estimate
from celeb_basis.provenance import marked, save_generated_image
from celeb_basis.report import Report, ReportModel, ReportPicture, render_report
from celeb_basis.templating import data_uri
from celeb_basis.webui.ui.markup import images

GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"


def said(file: Any) -> tuple[str, str, str]:
    """The source type, the description in the XMP packet, and the plain sentence that a picture file holds."""
    with Image.open(file) as image:
        image.load()
        packet = image.info.get("xmp") or image.info["XML:com.adobe.xmp"]
        plain = image.text["AI-generated person"] if image.format == "PNG" else image.info["comment"].decode("utf-8")
    tree = ElementTree.fromstring(
        re.sub(r"<\?xpacket.*?\?>", "", packet if isinstance(packet, str) else packet.decode())
    )
    (kind,) = tree.iter("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")
    (told,) = tree.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li")
    return str(kind.text), str(told.text), plain


def grey(side: int = 32) -> Image.Image:
    return Image.new("RGB", (side, side), "grey")


@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_a_file_says_that_it_is_generated_and_whom_it_shows(tmp_path: Path, name: str) -> None:
    save_generated_image(tmp_path / name, marked(grey(), ["<ada>", "<Zoë & bob>"]))
    kind, told, plain = said(tmp_path / name)
    assert kind == GENERATED
    assert told == plain
    assert "AI-generated picture of <ada> and <Zoë & bob>" in plain
    assert np.array_equal(np.asarray(Image.open(tmp_path / name)), np.asarray(grey()))


@pytest.mark.parametrize("name", ["sheet.png", "sheet.jpg"])
def test_a_contact_sheet_is_a_composite_with_a_photo(tmp_path: Path, name: str) -> None:
    pixels = np.full((32, 32, 3), 90, np.uint8)
    items = [ImageToEvaluate(pixels, f"{word} at sea", word, 0) for word in ("<ada>", "<bob>")]
    judged = tuple(ImageScores("", item.prompt, 0, 0, None, None) for item in items)
    verdict = EvaluationResult(None, None, share_estimate(0, 2), "largest", "small", None, judged)
    write_sheet(tmp_path / name, contact_sheet(items, verdict, reference=pixels))
    kind, _, plain = said(tmp_path / name)
    assert kind == COMPOSITE
    assert "<ada> and <bob>" in plain


def embedded(page: str) -> list[io.BytesIO]:
    return [io.BytesIO(base64.b64decode(data)) for data in re.findall(r"data:image/jpeg;base64,([\w+/=]+)", page)]


def test_pictures_in_a_report_and_on_the_tab_say_it_too() -> None:
    pixels = np.full((40, 40, 3), 90, np.uint8)
    drawn = ReportPicture(pixels, "a photo of <ada>", 7, words=["<ada>"])
    report = Report(title="t", summary="s", model=ReportModel("m", "sd1"), pictures=[drawn])
    for page in (render_report(report), images([marked(grey(), ["<ada>"])], "a picture", 20)):
        (file,) = embedded(page)
        kind, _, plain = said(file)
        assert kind == GENERATED
        assert "of <ada>," in plain


def test_a_photo_is_never_called_generated() -> None:
    (file,) = embedded(data_uri(np.full((40, 40, 3), 90, np.uint8), 40)[0])
    with Image.open(file) as image:
        assert "xmp" not in image.info
        assert "comment" not in image.info
