"""The HTML of the likeness at the end of learning: images, a bar from anybody to the checkpoint's celebrities, sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from celeb_basis.templating import generated_image_uri, render
from celeb_basis.webui.ui import markup
from celeb_basis.webui.ui.learn_form import PRESET_LABELS

if TYPE_CHECKING:
    from celeb_basis.webui.jobs import Job

_SIDE = 192
"""Longest side in pixels of an image: four stand in a row."""


def results(job: Job) -> Markup:
    """What a learning job shows: the likeness where it was measured, below it the previews of the run."""
    chosen = PRESET_LABELS.get(job.result.get("preset", ""), "")
    remark = markup.quiet(f"Automatic chose the preset {chosen}.") if chosen else Markup()
    measured = [row for row in job.result.get("people", ()) if row.get("likeness")]
    if not measured:
        return remark + markup.job_results(job)
    used = {number for row in measured for number in row["likeness"]["images"]}
    previews = [picture for number, picture in enumerate(job.pictures) if number not in used]
    shown = Markup().join(likeness(row, job.pictures, several=len(measured) > 1) for row in measured)
    return shown + remark + _render("previews", images=markup.images(previews[-markup.MAX_IMAGES :], "preview", _SIDE))


def likeness(person: dict[str, Any], pictures: tuple[Any, ...], *, several: bool) -> Markup:
    """The likeness of one person.

    Args:
        person: Of a job's result.
        pictures: All images of the job.
        several: Whether there are other people beside this one.
    """
    measured = person["likeness"]
    images = [pictures[number] for number in measured["images"] if number < len(pictures)]
    share = measured["share"]
    figure, *others = measured["sentences"]
    if 0 < measured["faces"] < measured["pictures"]:
        others.append(f"A face was found in {measured['faces']} of {measured['pictures']} images.")
    if measured["prompt"] is not None:
        others.append(f"Prompt: {measured['prompt']:.3f} ({measured['clip']}).")
    return _render(
        "likeness",
        token=person["word"] if several else "",
        images=[(generated_image_uri(image, _SIDE), str(image.info.get("title", person["word"]))) for image in images],
        percent=None if share is None else 100 * min(max(share, 0.0), 1.0),
        verdict=measured["verdict"],
        figure=figure,
        others=others,
    )


def _render(template: str, **context: Any) -> Markup:
    return render("celeb_basis.webui.ui", f"{template}.html.jinja", **context)
