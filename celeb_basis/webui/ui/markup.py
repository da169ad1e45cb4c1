"""Pieces of HTML for the page. Whatever a user typed goes through :func:`text`. No gradio here.

Elements with ``data-pick`` put their ``data-value`` into the hidden text of that id; elements with ``data-word`` put a word
into a prompt; a ``data-poll`` names the hidden button that is clicked while ``data-active`` is 1 (see ``celebBasis.js``).
"""

from __future__ import annotations

import base64
import html
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from celeb_basis import __version__
from celeb_basis.report.charts import chart
from celeb_basis.templating import data_uri, duration, generated_image_uri, printable

if TYPE_CHECKING:
    from celeb_basis.identities.library import IdentityStatus
    from celeb_basis.webui.jobs import Job, JobProgress
    from celeb_basis.webui.schemas import FoundFaces

__all__ = ["chart", "duration", "named", "text"]

PHOTO_SIDE = 900
"""Longest side of a dropped photo on the page, in pixels."""
MOST_PICTURES = 12
"""Pictures shown of a job under way."""

_SMALL = 192
"""Pixels a side of pictures that stand four in a row."""
_RECENT = 60.0
"""Seconds after a job's end in which a page that shows it may have cards from before."""

_STATES = {
    "queued": "waiting for its turn",
    "done": "done",
    "failed": "failed",
    "interrupted": "interrupted",
}


def text(value: object) -> str:
    """Escape any value for elements and quoted attributes."""
    return html.escape(printable(value), quote=True)


def named(value: object) -> str:
    """A name that a user chose, kept from turning the direction of the text around it."""
    return f"<bdi>{text(value)}</bdi>"


def note(sentence: str, kind: Literal["error", "good", "hint"] = "hint") -> str:
    """A sentence for the message area; errors are read aloud at once. Nothing for an empty sentence."""
    if not sentence:
        return ""
    role = "alert" if kind == "error" else "status"
    return f'<p class="celeb-basis-note {kind}" role="{role}">{text(sentence)}</p>'


def version() -> str:
    """Which version this is; the page's last line."""
    return f'<p class="quiet">Celeb Basis {text(__version__)}</p>'


def changed(key: str = "") -> str:
    """Tells the script, once for each key, that there are other people: the host's cards are drawn anew."""
    return f'<i hidden data-changed="{text(key or uuid.uuid4().hex)}"></i>'


def hints(sentences: Iterable[str]) -> str:
    """Several hints, one a line."""
    return "".join(note(sentence) for sentence in sentences)


def photo(found: FoundFaces, chosen: int, pick: str, name: str) -> str:
    """A photo with every face framed and numbered from 1; a click on a frame chooses it.

    Parameters: ``pick`` is the id of the hidden text that takes the number.
    """
    height, width = found.picture.shape[:2]
    uri, _, _ = data_uri(found.picture, PHOTO_SIDE)
    unit = max(width, height) / 300
    marks = []
    for index, one in enumerate(found.faces):
        left, top, right, bottom = one.face.box
        badge = max(unit * 9, min(unit * 16, (right - left) * 0.3))
        x, y = max(0.0, left), max(0.0, top - badge)
        kind = "chosen" if index == chosen else "other"
        marks.append(
            f'<g class="{kind}" data-pick="{text(pick)}" data-value="{index + 1}"><title>face {index + 1}</title>'
            f'<rect class="frame" x="{left:.1f}" y="{top:.1f}" width="{max(1.0, right - left):.1f}" '
            f'height="{max(1.0, bottom - top):.1f}" rx="{unit * 2:.1f}" stroke-width="{unit * 1.4:.1f}"/>'
            f'<rect class="badge" x="{x:.1f}" y="{y:.1f}" width="{badge:.1f}" height="{badge:.1f}" rx="{unit * 2:.1f}"/>'
            f'<text x="{x + badge / 2:.1f}" y="{y + badge * 0.74:.1f}" font-size="{badge * 0.7:.1f}" '
            f'text-anchor="middle">{index + 1}</text></g>'
        )
    count = len(found.faces)
    told = f"{name}: " + (f"{count} faces found, number {chosen + 1} chosen" if count else "no face found")
    return (
        f'<svg class="celeb-basis-photo" viewBox="0 0 {width} {height}" role="img" aria-label="{text(told)}">'
        f'<image href="{uri}" width="{width}" height="{height}"/>{"".join(marks)}</svg>'
    )


