"""The page itself: one HTML file that holds everything, asks nothing of the network and runs no script."""

from __future__ import annotations

import math
from importlib.resources import files as package_files
from typing import TYPE_CHECKING

from celeb_basis.files import write_text
from celeb_basis.report import charts
from celeb_basis.report.charts import bar, chart, duration, figure, image, marked_photo, name, section, size, text

if TYPE_CHECKING:
    from pathlib import Path

    from celeb_basis.evaluation.metrics import Estimate
    from celeb_basis.report.types import Report, ReportPerson, ReportPhoto, ReportPicture


# FOLDED: The page's sections, each from the report to HTML; an empty string where there is nothing to tell.

_FAMILIES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL"}
_MOST_NEAREST = 8


def headline(report: Report) -> str:
    """Title, summary, the run at a glance, and the notice of an untrained model."""
    facts = [("Model", name(report.model.name) + f"<small>{text(_family(report))}</small>")]
    if report.people:
        words = ", ".join(f"<code>{name(person.word)}</code>" for person in report.people)
        facts.insert(0, ("Word" if len(report.people) == 1 else "Words", words))
    if report.loss is not None and len(report.loss.steps):
        facts.append(("Steps", text(max(report.loss.steps))))
    if (total := _seconds(report)) is not None:
        facts.append(("Time", text(duration(total))))
    if report.date:
        facts.append(("Date", text(report.date)))
    listed = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in facts)
    note = f"<p>{text(report.model.note)}</p>" if report.model.note else ""
    return (
        f'<header><p class="brand">Celeb Basis</p><h1>{text(report.title)}</h1>'
        f'<p class="lead">{text(report.summary)}</p><dl class="facts">{listed}</dl>{note}</header>'
    )


def notice(report: Report) -> str:
    """For an untrained model: that its pictures are noise, in plain words."""
    if report.model.trained:
        return ""
    return (
        '<aside class="notice" role="note"><h2>The generated pictures below are noise</h2>'
        f"<p>{name(report.model.name)} has never been trained: its weights are random numbers. "
        "Nothing but real, trained weights can draw, so no picture on this page can look like anybody. "
        "Photo, face detection, learning and files are those of a real run. To see the "
        "person, run the same commands with a trained checkpoint.</p></aside>"
    )


def photos(report: Report) -> str:
    """Every person's photos, the crops learned from, and warnings."""
    blocks = [
        (f"<h3>{name(person.name)}</h3>" if len(report.people) > 1 else "")
        + "".join(_photo(photo) for photo in person.photos)
        for person in report.people
        if person.photos
    ]
    plural = sum(len(person.photos) for person in report.people) > 1
    return section("The photos" if plural else "The photo", *blocks)


def learned(report: Report) -> str:
    """The learned people: distance gauge, nearest celebrities, loss and movement."""
    curves = [_loss(report), _movement(report)]
    nearest = [_nearest(person, several=len(report.people) > 1) for person in report.people]
    # Pairs, side by side: of one person gauge and list, then the two curves; of several the lists come last.
    charts = [*nearest, *curves] if len(nearest) == 1 else [*curves, *nearest]
    parts = [_outcomes(report), '<div class="grid">', _gauge(report), *charts, "</div>"]
    inner = [part for part in parts if part]
    if len(inner) == 2:  # only the grid's own two tags
        return ""
    return section("The learned people" if len(report.people) > 1 else "The learned person", *inner)


def basis(report: Report) -> str:
    """The basis and its explained variance."""
    if report.basis is None:
        return ""
    told = f"Built from {report.basis.names_used:,} celebrity names"
    if report.basis.names_dropped:
        told += f" ({report.basis.names_dropped:,} more were left out)"
    if report.basis.components:
        told += f", {report.basis.components:,} components for each of a name's token vectors"
    drawn = ""
    if any(len(column) for column in report.basis.variance):
        kept = " and ".join(f"{min(1.0, sum(column)):.0%}" for column in report.basis.variance)
        drawn = figure(
            chart(charts.explained_variance(report.basis.variance), f"Explained variance, {kept} in all", "variance"),
            f"Share of the celebrities' variance that the components explain ({text(kept)} in all).",
            "wide",
        )
    return section("The celeb basis", f"<p>{text(told)}.</p>", drawn)


