"""One person from one photo, on a model made on the spot: every part is the real one, but the model is untrained."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from celeb_basis.executors.run_report import RunReport
from celeb_basis.executors.work import Interrupt, Job, Outcome, PersonPhotos
from celeb_basis.executors.worker import Worker
from celeb_basis.exports.write import export_identity
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.packs import MINIATURE, obtain_pack
from celeb_basis.faces.portraits import choose_face
from celeb_basis.faces.samples import sample_photos
from celeb_basis.faces.types import FaceNetwork
from celeb_basis.files import atomic_path
from celeb_basis.hosts.base import GenerationRequest, Host
from celeb_basis.identities.format import identity_from_bytes
from celeb_basis.identities.identity import Identity
from celeb_basis.identities.library import Library
from celeb_basis.judging.figures import PictureToJudge, Verdict, judge
from celeb_basis.learning.events import Event
from celeb_basis.names.lists import shipped_names
from celeb_basis.photos import open_photo
from celeb_basis.report import ReportCommand, ReportFile, ReportModel, ReportPicture, ReportStage, write_report
from celeb_basis.settings import LearnSettings

NAME = "person1"
PAGE = "index.html"

UNTRAINED = (
    "The diffusion model of this demo was made on the spot and is untrained: its weights are random numbers, so its "
    "pictures are noise and show nobody. All else is real: the photo, the face networks, the basis of the shipped names, "
    "the learning, and the files. Give a real checkpoint to see a person: celeb-basis learn --help"
)

_NOTE = "Made on the spot, with random weights and the real CLIP vocabulary."
_RESOLUTION = 128
_DRAWING_STEPS = 20
_PROMPTS = (
    "a photo of {}",
    "{} baking a cake, oil painting",
    "{} as an astronaut on the moon",
    "a pencil drawing of {} in a library",
)


@dataclass(frozen=True)
class DemoOptions:
    """What a user may choose."""

    output: Path
    photo: Path | None = None
    """A photo of one's own; a sample photo of an installed package if ``None``."""
    steps: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Stage(Event):
    """A part of the demo begins."""

    name: str


@dataclass(frozen=True)
class DemoResult:
    """What the demo made."""

    page: Path
    identity: Path
    """The identity's own file."""
    files: tuple[Path, ...]
    """Everything that was written."""
    outcome: Outcome
    verdict: Verdict
    seconds: float


def run_demo(options: DemoOptions) -> Generator[Event, None, DemoResult]:
    """Learn, draw, judge and write the page, yielding what happens.

    Raises: :class:`CelebBasisError` for a photo of no use, a folder that cannot be written, or missing face networks.
    """
    began = time.perf_counter()
    clock = _Clock()
    yield Stage("Finding the face")
    with clock("Finding the face"):
        faces: FaceNetwork = InsightFaceNetwork(obtain_pack(MINIATURE).folder)
        path = options.photo or sample_photos()["six"]
        photo = open_photo(path)
        found = faces.detect(photo)
        face = choose_face(found, None, path.name)
        reference = faces.embed([faces.align(photo, face.landmarks)])
    yield Stage("Making a small diffusion model (untrained)")
    with clock("Making the model"):
        worker = Worker(make_model(options.seed), shipped_names(), faces)
    job = Job((PersonPhotos(NAME, (path,)),), _settings(options), consent="a demonstration")
    report = RunReport(job)
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
    identity = identity_from_bytes(outcome.identities[0])
    yield Stage("Writing the identity")
    with clock("Writing files"):
        written = _write_identity(identity, options.output)
    yield Stage("Drawing")
    with clock("Drawing"):
        drawn = [one for prompt in _PROMPTS for one in _draw(worker.host, identity, prompt, options.seed)]
        pictures = {item.name: options.output / "pictures" / item.name for item in drawn}
        for item in drawn:
            _write_picture(pictures[item.name], item)
    yield Stage("Judging")
    with clock("Judging"):
        verdict = judge(drawn, reference, faces)
    files = {**written, **dict.fromkeys(pictures.values(), "a picture")}
    gathered = report.build(worker, outcome)
    seconds = time.perf_counter() - began
    page = options.output / PAGE
    write_report(
        page,
        replace(
            gathered,
            title="Celeb Basis: a person from one photo, as a word",
            summary=f"<{NAME}> was learned from {path.name} in {outcome.steps} steps, {seconds:.0f} seconds in all.",
            model=ReportModel("a small model made on the spot", worker.host.info.family, trained=False, note=_NOTE),
            pictures=[
                ReportPicture(item.picture, item.prompt, item.seed, {"steps": _DRAWING_STEPS, "sampler": "DDIM"})
                for item in drawn
            ],
            verdict=verdict,
            files=[ReportFile.of(file, purpose) for file, purpose in files.items()],
            stages=[*gathered.stages, *clock.stages],
            seconds=seconds,
            commands=_commands(options.output),
        ),
    )
    return DemoResult(page, next(iter(written)), (page, *files), outcome, verdict, seconds)


def make_model(seed: int) -> Host:
    """A small SD1 with random weights and the real vocabulary."""
    from celeb_basis.hosts.diffusers import DiffusersHost
    from celeb_basis.miniature.pipelines import make_pipeline

    return DiffusersHost(make_pipeline("sd1", seed=seed, resolution=_RESOLUTION), name="small untrained SD1")


def _settings(options: DemoOptions) -> LearnSettings:
    return LearnSettings(steps=options.steps, views=16, seed=options.seed)


def _write_identity(identity: Identity, output: Path) -> dict[Path, str]:
    """The identity and its exports, each with its purpose."""
    own = Library(output / "people").add(identity, replace=True)
    files = {own: "the identity: coefficients, token vectors, and where they come from"}
    for layout, suffix in (("webui", ".safetensors"), ("webui", ".pt"), ("diffusers", ".safetensors")):
        target = output / "exports" / layout / f"{NAME}{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        for file in export_identity(identity, target, layout):  # type: ignore[arg-type]
            files[file] = f"a textual inversion for {layout}"
    return files


def _draw(host: Host, identity: Identity, prompt: str, seed: int) -> Iterator[PictureToJudge]:
    word = f"<{NAME}>"
    request = GenerationRequest(
        prompt=prompt.format(word), words={word: identity.token_vectors()}, seed=seed, steps=_DRAWING_STEPS
    )
    for number, picture in enumerate(host.generate(request)):
        stem = "".join(char if char.isalnum() else "-" for char in prompt.format(NAME))
        yield PictureToJudge(np.asarray(picture), request.prompt, word, seed + number, f"{stem}-{seed + number}.png")


def _write_picture(path: Path, item: PictureToJudge) -> None:
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(item.picture).save(temporary, "PNG")


def _commands(output: Path) -> list[ReportCommand]:
    return [
        ReportCommand(f"celeb-basis info {output}/people/{NAME}.safetensors", "what the identity file says"),
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