def thumbnails(labels: Sequence[tuple[str, Any]], shown: int, pick: str) -> str:
    """Small pictures in a row; a click shows one. ``labels`` are names with ``(H, W, 3)`` pixels."""
    buttons = []
    for index, (name, pixels) in enumerate(labels):
        uri, _, _ = data_uri(pixels, 120)
        state = ' aria-pressed="true"' if index == shown else ' aria-pressed="false"'
        buttons.append(
            f'<button type="button"{state} data-pick="{text(pick)}" data-value="{index}" title="{text(name)}">'
            f'<img src="{uri}" alt="{text(name)}"></button>'
        )
    return f'<div class="celeb-basis-thumbs">{"".join(buttons)}</div>' if buttons else ""


def progress(job: Job | None, poll: str, idle: str, mark: str = "") -> str:
    """Where a job stands: what is done, a bar, time left, people and whom they are near to, and how it ended.

    Parameters: ``poll`` is the id of the hidden button that fetches the next state; ``idle`` is shown without a job; ``mark``
    tells this state from the next one.
    """
    active = job is not None and not job.finished
    head = f'<div class="celeb-basis-progress" data-poll="{text(poll)}" data-active="{int(active)}" data-mark="{text(mark)}">'
    if job is None:
        return f'{head}<p class="quiet">{text(idle)}</p></div>'
    now = job.progress()
    share = 1.0 if job.state == "done" else now.fraction
    counted = _counted(job, now)
    left = (
        f"about {duration(now.seconds_left)} left" if job.state == "running" and now.total and now.seconds_left else ""
    )
    loss = "" if now.average_loss is None or not now.total else f"loss {now.average_loss:.4f}"
    # A resumed run waits with the stage and the figures that it had before.
    stage = now.stage if job.state == "running" else _STATES[job.state].capitalize()
    facts = " · ".join(part for part in (counted, left, loss) if part)
    who = ", ".join(f"<b>{named(f'<{person}>')}</b>" for person in job.people)
    parts = [
        head,
        f'<p class="stage" role="status"><span class="state {job.state}">{text(stage)}</span> {who} '
        f'<span class="quiet">{text(facts)}</span></p>',
        _bar(share, unknown=job.state == "running" and not now.total),
    ]
    if job.error:
        parts.append(note(job.error, "error" if job.state == "failed" else "hint"))
    if job.resumable:
        parts.append(note("Press Resume to go on where it stopped."))
    parts.append(hints(now.warnings))
    parts.append(_nearness(job))
    if job.state == "done" and job.kind in ("learn", "blend"):
        if time.time() - job.changed < _RECENT:
            parts.append(changed(job.id))
        parts.append("".join(f"<p>{use_buttons(f'<{person}>')}</p>" for person in job.people))
    return "".join(parts) + "</div>"


def _counted(job: Job, now: JobProgress) -> str:
    """Steps and views are counted for the reader; of bytes and sampling steps only the share says something."""
    if not now.total or (job.state == "done" and job.kind != "learn"):
        return ""
    return f"{now.step} of {now.total}" if job.kind == "learn" and now.total <= 1_000_000 else f"{now.fraction:.0%}"


def _bar(share: float, *, unknown: bool) -> str:
    """How much is done; a bar that only says that something goes on while that is ``unknown``."""
    head = '<div class="bar" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100"'
    if unknown:
        return f'{head}><i class="unknown"></i></div>'
    return f'{head} aria-valuenow="{share * 100:.0f}"><i style="width:{share * 100:.1f}%"></i></div>'


def use_buttons(word: str) -> str:
    """Buttons that put ``word`` into a prompt and go there."""
    return (
        '<span class="celeb-basis-use">'
        f'<button type="button" class="primary" data-word="{text(word)}" data-to="txt2img">'
        f"Send {named(word)} to txt2img</button>"
        f'<button type="button" data-word="{text(word)}" data-to="img2img">to img2img</button></span>'
    )


