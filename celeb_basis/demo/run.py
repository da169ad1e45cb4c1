"""Two strangers from one picture each, on the miniature model: learned, drawn apart, together and in scenes, and judged."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from celeb_basis.demo.looking import Seen, look
from celeb_basis.executors.run_report import RunReport
from celeb_basis.executors.work import Interrupt, Job, Outcome, PersonPhotos
from celeb_basis.executors.worker import Worker
from celeb_basis.exports.write import export_identity
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.packs import MINIATURE, obtain_pack
from celeb_basis.faces.portraits import choose_face
from celeb_basis.faces.types import FaceNetwork, Floats
from celeb_basis.hosts.base import GenerationRequest, Host
from celeb_basis.identities.derived import DerivedFiles
from celeb_basis.identities.format import identity_from_bytes
from celeb_basis.identities.identity import Identity
from celeb_basis.identities.library import Library
from celeb_basis.judging.figures import PictureToJudge, Verdict, join_verdicts, judge
from celeb_basis.learning.events import Event
from celeb_basis.miniature.shipped import NAME, shipped_model, shipped_model_names
from celeb_basis.photos import open_photo
from celeb_basis.provenance import marked, save_drawn
from celeb_basis.report import ReportCommand, ReportFile, ReportModel, ReportPicture, ReportStage, write_report
from celeb_basis.settings import PRESETS

if TYPE_CHECKING:
    from celeb_basis.judging.figures import JudgedPicture

PAGE = "index.html"
STRANGERS = (Path(__file__).with_name("stranger1.png"), Path(__file__).with_name("stranger2.png"))
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
    outcome: Outcome
    verdict: Verdict
    seconds: float


@dataclass(frozen=True)
class _Drawn:
    """A picture, whom it is meant to show, and who is seen in it."""

    item: PictureToJudge
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
        worker = Worker(load_model(), shipped_model_names(), faces)
    people = tuple(PersonPhotos(name, (path,)) for name, path in zip(names, options.photos, strict=True))
    settings = replace(PRESETS["best"], steps=options.steps, seed=options.seed)
    job = Job(people, settings, consent="a demonstration")
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
    running = worker.learn(job, Interrupt())
    while True:
        try:
            event = next(running)
        except StopIteration as done:
            outcome: Outcome = done.value
            break
        report.note(event)
        yield event
    identities = [identity_from_bytes(content) for content in outcome.identities]
    yield Stage("Writing the identities")
    with clock("Writing files"):
        written = {file: told for one in identities for file, told in _write_identity(one, options.output).items()}
    yield Stage("Drawing")
    with clock("Drawing"):
        drawn = list(_draw_all(worker.host, identities, vectors, faces, options.seed))
        pictures = {one.item.name: options.output / "pictures" / one.item.name for one in drawn}
        for one in drawn:
            _write_picture(pictures[one.item.name], one)
    yield Stage("Judging")
    with clock("Judging"):
        alone = {name: [one.item for one in drawn if one.people == (name,)] for name in names}
        verdict = join_verdicts([judge(alone[name], vectors[name], faces) for name in names])
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
            model=ReportModel("the miniature", worker.host.info.family, note=MINIATURE_NOTE),
            pictures=[_reported(one, verdict.pictures) for one in drawn],
            verdict=verdict,
            files=[ReportFile.of(file, purpose) for file, purpose in files.items()],
            stages=[*gathered.stages, *clock.stages],
            seconds=seconds,
            commands=_commands(options.output),
        ),
    )
    derived = DerivedFiles(options.output / "people")
    for identity in identities:
        derived.note(
            [file for file in written if file.stem == identity.name and file not in own], "export", [identity.name]
        )
    for one in drawn:
        derived.note([pictures[one.item.name]], "picture", one.people)
    derived.note([page], "report", names)
    return DemoResult(page, tuple(own), (page, *files), outcome, verdict, seconds)


def load_model() -> Host:
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
    host: Host, identities: Sequence[Identity], vectors: dict[str, Floats], faces: FaceNetwork, seed: int
) -> Iterator[_Drawn]:
    """Everybody in every scene alone, and the first two together."""
    for prompt in _ALONE:
        for identity in identities:
            yield from _draw(host, [identity], prompt, vectors, faces, seed)
    for prompt in _TOGETHER if len(identities) > 1 else ():
        yield from _draw(host, identities[:2], prompt, vectors, faces, seed)


def _draw(
    host: Host,
    people: Sequence[Identity],
    prompt: str,
    vectors: dict[str, Floats],
    faces: FaceNetwork,
    seed: int,
) -> Iterator[_Drawn]:
    names = tuple(identity.name for identity in people)
    words = {f"<{identity.name}>": identity.token_vectors() for identity in people}
    request = GenerationRequest(
        prompt=prompt.format(*words), words=words, seed=seed, steps=_DRAWING_STEPS, guidance=_GUIDANCE
    )
    for number, drawn in enumerate(host.generate(request)):
        stem = "".join(char if char.isalnum() else "-" for char in prompt.format(*names))
        pixels = np.asarray(drawn)
        item = PictureToJudge(pixels, request.prompt, tuple(words), seed + number, f"{stem}-{seed + number}.png")
        yield _Drawn(item, names, look(pixels, names, vectors, faces))


def _reported(one: _Drawn, judged: Sequence[JudgedPicture]) -> ReportPicture:
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

    save_drawn(path, marked(Image.fromarray(one.item.picture), _words(one)))


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
