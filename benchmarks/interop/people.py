"""The models and the people that every tool is given, and what this project makes of their prompts itself."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.interop.cases import PEOPLE, STAND_INS, Case
from benchmarks.interop.tools import IDENTITY, Tool
from celeb_basis.exports.textual_inversion import export_identity
from celeb_basis.identities.identity import Identity
from celeb_basis.identities.library import Library

if TYPE_CHECKING:
    from celeb_basis.hosts.diffusers import DiffusersHost


@dataclass(frozen=True)
class World:
    """A model with two people on it."""

    title: str
    """What it is, for people."""
    family: str
    folder: Path
    """The model, as a folder of diffusers."""
    checkpoint: Path | None
    """The model as a WebUI wants it."""
    host: DiffusersHost
    people: tuple[Identity, ...]

    def exported(self, tool: Tool, folder: Path) -> dict[str, list[str]]:
        """Everybody's files for ``tool``, written into ``folder``, by name."""
        folder.mkdir()
        if tool.layout == IDENTITY:
            return {one.name: [str(Library(folder).add(one))] for one in self.people}
        return {one.name: [str(f) for f in export_identity(one, folder, tool.layout)] for one in self.people}  # type: ignore[arg-type]

    def vectors(self) -> dict[str, torch.Tensor]:
        """``person/text encoder``: the token vectors."""
        return {
            f"{one.name}/{encoder}": rows
            for one in self.people
            for encoder, rows in zip(one.encoders, one.token_vectors(), strict=True)
        }

    def encode(self, case: Case, *, plain: bool) -> dict[str, torch.Tensor]:
        """This project's own conditioning of a prompt: ``states``, and ``pooled`` where there is one."""
        text = case.text
        for name, words in STAND_INS.items() if plain else ():
            text = text.replace(f"<{name}>", " ".join(words))
        with torch.no_grad():
            found = self.host.encode_prompts([text], {f"<{one.name}>": one.token_vectors() for one in self.people})
        return {"states": found.states} | ({} if found.pooled is None else {"pooled": found.pooled})


def miniature(folder: Path, *, steps: int, identities: Sequence[Path] = ()) -> World:
    """The trained miniature, with the demo's two strangers learned on it, or with identities that are given."""
    from celeb_basis.hosts.diffusers import load_host
    from celeb_basis.identities.identity import load_identity
    from celeb_basis.miniature import shipped_model
    from miniature.small_models.for_webui import put_miniature

    host = load_host(shipped_model(), device="cpu")
    folder.mkdir()
    written = put_miniature(folder)
    checkpoint = next(path for path in written if path.suffix == ".safetensors")
    shutil.copytree(shipped_model(), folder / "diffusers")
    _for_all_readers(folder / "diffusers")
    # Older transformers want the vocabulary as two files.
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (vocabulary,) = (path / name for path in written if path.is_dir())
        shutil.copy(vocabulary, folder / "diffusers" / "tokenizer" / name)
    found = [load_identity(path) for path in identities] or _learned(host, steps)
    people = tuple(replace(one, name=name) for one, name in zip(_pair(found), PEOPLE, strict=True))
    return World("the miniature (SD1)", "sd1", folder / "diffusers", checkpoint, host, people)


def small_sdxl(folder: Path) -> World:
    """An SDXL of the true widths and of three layers, with random weights, and two people made by chance in its bases."""
    from celeb_basis.basis import build_bases
    from celeb_basis.hosts.diffusers import load_host
    from celeb_basis.identities.expand import new_identity
    from celeb_basis.names.lists import shipped_names
    from miniature.small_models.pipelines import make_pipeline, save_pipeline

    save_pipeline(make_pipeline("sdxl", text_layers=3), folder)
    _for_all_readers(folder)
    host = load_host(folder, device="cpu")
    bases = [built.basis for built in build_bases(host.text_encoders, shipped_names())]
    generator = torch.Generator().manual_seed(0)
    people = []
    for name in PEOPLE:
        drawn = [torch.randn(basis.positions, basis.size, generator=generator) for basis in bases]
        coefficients = [torch.nn.functional.normalize(rows, dim=-1) for rows in drawn]
        people.append(new_identity(name, coefficients, bases, host.info))
    return World("a small SDXL with random weights", "sdxl", folder, None, host, tuple(people))


def _learned(host: DiffusersHost, steps: int) -> list[Identity]:
    from celeb_basis.cli.demo import STRANGERS
    from celeb_basis.events import follow
    from celeb_basis.faces.insight import InsightFaceNetwork
    from celeb_basis.faces.packs import MINIATURE, find_pack
    from celeb_basis.identities.identity import identity_from_bytes
    from celeb_basis.miniature import CELEBRITY_FACES, shipped_model_names
    from celeb_basis.settings import TrainingSettings
    from celeb_basis.training.run import PhotoInput, TrainingSession, TrainingTask

    faces = InsightFaceNetwork(find_pack(MINIATURE).folder)
    session = TrainingSession(host, shipped_model_names(), faces, known_faces=[CELEBRITY_FACES])
    people = tuple(PhotoInput(name, (photo,)) for name, photo in zip(PEOPLE, STRANGERS, strict=True))
    settings = TrainingSettings(steps=steps, views=16)
    task = TrainingTask(people, settings, consent="a comparison")
    result = follow(session.learn(task, threading.Event()))
    return [identity_from_bytes(content) for content in result.identities]


def _for_all_readers(folder: Path) -> None:
    """Name the text encoders' weights as they always were: the newest transformers leave ``text_model.`` out, and read both."""
    from safetensors.torch import load_file, save_file

    for file in folder.glob("text_encoder*/model.safetensors"):
        weights = load_file(str(file))
        if not any(key.startswith("text_model.") for key in weights):
            save_file({f"text_model.{key}": value for key, value in weights.items()}, str(file), {"format": "pt"})


def _pair(found: list[Identity]) -> list[Identity]:
    """Two people; of one alone, the same twice."""
    return (found * 2)[:2]