def pictures(report: Report) -> str:
    """Generated pictures with prompts and settings, and the three figures if they were judged."""
    if not report.pictures:
        return ""
    cells = "".join(_picture(item) for item in report.pictures)
    noise = "" if report.model.trained else "<p>Noise, as said above: this model is untrained.</p>"
    return section("Generated pictures", noise, _verdict(report), f'<div class="gallery">{cells}</div>')


def files(report: Report) -> str:
    """Files written, with sizes and hashes."""
    rows = "".join(
        f'<tr><td><code class="path">{name(item.path)}</code>{_small(item.purpose)}</td>'
        f'<td class="number">{text(size(item.size))}</td><td><code class="hash">{text(item.sha256)}</code></td></tr>'
        for item in report.files
    )
    head = '<tr><th scope="col">File</th><th scope="col" class="number">Size</th><th scope="col">SHA-256</th></tr>'
    table = f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    return section("Files written", table if rows else "")


def time_spent(report: Report) -> str:
    """A bar for every stage, longest full."""
    if not report.stages:
        return ""
    longest = max(stage.seconds for stage in report.stages) or 1.0
    rows = "".join(
        f'<tr><th scope="row">{text(stage.name)}</th><td class="number">{text(duration(stage.seconds))}</td>'
        f'<td class="bars">{bar(stage.seconds / longest)}</td></tr>'
        for stage in report.stages
    )
    total = _seconds(report)
    foot = f'<tr><th scope="row">In all</th><td class="number">{text(duration(total or 0.0))}</td><td></td></tr>'
    return section("Time spent", f'<table class="times"><tbody>{rows}</tbody><tfoot>{foot}</tfoot></table>')


def settings(report: Report) -> str:
    """Every setting of the run, folded away."""
    if not report.settings:
        return ""
    rows = "".join(
        f"<div><dt>{text(key)}</dt><dd>{name(_plain(value))}</dd></div>" for key, value in report.settings.items()
    )
    return section(
        "Settings",
        f'<details><summary>{len(report.settings)} settings</summary><dl class="settings">{rows}</dl></details>',
    )


def commands(report: Report) -> str:
    """How to go on."""
    items = "".join(
        f"<li><p>{text(item.purpose)}</p><pre><code>{text(item.command)}</code></pre></li>" for item in report.commands
    )
    return section("How to go on", f'<ol class="commands">{items}</ol>' if items else "")


def _photo(photo: ReportPhoto) -> str:
    many = f", {len(photo.others)} other{'s' * (len(photo.others) > 1)} found" if photo.others else ""
    caption = name(photo.name) + (f"<small>the learned face framed{text(many)}</small>" if photo.box else "")
    crop = ""
    if photo.crop is not None:
        crop = figure(
            image(photo.crop, f"Square crop around the face in {photo.name}", 512), "the crop learned from", "crop"
        )
    warned = "".join(f"<li>{text(sentence)}</li>" for sentence in photo.warnings)
    warned = f'<ul class="warnings" aria-label="Warnings about this photo">{warned}</ul>' if warned else ""
    return f'<div class="photos">{figure(marked_photo(photo), caption, "original")}{crop}</div>{warned}'


def _outcomes(report: Report) -> str:
    told = [
        (f"<strong>{name(person.name)}</strong>: " if len(report.people) > 1 else "") + text(person.outcome)
        for person in report.people
        if person.outcome
    ]
    return "".join(f"<p>{one}</p>" for one in told)


def _gauge(report: Report) -> str:
    distances = {
        person.name: person.distance
        for person in report.people
        if person.distance is not None and math.isfinite(person.distance)
    }
    if not distances:
        return ""
    told = ", ".join(f"{key} {value:.2f}" for key, value in distances.items())
    celebrities = report.basis.celebrities if report.basis else None
    return figure(
        chart(charts.distance_gauge(distances, celebrities), f"Distances to the mean celebrity: {told}", "gauge"),
        "How far out the person lies. At 1 a word is as ordinary as a celebrity's name; the further "
        "out, the more it may drown the rest of a prompt.",
    )


def _nearest(person: ReportPerson, *, several: bool) -> str:
    if not person.nearest:
        return ""
    shown = person.nearest[:_MOST_NEAREST]
    most = max(abs(cosine) for _, cosine in shown) or 1.0
    rows = "".join(
        f'<tr><th scope="row">{name(who)}</th><td class="number">{cosine:.3f}</td>'
        f'<td class="bars">{bar(max(0.0, cosine) / most)}</td></tr>'
        for who, cosine in shown
    )
    whose = f" to {name(person.name)}" if several else ""
    caption = (
        f"Nearest celebrities{whose}, by cosine of the coefficients: neighbours in the basis, who need not look alike."
    )
    return figure(f'<table class="times"><tbody>{rows}</tbody></table>', caption)


