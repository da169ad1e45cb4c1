"""The questions to every tool: its token vectors, and its conditioning of each prompt in three ways.

- ``placeholder``: the prompt with the identity's placeholder token, from the exported file;
- ``plain``: the same with plain words instead, which shows how much two tools' arithmetic differs in any case;
- ``patched``: the plain words again, with the identity's vectors written into their rows of the token table. This is the
  definition of a token with two vectors, in the tool's own arithmetic and syntax: it must equal ``placeholder`` bit for bit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file


@dataclass(frozen=True)
class Task:
    """What a tool is given."""

    folder: Path
    """A folder of its own that it may write to."""
    model: Path
    """The checkpoint: a diffusers folder, or the file that the tool needs."""
    family: str
    files: Mapping[str, tuple[Path, ...]]
    """The exported files of each identity."""
    cases: Sequence[Mapping[str, str]]
    """``name``, ``placeholder`` and ``plain`` of each prompt."""
    stand_ins: Mapping[str, Sequence[str]]
    vectors: Mapping[str, torch.Tensor]
    """``(E, D)`` each, by ``identity/text encoder``."""

    @staticmethod
    def read(folder: Path) -> Task:
        """Read the task of a run's folder."""
        task = json.loads((folder / "task.json").read_text("utf-8"))
        files = {name: tuple(map(Path, paths)) for name, paths in task["files"].items()}
        vectors = load_file(str(folder / "vectors.safetensors"))
        return Task(folder, Path(task["model"]), task["family"], files, task["cases"], task["stand_ins"], vectors)

    def of_encoder(self, encoder: str) -> dict[str, torch.Tensor]:
        """The vectors of each identity for one text encoder."""
        pairs = ((key.split("/"), rows) for key, rows in self.vectors.items())
        return {name: rows for (name, other), rows in pairs if other == encoder}


class Tool(Protocol):
    """One tool, with the model and the exported files loaded."""

    name: str
    version: str

    def vectors(self, name: str) -> dict[str, torch.Tensor]:
        """An identity's token vectors as the tool holds them: ``(E, D)`` by text encoder."""

    def encode(self, prompt: str) -> dict[str, torch.Tensor]:
        """The tool's conditioning: ``states``, and ``pooled`` where there is one."""

    def table(self, encoder: str) -> torch.Tensor:
        """The weight of a text encoder's token table, which is modified in place."""

    def token_ids(self, encoder: str, word: str) -> list[int]:
        """Token ids of a plain word, without special tokens."""


def main(make: Callable[[Task], Tool]) -> None:
    """Read the task, run it with the tool that ``make`` returns, and write ``answer.safetensors`` and ``answer.json``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    task = Task.read(parser.parse_args().folder)
    with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
        tool = make(task)
        values = answer(tool, task)
    save_file(
        {key: value.float().contiguous() for key, value in values.items()}, str(task.folder / "answer.safetensors")
    )
    about = {
        "tool": tool.name,
        "version": tool.version,
        "torch": torch.__version__,
        "notes": getattr(tool, "notes", []),
    }
    (task.folder / "answer.json").write_text(json.dumps(about), "utf-8")


def answer(tool: Tool, task: Task) -> dict[str, torch.Tensor]:
    """All values that the tool computes, by key."""
    values: dict[str, torch.Tensor] = {}
    for name in task.files:
        values |= {f"vectors/{name}/{encoder}": rows.clone() for encoder, rows in tool.vectors(name).items()}
    for number, case in enumerate(task.cases):
        for kind in ("placeholder", "plain"):
            values |= {f"{kind}/{number}/{part}": value.clone() for part, value in tool.encode(case[kind]).items()}
    with patched(tool, task):
        for number, case in enumerate(task.cases):
            values |= {f"patched/{number}/{part}": value.clone() for part, value in tool.encode(case["plain"]).items()}
    return values


@contextlib.contextmanager
def patched(tool: Tool, task: Task) -> Iterator[None]:
    """Write the identities' vectors into the rows of their stand-ins in all text encoders while open."""
    before: list[tuple[torch.Tensor, list[int], torch.Tensor]] = []
    for encoder in sorted({key.split("/")[1] for key in task.vectors}):
        table = tool.table(encoder)
        for name, rows in task.of_encoder(encoder).items():
            ids = [tool.token_ids(encoder, word) for word in task.stand_ins[name]]
            if any(len(one) != 1 for one in ids) or len(ids) != len(rows):
                raise SystemExit(f"{task.stand_ins[name]} are not one token each here: {ids}")
            positions = [one[0] for one in ids]
            before.append((table, positions, table.data[positions].clone()))
            table.data[positions] = rows.to(table)
    try:
        yield
    finally:
        for table, positions, rows in reversed(before):
            table.data[positions] = rows


def plain_ids(tokenizer: Any, word: str) -> list[int]:
    """The token ids of a word, without the start and end tokens."""
    return [int(one) for one in tokenizer(word, add_special_tokens=False)["input_ids"]]
