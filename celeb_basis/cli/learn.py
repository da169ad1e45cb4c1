"""``learn``: learn one person, several together, or a whole folder of people."""

from __future__ import annotations

import argparse
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from celeb_basis.cli.arguments import command_line, default_library, name_argument, path_argument
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
    check_name_is_free,
    check_output_file,
    chosen_settings,
    face_pack,
    load_model,
    obtain_faces,
    open_faces,
    open_library,
    open_model,
    open_names,
    settings_changes,
)
from celeb_basis.cli.learn_likeness import LikenessMeter, add_likeness
from celeb_basis.cli.progress import Console, LearnBar, interruptible_bar
from celeb_basis.errors import CelebBasisError
from celeb_basis.files import check_space, expanded, explained_os_errors
from celeb_basis.miniature import CELEBRITY_FACES, MODEL
from celeb_basis.miniature import NAME as MINIATURE
from celeb_basis.settings import if_prepared

if TYPE_CHECKING:
    from celeb_basis.cli.learn_people import RequestedPeople, Results
    from celeb_basis.events import Event
    from celeb_basis.names.lists import NameList
    from celeb_basis.report.collect import RunReport
    from celeb_basis.settings import TrainingSettings
    from celeb_basis.training.run import TrainingResult, TrainingSession, TrainingTask

_DESCRIPTION = """\
Learn a person from one or more photos, as 1,024 coefficients in the space that celebrity names span in the model's text
encoder. The model does not change. The result is a small file in the library and a placeholder token for prompts: <NAME>.

examples:
  celeb-basis learn ada.jpg --name ada --model /models/sd15.safetensors
  celeb-basis learn ada1.jpg ada2.jpg --name ada --model /models/sd15 --preset quick --report ada.html
  celeb-basis learn --person ada=ada.jpg --person bob=bob1.jpg,bob2.jpg --model /models/sd15
  celeb-basis learn people/ --model /models/sd15                  (one photo or subfolder per person, one after the other)
  celeb-basis learn people/ --model /models/sd15 --executor ray --workers 4
  celeb-basis learn --resume ada --model /models/sd15             (the newest saved run of ada; or give its file)

Ctrl-C, or SIGTERM, stops after the current step, saves the state of the run and shows the command that resumes it. A run is
also saved on its way, every 30 seconds, so that a crash costs no more than that: celeb-basis runs lists what can be resumed.
The result of a resumed run is bit for bit the same as without the interruption. In a folder of people, one failure does not
stop the others: a table at the end shows who failed and why, and the exit code is 1 if some failed and 2 if all did."""


