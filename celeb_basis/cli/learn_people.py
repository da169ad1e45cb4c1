"""The people of a ``learn`` command: which ones it asks for, where their interrupted runs are saved, and the results."""

from __future__ import annotations

import argparse
import contextlib
import glob
import hashlib
import itertools
import json
import os
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celeb_basis.cli.arguments import PICTURES, RAW_PICTURES, command_line, default_library, name_argument
from celeb_basis.cli.common import UsageError, named_cosines
from celeb_basis.cli.learn_likeness import likeness_lines, likeness_remark
from celeb_basis.cli.progress import Console
from celeb_basis.errors import CelebBasisError, FileError, IdentityError, PhotoError, TrainingError
from celeb_basis.files import checked_name, expanded, explained_os_errors
from celeb_basis.identities.generated_files import GeneratedFiles
from celeb_basis.identities.identity import identity_from_bytes
from celeb_basis.identities.library import Library, name_key
from celeb_basis.reading import is_safetensors, safetensors_metadata
from celeb_basis.training.run import PhotoInput, TrainingResult
from celeb_basis.training.run_lock import is_running, sweep_locks
from celeb_basis.training.state import StateSummary, read_summary, unfinished_runs

# The people that the command line asks for

SYSTEM_FOLDERS = frozenset(
    (
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@sharebin", "#recycle", "#snapshot", "#recycler"),
        *("__macosx", "system volume information", "$recycle.bin", "recycler", "recycled", "found.000"),
        *(
            "lost+found",
            "lost.dir",
            "network trash folder",
            "temporary items",
            "thumbnails",
            "desktop.ini",
            "thumbs.db",
        ),
    )
)
"""Names, in small letters, of what network drives, operating systems and archives put into folders: nobody's names."""


@dataclass(frozen=True)
class RequestedPeople:
    """The people of one command."""

    people: tuple[PhotoInput, ...]
    refused: tuple[tuple[str, str], ...] = ()
    """Names in a folder that cannot be learned, each with the reason."""
    from_folder: bool = False
    together: bool = False
    """Whether they are learned in one run."""


def requested_people(arguments: argparse.Namespace) -> RequestedPeople:
    """Find out who is to be learned. Photos are not opened yet.

    Raises:
        UsageError: Options contradict each other, or nobody is given.
        PhotoError: A folder holds no people.
        IdentityError: A name is not usable.
    """
    photos: list[Path] = arguments.photos
    if arguments.person:
        if photos or arguments.name:
            raise UsageError("Give either --person for every person, or the photos of one person and --name.")
        people = tuple(_named_person(text) for text in arguments.person)
        names = [person.name.casefold() for person in people]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise IdentityError(f"Two people are both called {twice!r}: give each a name of their own.")
        return RequestedPeople(people, together=True)
    if not photos:
        raise UsageError(
            "There is nobody to learn: give a photo and --name, a folder of people, or --person NAME=PHOTO."
        )
    if any(os.path.isdir(path) for path in photos):
        if len(photos) > 1 or arguments.name:
            raise UsageError(
                "A folder of people must be the only argument, without --name: its files and folders name the people."
            )
        return _people_of_folder(photos[0], arguments.together)
    if not arguments.name:
        raise UsageError("The person needs a name: add --name, such as --name ada.")
    return RequestedPeople((PhotoInput(checked_name(arguments.name), tuple(photos)),))


def _named_person(text: str) -> PhotoInput:
    name, equals, photos = text.partition("=")
    paths = tuple(Path(part) for part in photos.split(",") if part)
    if not equals or not paths:
        raise UsageError(f"--person {text!r} is not understood: write --person NAME=PHOTO or NAME=PHOTO,PHOTO.")
    return PhotoInput(checked_name(name_argument(name)), paths)


def _people_of_folder(folder: Path, together: bool) -> RequestedPeople:
    found: dict[str, PhotoInput] = {}
    refused: list[tuple[str, str]] = []
    for name, photos in folder_entries(folder):
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
    return RequestedPeople(tuple(found.values()), tuple(refused), from_folder=True, together=together)


def folder_entries(folder: Path) -> list[tuple[str, tuple[Path, ...]]]:
    """Name and photos of every person in ``folder``: one person per subfolder and per picture."""
    with explained_os_errors(folder, "list"):
        entries = sorted(path for path in folder.iterdir() if not _is_of_a_system(path.name))
        pictures = set(_pictures_among(entries))
        return [
            (path.name, _pictures_in(path)) if path.is_dir() else (path.stem, (path,))
            for path in entries
            if path.is_dir() or path in pictures
        ]