def _loss(report: Report) -> str:
    if report.loss is None or not len(report.loss.steps):
        return ""
    first, last = report.loss.averages[0], report.loss.averages[-1]
    drawn = charts.loss_curve(report.loss.steps, report.loss.losses, report.loss.averages)
    return figure(
        chart(
            drawn, f"Loss over {max(report.loss.steps)} steps; its average goes from {first:.4g} to {last:.4g}", "loss"
        ),
        f"Loss. Its average goes from {first:.4g} to {last:.4g}; single steps jump about because each meets another "
        "amount of noise.",
    )


def _movement(report: Report) -> str:
    moved = {
        person.name: (person.movement_steps, person.movement) for person in report.people if len(person.movement_steps)
    }
    if not moved:
        return ""
    told = ", ".join(f"{key} ends at {values[-1]:.3g}" for key, (_, values) in moved.items())
    drawn = charts.movement_curve(moved, report.settled)
    return figure(
        chart(drawn, f"Movement of the averaged coefficients: {told}", "movement"),
        "Movement of the averaged coefficients; below the line they count as settled.",
    )


def _picture(item: ReportPicture) -> str:
    details = [("seed", item.seed), *item.settings.items()]
    told = " · ".join(f"{text(key)} {text(_plain(value))}" for key, value in details)
    scores = []
    if item.identity is not None:
        scores.append(f"identity {item.identity:.3f}")
    if item.prompt_score is not None:
        scores.append(f"prompt score {item.prompt_score:.3f}")
    caption = f'<span class="prompt">{name(item.prompt)}</span>{_small(item.note)}<small>{told}</small>' + _small(
        " · ".join(scores)
    )
    return figure(image(item.picture, f"Generated from the prompt: {item.prompt}", drawn=item.words), caption)


def _verdict(report: Report) -> str:
    if report.verdict is None:
        return ""
    rows: list[tuple[str, Estimate | None, str]] = [
        ("Identity", report.verdict.identity, "likeness of the faces to the photo, -1 to 1"),
        ("Prompt", report.verdict.prompt, "likeness of picture and prompt to CLIP, -1 to 1"),
        ("Detect", report.verdict.detect, "share of pictures with a face"),
    ]
    cells = ""
    for label, value, meaning in rows:
        number = "–" if value is None else f"{value.value:.3f}"
        between = "" if value is None or value.low is None else f"{value.low:.3f} to {value.high:.3f} (95 %)"
        cells += f"<div><dt>{label}</dt><dd>{number}{_small(between)}{_small(meaning)}</dd></div>"
    notes = "".join(f"<p>{text(note)}</p>" for note in report.verdict.notes)
    return f'<dl class="facts">{cells}</dl>{notes}'


def _small(value: str) -> str:
    return f"<small>{text(value)}</small>" if value else ""


def _seconds(report: Report) -> float | None:
    if report.seconds is not None:
        return report.seconds
    return sum(stage.seconds for stage in report.stages) if report.stages else None


def _family(report: Report) -> str:
    family = _FAMILIES.get(report.model.family, report.model.family)
    return family if report.model.trained else f"{family}, untrained"


def _plain(value: object) -> str:
    """A setting as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render_report(report: Report) -> str:
    """The page as HTML; the same report gives the same page."""
    style = package_files("celeb_basis.report").joinpath("page.css").read_text(encoding="utf-8")
    body = [
        headline(report),
        "<main>",
        notice(report),
        photos(report),
        learned(report),
        pictures(report),
        files(report),
        time_spent(report),
        basis(report),
        settings(report),
        commands(report),
        "</main>",
        f"<footer><p>Made by Celeb Basis {text(report.version)}, from photos on this computer.</p></footer>",
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{text(report.title)}</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            *(part for part in body if part),
            "</body>",
            "</html>",
            "",
        ]
    )


def write_report(path: Path, report: Report) -> None:
    """Write a report as one self-contained HTML file, whole or not at all.

    Raises: :class:`~celeb_basis.errors.FileError` if it cannot be written.
    """
    write_text(path, render_report(report))
