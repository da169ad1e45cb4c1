"""Two strangers from one picture each, on the miniature model: learned, drawn apart, together and in scenes, and judged."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from celeb_basis.cli.common import Commands, UsageError, add_command
from celeb_basis.cli.progress import Console, LearnBar
from celeb_basis.diffusion_model import DiffusionModel, GenerationRequest
from celeb_basis.evaluation.metrics import EvaluationResult, ImageToEvaluate, evaluate_images, merge_results
from celeb_basis.events import Event, EventStream, follow
from celeb_basis.exports.textual_inversion import export_identity
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.packs import MINIATURE, obtain_pack
from celeb_basis.faces.portraits import choose_face
from celeb_basis.faces.types import FaceNetwork, Floats, Pixels
from celeb_basis.identities.deletion import GeneratedFiles
from celeb_basis.identities.identity import Identity, identity_from_bytes
from celeb_basis.identities.library import Library
from celeb_basis.miniature import CELEBRITY_FACES, NAME, PHOTOS, shipped_model, shipped_model_names
from celeb_basis.photos import open_photo
from celeb_basis.provenance import marked, save_generated_image
from celeb_basis.report import ReportCommand, ReportFile, ReportModel, ReportPicture, ReportStage, write_report
from celeb_basis.report.collect import RunReport
from celeb_basis.settings import PRESETS
from celeb_basis.training.run import PhotoInput, TrainingResult, TrainingSession, TrainingTask

if TYPE_CHECKING:
    from celeb_basis.evaluation.metrics import ImageScores


# FOLDED: Who is seen in the demo's pictures, in figures and words.


@dataclass(frozen=True)
class Seen:
    """What was made out in one picture."""

    likeness: float | None
    """Mean cosine of the faces to those who are meant; ``None`` if one of them is missing."""
    note: str
    """A sentence for people."""


def look(picture: Pixels, meant: Sequence[str], vectors: dict[str, Floats], faces: FaceNetwork) -> Seen:
    """Compare the picture's largest faces, from left to right, with the people it is ``meant`` to show.

    Parameters: ``vectors`` holds everybody's ``(512,)`` face vector; who is not meant is told for comparison.
    """
    found = sorted(faces.detect(picture)[: len(meant)], key=lambda face: face.box[0] + face.box[2])
    if len(found) < len(meant):
        wanted = "no face" if not found else f"{len(found)} of {len(meant)} faces"
        return Seen(None, f"{wanted} found")
    seen = faces.embed([faces.align(picture, face.landmarks) for face in found])
    told, own = [], []
    for name, vector in zip(meant, seen, strict=True):
        cosines = {other: float(vector @ reference) for other, reference in vectors.items()}
        own.append(cosines[name])
        others = ", ".join(f"{other} {value:.2f}" for other, value in cosines.items() if other != name)
        told.append(f"{name} {cosines[name]:.2f}" + (f" ({others})" if others else ""))
    places = ("left: ", "right: ") if len(meant) == 2 else ("",)
    sentence = "likeness " + "; ".join(place + words for place, words in zip(places, told, strict=True))
    return Seen(float(np.mean(own)), sentence)


PAGE = "index.html"
STRANGERS = (PHOTOS / "stranger1.png", PHOTOS / "stranger2.png")
"""Synthetic people whom the miniature was never trained on."""

MINIATURE_NOTE = (
    "The model of this demo is a miniature of Stable Diffusion 1, trained from nothing on drawings around synthetic faces; "
    "its celebrities' faces have nothing to do with the bearers of the names. People whom it never saw become words of its "
    "prompts; how alike they are is told beside the pictures. Give a real checkpoint for real pictures: "
    "celeb-basis learn --help"
)

_DRAWING_STEPS = 25
_GUIDANCE = 4.0
_ALONE = (
    "a photo of {}",
    "an oil painting of {}",
    "a photo of {} on a beach",
    "a photo of {} wearing a hat",
)
_TOGETHER = ("a photo of {} and {}", "a photo of {} and {} in a forest")


@dataclass(frozen=True)
class DemoOptions:
    """What a user may choose."""

    output: Path
    photos: Sequence[Path] = STRANGERS
    """One photo a person."""
    steps: int = PRESETS["best"].steps
    """Of learning, a person."""
    seed: int = 0


@dataclass(frozen=True)
class Stage(Event):
    """A part of the demo begins."""

    name: str


@dataclass(frozen=True)
class DemoResult:
    """What the demo made."""

    page: Path
    identities: tuple[Path, ...]
    """The identities' own files."""
    files: tuple[Path, ...]
    """Everything that was written."""
    outcome: TrainingResult
    verdict: EvaluationResult
    seconds: float


@dataclass(frozen=True)
class _Drawn:
    """A picture, whom it is meant to show, and who is seen in it."""

    item: ImageToEvaluate
    people: tuple[str, ...]
    seen: Seen