def _pictures_in(folder: Path) -> tuple[Path, ...]:
    with explained_os_errors(folder, "list"):
        return tuple(_pictures_among(sorted(folder.iterdir())))


def _pictures_among(paths: Sequence[Path]) -> list[Path]:
    """The pictures among files, without the raw versions of others. A link that leads nowhere stays, to be reported."""
    files = [path for path in paths if not _is_of_a_system(path.name) and (path.is_file() or not path.exists())]
    developed = [path for path in files if path.suffix.lower() in PICTURES]
    stems = {path.stem.casefold() for path in developed}
    raw = [path for path in files if path.suffix.lower() in RAW_PICTURES and path.stem.casefold() not in stems]
    return sorted(developed + raw)


def _is_of_a_system(name: str) -> bool:
    """Whether a file or folder is hidden, or what an operating system or a network drive has put there."""
    return name.startswith((".", "~$", "@__")) or name.casefold().rstrip(" .") in SYSTEM_FOLDERS


# Interrupted runs


def unfinished_run(names: Sequence[str], arguments: argparse.Namespace) -> Path:
    """The file of an interrupted run. Runs of other people, on another model or for another library have other files."""
    places = [str(expanded(place).resolve()) for place in (arguments.model, arguments.library)]
    digest = hashlib.sha256(json.dumps([*map(name_key, names), *places]).encode()).hexdigest()
    # The name is for people who look into the folder. In some scripts 64 characters would fill a whole file name.
    return unfinished_runs() / f"{names[0][:32]}-{digest[:10]}.safetensors"


def unfinished_runs_of(names: Sequence[str], arguments: argparse.Namespace) -> tuple[Path, ...]:
    """The files of all interrupted runs of these people, on this model and for this library."""
    first = unfinished_run(names, arguments)
    others = (path for path in first.parent.glob(f"{glob.escape(first.stem)}-*.safetensors") if path.is_file())
    return (*((first,) if first.is_file() else ()), *sorted(others))


def new_run(names: Sequence[str], arguments: argparse.Namespace) -> Path:
    """A file for a new run, which takes the place of no interrupted one."""
    first = unfinished_run(names, arguments)
    known = set(unfinished_runs_of(names, arguments))
    sweep_locks(first.parent)
    numbered = (first.with_name(f"{first.stem}-{number}.safetensors") for number in itertools.count(2))
    return next(path for path in itertools.chain((first,), numbered) if path not in known and not is_running(path))


def check_state_file(path: Path | None) -> None:
    """Check that a run may be saved to ``path``: not over a model, an identity or a file of another kind.

    A saved run there is replaced, and so is a damaged one.

    Raises:
        FileError: It is another file.
    """
    if path is None or not path.exists() or "state" in (held := safetensors_metadata(path)):
        return
    if held or path.suffix.lower() != ".safetensors" or is_safetensors(path):
        raise FileError(f"{path} is a file already, and no saved run: give --state another file.")


def saved_runs() -> dict[Path, StateSummary]:
    """The runs that are saved in the default folder, newest first."""
    runs = {}
    files = [path for path in unfinished_runs().glob("[!.]*.safetensors") if path.is_file()]
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        with contextlib.suppress(CelebBasisError):
            runs[path] = read_summary(path)
    return runs


def saved_run(wanted: Path) -> Path:
    """The file of the saved run that the user calls ``wanted``: its file, or the name of a person whom it learns.

    Raises:
        TrainingError: There is none.
    """
    if wanted.exists() or len(wanted.parts) != 1 or wanted.suffix == ".safetensors":
        return wanted
    runs = saved_runs()
    found = [path for path, run in runs.items() if name_key(str(wanted)) in map(name_key, run.names)]
    if not found:
        known = ", ".join(dict.fromkeys(", ".join(run.names) for run in runs.values())) or "none"
        raise TrainingError(
            f"There is no file {wanted}, and no saved run of a person called so. Saved runs: {known} (celeb-basis runs)."
        )
    return found[0]


def resume_command(arguments: argparse.Namespace, state: Path) -> str:
    """The command that resumes the run in ``state`` with the options in ``arguments``."""
    words = ["celeb-basis", "learn", "--resume", str(state), "--model", str(arguments.model)]
    for option in ("device", "dtype"):
        if (value := getattr(arguments, option)) != "auto":
            words += [f"--{option}", value]
    if arguments.names is not None:
        words += ["--names", str(arguments.names)]
    if arguments.library != default_library():
        words += ["--library", str(arguments.library)]
    if arguments.replace:
        words.append("--replace")
    return command_line(words)


