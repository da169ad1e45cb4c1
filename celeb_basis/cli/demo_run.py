"""The demo itself: two people learned on the miniature model, images of them, their evaluation, and a page on all of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from celeb_basis.diffusion_model import DiffusionModel, GenerationRequest
from celeb_basis.evaluation.known_celebrities import measure_scale
from celeb_basis.evaluation.metrics import (
    EvaluationResult,
    ImageScores,
    ImageToEvaluate,
    evaluate_images,
    merge_results,
)
from celeb_basis.events import Event, EventStream
from celeb_basis.exports.textual_inversion import export_identity
from celeb_basis.faces.face_search import find_faces
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.network import FaceNetwork, Floats, Pixels
from celeb_basis.faces.packs import MINIATURE, find_pack
from celeb_basis.hosts.diffusers import load_host
from celeb_basis.identities.generated_files import GeneratedFiles
from celeb_basis.identities.identity import Identity, identity_from_bytes
from celeb_basis.identities.invention import Inventor
from celeb_basis.identities.library import Library
from celeb_basis.miniature import CELEBRITY_FACES, NAME, shipped_model, shipped_model_names
from celeb_basis.photos import open_photo
from celeb_basis.provenance import marked, save_generated_image
from celeb_basis.report import (
    ReportCommand,
    ReportFile,
    ReportModel,
    ReportPerson,
    ReportPicture,
    ReportScale,
    ReportStage,
    write_report,
)
from celeb_basis.report.collect import RunReport
from celeb_basis.settings import PRESETS
from celeb_basis.training.run import PhotoInput, TrainingResult, TrainingSession, TrainingTask

PAGE = "index.html"

MINIATURE_NOTE = (
    "The model of this demo is a miniature of Stable Diffusion 1, trained from scratch on pictures of invented people; "
    "its celebrities do not look like the people who bear these names. The two people were not in its training data. The "
    "page says how similar the generated faces are to theirs. For real images, use a real checkpoint: "
    "celeb-basis learn --help"
)

_SAMPLING_STEPS = 25
_CELEBRITIES = 4
"""Known people who are generated, to compare the others with."""
_GUIDANCE = 4.0
_ALONE = (
    "a photo of {}",
    "an oil painting of {}",
    "a photo of {} on a beach",
    "a photo of {} wearing a hat",
)
_TOGETHER = ("a photo of {} and {}", "a photo of {} and {} in a forest")
_INVENTED = ("a photo of {}", "an oil painting of {}", "a photo of {} on a beach")


@dataclass(frozen=True)
class DemoOptions:
    """What the user can choose."""

    output: Path
    photos: Sequence[Path]
    """One per person."""
    steps: int
    """Training steps for each person."""
    seed: int = 0


@dataclass(frozen=True)
class Stage(Event):
    """A stage of the demo begins."""

    name: str


@dataclass(frozen=True)
class DemoResult:
    """What the demo produced."""

    page: Path
    identities: tuple[Path, ...]
    """The identity files."""
    files: tuple[Path, ...]
    """Everything that was written."""
    outcome: TrainingResult
    evaluation: EvaluationResult
    seconds: float


def run_demo(options: DemoOptions) -> Generator[Event, None, DemoResult]:
    """Learn the people, generate and evaluate images, and write the page, yielding events.

    Raises:
        CelebBasisError: A photo is not usable, the folder cannot be written, or face networks are missing.
    """
    began = time.perf_counter()
    clock = _Clock()
    names = [f"person{number}" for number in range(1, len(options.photos) + 1)]
    yield Stage("Loading the miniature model")
    with clock("Loading the model"):
        faces: FaceNetwork = InsightFaceNetwork(find_pack(MINIATURE).folder)
        session = TrainingSession(load_model(), shipped_model_names(), faces, known_faces=[CELEBRITY_FACES])
    people = tuple(PhotoInput(name, (path,)) for name, path in zip(names, options.photos, strict=True))
    settings = replace(PRESETS["best"], steps=options.steps, seed=options.seed)
    task = TrainingTask(people, settings, consent="a demonstration")
    report = RunReport(task)
    yield Stage("Finding the faces")
    with clock("Finding the faces"):
        vectors: dict[str, Floats] = {}
        for name, path in zip(names, options.photos, strict=True):
            search = find_faces(open_photo(path), faces)
            face = search.choose(None, path.name)
            vectors[name] = search.embed(face, faces)[1]
            report.photo(path, search.picture, face, search.faces)
    yield Stage("Learning")
    learning = EventStream(session.learn(task, threading.Event()))
    for event in learning:
        report.note(event)
        yield event
    outcome = learning.result
    identities = [identity_from_bytes(content) for content in outcome.identities]
    bases = [built.basis for built in session.built_bases(int(identities[0].metadata.settings["components"]))]
    invented = Inventor(bases, session.model.info, session.names).invent(options.seed, taken=names)
    yield Stage("Writing the identities")
    with clock("Writing files"):
        everyone = (*identities, invented)
        written = {file: what for one in everyone for file, what in _write_identity(one, options.output).items()}
    yield Stage("Generating images")
    with clock("Generating images"):
        images = [
            *_generate_all(session.model, identities, vectors, faces, options.seed),
            *_generate_invented(session.model, invented, faces, options.seed),
        ]
        paths = {one.item.name: options.output / "pictures" / one.item.name for one in images}
        for one in images:
            one.save(paths[one.item.name])
    yield Stage("Evaluating")
    with clock("Evaluating"):
        alone = {name: [one.item for one in images if one.people == (name,)] for name in names}
        evaluation = merge_results([evaluate_images(alone[name], vectors[name], faces) for name in names])
        photos = np.stack([vectors[name] for name in names])
        measuring = measure_scale(
            session.model, photos, faces, session.names, known_faces=[CELEBRITY_FACES], celebrities=_CELEBRITIES
        )
        anybody, known = yield from measuring
    own = [options.output / "people" / f"{one.name}.safetensors" for one in everyone]
    files = {**written, **dict.fromkeys(paths.values(), "a generated image")}
    collected = report.build(session, outcome)
    seconds = time.perf_counter() - began
    page = options.output / PAGE
    tokens = " and ".join(f"<{name}>" for name in names)
    write_report(
        page,
        replace(
            collected,
            title="From one photo each into any picture",
            summary=f"{tokens} were learned together in {outcome.steps} steps; the whole demo took {seconds:.0f} seconds. "
            f"The model had never seen them. <{invented.name}> does not exist: invented without any photo.",
            people=[*collected.people, ReportPerson(invented.name, f"<{invented.name}>", invented=True)],
            model=ReportModel("the miniature", session.model.info.family, note=MINIATURE_NOTE),
            pictures=[one.as_reported(evaluation.pictures) for one in images],
            verdict=evaluation,
            scale=None if anybody is None or known is None else ReportScale(anybody, known),
            files=[ReportFile.of(file, purpose) for file, purpose in files.items()],
            stages=[*collected.stages, *clock.stages],
            seconds=seconds,
            commands=_next_commands(options.output),
        ),
    )
    generated = GeneratedFiles(options.output / "people")
    for identity in everyone:
        exports = [file for file in written if file.stem == identity.name and file not in own]
        generated.note(exports, "export", [identity.name])
    for one in images:
        generated.note([paths[one.item.name]], "picture", one.people)
    generated.note([page], "report", [one.name for one in everyone])
    return DemoResult(page, tuple(own), (page, *files), outcome, evaluation, seconds)


def load_model() -> DiffusionModel:
    """Load the miniature on the CPU; it is too small for anything else to be faster."""
    return load_host(shipped_model(), device="cpu", name=NAME)


def _write_identity(identity: Identity, output: Path) -> dict[Path, str]:
    """Write the identity and its exports; returns every file with its purpose."""
    own = Library(output / "people").add(identity, replace=True)
    files = {own: "the identity: coefficients, token vectors, and where they come from"}
    for layout, suffix in (("webui", ".safetensors"), ("webui", ".pt"), ("diffusers", ".safetensors")):
        target = output / "exports" / layout / f"{identity.name}{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        for file in export_identity(identity, target, layout):  # type: ignore[arg-type]
            files[file] = f"a textual inversion for {layout}"
    return files


# Images, and how similar their faces are to the people


@dataclass(frozen=True)
class Similarity:
    """How similar the faces of an image are to the people that it should show."""

    mean: float | None
    """Mean cosine similarity; ``None`` if a face is missing."""
    note: str
    """The same as a sentence."""


def face_similarity(
    picture: Pixels, people: Sequence[str], vectors: dict[str, Floats], faces: FaceNetwork
) -> Similarity:
    """Compare the largest faces of an image, from left to right, with the people that it should show.

    Args:
        picture: ``(H, W, 3)`` RGB pixels.
        people: Names of the people in the prompt, in its order.
        vectors: Everyone's ``(512,)`` face vector by name; the similarities to the others are listed for comparison.
        faces: The networks that find and embed the faces.
    """
    found = sorted(faces.detect(picture)[: len(people)], key=lambda face: face.box[0] + face.box[2])
    if len(found) < len(people):
        count = "no face" if not found else f"{len(found)} of {len(people)} faces"
        return Similarity(None, f"{count} found")
    embedded = faces.embed([faces.align(picture, face.landmarks) for face in found])
    phrases, own = [], []
    for name, vector in zip(people, embedded, strict=True):
        cosines = {other: float(vector @ reference) for other, reference in vectors.items()}
        if name not in cosines:
            return Similarity(None, f"no photo of {name} to compare with")
        own.append(cosines[name])
        others = ", ".join(f"{other} {value:.2f}" for other, value in cosines.items() if other != name)
        phrases.append(f"{name} {cosines[name]:.2f}" + (f" ({others})" if others else ""))
    places = ("left: ", "right: ") if len(people) == 2 else ("",)
    note = "similarity " + "; ".join(place + phrase for place, phrase in zip(places, phrases, strict=True))
    return Similarity(float(np.mean(own)), note)


@dataclass(frozen=True)
class _Generated:
    """An image, the people that it should show, and how similar they are."""

    item: ImageToEvaluate
    people: tuple[str, ...]
    similarity: Similarity

    @property
    def tokens(self) -> tuple[str, ...]:
        return tuple(f"<{name}>" for name in self.people)

    def save(self, path: Path) -> None:
        save_generated_image(path, marked(Image.fromarray(self.item.picture), self.tokens))

    def as_reported(self, scores: Sequence[ImageScores]) -> ReportPicture:
        identity = {one.name: one.identity for one in scores}.get(self.item.name)
        settings = {"steps": _SAMPLING_STEPS, "guidance": _GUIDANCE, "sampler": "DDIM"}
        return ReportPicture(
            self.item.picture,
            self.item.prompt,
            self.item.seed,
            settings,
            note=self.similarity.note,
            identity=identity,
            words=self.tokens,
        )


def _generate_all(
    model: DiffusionModel, identities: Sequence[Identity], vectors: dict[str, Floats], faces: FaceNetwork, seed: int
) -> Iterator[_Generated]:
    """Everyone alone in every scene, and the first two together."""
    for prompt in _ALONE:
        for identity in identities:
            yield from _generate(model, [identity], prompt, vectors, faces, seed)
    for prompt in _TOGETHER if len(identities) > 1 else ():
        yield from _generate(model, identities[:2], prompt, vectors, faces, seed)


def _generate_invented(
    model: DiffusionModel, invented: Identity, faces: FaceNetwork, seed: int
) -> Iterator[_Generated]:
    for prompt in _INVENTED:
        yield from _generate(model, [invented], prompt, {}, faces, seed)


def _generate(
    model: DiffusionModel,
    people: Sequence[Identity],
    prompt: str,
    vectors: dict[str, Floats],
    faces: FaceNetwork,
    seed: int,
) -> Iterator[_Generated]:
    names = tuple(identity.name for identity in people)
    tokens = {f"<{identity.name}>": identity.token_vectors() for identity in people}
    request = GenerationRequest(
        prompt=prompt.format(*tokens), placeholder_tokens=tokens, seed=seed, steps=_SAMPLING_STEPS, guidance=_GUIDANCE
    )
    for number, image in enumerate(model.generate(request)):
        stem = "".join(char if char.isalnum() else "-" for char in prompt.format(*names))
        pixels = np.asarray(image)
        item = ImageToEvaluate(pixels, request.prompt, tuple(tokens), seed + number, f"{stem}-{seed + number}.png")
        yield _Generated(item, names, face_similarity(pixels, names, vectors, faces))


def _next_commands(output: Path) -> list[ReportCommand]:
    return [
        ReportCommand(
            f"celeb-basis info {output}/people/person1.safetensors", "See what the identity file says about itself."
        ),
        ReportCommand(
            "celeb-basis learn photo.jpg --name ada --model /models/sd15.safetensors",
            "Learn a person on a real checkpoint.",
        ),
        ReportCommand(
            'celeb-basis generate "<ada> baking a cake, oil painting" --model /models/sd15.safetensors '
            "--output pictures",
            "Generate images of the person.",
        ),
    ]


class _Clock:
    """Measures the seconds of stages."""

    def __init__(self) -> None:
        self.stages: list[ReportStage] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.stages.append(ReportStage(name, time.perf_counter() - began))