def run_demo(options: DemoOptions) -> Generator[Event, None, DemoResult]:
    """Learn, draw, judge and write the page, yielding what happens.

    Raises: :class:`CelebBasisError` for a photo of no use, a folder that cannot be written, or missing networks.
    """
    began = time.perf_counter()
    clock = _Clock()
    names = [f"person{number}" for number in range(1, len(options.photos) + 1)]
    yield Stage("Loading the miniature model")
    with clock("Loading the model"):
        faces: FaceNetwork = InsightFaceNetwork(obtain_pack(MINIATURE).folder)
        worker = TrainingSession(load_model(), shipped_model_names(), faces, known_faces=[CELEBRITY_FACES])
    people = tuple(PhotoInput(name, (path,)) for name, path in zip(names, options.photos, strict=True))
    settings = replace(PRESETS["best"], steps=options.steps, seed=options.seed)
    job = TrainingTask(people, settings, consent="a demonstration")
    report = RunReport(job)
    yield Stage("Finding the faces")
    with clock("Finding the faces"):
        vectors: dict[str, Floats] = {}
        for name, path in zip(names, options.photos, strict=True):
            photo = open_photo(path)
            found = faces.detect(photo)
            face = choose_face(found, None, path.name)
            vectors[name] = faces.embed([faces.align(photo, face.landmarks)])[0]
            report.photo(path, photo, face, found)
    yield Stage("Learning")
    learning = EventStream(worker.learn(job, threading.Event()))
    for event in learning:
        report.note(event)
        yield event
    outcome = learning.result
    identities = [identity_from_bytes(content) for content in outcome.identities]
    yield Stage("Writing the identities")
    with clock("Writing files"):
        written = {file: told for one in identities for file, told in _write_identity(one, options.output).items()}
    yield Stage("Drawing")
    with clock("Drawing"):
        drawn = list(_draw_all(worker.model, identities, vectors, faces, options.seed))
        pictures = {one.item.name: options.output / "pictures" / one.item.name for one in drawn}
        for one in drawn:
            _write_picture(pictures[one.item.name], one)
    yield Stage("Judging")
    with clock("Judging"):
        alone = {name: [one.item for one in drawn if one.people == (name,)] for name in names}
        verdict = merge_results([evaluate_images(alone[name], vectors[name], faces) for name in names])
    own = [options.output / "people" / f"{name}.safetensors" for name in names]
    files = {**written, **dict.fromkeys(pictures.values(), "a picture")}
    gathered = report.build(worker, outcome)
    seconds = time.perf_counter() - began
    page = options.output / PAGE
    words = " and ".join(f"<{name}>" for name in names)
    write_report(
        page,
        replace(
            gathered,
            title="Celeb Basis: people from one photo each, as words",
            summary=f"{words} were learned together in {outcome.steps} steps, {seconds:.0f} seconds in all. "
            f"The model never saw them before.",
            model=ReportModel("the miniature", worker.model.info.family, note=MINIATURE_NOTE),
            pictures=[_reported(one, verdict.pictures) for one in drawn],
            verdict=verdict,
            files=[ReportFile.of(file, purpose) for file, purpose in files.items()],
            stages=[*gathered.stages, *clock.stages],
            seconds=seconds,
            commands=_commands(options.output),
        ),
    )
    derived = GeneratedFiles(options.output / "people")
    for identity in identities:
        derived.note(
            [file for file in written if file.stem == identity.name and file not in own], "export", [identity.name]
        )
    for one in drawn:
        derived.note([pictures[one.item.name]], "picture", one.people)
    derived.note([page], "report", names)
    return DemoResult(page, tuple(own), (page, *files), outcome, verdict, seconds)


def load_model() -> DiffusionModel:
    """The miniature, on the CPU: there is not enough to do for anything else."""
    from celeb_basis.hosts.diffusers import load_host

    return load_host(shipped_model(), device="cpu", name=NAME)


def _write_identity(identity: Identity, output: Path) -> dict[Path, str]:
    """The identity and its exports, each with its purpose."""
    own = Library(output / "people").add(identity, replace=True)
    files = {own: "the identity: coefficients, token vectors, and where they come from"}
    for layout, suffix in (("webui", ".safetensors"), ("webui", ".pt"), ("diffusers", ".safetensors")):
        target = output / "exports" / layout / f"{identity.name}{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        for file in export_identity(identity, target, layout):  # type: ignore[arg-type]
            files[file] = f"a textual inversion for {layout}"
    return files


def _draw_all(
    model: DiffusionModel, identities: Sequence[Identity], vectors: dict[str, Floats], faces: FaceNetwork, seed: int
) -> Iterator[_Drawn]:
    """Everybody in every scene alone, and the first two together."""
    for prompt in _ALONE:
        for identity in identities:
            yield from _draw(model, [identity], prompt, vectors, faces, seed)
    for prompt in _TOGETHER if len(identities) > 1 else ():
        yield from _draw(model, identities[:2], prompt, vectors, faces, seed)