# Results

_REASONS = {"all steps done": "all {0} steps done", "settled": "settled after {0} steps"}


@dataclass
class Results:
    """Saves identities as runs end, and collects a row for every person."""

    library: Library
    arguments: argparse.Namespace
    console: Console
    rows: list[dict[str, Any]] = field(default_factory=list)
    """One per person, ready for JSON."""
    begun: float = field(default_factory=time.time)
    """Who is deleted after this is not added."""

    @property
    def generated_files(self) -> GeneratedFiles:
        """The record of files about the library's people."""
        return GeneratedFiles(self.library.folder)

    @property
    def succeeded(self) -> list[str]:
        """Names of the people who were learned."""
        return [row["name"] for row in self.rows if row["ok"]]

    @property
    def failed(self) -> list[str]:
        """Names of the people who were not."""
        return [row["name"] for row in self.rows if not row["ok"]]

    def refuse(self, name: str, reason: str) -> None:
        """Add a person who is not tried at all."""
        self._add_row(name, error=reason, tried=False)

    def raise_first_error(self) -> None:
        """Raise the error of the first person who has one."""
        raise CelebBasisError(next(row["error"] for row in self.rows if row["error"]))

    def add(self, outcome: TrainingResult) -> None:
        """Save the outcome of one of many runs. Its error, if it has one, becomes a row and is not raised."""
        names = ", ".join(outcome.names)
        try:
            if outcome.reason == "interrupted":
                self.interrupted(outcome)
                return
            if outcome.error:
                raise CelebBasisError(outcome.error)
            self.save(outcome)
            self.forget_run(outcome)
        except CelebBasisError as error:
            for name in outcome.names:
                self._add_row(name, error=str(error), warnings=list(outcome.warnings))
            where = self._resuming(outcome.state, outcome.names)
            self.console.note(f"{names}: {error}" if where in str(error) else f"{names}: {error} {where}")
        else:
            self.console.note(f"{names}: {_REASONS[outcome.reason].format(outcome.steps)}")

    def save(self, outcome: TrainingResult) -> list[Path]:
        """Save an outcome's identities in the library.

        Raises:
            FileError: The disk is full or the like.
            IdentityError: A name has been taken since the run began.
        """
        self.check_not_deleted(outcome.names, outcome.state)
        files = []
        for name, content in zip(outcome.names, outcome.identities, strict=True):
            try:
                identity = identity_from_bytes(content)
                path = self.library.add(identity, replace=self.arguments.replace, begun=self.begun)
            except CelebBasisError as error:
                raise type(error)(f"{error} {self._resuming(outcome.state, outcome.names)}".rstrip()) from error
            files.append(path)
            progress = outcome.progress[name]
            self._add_row(
                name,
                ok=True,
                file=str(path),
                reason=outcome.reason,
                steps=outcome.steps,
                seconds=round(outcome.seconds, 3),
                distance=progress.distance,
                movement=progress.movement,
                nearest=[list(pair) for pair in progress.nearest],
                warnings=list(outcome.warnings),
            )
        return files

    def check_not_deleted(self, names: Sequence[str], state: Path | None) -> None:
        """Raise :class:`IdentityError` if one of the people was deleted since the run began, and delete its state."""
        if state is not None and any(self.library.was_deleted(name, self.begun) for name in names):
            with contextlib.suppress(OSError):
                state.unlink(missing_ok=True)
            self._forget_states({state.absolute()})
        for name in names:
            self.library.check_not_deleted(name, self.begun)

    def interrupted(self, outcome: TrainingResult) -> None:
        """Add a run that was interrupted, and show how to resume it."""
        self.check_not_deleted(outcome.names, outcome.state)
        self.note_state(outcome.state, outcome.names)
        message = outcome.error
        if not message:
            saved = "Nothing had been learned yet." if outcome.steps == 0 else "Nothing of it could be saved."
            if outcome.state is not None:
                saved = f"Its state is saved; to resume it: {resume_command(self.arguments, outcome.state)}"
            message = f"interrupted after {outcome.steps} steps. {' '.join((*outcome.warnings, saved))}"
        self.console.note(f"{', '.join(outcome.names)}: {message}")
        error = outcome.error or "Interrupted."
        state = None if outcome.state is None else str(outcome.state)
        for name in outcome.names:
            self._add_row(name, error=error, reason="interrupted", steps=outcome.steps, state=state)

    @contextlib.contextmanager
    def saving_to(self, state: Path | None, names: Sequence[str]) -> Iterator[None]:
        """During a run that saves itself to ``state``: deleting the people finds it, and errors say how to go on."""
        self.note_state(state, names)
        try:
            yield
        except (CelebBasisError, MemoryError, KeyboardInterrupt) as error:
            if (where := self._resuming(state, names)) and str(state) not in str(error):
                self.console.note(where)
            raise
        finally:
            if state is not None and not state.is_file():
                self._forget_states({state})

    def note_state(self, state: Path | None, names: Sequence[str]) -> None:
        """Record a state that is saved outside the default folder, so that deleting the people finds it."""
        if state is not None and state.absolute().parent != unfinished_runs().absolute():
            self.generated_files.note([state], "unfinished run", names, changes=True)

    def _forget_states(self, states: Collection[Path]) -> None:
        """Take ``states`` out of the record of generated files."""
        gone = {state.absolute() for state in states}
        self.generated_files.forget([file for file in self.generated_files.all() if file.path in gone])

    def _resuming(self, state: Path | None, names: Sequence[str]) -> str:
        """How the run of ``names`` that is saved in ``state`` is resumed; empty if it is not saved."""
        if state is None or not state.is_file():
            return ""
        try:
            saved = read_summary(state)
        except CelebBasisError:
            return ""
        if saved.names != tuple(names):
            return ""
        command = resume_command(self.arguments, state)
        return f"The run is saved at step {saved.step} of {saved.steps}; to resume it: {command}"

    def forget_run(self, outcome: TrainingResult) -> None:
        """Delete the saved states of a run that has ended well, but no file that the user resumed in a place of theirs."""
        folder, chosen = unfinished_runs().resolve(), self.arguments.resume
        ended = (path for path in unfinished_runs_of(outcome.names, self.arguments) if not is_running(path))
        ours = {*ended, chosen} - {None}
        states = {state for state in ours if state.resolve().parent == folder}
        if outcome.state is not None and (chosen is None or outcome.state.absolute() != chosen.absolute()):
            states.add(outcome.state)  # written on the way
            self._forget_states(states)
        for state in states:
            try:
                with explained_os_errors(state, "delete"):
                    state.unlink(missing_ok=True)
            except FileError as error:
                self.console.note(str(error))
        if chosen is None:
            with contextlib.suppress(OSError):
                folder.rmdir()  # it was made for this run, unless others are in it

    def show(self) -> None:
        """Show how a single run ended."""
        interrupted = any(row["reason"] == "interrupted" for row in self.rows)
        self.console.result({"interrupted": interrupted, "people": self.rows})
        for row in self.rows:
            name = row["name"]
            if not row["ok"]:
                continue
            for warning in row["warnings"]:
                self.console.warn(warning)
            self.console.say(f"{name}: {_REASONS[row['reason']].format(row['steps'])}, in {row['seconds']:.1f} s")
            self.console.say(f"  distance to the mean: {row['distance']:.2f} times the celebrities' own")
            self.console.say(f"  nearest celebrities: {named_cosines(row['nearest'])}")
            for line in likeness_lines(row["likeness"]):
                self.console.say(f"  {line}")
            self.console.say(f"  file: {row['file']}")
            self.console.say(f"  placeholder token: <{name}>")

    def show_table(self, planned: list[str], *, interrupted: bool) -> None:
        """Show how all people of a folder did; those of ``planned`` without a row were not started."""
        tried = {row["name"] for row in self.rows if row["tried"]}
        for name in planned:
            if name not in tried:
                self._add_row(name, error="Not started.", tried=False)
        rows = sorted(self.rows, key=lambda row: (not row["ok"], row["name"].casefold()))
        self.console.result({"interrupted": interrupted, "people": rows})
        width = max((len(row["name"]) for row in rows), default=4)
        for row in rows:
            status = _REASONS[row["reason"]].format(row["steps"]) if row["ok"] else row["error"]
            status += likeness_remark(row["likeness"])
            self.console.say(f"{'ok    ' if row['ok'] else 'failed'}  {row['name'].ljust(width)}  {status}")
        self.console.say(f"{len(self.succeeded)} learned, {len(self.failed)} failed; library: {self.library.folder}")

    def _add_row(self, name: str, **values: Any) -> None:
        empty = {"name": name, "ok": False, "file": None, "error": "", "reason": "", "steps": 0, "warnings": []}
        self.rows.append(empty | {"tried": True, "likeness": None} | values)
