"""Rendering a report as one HTML file that holds everything it shows, loads nothing from the network and runs no script."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from celeb_basis.files import write_text
from celeb_basis.provenance import marked
from celeb_basis.report import charts
from celeb_basis.templating import DataURI, data_uri, generated_image_uri, render

if TYPE_CHECKING:
    from pathlib import Path

    from markupsafe import Markup

    from celeb_basis.evaluation.metrics import Estimate
    from celeb_basis.report.content import Report, ReportPerson, ReportPhoto, ReportPicture

_FAMILIES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL"}

_PHOTO_SIDE, _CROP_SIDE, _IMAGE_SIDE, _SMALL_SIDE = 1024, 512, 768, 448
"""Longest sides of embedded images, in pixels."""


def write_report(path: Path, report: Report) -> None:
    """Write a report as one self-contained HTML file, whole or not at all.

    Raises:
        FileError: The file cannot be written.
    """
    write_text(path, render_report(report))


def render_report(report: Report) -> str:
    """Render a report as HTML; the same report gives the same page."""
    return render(
        "celeb_basis.report",
        "page.html.jinja",
        report=report,
        family=_family(report),
        seconds=_seconds(report),
        people=[_ShownPerson(person, [_shown_photo(photo) for photo in person.photos]) for person in report.people],
        results=_results(report),
        rulers=_rulers(report),
        charts={
            "gauge": _distance_gauge(report),
            "loss": _loss_curve(report),
            "movement": _movement_curve(report),
            "variance": _explained_variance(report),
        },
    )


def _family(report: Report) -> str:
    family = _FAMILIES.get(report.model.family, report.model.family)
    return family if report.model.trained else f"{family}, untrained"


def _seconds(report: Report) -> float | None:
    if report.seconds is not None:
        return report.seconds
    return sum(stage.seconds for stage in report.stages) if report.stages else None


# What templates show beside the report itself: embedded images, and charts with their captions.


@dataclass(frozen=True)
class _ShownPhoto:
    """A photo with its place on the page. Frames and landmarks are drawn over it in the photo's own pixels."""

    photo: ReportPhoto
    image: DataURI
    crop: DataURI | None
    width: int
    height: int
    """Of the photo itself, in pixels."""
    display_width: float
    display_height: float
    line: float
    """Width of a line, in the photo's pixels, that looks the same on a photo of any size."""


@dataclass(frozen=True)
class _ShownPerson:
    person: ReportPerson
    photos: list[_ShownPhoto]


@dataclass(frozen=True)
class _ShownImage:
    picture: ReportPicture
    image: DataURI
    scores: str


@dataclass(frozen=True)
class _Result:
    """Images beside the photo of the one person whom they show; or all others, without a photo."""

    person: ReportPerson | None
    photo: DataURI | None
    images: list[_ShownImage]


@dataclass(frozen=True)
class _Ruler:
    """A figure as a bar from 0 to 1, with the range it lies in by chance, and what it is compared with."""

    label: str
    meaning: str
    value: float
    low: float | None
    high: float | None
    marks: list[tuple[str, float]]


@dataclass(frozen=True)
class _Chart:
    svg: Markup
    caption: str


def _shown_photo(photo: ReportPhoto) -> _ShownPhoto:
    height, width = photo.picture.shape[:2]
    scale = min(640 / width, 540 / height)
    return _ShownPhoto(
        photo,
        image=data_uri(photo.picture, _PHOTO_SIDE),
        crop=None if photo.crop is None else data_uri(photo.crop, _CROP_SIDE),
        width=width,
        height=height,
        display_width=width * scale,
        display_height=height * scale,
        line=max(width, height) / 250,
    )


