"""The sub-tab *Invent* without a browser: what its handlers answer, and the HTML of the sheet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from celeb_basis.errors import IdentityError, NamesError
from celeb_basis.identities.identity import Identity, IdentityMetadata
from celeb_basis.webui.jobs import Job
from celeb_basis.webui.tasks.invent import Sheet
from celeb_basis.webui.ui import invent_markup


def person(name: str, seed: int = 1) -> Identity:
    rows = np.full((2, 3), seed, np.float32)
    metadata = IdentityMetadata(source="invented", settings={"seed": seed, "vectors_of": ["Ada <A>", "Ben B"]})
    return Identity(name, ("clip_l",), (rows,), (rows,), metadata)


def sheet_job(pictures: int = 2, *, done: bool = True) -> Job:
    job = Job("invent", ())
    job.outcome = Sheet(
        tuple(person(name, seed) for seed, name in enumerate(("Mira & Co", "Ben"))), (("Ada <A>", 0.71),) * 2
    )
    job.outcome.faces = (True, False)[:pictures]
    job.pictures = tuple(Image.new("RGB", (8, 8)) for _ in range(pictures))
    job.result = {"faces": "A face was found in 1 of 2 images."}
    if done:
        job.set_state("done")
    return job


@pytest.fixture
def tab(build: Callable[..., Any]) -> Any:
    job = sheet_job()
    asked: list[Any] = []
    service = SimpleNamespace(
        asked=asked,
        invent=lambda request: asked.append(request) or job,
        job=lambda _id: job,
        jobs=lambda: [job],
        inventing=SimpleNamespace(groups=lambda: ("men", "women"), person=lambda _id, n: job.outcome.people[n - 1]),
        people=SimpleNamespace(
            check_name=lambda name, replace: "It is taken." if name == "Ada" and not replace else None
        ),
        save_invented=lambda job_id, number, name, replace: (
            asked.append((job_id, number, name, replace)) or SimpleNamespace(placeholder_token=f"<{name}>")
        ),
    )
    return build("invent", service)


FORM = (["women"], 0.5, 1.1, 0.6, 0.3, "Gaussian: drawn around the mean celebrity", "{} at sea", 12.0, 6.5, 7.0, 3.0)


def test_the_form_and_the_marks_become_one_request(tab: Any) -> None:
    answer = tab.invent("more ab:4,keep ab:1,less ab:9", *FORM)
    (request,) = tab.service.asked
    assert (request.way, request.groups, request.leaning, request.distance) == ("gaussian", ("women",), 0.5, 1.1)
    assert (request.sheet, request.more, request.less, request.keep) == ("ab", (4,), (9,), (1,))
    assert (request.alike, request.unlike, request.prompt) == (0.6, 0.3, "{} at sea")
    assert (request.steps, request.guidance, request.seed, request.picture_seed) == (12, 6.5, 7, 3)
    assert answer[tab.chosen] == "", "nobody of the new sheet is chosen"
    assert answer[tab.view.status]


def test_an_emptied_seed_is_a_random_one(tab: Any) -> None:
    tab.invent("", *FORM[:-2], None, None)
    assert (tab.service.asked[0].seed, tab.service.asked[0].picture_seed, tab.service.asked[0].sheet) == (-1, 0, "")


def test_a_click_on_a_face_suggests_a_name_and_keeps_one_that_was_typed(tab: Any) -> None:
    answer = tab.choose("1:ab:2", "", "", False)
    assert (answer[tab.chosen], answer[tab.name], answer[tab.suggested]) == ("ab:2", "Ben", "Ben")
    assert "number 2" in answer[tab.details]
    assert tab.choose("2:ab:1", "Ben", "Ben", False)[tab.name] == "Mira & Co"
    assert tab.choose("2:ab:1", "my own", "Ben", False)[tab.name] == "my own"


def test_a_taken_name_is_said_while_it_is_typed(tab: Any) -> None:
    assert "It is taken." in tab.check_name("Ada", False)[tab.name_note]
    assert tab.check_name("Ada", True)[tab.name_note] == ""
    assert tab.check_name("", False)[tab.name_note] == ""


def test_saving_needs_a_chosen_face(tab: Any) -> None:
    with pytest.raises(IdentityError, match="click on a face"):
        tab.save("", "mira", False)
    answer = tab.save("ab:2", "mira", True)
    assert tab.service.asked == [("ab", 2, "mira", True)]
    assert "&lt;mira&gt; is saved" in answer[tab.save_note]
    assert 'data-word="&lt;mira&gt;"' in answer[tab.save_note]
    assert "data-changed" in answer[tab.save_note]


def test_groups_are_offered_and_a_broken_list_offers_none(tab: Any) -> None:
    answer = tab.refresh_groups(["women", "gone"])[tab.groups]
    assert (answer["choices"], answer["value"]) == (["men", "women"], ["women"])

    def broken() -> tuple[str, ...]:
        raise NamesError("The list is missing.")

    tab.service.inventing = SimpleNamespace(groups=broken)
    assert tab.refresh_groups(["women"])[tab.groups]["choices"] == []


# The sheet


def test_every_face_can_be_chosen_and_marked_and_names_are_escaped() -> None:
    html = str(invent_markup.sheet(job := sheet_job(), "the_pick"))
    assert html.count("<img") == html.count('type="radio"') == 2
    assert f'data-pick="the_pick" data-value="{job.id}:2"' in html
    assert f'data-mark="keep" value="{job.id}:1"' in html
    assert "Mira &amp; Co" in html
    assert html.count("no face found") == 1
    assert "1 of 2 images" in html


def test_a_running_sheet_has_places_for_the_images_to_come_and_no_marks() -> None:
    html = str(invent_markup.sheet(sheet_job(1, done=False), "pick"))
    assert html.count("<img") == 1
    assert html.count('class="blank"') == 1
    assert "data-mark" not in html
    assert "disabled" in html


def test_before_anybody_is_invented_there_is_nothing() -> None:
    assert str(invent_markup.sheet(Job("invent", ()), "pick")) == ""


def test_who_was_kept_stays_marked() -> None:
    job = sheet_job()
    job.outcome = replace(job.outcome, kept={2: job.pictures[1]})
    html = str(invent_markup.sheet(job, "pick"))
    assert html.count("checked") == 1


def test_the_chosen_person_says_whose_halves_they_are() -> None:
    html = str(invent_markup.chosen(person("Mira", 7), 3, "Ada <A>", 0.714))
    assert "Ada &lt;A&gt; and Ben B" in html
    assert "(cosine 0.71)" in html
