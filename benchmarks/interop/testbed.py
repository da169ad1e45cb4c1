"""The models and identities that every tool is given, and this project's own conditioning of their prompts."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.interop.tools import IDENTITY, NAMES, STAND_INS, Case, Tool
from celeb_basis.basis import build_bases
from celeb_basis.events import follow
from celeb_basis.exports.textual_inversion import export_identity
from celeb_basis.hosts.diffusers import DiffusersHost, load_host
from celeb_basis.identities.expand import new_identity
from celeb_basis.identities.identity import Identity, identity_from_bytes, load_identity
from celeb_basis.identities.library import Library
from celeb_basis.miniature import CELEBRITY_FACES, shipped_model, shipped_model_names
from celeb_basis.names.lists import shipped_names
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.run import PhotoInput, TrainingSession, TrainingTask


@dataclass(frozen=True)
class InteropTestbed:
    """A model with two identities."""

    title: str
    """What it is, as printed."""
    family: str
    folder: Path
    """The model as a diffusers folder."""
    checkpoint: Path | None
    """The model as a WebUI needs it."""
    model: DiffusersHost
    identities: tuple[Identity, ...]

    def export(self, tool: Tool, folder: Path) -> dict[str, list[str]]:
        """Write the identities' files for ``tool`` into ``folder``; returns their paths by name."""
        folder.mkdir()
        if tool.layout == IDENTITY:
            return {one.name: [str(Library(folder).add(one))] for one in self.identities}
        return {one.name: [str(f) for f in export_identity(one, folder, tool.layout)] for one in self.identities}  # type: ignore[arg-type]

    def vectors(self) -> dict[str, torch.Tensor]:
        """The token vectors by ``identity/text encoder``."""
        return {
            f"{one.name}/{encoder}": rows
            for one in self.identities
            for encoder, rows in zip(one.encoders, one.token_vectors(), strict=True)
        }

    def encode(self, case: Case, *, plain: bool) -> dict[str, torch.Tensor]:
        """This project's own conditioning of a prompt: ``states``, and ``pooled`` where there is one."""
        text = case.text
        for name, words in STAND_INS.items() if plain else ():
            text = text.replace(f"<{name}>", " ".join(words))
        with torch.no_grad():
            found = self.model.encode_prompts([text], {f"<{one.name}>": one.token_vectors() for one in self.identities})
        return {"states": found.states} | ({} if found.pooled is None else {"pooled": found.pooled})


def miniature(folder: Path, *, steps: int, identities: Sequence[Path] = ()) -> InteropTestbed:
    """The trained miniature.

    Args:
        folder: Where its files are written.
        steps: Learning steps of the demo's two strangers, where no identities are given.
        identities: Identity files that were learned on the miniature.
    """
    from miniature.small_models.for_webui import put_miniature

    model = load_host(shipped_model(), device="cpu")
    folder.mkdir()
    written = put_miniature(folder)
    checkpoint = next(path for path in written if path.suffix == ".safetensors")
    shutil.copytree(shipped_model(), folder / "diffusers")
    _use_classic_keys(folder / "diffusers")
    # Older transformers need the vocabulary as two files.
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (vocabulary,) = (path / name for path in written if path.is_dir())
        shutil.copy(vocabulary, folder / "diffusers" / "tokenizer" / name)
    found = [load_identity(path) for path in identities] or _learned(model, steps)
    named = tuple(replace(one, name=name) for one, name in zip(_pair(found), NAMES, strict=True))
    return InteropTestbed("the miniature (SD1)", "sd1", folder / "diffusers", checkpoint, model, named)


def small_sdxl(folder: Path) -> InteropTestbed:
    """An SDXL of the original widths and three layers with random weights, and two random identities in its bases."""
    from miniature.small_models.pipelines import make_pipeline, save_pipeline

    save_pipeline(make_pipeline("sdxl", text_layers=3), folder)
    _use_classic_keys(folder)
    model = load_host(folder, device="cpu")
    bases = [built.basis for built in build_bases(model.text_encoders, shipped_names())]
    generator = torch.Generator().manual_seed(0)
    identities = []
    for name in NAMES:
        random = [torch.randn(basis.positions, basis.size, generator=generator) for basis in bases]
        coefficients = [torch.nn.functional.normalize(rows, dim=-1) for rows in random]
        identities.append(new_identity(name, coefficients, bases, model.info))
    return InteropTestbed("a small SDXL with random weights", "sdxl", folder, None, model, tuple(identities))


def _learned(model: DiffusersHost, steps: int) -> list[Identity]:
    from celeb_basis.cli.demo import STRANGERS
    from celeb_basis.faces.insight import InsightFaceNetwork
    from celeb_basis.faces.packs import MINIATURE, find_pack

    faces = InsightFaceNetwork(find_pack(MINIATURE).folder)
    session = TrainingSession(model, shipped_model_names(), faces, known_faces=[CELEBRITY_FACES])
    people = tuple(PhotoInput(name, (photo,)) for name, photo in zip(NAMES, STRANGERS, strict=True))
    settings = TrainingSettings(steps=steps, views=16)
    task = TrainingTask(people, settings, consent="a comparison")
    result = follow(session.learn(task, threading.Event()))
    return [identity_from_bytes(content) for content in result.identities]


def _use_classic_keys(folder: Path) -> None:
    """Prefix the text encoders' keys with ``text_model.``, which the newest transformers omit: they read both forms."""
    for file in folder.glob("text_encoder*/model.safetensors"):
        weights = load_file(str(file))
        if not any(key.startswith("text_model.") for key in weights):
            save_file({f"text_model.{key}": value for key, value in weights.items()}, str(file), {"format": "pt"})


def _pair(found: list[Identity]) -> list[Identity]:
    """Two identities; the same one twice if there is only one."""
    return (found * 2)[:2]
