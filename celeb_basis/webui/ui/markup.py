"""The HTML of the page: the data that the templates beside this module show. No gradio here.

Elements with ``data-pick`` put their ``data-value`` into the hidden text of that id, elements with ``data-word`` insert a
placeholder token into a prompt, and ``data-poll`` names the hidden button that is clicked while ``data-active`` is 1 (see
``javascript/celebBasis.js``). ``data-unknown`` names the hidden button that is clicked until the element is replaced.
"""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from celeb_basis import __version__
from celeb_basis.identities import invention, steering
from celeb_basis.templating import DataURI, data_uri, date_text, duration, generated_image_uri, render

if TYPE_CHECKING:
    from celeb_basis.basis import BasisSummary
    from celeb_basis.identities.deletion import Traces
    from celeb_basis.identities.library import IdentityStatus
    from celeb_basis.webui.jobs import Job, JobProgress
    from celeb_basis.webui.schemas import FoundFaces, SavedRun

NoteKind = Literal["error", "good", "hint"]

PHOTO_SIDE = 900
"""Longest side of an uploaded photo on the page, in pixels."""
MAX_IMAGES = 12
"""Newest images shown of a running job."""
MAX_PATHS = 1000
"""Paths shown of the files that go with a person."""
MAX_DROPPED = 300
"""Dropped names shown of a basis."""

_SMALL = 192
"""Side in pixels of images that stand four in a row."""
_PREVIEW = 768
"""Longest side in pixels of the only image of a preview."""
_FACE = 96
"""Side in pixels of a portrait beside the progress."""
_RECENT = 60.0
"""Seconds after a job's end in which a page that shows it may still have the cards from before."""

_STATES = {
    "queued": "Waiting for its turn",
    "done": "Done",
    "failed": "Failed",
    "interrupted": "Interrupted",
}


def _render(template: str, **context: Any) -> Markup:
    return render("celeb_basis.webui.ui", f"{template}.html.jinja", **context)


# Messages


def note(sentence: str, kind: NoteKind = "hint", *, people_changed: bool = False) -> Markup:
    """A message; nothing for an empty sentence.

    Args:
        sentence: The text.
        kind: Its look. Screen readers announce an error at once.
        people_changed: Whether the library has changed, so that the page's script reloads the host's cards.
    """
    return notes([(sentence, kind)], people_changed=people_changed)


def notes(messages: Iterable[tuple[str, NoteKind]], *, people_changed: bool = False) -> Markup:
    """Several messages, one below the other. See :func:`note`."""
    shown = [(sentence, kind) for sentence, kind in messages if sentence]
    if not shown and not people_changed:
        return Markup()  # not even a line break: the style sheet hides a component that is empty
    return _render("notes", messages=shown, changed=uuid.uuid4().hex if people_changed else "")


def deletion(traces: Traces) -> Markup:
    """What deleting a person deletes, with the paths, and what stays with the reason."""
    kept = "Images that you generated with the WebUI itself stay in its output folders; delete them there."
    goes, stays = [(str(path), "") for path in traces.paths()], [(str(path), reason) for path, reason in traces.stay]
    return _render(
        "deletion",
        sentence=f"{traces.sentence()} {kept}",
        goes=goes[:MAX_PATHS],
        more_go=len(goes[MAX_PATHS:]),
        stays=stays[:MAX_PATHS],
        more_stay=len(stays[MAX_PATHS:]),
    )


def quiet(sentence: str) -> Markup:
    """A line in a subdued color."""
    return _render("quiet", sentence=sentence, button="")


def unknown(sentence: str, button: str) -> Markup:
    """A line in place of what is not known yet; the page's script clicks the hidden ``button`` until it is."""
    return _render("quiet", sentence=sentence, button=button)


def heading(text: str) -> Markup:
    """The heading of a group of fields."""
    return _render("heading", text=text)


def version() -> Markup:
    """The page's last line: the version of the extension."""
    return quiet(f"Celeb Basis {__version__}")


def completions(query: str, names: Sequence[str]) -> Markup:
    """Names that the page's script offers as completions, with the query that they answer."""
    return _render("completions", query=query, names=names)


