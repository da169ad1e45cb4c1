"""What became of the people of one ``learn``: their files, and the table or JSON that tells of them."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celeb_basis.cli.common import default_library
from celeb_basis.cli.progress import Console
from celeb_basis.errors import CelebBasisError, FileError
from celeb_basis.files import cache_folder, explained_os_errors
from celeb_basis.identities.deletion import GeneratedFiles
from celeb_basis.identities.identity import identity_from_bytes
from celeb_basis.identities.library import Library
from celeb_basis.training.run import TrainingResult

# FOLDED: Runs that were interrupted: where the command line keeps them, and the command that goes on with one.


def unfinished_runs() -> Path:
    """Where this command line keeps interrupted runs, unless it is told otherwise."""
    return cache_folder() / "unfinished"


def unfinished_run(names: Sequence[str], arguments: argparse.Namespace) -> Path:
    """Where a run of ``names`` is kept. No run of other people, on another model or for another library has that file."""
    from celeb_basis.identities.library import name_key

    places = [str(place.expanduser().resolve()) for place in (arguments.model, arguments.library)]
    digest = hashlib.sha256(json.dumps([*map(name_key, names), *places]).encode()).hexdigest()
    # The name is for people who look into the folder; in some scripts 64 characters would fill a whole file name.
    return unfinished_runs() / f"{names[0][:32]}-{digest[:10]}.safetensors"


def resume_command(arguments: argparse.Namespace, state: Path) -> str:
    """The command that goes on with the run in ``state`` as ``arguments`` began it."""
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


def command_line(words: Sequence[str]) -> str:
    """``words`` as they are typed in this system's shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


_REASONS = {"all steps done": "all {0} steps done", "settled": "settled after {0} steps"}


@dataclass
class Results:
    """Writes identities as they come, and remembers how everybody did."""

    library: Library
    arguments: argparse.Namespace
    screen: Console
    rows: list[dict[str, Any]] = field(default_factory=list)
    """One a person, JSON-ready."""

    @property
    def derived(self) -> GeneratedFiles:
        """The record of files about the library's people."""
        return GeneratedFiles(self.library.folder)

    @property
    def succeeded(self) -> list[str]:
        """Names of those who were learned."""
        return [row["name"] for row in self.rows if row["ok"]]

    @property
    def failed(self) -> list[str]:
        """Names of those who were not."""
        return [row["name"] for row in self.rows if not row["ok"]]

    def refused(self, name: str, reason: str) -> None:
        """Somebody who was not even tried."""
        self._row(name, error=reason, tried=False)

    def raise_first(self) -> None:
        """Raise the first refusal."""
        raise CelebBasisError(next(row["error"] for row in self.rows if row["error"]))

    def take(self, outcome: TrainingResult) -> None:
        """Write one of many outcomes; an error of its own stays its own."""
        try:
            if outcome.reason == "interrupted":
                self.interrupted(outcome)
                return
            if outcome.error:
                raise CelebBasisError(outcome.error)
            self.write(outcome)
            self.forget_run(outcome.names)
        except CelebBasisError as error:
            for name in outcome.names:
                self._row(name, error=str(error), warnings=list(outcome.warnings))
            self.screen.note(f"{', '.join(outcome.names)}: {error}")
        else:
            self.screen.note(f"{', '.join(outcome.names)}: {_REASONS[outcome.reason].format(outcome.steps)}")

    def write(self, outcome: TrainingResult) -> list[Path]:
        """Put an outcome's identities into the library.

        Raises: :class:`FileError` for a full disk and the like, :class:`IdentityError` for a name that was taken meanwhile.
        """
        files = []
        for name, content in zip(outcome.names, outcome.identities, strict=True):
            path = self.library.add(identity_from_bytes(content), replace=self.arguments.replace)
            files.append(path)
            progress = outcome.progress[name]
            self._row(
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

    def interrupted(self, outcome: TrainingResult) -> None:
        """A run that the user ended; tells how to go on with it."""
        state = str(outcome.state) if outcome.state is not None else None
        self.note_state(outcome.state, outcome.names)
        kept = "Nothing had been learned yet."
        if outcome.state is not None:
            kept = f"The state is kept; to go on: {resume_command(self.arguments, outcome.state)}"
        told = outcome.error or f"interrupted after {outcome.steps} steps. {kept}"
        self.screen.note(f"{', '.join(outcome.names)}: {told}")
        error = outcome.error or "Interrupted."
        for name in outcome.names:
            self._row(name, error=error, reason="interrupted", steps=outcome.steps, state=state)

    def note_state(self, state: Path | None, names: Sequence[str]) -> None:
        """Remember a state that the user wanted somewhere else than where states are found anyway."""
        if state is not None and state.is_file() and state.parent != unfinished_runs():
            self.derived.note([state], "unfinished run", names, changes=True)

    def forget_run(self, names: Sequence[str]) -> None:
        """Delete what was kept of a run that has now ended well; never a file that the user put somewhere."""
        folder = unfinished_runs().resolve()
        for state in {unfinished_run(names, self.arguments), self.arguments.resume} - {None}:
            if state.resolve().parent != folder:
                continue
            try:
                with explained_os_errors(state, "delete"):
                    state.unlink(missing_ok=True)
            except FileError as error:
                self.screen.note(str(error))

    def told(self) -> None:
        """Tell how a single run ended."""
        interrupted = any(row["reason"] == "interrupted" for row in self.rows)
        self.screen.result({"interrupted": interrupted, "people": self.rows})
        for row in self.rows:
            name = row["name"]
            if not row["ok"]:
                continue
            for warning in row["warnings"]:
                self.screen.note(f"warning: {warning}")
            self.screen.say(f"{name}: {_REASONS[row['reason']].format(row['steps'])}, in {row['seconds']:.1f} s")
            self.screen.say(f"  distance to the mean: {row['distance']:.2f} of the celebrities' own")
            self.screen.say(f"  nearest: {', '.join(f'{other} {cosine:.2f}' for other, cosine in row['nearest'])}")
            self.screen.say(f"  file: {row['file']}")
            self.screen.say(f"  word: <{name}>")

    def table(self, planned: list[str], *, interrupted: bool) -> None:
        """Tell how everybody of a folder did."""
        tried = {row["name"] for row in self.rows if row["tried"]}
        for name in planned:
            if name not in tried:
                self._row(name, error="Not started.", tried=False)
        rows = sorted(self.rows, key=lambda row: (not row["ok"], row["name"].casefold()))
        self.screen.result({"interrupted": interrupted, "people": rows})
        width = max((len(row["name"]) for row in rows), default=4)
        for row in rows:
            told = _REASONS[row["reason"]].format(row["steps"]) if row["ok"] else row["error"]
            self.screen.say(f"{'ok    ' if row['ok'] else 'failed'}  {row['name'].ljust(width)}  {told}")
        self.screen.say(f"{len(self.succeeded)} learned, {len(self.failed)} failed; library: {self.library.folder}")

    def _row(self, name: str, **values: Any) -> None:
        empty = {"name": name, "ok": False, "file": None, "error": "", "reason": "", "steps": 0, "warnings": []}
        self.rows.append(empty | {"tried": True} | values)