def _results(report: Report) -> list[_Result]:
    """Everyone's images in the order of the people, then those of several people or of none, then those of the invented."""
    results, left = list[_Result](), list(report.pictures)
    invented = list[_Result]()
    for person in report.people:
        own = [picture for picture in left if tuple(picture.words) == (person.word,)]
        left = [picture for picture in left if tuple(picture.words) != (person.word,)]
        if own:
            photo = data_uri(person.photos[0].picture, _SMALL_SIDE) if person.photos else None
            result = _Result(person, photo, [_shown_image(picture) for picture in own])
            (invented if person.invented else results).append(result)
    if left:
        results.append(_Result(None, None, [_shown_image(picture) for picture in left]))
    return [*results, *invented]


def _rulers(report: Report) -> list[_Ruler]:
    if (verdict := report.verdict) is None:
        return []
    scale = report.scale
    marks = [("anybody", scale.anybody), ("the model's own celebrities", scale.known)] if scale else []
    found: tuple[tuple[str, str, Estimate | None, list[tuple[str, float]]], ...] = (
        ("Identity", "how alike the faces are to the photo (cosine similarity)", verdict.identity, marks),
        ("Prompt", "how well the images follow the prompt (CLIP's cosine similarity)", verdict.prompt, []),
        ("Detect", "share of images with a face", verdict.detect, []),
    )
    return [
        _Ruler(label, meaning, estimate.value, estimate.low, estimate.high, marks)
        for label, meaning, estimate, marks in found
        if estimate is not None
    ]


def _shown_image(picture: ReportPicture) -> _ShownImage:
    scores = []
    if picture.identity is not None:
        scores.append(f"identity {picture.identity:.3f}")
    if picture.prompt_score is not None:
        scores.append(f"prompt score {picture.prompt_score:.3f}")
    image = generated_image_uri(marked(Image.fromarray(picture.picture), picture.words), _IMAGE_SIDE)
    return _ShownImage(picture, image, " · ".join(scores))


def _distance_gauge(report: Report) -> _Chart | None:
    distances = {
        person.name: person.distance
        for person in report.people
        if person.distance is not None and math.isfinite(person.distance)
    }
    if not distances:
        return None
    celebrities = report.basis.celebrities if report.basis else None
    listed = ", ".join(f"{name} {distance:.2f}" for name, distance in distances.items())
    return _Chart(
        charts.chart(
            charts.distance_gauge(distances, celebrities), f"Distances to the mean celebrity: {listed}", "gauge"
        ),
        "Distance to the mean celebrity. At 1 a person lies as far out as the celebrities do; the farther out, the more "
        "the person may overpower the rest of a prompt.",
    )


def _loss_curve(report: Report) -> _Chart | None:
    if report.loss is None or not len(report.loss.steps):
        return None
    first, last = report.loss.averages[0], report.loss.averages[-1]
    svg = charts.loss_curve(report.loss.steps, report.loss.losses, report.loss.averages)
    described = f"Loss over {max(report.loss.steps)} steps; its average goes from {first:.4g} to {last:.4g}"
    return _Chart(
        charts.chart(svg, described, "loss"),
        f"Loss. Its average goes from {first:.4g} to {last:.4g}; single steps vary because each has another amount of "
        "noise.",
    )


def _movement_curve(report: Report) -> _Chart | None:
    moved = {
        person.name: (person.movement_steps, person.movement) for person in report.people if len(person.movement_steps)
    }
    if not moved:
        return None
    listed = ", ".join(f"{name} ends at {values[-1]:.3g}" for name, (_, values) in moved.items())
    svg = charts.movement_curve(moved, report.settled)
    return _Chart(
        charts.chart(svg, f"Relative movement of the averaged coefficients: {listed}", "movement"),
        "Relative movement of the averaged coefficients. Below the line they count as settled.",
    )


def _explained_variance(report: Report) -> _Chart | None:
    if report.basis is None or not any(len(column) for column in report.basis.variance):
        return None
    explained = " and ".join(f"{min(1.0, sum(column)):.0%}" for column in report.basis.variance)
    svg = charts.explained_variance(report.basis.variance)
    return _Chart(
        charts.chart(svg, f"Explained variance, {explained} in total", "variance"),
        f"Share of the celebrities' variance that the components explain ({explained} in total).",
    )
