"""What every tool is asked: its token vectors, and its conditioning of each prompt in three ways.

- ``word``: the prompt with the person's word in it, from the exported file;
- ``plain``: the same with plain words in the person's place, to see how much two tools' arithmetic differs anyway;
- ``placed``: those plain words again, with the person's vectors written into their rows of the token table. This is what
  a word of two vectors means, in the tool's own arithmetic, syntax and all: it must be ``word``, bit for bit.
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
    """A folder of its own, which it may fill."""
    model: Path
    """The checkpoint, as a folder of diffusers or the file that the tool wants."""
    family: str
    files: Mapping[str, tuple[Path, ...]]
    """Of each person the exported files."""
    cases: Sequence[Mapping[str, str]]
    """``name``, ``word`` and ``plain`` of each prompt."""
    stand_ins: Mapping[str, Sequence[str]]
    vectors: Mapping[str, torch.Tensor]
    """``person/text encoder``: ``(E, D)`` each."""

    @staticmethod
    def read(folder: Path) -> Task:
        told = json.loads((folder / "task.json").read_text("utf-8"))
        files = {name: tuple(map(Path, paths)) for name, paths in told["files"].items()}
        vectors = load_file(str(folder / "vectors.safetensors"))
        return Task(folder, Path(told["model"]), told["family"], files, told["cases"], told["stand_ins"], vectors)

    def of_encoder(self, encoder: str) -> dict[str, torch.Tensor]:
        """Of each person the vectors for one text encoder."""
        pairs = ((key.split("/"), rows) for key, rows in self.vectors.items())
        return {name: rows for (name, whose), rows in pairs if whose == encoder}


class Tool(Protocol):
    """One tool, with the model and the exported files loaded."""

    name: str
    version: str

    def vectors(self, name: str) -> dict[str, torch.Tensor]:
        """Of a person the token vectors that the tool has, ``(E, D)`` by text encoder."""

    def encode(self, prompt: str) -> dict[str, torch.Tensor]:
        """The tool's conditioning: ``states``, and ``pooled`` where there is one."""

    def table(self, encoder: str) -> torch.Tensor:
        """The weight of a text encoder's token table, to be written to."""

    def ids(self, encoder: str, word: str) -> list[int]:
        """The token ids of a plain word."""


def main(make: Callable[[Task], Tool]) -> None:
    """Read the task, ask the tool that ``make`` gives, and write ``answer.safetensors`` and ``answer.json``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    task = Task.read(parser.parse_args().folder)
    with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
        tool = make(task)
        answer = asked(tool, task)
    save_file(
        {key: value.float().contiguous() for key, value in answer.items()}, str(task.folder / "answer.safetensors")
    )
    told = {"tool": tool.name, "version": tool.version, "torch": torch.__version__, "notes": getattr(tool, "notes", [])}
    (task.folder / "answer.json").write_text(json.dumps(told), "utf-8")


def asked(tool: Tool, task: Task) -> dict[str, torch.Tensor]:
    """Everything that ``tool`` answers, by key."""
    answer = {}
    for name in task.files:
        answer |= {f"vectors/{name}/{encoder}": rows.clone() for encoder, rows in tool.vectors(name).items()}
    for number, case in enumerate(task.cases):
        for way in ("word", "plain"):
            answer |= {f"{way}/{number}/{part}": value.clone() for part, value in tool.encode(case[way]).items()}
    with placed(tool, task):
        for number, case in enumerate(task.cases):
            answer |= {f"placed/{number}/{part}": value.clone() for part, value in tool.encode(case["plain"]).items()}
    return answer


@contextlib.contextmanager
def placed(tool: Tool, task: Task) -> Iterator[None]:
    """People's vectors in the rows of their stand-ins, in all text encoders, for a while."""
    before: list[tuple[torch.Tensor, list[int], torch.Tensor]] = []
    for encoder in sorted({key.split("/")[1] for key in task.vectors}):
        table = tool.table(encoder)
        for name, rows in task.of_encoder(encoder).items():
            ids = [tool.ids(encoder, word) for word in task.stand_ins[name]]
            if any(len(one) != 1 for one in ids) or len(ids) != len(rows):
                raise SystemExit(f"{task.stand_ins[name]} are not one token each here: {ids}")
            places = [one[0] for one in ids]
            before.append((table, places, table.data[places].clone()))
            table.data[places] = rows.to(table)
    try:
        yield
    finally:
        for table, places, rows in reversed(before):
            table.data[places] = rows


def plain_ids(tokenizer: Any, word: str) -> list[int]:
    """A tokenizer's ids of a word, without start and end."""
    return [int(one) for one in tokenizer(word, add_special_tokens=False)["input_ids"]]