def license_notice(status: Mapping[str, Any]) -> tuple[Markup, bool]:
    """What there is to know about the face models before the first photo, and whether it has to be agreed to.

    Args:
        status: That of the face models.
    """
    if status["present"]:
        return Markup(), False
    if status["problem"]:
        return note(status["problem"], "error"), False
    pack, size = status["pack"], f"{status['download_bytes'] / 1e6:.0f} MB"
    if not status["to_agree"]:
        return note(f"The face models {pack} are not installed yet. The first photo downloads them ({size})."), False
    text = (
        f"The face models {pack} ({size}) are not installed yet. Their license: {status['licence']} "
        f"({status['terms']}) They are downloaded once you agree to it. You can choose another pack under Settings, "
        "Celeb Basis."
    )
    return note(text), True


# Photos


@dataclass(frozen=True)
class _FaceFrame:
    """The frame of a face and the badge with its number, in the photo's pixels."""

    chosen: bool
    left: float
    top: float
    width: float
    height: float
    badge_left: float
    badge_top: float
    badge: float


def photo(found: FoundFaces, chosen: int, pick: str, name: str) -> Markup:
    """A photo with every face framed and numbered from 1. A click on a frame selects the face.

    Args:
        found: The photo and its faces.
        chosen: Index of the selected face.
        pick: Id of the hidden text that receives the number.
        name: The photo's name, for screen readers.
    """
    height, width = found.picture.shape[:2]
    unit = max(width, height) / 300
    frames = []
    for index, one in enumerate(found.faces):
        left, top, right, bottom = one.face.box
        badge = max(unit * 9, min(unit * 16, (right - left) * 0.3))
        frames.append(
            _FaceFrame(
                chosen=index == chosen,
                left=round(left, 1),
                top=round(top, 1),
                width=round(max(1.0, right - left), 1),
                height=round(max(1.0, bottom - top), 1),
                badge_left=round(max(0.0, left), 1),
                badge_top=round(max(0.0, top - badge), 1),
                badge=round(badge, 1),
            )
        )
    count = len(frames)
    found_text = f"{count} {'face' if count == 1 else 'faces'} found, face {chosen + 1} selected"
    return _render(
        "photo",
        width=width,
        height=height,
        uri=data_uri(found.picture, PHOTO_SIDE).uri,
        faces=frames,
        pick=pick,
        corner=round(unit * 2, 1),
        line=round(unit * 1.4, 1),
        described=f"{name}: {found_text if count else 'no face found'}",
    )


def thumbnails(photos: Sequence[tuple[str, Any]], shown: int, pick: str) -> Markup:
    """Small photos in a row; a click shows one of them.

    Args:
        photos: Names with ``(H, W, 3)`` pixels.
        shown: Index of the photo that is shown.
        pick: Id of the hidden text that receives the index.
    """
    if not photos:
        return Markup()
    small = [(name, data_uri(pixels, 120).uri) for name, pixels in photos]
    return _render("thumbnails", photos=small, shown=shown, pick=pick)


# Jobs


def progress(job: Job | None, poll: str, idle: str | Sequence[str], mark: str = "") -> Markup:
    """The state of a job: whom it is about, what is done, time left, and how it ended.

    Args:
        job: The job, if there is one.
        poll: Id of the hidden button that fetches the next state.
        idle: The sentence shown without a job, or the steps to one, which are numbered.
        mark: Identifies this state; the script sends it along with its next request.
    """
    if job is None:
        sentence, steps = (idle, ()) if isinstance(idle, str) else ("", idle)
        return _render("idle", poll=poll, idle=sentence, steps=steps, mark=mark)
    now = job.progress()
    running = job.state == "running"
    left = f"about {duration(now.seconds_left)} left" if running and now.total and now.seconds_left else ""
    loss = "" if now.average_loss is None or not now.total else f"loss {now.average_loss:.4f}"
    usable = job.state == "done" and job.kind in ("learn", "blend")
    return _render(
        "progress",
        job=job,
        now=now,
        poll=poll,
        mark=mark,
        # A resumed run waits with the stage and the figures that it had before.
        stage=now.stage if running else _STATES[job.state],
        tokens=[f"<{name}>" for name in job.people],
        faces=[(f"<{name}>", data_uri(face, _FACE).uri) for name, face in job.faces.items()],
        figures=[figure for figure in (_counted(job, now), left, loss) if figure],
        share=None if running and not now.total else 1.0 if job.state == "done" else now.fraction,
        usable=usable,
        changed=job.id if usable and time.time() - job.changed < _RECENT else "",
    )


