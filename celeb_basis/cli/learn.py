"""``learn``: a person from a photo, several together, or a whole folder of people."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.cli.common import (
    Commands,
    UsageError,
    add_command,
    add_faces,
    add_library,
    add_model,
    add_names,
    add_replace,
    add_settings,
    chosen_settings,
    settings_changes,
)
from celeb_basis.cli.progress import Console, LearnBar
from celeb_basis.cli.run_results import unfinished_run
from celeb_basis.errors import CelebBasisError, IdentityError, PhotoError
from celeb_basis.files import checked_name, explained_os_errors
from celeb_basis.miniature import CELEBRITY_FACES
from celeb_basis.training.run import PhotoInput

if TYPE_CHECKING:
    from celeb_basis.cli.run_results import Results
    from celeb_basis.events import Event
    from celeb_basis.training.run import TrainingResult, TrainingTask


_ABOUT = """\
Learn a person from one photo or more, as 1,024 coefficients in the space that celebrities' names span in the
model's text encoder. The model is not changed. What is learned is a small file in the library, and a word: <NAME>.

examples:
  celeb-basis learn ada.jpg --name ada --model /models/sd15.safetensors
  celeb-basis learn ada1.jpg ada2.jpg --name ada --model /models/sd15 --preset quick --report ada.html
  celeb-basis learn --person ada=ada.jpg --person bob=bob1.jpg,bob2.jpg --model /models/sd15
  celeb-basis learn people/ --model /models/sd15                  (one picture or folder a person, one after the other)
  celeb-basis learn people/ --model /models/sd15 --executor ray --workers 4
  celeb-basis learn --resume ada.state.safetensors --model /models/sd15

