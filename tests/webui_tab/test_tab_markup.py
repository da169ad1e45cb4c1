"""The HTML of the page, read back with a parser: nothing that a user typed becomes markup."""

from __future__ import annotations

from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.people import PNG, person

from celeb_basis.basis import BasisSummary
from celeb_basis.events import PersonProgress, StepDone
from celeb_basis.faces.network import DetectedFace
from celeb_basis.identities.library import IdentityStatus
from celeb_basis.webui.jobs import Job
from celeb_basis.webui.schemas import FoundFace, FoundFaces, SavedRun
from celeb_basis.webui.ui import markup

EVIL = '"><script>alert(1)</script>&'


class Page(HTMLParser):
    """Elements with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def having(self, attribute: str) -> list[str | None]:
        return [known[attribute] for _, known in self.elements if attribute in known]


def no_script(pages: Iterable[str]) -> None:
    for html in pages:
        assert not [tag for tag, _ in Page(html).elements if tag == "script"]


def found(count: int) -> FoundFaces:
    faces = tuple(
        FoundFace(DetectedFace((20.0 * i, 5.0, 20.0 * i + 15, 30.0), np.zeros((5, 2), np.float32), 0.9), ())
        for i in range(count)
    )
    return FoundFaces(np.zeros((50, 100, 3), np.uint8), faces, "")


def entry(name: str, reason: str = "", problem: str = "", thumbnail: bytes | None = PNG) -> IdentityStatus:
    identity = None if problem else person("ada", thumbnail=thumbnail, consent=EVIL)
    return IdentityStatus(name, Path(f"{name}.safetensors"), identity, problem, reason or problem)


def titled(title: str) -> Image.Image:
    image = Image.new("RGB", (8, 8))
    image.info["title"] = title
    return image


def summary(name: str) -> BasisSummary:
    report = {"dropped": [{"name": name, "reason": name}], "counts": {name: 1}}
    return BasisSummary(name, 768, 2, 9, 1, (1.0, 1.0), ((0.7, 0.3), (0.6, 0.4)), report, "ab" * 32, False)


def running(step: int = 3, total: int = 10) -> Job:
    job = Job("learn", (EVIL,))
    job.set_state("running")
    near = {EVIL: PersonProgress(0.5, 1.25, (("Zoë Saldaña", 0.42), (EVIL, 0.4)))}
    job.add_event(StepDone(step, total, 0.2, 0.25, near, 75.0))
    return job


def test_user_input_is_escaped_everywhere() -> None:
    no_script(
        [
            markup.note(EVIL, "error"),
            markup.photo(found(2), 0, "pick", EVIL),
            markup.thumbnails([(EVIL, found(1).picture)], 0, "pick"),
            markup.progress(running(), "poll", EVIL),
            markup.cards([entry(EVIL, reason=EVIL), entry("b", problem=EVIL)], EVIL, "pick", 9),
            markup.person(entry(EVIL, reason=EVIL)),
            markup.person(entry(EVIL, problem=EVIL)),
            markup.images([titled(EVIL)], EVIL, 64),
            markup.metrics({"notes": [EVIL]}),
            markup.basis(summary(EVIL), 0),
            markup.shares([(EVIL, 1.0)]),
            markup.downloads([(EVIL, b"")]),
            markup.completions(EVIL, [EVIL]),
            markup.quiet(EVIL),
        ]
    )
    assert Page(markup.person(entry(EVIL))).having("data-word") == [f"<{EVIL}>"] * 2
    assert Page(markup.downloads([(EVIL, b"")])).having("download") == [EVIL]
    assert Page(markup.completions(EVIL, [])).having("data-query") == [EVIL]


def test_errors_are_announced_and_an_empty_note_is_empty() -> None:
    assert Page(markup.note("Wrong.", "error")).having("role") == ["alert"]
    assert Page(markup.note("Done.", "good")).having("role") == ["status"]
    assert markup.note("") == ""


def test_faces_are_numbered_from_one_and_one_is_selected() -> None:
    page = Page(markup.photo(found(3), 1, "pick_face", "six.jpg"))
    assert page.having("data-value") == ["1", "2", "3"]
    assert set(page.having("data-pick")) == {"pick_face"}
    assert [known["class"] for tag, known in page.elements if tag == "g"] == ["other", "chosen", "other"]
    frames = [known for tag, known in page.elements if known.get("class") == "frame"]
    assert [float(str(frame["x"])) for frame in frames] == [0, 20, 40]
    assert page.having("aria-label") == ["six.jpg: 3 faces found, face 2 selected"]
    assert Page(markup.photo(found(0), 0, "p", "x")).having("aria-label") == ["x: no face found"]


def test_progress_of_a_run() -> None:
    page = Page(markup.progress(running(), "poll_button", "idle"))
    assert page.having("data-poll") == ["poll_button"]
    assert page.having("data-active") == ["1"]
    assert page.having("aria-valuenow") == ["30"]
    for part in ("3 of 10", "about 1 min 15 s left", "loss 0.2500"):
        assert part in page.text
    details = Page(markup.whereabouts(running())).text
    assert "Zoë Saldaña 0.42" in details
    assert "1.25" in details
    assert not page.having("data-word"), "nothing to send before the end"


def test_progress_without_a_job() -> None:
    page = Page(markup.progress(None, "poll", "Drop a photo."))
    assert page.having("data-active") == ["0"]
    assert "Drop a photo." in page.text
    page = Page(markup.progress(None, "poll", ("Drop a photo.", "Write <name>.")))
    assert page.text.index("Drop a photo.") < page.text.index("Write")


def test_the_face_stays_beside_the_progress() -> None:
    job = running()
    assert not Page(markup.progress(job, "poll", "")).having("src")
    job.faces = {"ada": np.full((300, 300, 3), 200, np.uint8)}
    (uri,) = Page(markup.progress(job, "poll", "")).having("src")
    assert uri is not None
    assert uri.startswith("data:image/jpeg")


@pytest.mark.parametrize(("state", "role"), [("failed", "alert"), ("interrupted", "status")])
def test_how_a_run_ended_is_shown(state: str, role: str) -> None:
    job = running()
    job.set_state(state, "Because of that.")  # type: ignore[arg-type]
    page = Page(markup.progress(job, "poll", ""))
    assert page.having("data-active") == ["0"]
    assert "Because of that." in page.text
    assert role in page.having("role")
    assert not page.having("data-word")


def test_a_resumed_run_waits() -> None:
    job = running()
    job.set_state("queued")
    page = Page(markup.progress(job, "poll", ""))
    assert page.having("data-active") == ["1"]
    assert "Waiting for its turn" in page.text
    assert "Learning" not in page.text
    assert "left" not in page.text


def test_a_learned_person_can_be_sent_to_a_prompt() -> None:
    job = Job("learn", ("ada", "bob"))
    job.set_state("done")
    page = Page(markup.progress(job, "poll", ""))
    assert page.having("aria-valuenow") == ["100"]
    assert page.having("data-word") == ["<ada>", "<ada>", "<bob>", "<bob>"]
    assert page.having("data-to") == ["txt2img", "img2img"] * 2


def test_the_script_learns_of_new_people_once() -> None:
    job = Job("learn", ("ada",))
    assert not Page(markup.progress(job, "poll", "")).having("data-changed")
    job.set_state("done")
    assert Page(markup.progress(job, "poll", "")).having("data-changed") == [job.id]
    changed = [Page(markup.note("Saved.", people_changed=True)).having("data-changed") for _ in range(2)]
    assert changed[0] != changed[1]
    assert not Page(markup.note("Saved.")).having("data-changed")
    old = Job("learn", ("ada",))
    old.set_state("done")
    old._events[-1]["time"] -= 3600
    assert not Page(markup.progress(old, "poll", "")).having("data-changed"), (
        "a page that is opened later has the cards already"
    )


def test_interrupted_runs_can_be_resumed_and_are_discarded_after_a_question() -> None:
    assert markup.runs([], "", "pick") == ""
    saved = [
        SavedRun("0123456789ab", ("ada", EVIL), "v1-5", 1200, 4000, "2026-11-28T05:11:00+00:00"),
        SavedRun("ba9876543210", ("bob",), "", 0, 0, ""),
    ]
    page = Page(markup.runs(saved, "", "pick"))
    assert page.having("data-pick") == ["pick"] * 4
    assert page.having("data-value") == [
        "resume:0123456789ab", "ask:0123456789ab", "resume:ba9876543210", "ask:ba9876543210",
    ]  # fmt: skip
    assert "1,200 of 4,000 steps · on v1-5 · 28 November 2026, 05:11 UTC" in page.text
    assert "before its first step" in page.text
    asked = Page(markup.runs(saved, "0123456789ab", "pick"))
    assert asked.having("data-value")[:2] == ["discard:0123456789ab", "keep:0123456789ab"]
    no_script([markup.runs(saved, "", "pick")])


def test_what_is_not_known_yet_names_the_button_that_asks_again() -> None:
    assert Page(markup.unknown("Later.", "ask")).having("data-unknown") == ["ask"]
    assert not Page(markup.quiet("Later.")).having("data-unknown")


def test_cards_say_why_a_person_is_unavailable() -> None:
    page = Page(markup.cards([entry("ada"), entry("bob", reason="Made for another width.")], "ada", "pick", 5))
    assert page.having("data-value") == ["ada", "bob"]
    assert page.having("aria-pressed") == ["true", "false"]
    assert "Made for another width." in page.text
    assert "3 more" in page.text
    assert "No people yet" in Page(markup.cards([], "", "pick", 0)).text
    assert "No person matches" in Page(markup.cards([], "", "pick", 4)).text


def test_only_available_people_are_sent_to_prompts() -> None:
    assert Page(markup.person(entry("ada"))).having("data-word") == ["<ada>", "<ada>"]
    assert not Page(markup.person(entry("ada", reason="Made for another width."))).having("data-word")


def test_a_person_says_how_they_were_steered() -> None:
    steps = {
        "operation": "steer",
        "person": "ada",
        "celebrities": [["Marie <Curie>", 0.3]],
        "groups": [["women", -0.25]],
    }
    moved = {"operation": "toward mean", "person": "eve", "amount": 0.1, "of": steps}
    for settings in (steps, moved):
        identity = person("eve", source="blended", settings=settings)
        shown = markup.person(IdentityStatus("eve", Path("eve.safetensors"), identity, ""))
        assert "more like Marie &lt;Curie&gt; (0.3), away from women (0.25)" in shown
        assert "blended from ada (100%)" in shown
    assert "Steered" not in markup.person(entry("ada"))


def test_thumbnails_have_their_media_type() -> None:
    assert markup.picture_uri(PNG).startswith("data:image/png;base64,")
    assert markup.picture_uri(b"\xff\xd8\xff\xe0").startswith("data:image/jpeg;base64,")
    assert markup.picture_uri(b"RIFF\0\0\0\0WEBP").startswith("data:image/webp;base64,")
    without = Page(markup.cards([entry("ada", thumbnail=None)], "", "pick", 1))
    assert not [tag for tag, _ in without.elements if tag == "img"]


def test_an_evaluation_shows_its_metrics_and_only_the_contact_sheet() -> None:
    job = Job("evaluate", ("ada",))
    job.pictures = tuple(Image.new("RGB", (8, 8)) for _ in range(20))
    assert len([1 for tag, _ in Page(markup.job_results(job)).elements if tag == "img"]) == markup.MAX_IMAGES
    job.result = {
        "identity": None,
        "prompt": {"value": 0.25, "low": None, "high": None},
        "detect": {"value": 0.5, "low": 0.25, "high": 0.75},
        "notes": ["Identity cannot be measured."],
        "sheet": 19,
    }
    page = Page(markup.job_results(job))
    assert page.having("alt") == ["contact sheet"]
    for part in ("0.250", "0.500", "0.250 to 0.750", "Identity cannot be measured."):
        assert part in page.text
