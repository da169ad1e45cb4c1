"""Learning on the miniature that is killed, or meets a full disk, and is resumed. A program that prints JSON.

    kill_trials.py random FOLDER COUNT SEED     SIGKILL at random moments
    kill_trials.py writes FOLDER EVERY          SIGKILL before and after every EVERY-th step of writing a file
    kill_trials.py full FOLDER EVERY            a disk that is full from every EVERY-th write on, and in that write alone

Each trial is a forked process, so that the model is loaded once.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from celeb_basis import load_model
from celeb_basis.cli import common, learn
from celeb_basis.cli.main import main
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.packs import find_pack
from celeb_basis.identities.identity import load_identity
from celeb_basis.miniature import PHOTOS
from celeb_basis.training import state as states

STEPS = 4
_WRITING = ((tempfile, "mkstemp"), *((os, name) for name in ("open", "fsync", "chmod", "replace", "unlink")))
"""What writing a file consists of."""


class Trials:
    """Runs of one person in folders below ``folder``."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.folder, self.number = folder, 0
        model, faces = load_model("miniature", device="cpu"), InsightFaceNetwork(find_pack("miniature").folder)
        common.load_model = lambda *_arguments, **_keywords: model
        vars(learn)["open_faces"] = lambda *_arguments, **_keywords: faces
        states.SAVE_EVERY = states.SAVE_COST = 0.0
        self.place = folder / "whole"
        started = time.monotonic()
        code = self.run(self.learning)
        assert code == 0, (code, self._said())
        self.seconds = time.monotonic() - started
        self.whole = self.learned()
        assert self.whole is not None

    def learning(self) -> int:
        """Learn the person."""
        photo = PHOTOS / "stranger1.png"
        sizes = ["--steps", STEPS, "--views", 2, "--batch-size", 1, "--no-early-stop", "--no-likeness"]
        return self._main("learn", photo, "--name", "ada", *sizes)

    def resuming(self) -> int:
        """Resume what was saved, or start again if nothing was."""
        saved = self.saved()
        return self.learning() if saved is None else self._main("learn", "--resume", saved, "--no-likeness")

    def _main(self, *words: object) -> int:
        common_words = ["--model", "miniature", "--library", self.place / "library"]
        return main([str(word) for word in (*words, *common_words)])

    def saved(self) -> Path | None:
        """The state in the trial's cache."""
        return next(iter(sorted((self.place / "cache" / "unfinished").glob("[!.]*.safetensors"))), None)

    def learned(self) -> bytes | None:
        """Coefficients and token vectors of the person who was learned."""
        path = self.place / "library" / "ada.safetensors"
        if not path.is_file():
            return None
        identity = load_identity(path)
        return b"".join(array.tobytes() for array in (*identity.coefficients, *identity.vectors))

    def next_place(self) -> None:
        """Begin a trial in a folder of its own, with a cache that has the basis already in every second one."""
        if self.number:
            shutil.rmtree(self.place)
        self.number += 1
        self.place = self.folder / str(self.number)
        if self.number % 2:
            shutil.copytree(self.folder / "whole" / "cache", self.place / "cache")

    def run(self, work: Callable[[], int], *, seconds: float | None = None) -> int:
        """Do ``work`` in another process, which is killed after ``seconds``; returns its exit code, negative if killed."""
        process = os.fork()
        if not process:
            os.environ["CELEB_BASIS_CACHE"] = str(self.place / "cache")
            log = os.open(self.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(log, 1)
            os.dup2(log, 2)
            code = 70
            try:
                code = work()
            finally:
                os._exit(code)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(process, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    def _said(self) -> str:
        """What the last process wrote."""
        return (self.folder / "log.txt").read_text("utf-8", "replace")

    def after(self, about: object, code: int) -> dict[str, Any]:
        """Resume the run of this trial, and answer how it went."""
        said = self._said()
        found = self.saved()
        saved = None if found is None else states.read_summary(found).step
        if (done := self.learned()) is None:
            again = self.run(self.resuming)
            assert again == 0, (about, self._said())
            done = self.learned()
            assert self.saved() is None
        return {"at": about, "code": code, "saved": saved, "same": done == self.whole, "said": said[-2000:]}


def kill_at_random(trials: Trials, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """SIGKILL at random moments."""
    moments = random.Random(seed)
    for _ in range(count):
        trials.next_place()
        moment = moments.uniform(0, trials.seconds)
        yield trials.after(round(moment, 3), trials.run(trials.learning, seconds=moment))


def _writing_steps(trials: Trials) -> int:
    """How many steps the writing of all files of a run has."""
    trials.next_place()
    counted = trials.place.parent / "count.txt"

    def work() -> int:
        calls = 0

        def count(_name: str) -> None:
            nonlocal calls
            calls += 1

        _hook(count, lambda _name: None)
        code = trials.learning()
        counted.write_text(str(calls), "utf-8")
        return code

    assert trials.run(work) == 0
    return int(counted.read_text("utf-8"))


def _hook(before: Callable[[str], None], after: Callable[[str], None]) -> None:
    """Call ``before`` and ``after`` around each step of writing a file."""

    def hooked(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR):
                return real(*arguments, **keywords)
            before(name)
            result = real(*arguments, **keywords)
            after(name)
            return result

        return call

    for module, name in _WRITING:
        setattr(module, name, hooked(name, getattr(module, name)))


def kill_at_writes(trials: Trials, every: int) -> Iterator[dict[str, Any]]:
    """SIGKILL before and after the steps of writing files."""
    for number in range(0, 2 * _writing_steps(trials), every):
        trials.next_place()

        def work(number: int = number) -> int:
            calls = 0

            def reached(_name: str) -> None:
                nonlocal calls
                if calls == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls += 1

            _hook(reached, reached)
            return trials.learning()

        yield trials.after(number, trials.run(work))


def full_disk(trials: Trials, every: int) -> Iterator[dict[str, Any]]:
    """A disk that is full in one step of writing, or from one on."""
    for number in range(0, _writing_steps(trials), every):
        for lasting in (False, True):
            trials.next_place()

            def work(number: int = number, lasting: bool = lasting) -> int:
                calls = 0

                def reached(name: str) -> None:
                    nonlocal calls
                    full = calls == number or (lasting and calls > number)
                    calls += 1
                    if full and name not in ("unlink", "chmod"):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

                _hook(reached, lambda _name: None)
                return trials.learning()

            yield trials.after([number, lasting], trials.run(work))


def _program() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("random", "writes", "full"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    arguments = parser.parse_args()
    trials = Trials(arguments.folder)
    if arguments.kind == "random":
        answers = kill_at_random(trials, arguments.count, arguments.seed)
    else:
        answers = (kill_at_writes if arguments.kind == "writes" else full_disk)(trials, arguments.count)
    json.dump({"seconds": trials.seconds, "trials": list(answers)}, sys.stdout)


if __name__ == "__main__":
    _program()
