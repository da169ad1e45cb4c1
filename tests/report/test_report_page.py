"""The report's page: everything is on it, text stays text, and nothing is loaded from the network."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import io
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from celeb_basis.errors import FileError
from celeb_basis.evaluation import EvaluationResult, ImageScores
from celeb_basis.evaluation.metrics import mean_estimate, share_estimate
from celeb_basis.report import (
    Report,
    ReportBasis,
    ReportCommand,
    ReportFile,
    ReportLoss,
    ReportModel,
    ReportPerson,
    ReportPhoto,
    ReportPicture,
    ReportScale,
    ReportStage,
    render_report,
    write_report,
)

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "</style><script>alert(1)</script>\"' onload=x <img src=http://evil.example/x> &amp; \x00\ud800\u202e${y} \\"
VOID = {"meta", "img", "br", "link", "input", "hr"}
SVG_LEAVES = {"rect", "circle", "image", "path", "use"}


class Page(HTMLParser):
    """What a browser would make of the page: elements, attributes and text; complains of tags left open."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.tags.append((tag, found))
        if "id" in found:
            self.ids.append(found["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]


def person(name: str = "anna") -> ReportPerson:
    picture = np.zeros((120, 200, 3), np.uint8)
    picture[:, :100] = (250, 10, 10)
    photo = ReportPhoto(
        f"{name}.jpg",
        picture,
        box=(20.0, 30.0, 60.0, 90.0),
        landmarks=np.array([[30, 50], [50, 50], [40, 60], [32, 75], [48, 75]], np.float32),
        others=[(120.0, 10.0, 150.0, 60.0)],
        crop=picture[:, :120],
        warnings=[f"{name} is blurred."],
    )
    return ReportPerson(
        name,
        f"<{name}>",
        [photo],
        3.05,
        [("Nina Simone", 0.21), ("Björk", -0.1)],
        [50, 75],
        [0.3, 0.01],
        f"{name} is done.",
    )


def full_report(name: str = "anna", **changes: object) -> Report:
    judged = (ImageScores("", name, 1, 1, 0.4, None),)
    report = Report(
        title=f"Title of {name}",
        summary=f"Summary of {name}.",
        model=ReportModel(f"model {name}", "sd1", note=f"Note on {name}."),
        people=[person(name), person("second")],
        loss=ReportLoss([1, 2, 3], [0.3, 0.2, 0.1], [0.3, 0.25, 0.2]),
        settled=0.02,
        basis=ReportBasis([[0.5, 0.25], [0.4, 0.1]], 1187, 73, 512, [0.9, 1.0, 1.2]),
        pictures=[
            ReportPicture(
                np.full((64, 64, 3), 90, np.uint8), f"a photo of {name}", 7, {f"steps {name}": 20}, name, 0.4, 0.2
            )
        ],
        verdict=EvaluationResult(
            mean_estimate([0.4, 0.5]), None, share_estimate(1, 2), "largest", "small", None, judged
        ),
        files=[ReportFile(f"out/{name}.safetensors", 18_244, "ab" * 32, f"identity of {name}")],
        stages=[ReportStage(f"Learning {name}", 40.0), ReportStage("Drawing", 20.0)],
        settings={"early_stop": True, "learning_rate": 0.01, name: name},
        commands=[ReportCommand(f"celeb-basis generate {name}", f"Draw {name}.")],
        date=f"today {name}",
        version=f"1 {name}",
    )
    return dataclasses.replace(report, **changes)  # type: ignore[arg-type]


def test_everything_is_on_the_page() -> None:
    page = Page(rendered())
    for words in (
        "Title of anna", "Summary of anna.", "<anna>", "<second>", "model anna", "anna.jpg", "anna is blurred.",
        "anna is done.",
        "Nina Simone", "0.210", "Björk", "1,187", "73 more", "a photo of anna", "seed 7", "steps anna 20", "identity 0.400",
        "out/anna.safetensors", "18.2 kB", "ab" * 32, "Learning anna", "40 s", "1 min 0 s", "early_stop yes",
        "learning_rate 0.01", "celeb-basis generate anna", "Draw anna.", "today anna", "0.450", "no CLIP was given",
        "settled below 0.02", "anna 3.05", "75%",
    ):  # fmt: skip
        assert words in page.text, words
    assert [tag for tag, _ in page.tags].count("h1") == 1
    headings = [words for tag, words in zip_headings(rendered()) if tag == "h2"]
    assert headings == [
        "Results", "The run", "Photos", "Learned people", "Files written", "Time spent", "Celeb basis",
        "Settings", "Next steps",
    ]  # fmt: skip


@functools.cache
def rendered(name: str = "anna") -> str:
    return render_report(full_report(name))


def zip_headings(source: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    class Headings(HTMLParser):
        def handle_data(self, data: str) -> None:
            if self.lasttag in ("h1", "h2", "h3") and data.strip():
                found.append((self.lasttag, data))

    Headings().feed(source)
    return found


def test_hostile_text_stays_text() -> None:
    source = rendered(HOSTILE)
    page = Page(source)
    plain = Page(rendered())
    # The same elements with the same attributes in the same order: no name became markup.
    assert [(tag, sorted(attrs)) for tag, attrs in page.tags] == [(tag, sorted(attrs)) for tag, attrs in plain.tags]
    assert not {"script", "iframe", "object", "link"} & {tag for tag, _ in page.tags}
    assert not [key for _, attrs in page.tags for key in attrs if key.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") > 10
    assert "\x00" not in source
    assert "\u202e" not in source
    source.encode("utf-8")


def test_nothing_is_loaded_from_the_network() -> None:
    page = Page(rendered(HOSTILE))
    for tag, attrs in page.tags:
        for key in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            if key in attrs:
                assert attrs[key].startswith(("data:image/jpeg;base64,", "#")), (tag, key, attrs[key][:80])
    source = rendered()
    assert "@import" not in source
    assert "http" not in source.replace("http-equiv", "").replace("http://www.w3.org/", "")
    policy = next(
        attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")


def test_inner_references_hold_and_ids_are_unique() -> None:
    page = Page(rendered())
    assert len(page.ids) == len(set(page.ids))
    pointed = [attrs[key][1:] for _, attrs in page.tags for key in ("href",) if attrs.get(key, "").startswith("#")]
    clips = [attrs["clip-path"][5:-1] for _, attrs in page.tags if "clip-path" in attrs]
    assert pointed
    assert clips
    assert set(pointed) | set(clips) <= set(page.ids)
    assert [tag for tag, _ in page.tags].count("style") == 1  # a chart's own style sheet would hold for the whole page


def test_everything_seen_can_be_read_aloud() -> None:
    page = Page(rendered())
    assert all(attrs.get("alt") for attrs in page.all("img"))
    pictures = page.all("svg")
    assert len(pictures) == 2 + 4  # two photos; gauge, loss, movement, variance
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for attrs in pictures)
    assert page.all("html")[0]["lang"] == "en"
    assert "width=device-width" in rendered()


def test_pictures_are_the_pictures() -> None:
    page = Page(rendered())
    photo = page.all("image")[0]
    with Image.open(io.BytesIO(base64.b64decode(photo["href"].split(",")[1]))) as read:
        assert read.size == (200, 120)
        left, right = read.getpixel((40, 60)), read.getpixel((160, 60))
    assert left[0] > 240
    assert max(right) < 12
    frame = next(attrs for attrs in page.all("rect") if attrs["class"] == "chosen")
    assert [float(frame[key]) for key in ("x", "y", "width", "height")] == [20, 30, 40, 60]
    assert len([attrs for attrs in page.all("circle") if attrs.get("class") == "mark"]) == 2 * 5


def test_everyones_images_stand_beside_the_photo_and_before_everything_else() -> None:
    def image(*words: str) -> ReportPicture:
        return ReportPicture(np.zeros((8, 8, 3), np.uint8), f"a photo of {' and '.join(words)}", 1, words=words)

    pictures = [image("<second>"), image("<anna>"), image("<anna>", "<second>"), image("<anna>")]
    source = render_report(full_report(pictures=pictures))
    alts = [attrs["alt"] for attrs in Page(source).all("img")]
    assert alts[:7] == [
        "The photo of anna",
        *["Generated from the prompt: a photo of <anna>"] * 2,
        "The photo of second",
        "Generated from the prompt: a photo of <second>",
        "Generated from the prompt: a photo of <anna> and <second>",
        "Square crop around the face in anna.jpg",
    ]
    nobody = dataclasses.replace(person("vera"), photos=(), invented=True)
    assert (
        "<vera> invented: nobody's photo"
        in Page(render_report(full_report(people=[nobody], pictures=[image("<vera>")]))).text
    )
    resumed = dataclasses.replace(person(), photos=())
    alts = [attrs["alt"] for attrs in Page(render_report(full_report(people=[resumed], pictures=pictures))).all("img")]
    assert "The photo of anna" not in alts
    assert len(alts) == 4


def test_identity_is_shown_between_anybody_and_the_models_own_celebrities() -> None:
    page = Page(render_report(full_report(scale=ReportScale(0.11, 0.625))))
    assert "For comparison: anybody 0.110, the model's own celebrities 0.625." in page.text
    assert [attrs["style"] for attrs in page.all("u")] == ["left:11.0%", "left:62.5%"]
    assert page.all("i")[0]["style"] == "width:45.0%"
    low = [attrs["style"] for attrs in page.all("b")]
    assert len(low) == 2
    assert all(one.startswith("left:") and "right:" in one for one in low)
    assert "For comparison" not in Page(rendered()).text


def test_large_photos_are_shrunk() -> None:
    huge = np.random.default_rng(0).integers(0, 256, (1500, 3000, 3), dtype=np.uint8)
    one = ReportPerson("a", "<a>", [ReportPhoto("a.jpg", huge, (0, 0, 3000, 1500))])
    page = Page(render_report(full_report(people=[one])))
    photo = page.all("image")[0]
    with Image.open(io.BytesIO(base64.b64decode(photo["href"].split(",")[1]))) as read:
        assert read.size == (1024, 512)
    assert (photo["width"], photo["height"]) == ("3000", "1500")  # boxes stay in the photo's own pixels


def test_an_untrained_model_is_pointed_out() -> None:
    trained = rendered()
    untrained = Page(render_report(full_report(model=ReportModel("tiny", "sd1", trained=False)))).text
    assert "noise" not in trained.replace("amount of noise", "")
    assert "The generated images below are noise" in untrained
    assert "tiny has never been trained: its weights are random numbers" in untrained
    assert "Stable Diffusion 1, untrained" in untrained


def test_bare_report_has_no_empty_sections() -> None:
    source = render_report(Report("T", "S", ReportModel("m", "sd2")))
    assert [words for tag, words in zip_headings(source) if tag != "h1"] == ["The run"]
    one = render_report(Report("T", "S", ReportModel("m", "other"), people=[ReportPerson("a", "<a>")]))
    assert "<section>" not in one  # but for the facts of the run
    Page(one)


def test_bars_are_shares_of_the_longest() -> None:
    stages = [ReportStage("a", 10.0), ReportStage("b", 2.5), ReportStage("c", 0.0)]
    page = Page(render_report(Report("T", "S", ReportModel("m", "sd1"), stages=stages)))
    assert [attrs["style"] for attrs in page.all("i")] == ["width:100.0%", "width:25.0%", "width:0.0%"]


def test_written_whole_and_repeatable(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_report(path, full_report(HOSTILE))
    first = path.read_bytes()
    write_report(path, full_report(HOSTILE))
    assert path.read_bytes() == first
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError):
        write_report(tmp_path / "file" / "report.html", full_report())


def test_files_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc" * 1000)
    measured = ReportFile.of(path, "three thousand bytes")
    assert (measured.path, measured.size) == (str(path), 3000)
    assert measured.sha256 == hashlib.sha256(b"abc" * 1000).hexdigest()
    with pytest.raises(FileError):
        ReportFile.of(tmp_path / "missing")
