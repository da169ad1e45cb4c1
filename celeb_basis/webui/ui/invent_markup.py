"""The HTML of the sub-tab *Invent*: the sheet, the chosen person, and the message that one was saved."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from celeb_basis.templating import generated_image_uri, render

if TYPE_CHECKING:
    from celeb_basis.identities.identity import Identity
    from celeb_basis.webui.jobs import Job

_TILE = 256
"""Side in pixels of an invented person's image."""
_MARKS = (
    ("more", "More", "The next people are to resemble this one"),
    ("less", "Less", "The next people are not to resemble this one"),
    ("keep", "Keep", "This one stays; the others are invented again"),
)


def sheet(job: Job, pick: str) -> Markup:
    """The sheet of a job that invents people: a face to choose for each, with boxes for more, less and keep.

    Args:
        job: The job.
        pick: Id of the hidden text that receives the job's id and a number, ``"3f2a:4"``.
    """
    people = getattr(job.outcome, "people", ())
    if not people:
        return Markup()
    faces = job.outcome.faces or ()
    shown = [
        {
            "number": place + 1,
            "name": one.name,
            "image": generated_image_uri(job.pictures[place], _TILE) if place < len(job.pictures) else None,
            "face": faces[place] if place < len(faces) else None,
            "marks": ("keep",) if place + 1 in job.outcome.kept else (),
        }
        for place, one in enumerate(people)
    ]
    return _render(
        "invented",
        people=shown,
        sheet=job.id,
        pick=pick,
        ended=job.finished,  # earlier, the next image would take a choice away
        marks=_MARKS if job.finished and job.pictures else (),
        faces=job.result.get("faces", ""),
        few=job.outcome.few,
    )


def chosen(one: Identity, number: int, celebrity: str, cosine: float) -> Markup:
    """What is known about the chosen person of a sheet.

    Args:
        one: The person.
        number: On the sheet.
        celebrity: The nearest celebrity.
        cosine: To that celebrity.
    """
    recipe = one.metadata.settings
    halves = " and ".join(recipe.get("vectors_of", ()))
    rows = [
        ("Chosen", f"number {number}"),
        ("Made of", halves),
        ("Nearest celebrity", f"{celebrity} (cosine {cosine:.2f})"),
        ("Seed", str(recipe.get("seed", ""))),
    ]
    return _render("facts", rows=rows)


def saved(sentence: str, token: str) -> Markup:
    """A message that a person was saved, with the buttons that use the person."""
    return _render("saved", sentence=sentence, token=token, changed=uuid.uuid4().hex)


def _render(template: str, **context: Any) -> Markup:
    return render("celeb_basis.webui.ui", f"{template}.html.jinja", **context)