Ctrl-C ends learning after the step under way and keeps its state; the command that goes on is then shown, and the result
is the same, bit for bit, as without the interruption. Of a folder, one person's failure stops no other: the end shows who
failed and why, and the exit code is 1 if some failed and 2 if all did."""


def add_parser(commands: Commands) -> None:
    """Add ``learn`` to the commands."""
    parser = add_command(commands, "learn", "learn a person from a photo", _ABOUT)
    parser.set_defaults(run=run)
    parser.add_argument(
        "photos", nargs="*", type=Path, metavar="PHOTO", help="photos of one person, or a folder of people"
    )
    parser.add_argument("--name", help="the person's name, and word: <NAME>")
    parser.add_argument(
        "--person", action="append", default=[], metavar="NAME=PHOTO[,PHOTO]", help="one of several to learn together"
    )
    parser.add_argument(
        "--together", action="store_true", help="learn a folder's people in one run (--mode head: one head)"
    )
    parser.add_argument("--face", type=int, metavar="N", help="which face of a photo: 0 is the largest, 1 the next")
    parser.add_argument(
        "--consent", default="", metavar="TEXT", help="a note on the person's consent, kept in the file"
    )
    add_faces(parser)
    add_names(parser)
    add_library(parser)
    add_replace(parser)
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="where an interrupted run is kept; in the cache if left out"
    )
    parser.add_argument("--resume", type=Path, metavar="FILE", help="go on with a run that was kept")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write a page about the run")
    add_model(parser)
    group = parser.add_argument_group("a folder of people on several machines")
    group.add_argument("--executor", choices=("local", "ray"), default="local", help="in this process, or on Ray")
    group.add_argument("--workers", type=int, default=2, metavar="N", help="Ray worker processes, one model each")
    group.add_argument(
        "--ray-address", metavar="ADDRESS", help="a running Ray cluster; one is started here if left out"
    )
    add_settings(parser)


def run(arguments: argparse.Namespace, screen: Console) -> int:
    """Do it; answers the exit code."""
    settings = chosen_settings(arguments)
    _check_usage(arguments)

    from celeb_basis.cli.common import check_output_file, open_library, open_names
    from celeb_basis.cli.run_results import Results

    if arguments.resume is not None:
        return _resume(arguments, screen)
    wanted = wanted_people(arguments)
    if wanted.from_folder and not wanted.together and (arguments.state or arguments.report):
        raise UsageError("--state and --report are for a single run: leave them out, or add --together.")
    if arguments.executor == "ray" and (not wanted.from_folder or wanted.together):
        raise UsageError(
            "--executor ray spreads the people of a folder, each alone: give a folder, without --together."
        )
    check_output_file(arguments.report)
    check_output_file(arguments.state)
    with explained_os_errors(arguments.model, "read"):
        arguments.model.stat()  # before anything slow
    results = Results(open_library(arguments.library), arguments, screen)
    names = open_names(arguments)
    jobs = _jobs(arguments, settings, wanted, results)
    if wanted.from_folder and not wanted.together:
        return _many(arguments, screen, jobs, names, results)
    return _single(arguments, screen, jobs[0], names, results)


def _check_usage(arguments: argparse.Namespace) -> None:
    if arguments.resume is not None and (arguments.photos or arguments.person or arguments.name):
        raise UsageError("--resume goes on with people who are in the file: leave out photos, --name and --person.")
    if arguments.workers < 1:
        raise UsageError("--workers must be at least 1.")
    if arguments.face is not None and arguments.face < 0:
        raise UsageError("--face counts from 0, the largest face of a photo.")


def _jobs(arguments: argparse.Namespace, settings: Any, wanted: Any, results: Results) -> list[TrainingTask]:
    """The runs. Of a folder, people who cannot be learned go to ``results`` at once; else they are errors."""
    from celeb_basis.cli.common import check_name_is_free
    from celeb_basis.errors import CelebBasisError
    from celeb_basis.training.run import TrainingTask

    for name, reason in wanted.refused:
        results.refused(name, reason)
    people = []
    for person in wanted.people:
        try:
            check_name_is_free(results.library, person.name, replace=arguments.replace)
        except CelebBasisError as error:
            if not wanted.from_folder:
                raise
            results.refused(person.name, str(error))
        else:
            people.append(person)
    if wanted.together:
        if wanted.refused or len(people) < len(wanted.people):
            results.raise_first()
        groups = [tuple(people)]
    else:
        groups = [(person,) for person in people]
    shared = {"settings": settings, "face": arguments.face, "consent": arguments.consent}
    return [
        TrainingTask(group, state=arguments.state or unfinished_run([one.name for one in group], arguments), **shared)
        for group in groups
    ]


def _single(arguments: argparse.Namespace, screen: Console, job: TrainingTask, names: Any, results: Results) -> int:
    """One run, whose errors are the command's."""
    from celeb_basis.cli.common import open_faces, open_model
    from celeb_basis.faces.portraits import choose_face
    from celeb_basis.photos import open_photo
    from celeb_basis.report.collect import RunReport
    from celeb_basis.training.run import TrainingSession, run_one

    photos = {path: open_photo(path) for person in job.people for path in person.photos}
    faces = open_faces(arguments, screen)
    report = RunReport(job) if arguments.report else None
    for path, photo in photos.items():
        found = faces.detect(photo)
        face = choose_face(found, job.face, path.name)  # fails before the model is loaded, which takes long
        if report is not None:
            report.photo(path, photo, face, found)
    worker = TrainingSession(open_model(arguments, screen), names, faces, known_faces=[CELEBRITY_FACES])
    interrupt = threading.Event()
    with _watched(screen, ", ".join(job.names), interrupt) as bar:

        def on_event(_job: TrainingTask, event: Event) -> None:
            bar.show(event)
            if report is not None:
                report.note(event)

        try:
            outcome = run_one(worker, job, interrupt, on_event)
        finally:
            results.note_state(job.state, job.names)  # also where an error left one
    return _finish(arguments, outcome, results, worker, report)


def _many(
    arguments: argparse.Namespace, screen: Console, jobs: Sequence[TrainingTask], names: Any, results: Results
) -> int:
    """A folder of people, each alone: all are tried, and the end says how each went."""
    interrupt = threading.Event()
    if jobs:
        run_jobs = _on_ray if arguments.executor == "ray" else _here
        with _watched(screen, "", interrupt) as bar:
            for outcome in run_jobs(arguments, screen, jobs, names, interrupt, bar):
                bar.close()
                results.take(outcome)
    results.table([job.names[0] for job in jobs], interrupted=interrupt.is_set())
    if interrupt.is_set():
        return 130
    return 0 if not results.failed else 1 if results.succeeded else 2


