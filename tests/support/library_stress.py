"""Many threads at work on one library, as a program: what each added, renamed and deleted, as JSON.

python library_stress.py FOLDER TAG THREADS
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.people import person

from celeb_basis.errors import CelebBasisError, IdentityError
from celeb_basis.identities.deletion import delete_person
from celeb_basis.identities.generated_files import GeneratedFiles
from celeb_basis.identities.identity import Identity
from celeb_basis.identities.library import Library


def noted(identity: Identity) -> Identity:
    return replace(identity, metadata=replace(identity.metadata, notes=identity.metadata.notes + "x"))


class Stress:
    """The work of one process. Threads add their own people, and all fight for the same few names."""

    def __init__(self, folder: Path, tag: str) -> None:
        self.folder, self.tag, self.library = folder, tag, Library(folder)
        self.lock = threading.Lock()
        self.found: dict[str, Any] = {
            "kept": [],
            "deleted": [],
            "won": 0,
            "back": [],
            "errors": [],
            "read": 0,
            "notes": 0,
        }
        self.over = threading.Event()

    def count(self, what: str) -> None:
        with self.lock:
            self.found[what] += 1

    def own(self, number: int) -> None:
        """Add somebody, change, rename and perhaps delete them; then what began before must not bring them back."""
        name, begun = f"{self.tag} {number}", time.time()
        new_name = f"{name} renamed"
        self.library.add(person(name, seed=number))
        self.library.update(name, noted)
        picture = self.folder.parent / f"{name}.txt"
        picture.write_text(name)
        GeneratedFiles(self.folder).note([picture], "picture", [name], begun=begun)
        self.library.rename(name, new_name)
        GeneratedFiles(self.folder).rename(name, new_name)
        if number % 2:
            self.found["kept"].append(new_name)
            return
        delete_person(self.library, new_name)
        self.found["deleted"].append(new_name)
        for former in (name, new_name):
            try:
                self.library.add(person(former), begun=begun, replace=True)
                self.found["back"].append(former)
            except IdentityError:
                pass

    def shared(self, number: int) -> None:
        """Of all who add a name at once, one succeeds; notes are all saved; nobody is updated who is deleted."""
        try:
            self.library.add(person("shared", seed=number))
            self.count("won")
        except IdentityError:
            pass
        self.library.update("counted", noted)
        self.count("notes")
        try:
            if number % 3:
                self.library.update("churn", noted)
            else:
                delete_person(self.library, "churn")
        except IdentityError:
            pass

    def read(self) -> None:
        """Who is there is found in every moment, whole."""
        while not self.over.is_set():
            if "counted" not in self.library.names() or any(entry.problem for entry in self.library.entries()):
                self.found["errors"].append("a listing was wrong")
            self.library.load("counted")
            self.count("read")
            self.over.wait(0.02)

    def work(self, number: int) -> None:
        try:
            self.own(number)
            self.shared(number)
        except CelebBasisError as error:
            self.found["errors"].append(f"{number}: {error}")

    def run(self, threads: int) -> dict[str, Any]:
        workers = [threading.Thread(target=self.work, args=(number,)) for number in range(threads)]
        reader = threading.Thread(target=self.read)
        for thread in (reader, *workers):
            thread.start()
        for thread in workers:
            thread.join()
        self.over.set()
        reader.join()
        return self.found


if __name__ == "__main__":
    print(json.dumps(Stress(Path(sys.argv[1]), sys.argv[2]).run(int(sys.argv[3]))))