def whereabouts(job: Job) -> Markup:
    """Where the people of a run stand: the celebrities nearest to them, their distance and their movement."""
    people = job.progress().people
    return _render("whereabouts", people=people) if people else Markup()


def runs(saved: Sequence[SavedRun], asked: str, pick: str) -> Markup:
    """Interrupted runs, each with buttons to resume and to discard it; nothing if there are none.

    Those that another program is running have no buttons.

    Args:
        saved: The runs.
        asked: Id of the run whose deletion has to be confirmed.
        pick: Id of the hidden text that receives the action and the run's id.
    """
    if not saved:
        return Markup()
    rows = []
    for run in saved:
        done = f"{run.step:,} of {run.steps:,} steps" if run.step else "before its first step"
        facts = [done, f"on {run.checkpoint}" if run.checkpoint else "", date_text(run.when)]
        rows.append((run.id, [f"<{name}>" for name in run.people], " · ".join(filter(None, facts)), run.running))
    return _render("runs", runs=rows, asked=asked, pick=pick)


def _counted(job: Job, now: JobProgress) -> str:
    """Steps and views are counted; of bytes and sampling steps only the percentage says something."""
    if not now.total or (job.state == "done" and job.kind != "learn"):
        return Markup()
    return f"{now.step} of {now.total}" if job.kind == "learn" and now.total <= 1_000_000 else f"{now.fraction:.0%}"


def job_results(job: Job) -> Markup:
    """The newest images of a job, or the metrics and the contact sheet of a finished evaluation."""
    sheet = job.result.get("sheet")
    if sheet is not None:
        return metrics(job.result) + images(job.pictures[sheet : sheet + 1], "contact sheet", 1600)
    largest = _SMALL if job.kind != "preview" else _PREVIEW if len(job.pictures) == 1 else _PREVIEW // 2
    return images(job.pictures[-MAX_IMAGES:], "generated image", largest)


@dataclass(frozen=True)
class _ShownImage:
    data: DataURI
    title: str
    described: str


def images(pictures: Sequence[Any], described: str, largest: int) -> Markup:
    """PIL images in a row, with their titles as captions.

    Args:
        pictures: The images; ``info["title"]`` holds the title, if there is one.
        described: The text alternative of an image without a title.
        largest: Longest side in pixels.
    """
    if not pictures:
        return Markup()
    shown = []
    for number, picture in enumerate(pictures, 1):
        title = str(picture.info.get("title", ""))
        alternative = title or (described if len(pictures) == 1 else f"{described} {number}")
        shown.append(_ShownImage(generated_image_uri(picture, largest), title, alternative))
    return _render("images", images=shown, small=largest <= _SMALL)


def metrics(evaluation: Mapping[str, Any]) -> Markup:
    """The three metrics of an evaluation with their intervals; the notes say why one is missing."""
    rows = []
    for key in ("identity", "prompt", "detect"):
        one = evaluation.get(key) or {}
        value, low, high = one.get("value"), one.get("low"), one.get("high")
        interval = "–" if low is None else f"{low:.3f} to {high:.3f}"
        rows.append((key.capitalize(), "–" if value is None else f"{value:.3f}", interval))
    return _render("metrics", rows=rows, notes=evaluation.get("notes", ()))