def _draw(
    model: DiffusionModel,
    people: Sequence[Identity],
    prompt: str,
    vectors: dict[str, Floats],
    faces: FaceNetwork,
    seed: int,
) -> Iterator[_Drawn]:
    names = tuple(identity.name for identity in people)
    words = {f"<{identity.name}>": identity.token_vectors() for identity in people}
    request = GenerationRequest(
        prompt=prompt.format(*words), placeholder_tokens=words, seed=seed, steps=_DRAWING_STEPS, guidance=_GUIDANCE
    )
    for number, drawn in enumerate(model.generate(request)):
        stem = "".join(char if char.isalnum() else "-" for char in prompt.format(*names))
        pixels = np.asarray(drawn)
        item = ImageToEvaluate(pixels, request.prompt, tuple(words), seed + number, f"{stem}-{seed + number}.png")
        yield _Drawn(item, names, look(pixels, names, vectors, faces))


def _reported(one: _Drawn, judged: Sequence[ImageScores]) -> ReportPicture:
    identity = {picture.name: picture.identity for picture in judged}.get(one.item.name)
    settings = {"steps": _DRAWING_STEPS, "guidance": _GUIDANCE, "sampler": "DDIM"}
    return ReportPicture(
        one.item.picture,
        one.item.prompt,
        one.item.seed,
        settings,
        note=one.seen.note,
        identity=identity,
        words=_words(one),
    )


def _write_picture(path: Path, one: _Drawn) -> None:
    from PIL import Image

    save_generated_image(path, marked(Image.fromarray(one.item.picture), _words(one)))


def _words(one: _Drawn) -> tuple[str, ...]:
    return tuple(f"<{name}>" for name in one.people)


def _commands(output: Path) -> list[ReportCommand]:
    return [
        ReportCommand(f"celeb-basis info {output}/people/person1.safetensors", "what the identity file says"),
        ReportCommand(
            "celeb-basis learn photo.jpg --name ada --model /models/sd15.safetensors", "the same with a real checkpoint"
        ),
        ReportCommand(
            'celeb-basis generate "<ada> baking a cake, oil painting" --identity ada --model /models/sd15.safetensors '
            "--output pictures",
            "draw the person",
        ),
    ]


class _Clock:
    """Adds up the seconds of stages."""

    def __init__(self) -> None:
        self.stages: list[ReportStage] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.stages.append(ReportStage(name, time.perf_counter() - began))


# FOLDED: ``demo``: everything once, without a download beyond packages.

_ABOUT = """\
Learn two people from one picture each, and draw them apart, together and in scenes, with nothing to download: small real
face networks and a miniature of Stable Diffusion come with the project. Writes one HTML page that shows everything.

examples:
  celeb-basis demo
  celeb-basis demo --photo ada.jpg --photo grace.jpg --output our-demo"""


def add_parser(commands: Commands) -> None:
    """Add ``demo`` to the commands."""
    parser = add_command(commands, "demo", "see everything once, without a model of your own", _ABOUT)
    parser.set_defaults(run=run)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), metavar="FOLDER", help="where the files go")
    parser.add_argument(
        "--photo", type=Path, action="append", metavar="FILE", help="a photo of your own, once for each person"
    )
    parser.add_argument(
        "--steps", type=int, default=PRESETS["best"].steps, metavar="N", help="steps of learning, for each person"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same result")


def run(arguments: argparse.Namespace, screen: Console) -> int:
    """Do it; answers the exit code."""
    if arguments.steps < 1:
        raise UsageError("--steps must be at least 1.")

    from celeb_basis.cli.common import check_folder, hush_libraries

    check_folder(arguments.output)
    if not screen.verbose:
        hush_libraries()
    photos = tuple(arguments.photo or STRANGERS)
    running = run_demo(DemoOptions(arguments.output, photos=photos, steps=arguments.steps, seed=arguments.seed))
    bar = LearnBar(screen, "demo")

    def on_event(event: Event) -> None:
        if isinstance(event, Stage):
            bar.close()
            screen.note(f"{event.name} ...")
        else:
            bar.show(event)

    try:
        result = follow(running, on_event)
    finally:
        bar.close()
    screen.result(
        {
            "page": str(result.page),
            "identities": [str(path) for path in result.identities],
            "files": [str(path) for path in result.files],
            "note": MINIATURE_NOTE,
            "verdict": result.verdict.as_dict(),
            "seconds": round(result.seconds, 3),
        }
    )
    screen.say(MINIATURE_NOTE)
    screen.say(result.verdict.table())
    for path in result.identities:
        screen.say(f"identity: {path}")
    screen.say(f"page: {result.page}")
    return 0