def _nearness(job: Job) -> str:
    rows = []
    for person, where in job.progress().people.items():
        near = ", ".join(f"{text(name)} {cosine:.2f}" for name, cosine in where.nearest[:4])
        rows.append(
            f"<tr><th scope='row'>{named(person)}</th><td>{near}</td>"
            f"<td>{where.distance:.2f}</td><td>{where.movement:.3f}</td></tr>"
        )
    if not rows:
        return ""
    return (
        '<table class="celeb-basis-table"><thead><tr><th scope="col">Person</th><th scope="col">Near to</th>'
        '<th scope="col" title="1: as far from the mean as the celebrities are">Distance</th>'
        '<th scope="col" title="change over the last steps; small means settled">Movement</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def cards(people: Sequence[IdentityStatus], chosen: str, pick: str, total: int) -> str:
    """Everybody as a card with a thumbnail; those that cannot be used now say why."""
    if not people:
        said = "Nobody matches the search." if total else "Nobody is here yet: learn somebody on the Learn tab."
        return f'<p class="quiet">{text(said)}</p>'
    buttons = []
    for one in people:
        thumbnail = None if one.identity is None else one.identity.metadata.thumbnail
        face = (
            f'<img src="{picture_uri(thumbnail)}" alt="">'
            if thumbnail
            else f'<span class="blank" aria-hidden="true">{text(one.name[:2])}</span>'
        )
        why = one.problem or ("" if one.available else one.reason)
        off = f'<span class="off">{text(why)}</span>' if why else ""
        pressed = "true" if one.name == chosen else "false"
        buttons.append(
            f'<button type="button" class="card{" unavailable" if why else ""}" aria-pressed="{pressed}" '
            f'data-pick="{text(pick)}" data-value="{text(one.name)}">{face}<b>{named(one.placeholder_token)}</b>{off}</button>'
        )
    more = total - len(people)
    tail = f'<p class="quiet">{more} more: search for a name to see them.</p>' if more > 0 else ""
    return f'<div class="celeb-basis-cards">{"".join(buttons)}</div>{tail}'


def person(one: IdentityStatus) -> str:
    """All that is known of one identity."""
    parts = [f"<h3>{named(one.placeholder_token)}</h3>"]
    if one.problem:
        return parts[0] + note(one.problem, "error")
    if not one.available:
        parts.append(note(one.reason))
    known = one.as_dict()
    rows = [
        ("Learned on", known.get("learned_on", "")),
        ("Made for", " ".join(part for part in (known.get("base_model", ""), f"({known.get('family', '')})") if part)),
        ("How", _how(known)),
        ("Face model", known.get("face_model", "")),
        ("Made", str(known.get("created", "")).replace("T", " ")),
        ("Hash", known.get("hash", "")),
        ("Consent", known.get("consent", "")),
    ]
    body = "".join(f"<dt>{text(label)}</dt><dd>{text(value)}</dd>" for label, value in rows if value)
    parts.append(f'<dl class="celeb-basis-facts">{body}</dl>')
    if one.available:
        parts.append(use_buttons(one.placeholder_token))
    return "".join(parts)


def picture_uri(data: bytes) -> str:
    """A picture file as a ``data:`` URI."""
    kind = "png" if data.startswith(b"\x89PNG") else "webp" if data[:4] == b"RIFF" else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")


def pictures(images: Sequence[Any], described: str, largest: int) -> str:
    """PIL pictures in a row, at most ``largest`` pixels a side, with their titles under them if they have any."""
    shown = []
    for number, image in enumerate(images, 1):
        uri, width, height = generated_image_uri(image, largest)
        title = str(image.info.get("title", ""))
        said = title or (described if len(images) == 1 else f"{described} {number}")
        under = f"<figcaption>{text(title)}</figcaption>" if title else ""
        shown.append(f'<figure><img src="{uri}" width="{width}" height="{height}" alt="{text(said)}">{under}</figure>')
    kind = " small" if largest <= _SMALL else ""
    return f'<div class="celeb-basis-pictures{kind}">{"".join(shown)}</div>' if shown else ""


def drawn(job: Job) -> str:
    """What a job has drawn: the newest pictures while it draws, figures and contact sheet when it was judged."""
    sheet = job.result.get("sheet")
    if sheet is not None:
        return figures(job.result) + pictures(job.pictures[sheet : sheet + 1], "contact sheet", 1600)
    return pictures(job.pictures[-MOST_PICTURES:], "drawn picture", 384 if job.kind == "preview" else _SMALL)


def figures(verdict: Mapping[str, Any]) -> str:
    """The three figures with their intervals; a missing one says why."""
    rows = []
    for key in ("identity", "prompt", "detect"):
        one = verdict.get(key) or {}
        value, low, high = one.get("value"), one.get("low"), one.get("high")
        reach = "–" if low is None else f"{low:.3f} to {high:.3f}"
        rows.append((key.capitalize(), "–" if value is None else f"{value:.3f}", reach))
    told = hints(str(sentence) for sentence in verdict.get("notes", ()))
    return table(("Figure", "Value", "95 % interval"), rows) + told


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A plain table; everything in it is text."""
    top = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="celeb-basis-table"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def _how(known: dict[str, Any]) -> str:
    if known.get("source") == "blended":
        recipe = known.get("settings", {})
        while isinstance(recipe.get("of"), dict):  # a mixture that was moved afterwards
            recipe = recipe["of"]
        shares = recipe.get("parts") or [[recipe.get("person", "?"), 1.0]]
        return "blended of " + ", ".join(f"{name} ({share:.0%})" for name, share in shares)
    if known.get("source") == "imported":
        return "imported"
    return f"learned in {known.get('steps', 0)} steps"