def add_parser(commands: Commands) -> None:
    """Add ``learn`` to the commands."""
    parser = add_command(commands, "learn", "learn a person from photos", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument(
        "photos", nargs="*", type=path_argument, metavar="PHOTO", help="photos of one person, or a folder of people"
    )
    parser.add_argument(
        "--name", "--as", type=name_argument, help="name of the person; the placeholder token is <NAME>"
    )
    parser.add_argument(
        "--person",
        action="append",
        default=[],
        metavar="NAME=PHOTO[,PHOTO]",
        help="one of several people to learn together; repeatable",
    )
    parser.add_argument(
        "--together", action="store_true", help="learn the people of a folder in one run (--mode head: with one head)"
    )
    parser.add_argument(
        "--face", type=int, metavar="N", help="which face of a photo to use: 0 is the largest, 1 the next, ..."
    )
    parser.add_argument(
        "--consent", default="", metavar="TEXT", help="a note on the person's consent, saved in the identity file"
    )
    add_faces(parser)
    add_names(parser)
    add_library(parser)
    add_replace(parser)
    parser.add_argument(
        "--state",
        type=path_argument,
        metavar="FILE",
        help="where to save the run until it ends; in the cache by default",
    )
    parser.add_argument("--resume", type=path_argument, metavar="NAME|FILE", help="resume a run that was saved")
    parser.add_argument("--report", type=path_argument, metavar="FILE.html", help="write an HTML report on the run")
    add_model(parser)
    group = parser.add_argument_group("a folder of people on several machines")
    group.add_argument("--executor", choices=("local", "ray"), default="local", help="run in this process or on Ray")
    group.add_argument("--workers", type=int, default=2, metavar="N", help="Ray worker processes, each with a model")
    group.add_argument(
        "--ray-address", metavar="ADDRESS", help="a running Ray cluster; by default one is started on this machine"
    )
    add_settings(parser)
    add_likeness(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command; returns the exit code."""
    settings = chosen_settings(arguments)
    _check_usage(arguments)

    from celeb_basis.cli.learn_people import Results, check_state_file, requested_people
    from celeb_basis.identities.folder_lock import sweep
    from celeb_basis.training.state import unfinished_runs

    if arguments.resume is not None:
        return _resume(arguments, console)
    requested = requested_people(arguments)
    one_by_one = requested.from_folder and not requested.together
    if one_by_one and (arguments.state or arguments.report):
        raise UsageError("--state and --report are for a single run: leave them out, or add --together.")
    if arguments.executor == "ray" and not one_by_one:
        raise UsageError("--executor ray learns the people of a folder one by one: give a folder, without --together.")
    check_output_file(arguments.report)
    check_output_file(arguments.state)
    check_state_file(arguments.state)
    with explained_os_errors(arguments.model, "read"):
        arguments.model.stat()  # before anything slow
    results = Results(open_library(arguments.library), arguments, console)
    results.library.sweep()
    sweep(unfinished_runs())
    check_space(arguments.library)
    names = open_names(arguments)
    tasks = _tasks(arguments, settings, requested, results)
    if one_by_one:
        return _learn_one_by_one(arguments, console, tasks, names, results)
    return _learn_in_one_run(arguments, console, tasks[0], names, results)


def _check_usage(arguments: argparse.Namespace) -> None:
    if arguments.resume is not None and (arguments.photos or arguments.person or arguments.name):
        raise UsageError("--resume takes the people from the file: leave out photos, --name and --person.")
    if arguments.workers < 1:
        raise UsageError("--workers must be at least 1.")
    if arguments.face is not None and arguments.face < 0:
        raise UsageError("--face counts from 0, the largest face of a photo.")


def _tasks(
    arguments: argparse.Namespace, settings: TrainingSettings, requested: RequestedPeople, results: Results
) -> list[TrainingTask]:
    """The runs. People of a folder who cannot be learned are passed to ``results``; any others are an error."""
    from celeb_basis.cli.learn_people import new_run
    from celeb_basis.training.run import TrainingTask

    for name, reason in requested.refused:
        results.refuse(name, reason)
    people = []
    for person in requested.people:
        try:
            check_name_is_free(results.library, person.name, replace=arguments.replace)
        except CelebBasisError as error:
            if not requested.from_folder:
                raise
            results.refuse(person.name, str(error))
        else:
            people.append(person)
    if requested.together:
        if requested.refused or len(people) < len(requested.people):
            results.raise_first_error()
        groups = [tuple(people)]
    else:
        groups = [(person,) for person in people]
    shared = {
        "settings": settings,
        "if_prepared": if_prepared(arguments.preset, settings_changes(arguments)),
        "face": arguments.face,
        "consent": arguments.consent,
    }
    return [
        TrainingTask(group, state=arguments.state or new_run([one.name for one in group], arguments), **shared)
        for group in groups
    ]


# A single run, whose errors are the command's errors


def _learn_in_one_run(
    arguments: argparse.Namespace, console: Console, task: TrainingTask, names: NameList, results: Results
) -> int:
    from celeb_basis.faces.face_search import find_faces
    from celeb_basis.photos import open_photo
    from celeb_basis.report.collect import RunReport
    from celeb_basis.training.run import TrainingSession, run_one

    photos = {path: open_photo(path) for person in task.people for path in person.photos}
    faces = open_faces(arguments, console)
    report = RunReport(task) if arguments.report else None
    for path, photo in photos.items():
        search = find_faces(photo, faces)
        face = search.choose(task.face, path.name)  # fails before the model is loaded, which takes long
        if report is not None:
            report.photo(path, search.picture, face, search.faces)
    session = TrainingSession(open_model(arguments, console), names, faces, known_faces=[CELEBRITY_FACES])
    interrupt, meter = threading.Event(), LikenessMeter(arguments, console, names)
    with interruptible_bar(console, ", ".join(task.names), interrupt) as bar:
        show = _shown_on(bar, report, _deletion_interrupts(results, task.names, interrupt), meter.note)
        with results.saving_to(task.state, task.names):
            outcome = run_one(session, task, interrupt, lambda _task, event: show(event))
    return _finish(arguments, outcome, results, session, report, meter)


def _resume(arguments: argparse.Namespace, console: Console) -> int:
    from celeb_basis.cli.learn_people import Results, saved_run
    from celeb_basis.training.run_lock import running
    from celeb_basis.training.state import read_summary, unfinished_runs

    results = Results(open_library(arguments.library), arguments, console)
    check_space(arguments.library)
    arguments.resume = saved_run(arguments.resume)
    saved = read_summary(arguments.resume)
    people, results.begun = saved.names, min(saved.begun, results.begun)
    in_cache = arguments.resume.absolute().parent == unfinished_runs().absolute()
    with contextlib.ExitStack() as stack:
        for state in {place.resolve() for place in (arguments.resume, arguments.state) if place is not None}:
            stack.enter_context(running(state, ", ".join(people)))
        results.check_not_deleted(people, arguments.resume if in_cache else None)
        return _resume_alone(arguments, console, people, results)


def _resume_alone(arguments: argparse.Namespace, console: Console, people: Sequence[str], results: Results) -> int:
    """Resume a run that no other program is running."""
    from celeb_basis.events import follow
    from celeb_basis.report.collect import RunReport
    from celeb_basis.training.run import TrainingSession

    for name in people:
        check_name_is_free(results.library, name, replace=arguments.replace, resumed=True)
    check_output_file(arguments.report)
    names = open_names(arguments)
    session = TrainingSession(open_model(arguments, console), names, None)
    report = RunReport(None) if arguments.report else None
    interrupt = threading.Event()
    with interruptible_bar(console, ", ".join(people), interrupt) as bar:
        changes = settings_changes(arguments)
        running = session.resume(arguments.resume, changes, interrupt, consent=arguments.consent, state=arguments.state)
        with results.saving_to(arguments.state or arguments.resume, people):
            outcome = follow(running, _shown_on(bar, report, _deletion_interrupts(results, people, interrupt)))
    return _finish(arguments, outcome, results, session, report, LikenessMeter(arguments, console, names))


def _deletion_interrupts(results: Results, names: Sequence[str], interrupt: threading.Event) -> Callable[[Event], None]:
    """A listener that sets ``interrupt`` when another program has deleted one of the people."""
    from celeb_basis.events import StepDone

    def on_event(event: Event) -> None:
        if isinstance(event, StepDone) and any(results.library.was_deleted(name, results.begun) for name in names):
            interrupt.set()

    return on_event


def _shown_on(bar: LearnBar, report: RunReport | None, *also: Callable[[Event], None]) -> Callable[[Event], None]:
    """A listener that shows events on the bar, records them for the report, and passes them on to ``also``."""

    def on_event(event: Event) -> None:
        bar.show(event)
        for listener in also:
            listener(event)
        if report is not None:
            report.note(event)

    return on_event


def _finish(
    arguments: argparse.Namespace,
    outcome: TrainingResult,
    results: Results,
    session: TrainingSession,
    report: RunReport | None,
    meter: LikenessMeter,
) -> int:
    if outcome.reason == "interrupted":
        results.interrupted(outcome)
        results.show()
        return 130
    files = results.save(outcome)
    if report is not None:
        from celeb_basis.report import write_report

        write_report(arguments.report, report.build(session, outcome, files))
        results.generated_files.note([arguments.report], "report", outcome.names, begun=results.begun)
    results.forget_run(outcome)
    interrupt = threading.Event()
    with interruptible_bar(results.console, "measuring the likeness", interrupt) as bar:
        meter.measure(results.rows, session.model, session.faces, bar, interrupt)
    results.show()
    results.console.note(f"To use it: {_next_command(arguments, outcome.names)}")
    return 0


def _next_command(arguments: argparse.Namespace, names: Sequence[str]) -> str:
    """The command that generates an image of the people who were learned."""
    prompt = "a photo of " + " and ".join(f"<{name}>" for name in names[:2])
    model = MINIATURE if arguments.model == MODEL else str(arguments.model)
    words = ["celeb-basis", "generate", prompt, "--model", model]
    for option in ("device", "dtype"):
        if (value := getattr(arguments, option)) != "auto":
            words += [f"--{option}", value]
    if arguments.library != default_library():
        words += ["--library", str(arguments.library)]
    return command_line([*words, "--output", "pictures"])


# A folder of people, one run per person: all are tried, and a table at the end shows the results


def _learn_one_by_one(
    arguments: argparse.Namespace, console: Console, tasks: Sequence[TrainingTask], names: NameList, results: Results
) -> int:
    interrupt = threading.Event()
    if tasks:
        with interruptible_bar(console, "", interrupt) as bar:
            if arguments.executor == "ray":
                for outcome in _run_on_ray(arguments, console, tasks, names, interrupt):
                    bar.close()
                    results.add(outcome)
            else:
                _run_here(arguments, console, tasks, names, interrupt, bar, results)
    results.show_table([task.names[0] for task in tasks], interrupted=interrupt.is_set())
    if results.succeeded:
        console.note(f"To use it: {_next_command(arguments, results.succeeded[:1])}")
    if interrupt.is_set():
        return 130
    return 0 if not results.failed else 1 if results.succeeded else 2


def _run_here(
    arguments: argparse.Namespace,
    console: Console,
    tasks: Sequence[TrainingTask],
    names: NameList,
    interrupt: threading.Event,
    bar: LearnBar,
    results: Results,
) -> None:
    from celeb_basis.training.run import TrainingSession, run_local

    faces = open_faces(arguments, console)
    session = TrainingSession(open_model(arguments, console), names, faces, known_faces=[CELEBRITY_FACES])
    titles = {task.names: f"{number}/{len(tasks)} {task.names[0]}" for number, task in enumerate(tasks, start=1)}
    meter = LikenessMeter(arguments, console, names)

    def on_event(task: TrainingTask, event: Event) -> None:
        bar.about = titles[task.names]
        bar.show(event)
        meter.note(event)

    for outcome in run_local(session, tasks, interrupt, on_event):
        bar.close()
        results.add(outcome)
        meter.measure(results.rows[-1:], session.model, faces, bar, interrupt)
        bar.close()


def _run_on_ray(
    arguments: argparse.Namespace,
    console: Console,
    tasks: Sequence[TrainingTask],
    names: NameList,
    interrupt: threading.Event,
) -> Iterator[TrainingResult]:
    from celeb_basis.training.ray_executor import RayOptions, run_on_ray

    if arguments.ray_address is None:
        obtain_faces(arguments, console)  # once, and not in every worker at the same time
    spec = WorkerSpec.of(arguments, names)
    options = RayOptions(arguments.workers, arguments.ray_address)
    progress = console.bar(len(tasks), "people", unit="person")  # a worker reports only when a person is done
    try:
        for outcome in run_on_ray(spec, tasks, interrupt, options):
            progress.update()
            yield outcome
    finally:
        progress.close()


@dataclass(frozen=True)
class WorkerSpec:
    """Everything that another process needs to create a training session; calling it creates one."""

    model: Path
    device: str
    dtype: str
    names: NameList
    pack: str
    """Name of a face model pack, or a folder."""
    agreed: bool = False
    """Whether the pack's license was accepted."""

    @staticmethod
    def of(arguments: argparse.Namespace, names: NameList) -> WorkerSpec:
        """The session that the command line asks for. Paths are absolute, since workers run in other folders."""
        faces = face_pack(arguments)
        return WorkerSpec(
            expanded(arguments.model).absolute(),
            arguments.device,
            arguments.dtype,
            names,
            str(Path(faces).absolute()) if len(Path(faces).parts) > 1 else faces,
            arguments.accept_licence,
        )

    def __call__(self) -> TrainingSession:
        """Load the model and the face networks."""
        from celeb_basis.faces.insight import InsightFaceNetwork
        from celeb_basis.faces.packs import obtain_pack
        from celeb_basis.training.run import TrainingSession

        pack = obtain_pack(self.pack, agreed=self.agreed)
        model = load_model(self.model, self.device, self.dtype)
        return TrainingSession(model, self.names, InsightFaceNetwork(pack.folder), known_faces=[CELEBRITY_FACES])