def basis(summary: BasisSummary, index: int) -> Markup:
    """The summary of one text encoder's basis; ``index`` keeps the charts of several apart."""
    # Imported here: charts and the report cost the host's start 15 ms.
    from celeb_basis.report.charts import chart, explained_variance

    try:
        plot = chart(
            explained_variance(summary.explained), "Share of the variance that each component explains", f"basis{index}"
        )
    except ImportError:  # without matplotlib
        plot = Markup()
    facts = [
        ("Text encoder", f"{summary.encoder}, {summary.width} dimensions"),
        ("Names used", f"{summary.names_used:,}"),
        ("Names dropped", f"{summary.names_dropped:,}"),
        ("Spread", ", ".join(f"{value:.3f}" for value in summary.spread) + " (token 1, token 2)"),
        ("Hash", summary.sha256[:12]),
    ]
    dropped = summary.report.get("dropped", [])
    by_rule: Mapping[str, int] = summary.report.get("counts", {})
    return _render(
        "basis",
        basis=summary,
        facts=facts,
        chart=plot,
        rules=sorted(by_rule.items(), key=lambda counted: -counted[1]),
        dropped=[(one["name"], one["reason"]) for one in dropped[:MAX_DROPPED]],
        more=len(dropped) - MAX_DROPPED,
    )


def shares(parts: Sequence[tuple[str, float]]) -> Markup:
    """The share of each person in a blend; nothing unless the weights add up to more than 0.

    Args:
        parts: Names and weights.
    """
    total = sum(weight for _, weight in parts)
    return _render("shares", shares=[(name, weight / total) for name, weight in parts]) if total > 0 else Markup()


# People


def cards(people: Sequence[IdentityStatus], chosen: str, pick: str, total: int) -> Markup:
    """A card for each person, with a thumbnail; cards of people that prompts cannot use say why.

    Args:
        people: Those to show.
        chosen: Name of the selected person.
        pick: Id of the hidden text that receives a name.
        total: How many people there are, those that are not shown included.
    """
    if not people:
        return quiet(
            "No person matches the search."
            if total
            else "No people yet. Learn one on the Learn tab, or invent one on the Invent tab."
        )
    shown = [
        {
            "name": one.name,
            "token": one.placeholder_token,
            "thumbnail": _thumbnail_uri(one),
            "unavailable": one.problem or one.reason,
        }
        for one in people
    ]
    return _render("cards", cards=shown, chosen=chosen, pick=pick, more=total - len(people))


def person(one: IdentityStatus) -> Markup:
    """Everything that is known about one identity."""
    known = one.as_dict()
    family = f"({known['family']})" if known.get("family") else ""
    rows = [
        ("Invented on" if known.get("source") == "invented" else "Learned on", known.get("learned_on", "")),
        ("Made for", f"{known.get('base_model', '')} {family}".strip()),
        ("Method", _method(known)),
        ("Steered", steering.steered_words(known.get("settings", {}))),
        ("Face model", known.get("face_model", "")),
        ("Created", date_text(str(known.get("created", "")))),
        ("Hash", known.get("hash", "")),
        ("Consent", known.get("consent", "")),
    ]
    return _render("person", person=one, rows=rows)


def downloads(files: Iterable[tuple[str, bytes]]) -> Markup:
    """Links that hold the files themselves."""
    uris = [(name, _file_uri("application/octet-stream", data)) for name, data in files]
    return _render("downloads", files=uris)


def picture_uri(data: bytes) -> str:
    """A PNG, WebP or JPEG file as a ``data:`` URI."""
    kind = "png" if data.startswith(b"\x89PNG") else "webp" if data[:4] == b"RIFF" else "jpeg"
    return _file_uri(f"image/{kind}", data)


def _file_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64," + base64.b64encode(data).decode("ascii")


def _thumbnail_uri(one: IdentityStatus) -> str:
    thumbnail = None if one.identity is None else one.identity.metadata.thumbnail
    return picture_uri(thumbnail) if thumbnail else ""


def _method(known: Mapping[str, Any]) -> str:
    if known.get("source") == "blended":
        recipe = known.get("settings", {})
        while isinstance(recipe.get("of"), dict):  # a blend that was moved afterwards
            recipe = recipe["of"]
        parts = recipe.get("parts") or [[recipe.get("person", "?"), 1.0]]
        return "blended from " + ", ".join(f"{name} ({share:.0%})" for name, share in parts)
    if known.get("source") == "invented":
        return invention.invented_recipe(known.get("settings", {}))
    return "imported" if known.get("source") == "imported" else f"learned in {known.get('steps', 0)} steps"