def _here(
    arguments: argparse.Namespace,
    screen: Console,
    jobs: Sequence[TrainingTask],
    names: Any,
    interrupt: threading.Event,
    bar: LearnBar,
) -> Iterator[TrainingResult]:
    from celeb_basis.cli.common import open_faces, open_model
    from celeb_basis.training.run import TrainingSession, run_local

    faces = open_faces(arguments, screen)
    worker = TrainingSession(open_model(arguments, screen), names, faces, known_faces=[CELEBRITY_FACES])
    order = {job.names: f"{number}/{len(jobs)} {job.names[0]}" for number, job in enumerate(jobs, start=1)}

    def on_event(job: TrainingTask, event: Event) -> None:
        bar.about = order[job.names]
        bar.show(event)

    yield from run_local(worker, jobs, interrupt, on_event)


def _on_ray(
    arguments: argparse.Namespace,
    screen: Console,
    jobs: Sequence[TrainingTask],
    names: Any,
    interrupt: threading.Event,
    bar: LearnBar,
) -> Iterator[TrainingResult]:
    from celeb_basis.cli.common import WorkerSpec, obtain_faces
    from celeb_basis.training.ray_executor import RayOptions, run_on_ray

    del bar  # workers report when a person is done
    if arguments.ray_address is None:
        obtain_faces(arguments, screen)  # once, and not in every worker at the same time
    # Workers run in other folders: a relative path would mean something else there.
    faces = str(Path(arguments.faces).absolute()) if len(Path(arguments.faces).parts) > 1 else arguments.faces
    spec = WorkerSpec(
        arguments.model.expanduser().absolute(),
        arguments.device,
        arguments.dtype,
        names,
        faces,
        arguments.accept_licence,
    )
    options = RayOptions(arguments.workers, arguments.ray_address)
    progress = screen.bar(len(jobs), "people", unit="person")
    try:
        for outcome in run_on_ray(spec, jobs, interrupt, options):
            progress.update()
            yield outcome
    finally:
        progress.close()


def _resume(arguments: argparse.Namespace, screen: Console) -> int:
    """Go on with a run that was kept."""
    from celeb_basis.cli.common import check_name_is_free, check_output_file, open_library, open_model, open_names
    from celeb_basis.cli.run_results import Results
    from celeb_basis.events import follow
    from celeb_basis.report.collect import RunReport
    from celeb_basis.training.run import TrainingSession
    from celeb_basis.training.state import read_summary

    results = Results(open_library(arguments.library), arguments, screen)
    people = read_summary(arguments.resume).names
    for name in people:
        check_name_is_free(results.library, name, replace=arguments.replace)
    check_output_file(arguments.report)
    names = open_names(arguments)
    worker = TrainingSession(open_model(arguments, screen), names, None)
    report = RunReport(None) if arguments.report else None
    interrupt = threading.Event()
    with _watched(screen, ", ".join(people), interrupt) as bar:
        changes = settings_changes(arguments)
        running = worker.resume(arguments.resume, changes, interrupt, consent=arguments.consent, state=arguments.state)

        def on_event(event: Event) -> None:
            bar.show(event)
            if report is not None:
                report.note(event)

        outcome = follow(running, on_event)
    return _finish(arguments, outcome, results, worker, report)


def _finish(arguments: argparse.Namespace, outcome: TrainingResult, results: Results, worker: Any, report: Any) -> int:
    if outcome.reason == "interrupted":
        results.interrupted(outcome)
        results.told()
        return 130
    files = results.write(outcome)
    if report is not None:
        from celeb_basis.report import write_report

        write_report(arguments.report, report.build(worker, outcome, files))
        results.derived.note([arguments.report], "report", outcome.names)
    results.forget_run(outcome.names)
    results.told()
    return 0


@contextlib.contextmanager
def _watched(screen: Console, about: str, interrupt: threading.Event) -> Iterator[LearnBar]:
    """A bar, and Ctrl-C as a wish to stop; a second one stops at once."""

    def on_signal(_signal: int, _frame: Any) -> None:
        if interrupt.is_set():
            raise KeyboardInterrupt
        interrupt.set()
        screen.note("Stopping after this step ... (Ctrl-C again stops at once and keeps nothing)")

    bar = LearnBar(screen, about)
    try:
        before = signal.signal(signal.SIGINT, on_signal)
    except ValueError:  # not the main thread: whoever runs us decides on signals
        before = None
    try:
        yield bar
    finally:
        bar.close()
        if before is not None:
            signal.signal(signal.SIGINT, before)


# FOLDED: Who is to be learned: photos of one person, several people by name, or a folder of people.

PICTURES = frozenset(
    f".{ending}"
    for ending in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "avif", "heic", "heif"),
        *("bmp", "gif", "tif", "tiff", "jp2", "ppm", "pgm", "qoi"),
    )
)
"""Endings of the files in a folder that are taken for photos."""


@dataclass(frozen=True)
class Wanted:
    """The people of one call."""

    people: tuple[PhotoInput, ...]
    refused: tuple[tuple[str, str], ...] = ()
    """Of a folder: names that cannot be learned, and why."""
    from_folder: bool = False
    together: bool = False


def wanted_people(arguments: argparse.Namespace) -> Wanted:
    """Everybody whom the command line asks for; photos are not opened yet.

    Raises: :class:`UsageError` for options that do not go together, :class:`PhotoError` for a folder without people,
    :class:`IdentityError` for a name of no use.
    """
    photos: list[Path] = arguments.photos
    if arguments.person:
        if photos or arguments.name:
            raise UsageError("Give either --person for everybody, or the photos of one person and --name.")
        people = tuple(_named(text) for text in arguments.person)
        names = [person.name.casefold() for person in people]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise IdentityError(f"Two people are both called {twice!r}: give each a name of their own.")
        return Wanted(people, together=True)
    if not photos:
        raise UsageError(
            "There is nobody to learn: give a photo and --name, a folder of people, or --person NAME=PHOTO."
        )
    if any(os.path.isdir(path) for path in photos):
        if len(photos) > 1 or arguments.name:
            raise UsageError("A folder of people stands alone, without --name: its files and folders name the people.")
        return _folder(photos[0], arguments.together)
    if not arguments.name:
        raise UsageError("The person needs a name: add --name, such as --name ada.")
    return Wanted((PhotoInput(checked_name(arguments.name), tuple(photos)),))


def _named(text: str) -> PhotoInput:
    name, equals, photos = text.partition("=")
    paths = tuple(Path(part) for part in photos.split(",") if part)
    if not equals or not paths:
        raise UsageError(f"--person {text!r} is not understood: write --person NAME=PHOTO or NAME=PHOTO,PHOTO.")
    return PhotoInput(checked_name(name), paths)


def _folder(folder: Path, together: bool) -> Wanted:
    found: dict[str, PhotoInput] = {}
    refused: list[tuple[str, str]] = []
    for name, photos in _entries(folder):
        try:
            name = checked_name(name)
            if not photos:
                raise PhotoError(f"There is no picture in {folder / name}: put the person's photos into it.")
            if name.casefold() in found:
                raise PhotoError(f"Two people in {folder} are called {name!r}: rename one file or folder.")
        except CelebBasisError as error:
            refused.append((name, str(error)))
        else:
            found[name.casefold()] = PhotoInput(name, photos)
    if not found and not refused:
        raise PhotoError(f"There is no picture in {folder}: put a photo or a folder of photos for each person into it.")
    return Wanted(tuple(found.values()), tuple(refused), from_folder=True, together=together)


def _entries(folder: Path) -> list[tuple[str, tuple[Path, ...]]]:
    """Name and photos of every person in ``folder``: each folder in it, and each picture."""
    with explained_os_errors(folder, "list"):
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        return [
            (path.name, _pictures(path)) if path.is_dir() else (path.stem, (path,))
            for path in entries
            if path.is_dir() or _is_picture(path)
        ]


def _pictures(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.iterdir() if path.is_file() and _is_picture(path)))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and not path.name.startswith(".")
