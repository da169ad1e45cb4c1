"""A trainer's whole state in one safetensors file: a resumed run ends bit for bit as if it had not been interrupted."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from celeb_basis.diffusion_model import DiffusionModel, LatentDistribution
from celeb_basis.errors import FileError, SettingsError, TrainingError
from celeb_basis.files import cache_folder, now, write_bytes
from celeb_basis.identities.folder_lock import begun_of
from celeb_basis.method import Basis
from celeb_basis.reading import check_safetensors, parse_json
from celeb_basis.settings import TrainingSettings, stored_settings
from celeb_basis.training.dataset import PersonViews, ViewPool
from celeb_basis.training.trainer import Trainer

_FORMAT = 1

SAVE_EVERY = 30.0
"""Seconds between two saves of a run on its way."""

SAVE_COST = 100.0
"""The time until the next save is at least this many times what the last one took: on a slow disk a run is saved less often."""


def unfinished_runs() -> Path:
    """The folder where the command line and ComfyUI save interrupted runs by default."""
    return cache_folder() / "unfinished"


@dataclass(frozen=True)
class StateSummary:
    """What a saved state says about its run."""

    names: tuple[str, ...]
    """Names of the people."""
    settings: TrainingSettings
    consent: str
    """The note on consent that the run was started with; empty in files of versions that did not store it."""
    model: str = ""
    """Name of the checkpoint that the run is on."""
    step: int = 0
    """Steps done."""
    begun: float = 0.0
    """When the run began, a :func:`time.time`; in files of 0.1.0, when it was saved."""

    @property
    def steps(self) -> int:
        """Steps in total."""
        return self.settings.steps * len(self.names)


def save_state(trainer: Trainer, path: Path, *, consent: str = "") -> None:
    """Write the whole state (parameters, optimizer, averages, random state, pool) to ``path``, atomically.

    Args:
        trainer: The trainer, between two steps.
        path: The file to write.
        consent: The note on consent that the identities will store.

    Raises:
        FileError: For a full disk, a read-only folder and the like.
    """
    header = {
        "format": _FORMAT,
        "settings": trainer.settings.as_dict(),
        "step": trainer.step,
        "saved": now(),
        "begun": trainer.begun,
        "seconds": trainer.seconds,
        "loss_sum": trainer.loss_sum,
        "scaler": trainer.scaler.state_dict(),
        "model": {"name": trainer.model.info.name, "sha256": trainer.model.info.sha256},
        "bases": [basis.sha256 for basis in trainer.bases],
        "face_model": trainer.pool.face_model,
        "consent": consent,
        "people": [{"name": p.name, "descriptions": p.descriptions} for p in trainer.pool.people],
        "snapshots": len(trainer.tracker.snapshots),
    }
    # Not safetensors' own save_file: its error for a full disk is not an OSError.
    write_bytes(path, save(_tensors(trainer), {"state": json.dumps(header, ensure_ascii=False)}))


class StateSaver:
    """Saves a run before its first step and every :data:`SAVE_EVERY` seconds, so that nothing that ends it costs more."""

    def __init__(self, path: Path | None, consent: str, *, saved: int | None = None) -> None:
        """Prepare saving; nothing is written yet.

        Args:
            path: The file to write; nothing is ever saved if ``None``.
            consent: The note on consent that the identities will store.
            saved: The step at which ``path`` holds the run already.
        """
        self.path, self.consent = path, consent
        self.saved = saved
        """The step at which the run is saved; ``None`` while it is not."""
        self.problem = ""
        """Why the newest attempt to save failed."""
        self._due = time.monotonic() + SAVE_EVERY if saved is not None else 0.0

    def save(self, trainer: Trainer) -> bool:
        """Save the run now; returns whether it is saved. If not, :attr:`problem` is the reason."""
        if self.path is None:
            return False
        started = time.monotonic()
        try:
            save_state(trainer, self.path, consent=self.consent)
        except FileError as error:
            self.problem = str(error)
            if self._holds(trainer):  # it failed after the file was complete, as when the folder cannot be flushed
                self.saved = trainer.step
        except MemoryError:
            self.problem = f"There is not enough memory to write {self.path}."
        else:
            self.problem, self.saved = "", trainer.step
        ended = time.monotonic()
        self._due = ended + max(SAVE_EVERY, SAVE_COST * (ended - started))
        return not self.problem

    def save_if_due(self, trainer: Trainer) -> str:
        """Save the run if it is time; returns a warning for the user if that fails for the first time in a row."""
        if self.path is None or time.monotonic() < self._due:
            return ""
        failed_before = bool(self.problem)
        if self.save(trainer) or failed_before:
            return ""
        return f"The run cannot be saved on its way. {self.problem} Learning goes on; {self.where()}."

    def _holds(self, trainer: Trainer) -> bool:
        """Whether the file holds the run at its present step."""
        assert self.path is not None
        try:
            found = read_summary(self.path)
        except TrainingError:
            return False
        return found.step == trainer.step and found.names == tuple(person.name for person in trainer.pool.people)

    def where(self) -> str:
        """Where the run could be resumed, as the rest of a sentence."""
        if self.saved is None:
            return "if it is interrupted now, it has to start again from the photos"
        return f"it can be resumed from step {self.saved}"


def resume_trainer(path: Path, model: DiffusionModel, bases: Sequence[Basis]) -> Trainer:
    """The trainer saved in ``path``, ready to :meth:`~Trainer.run`.

    Raises:
        TrainingError: If the file is not a state, or the run was started with another model or basis.
    """
    header, tensors = _read(path)
    if header["model"]["sha256"] != model.info.sha256:
        raise TrainingError(
            f"{path.name} was started with the model {header['model']['name']}, not with {model.info.name}: "
            "give that model to continue, or start again from the photos."
        )
    if header["bases"] != [basis.sha256 for basis in bases]:
        raise TrainingError(
            f"{path.name} was started with another basis: give the same list of names to continue, or start again from "
            "the photos."
        )
    try:
        settings = stored_settings(header["settings"])
        trainer = Trainer(model, bases, _pool(header, tensors), settings)
        _restore(trainer, header, tensors)
        trainer.begun = begun_of(header, path)
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, SettingsError) as error:
        raise _unusable(path) from error
    return trainer


def read_summary(path: Path) -> StateSummary:
    """The people, settings and note on consent of the run saved in ``path``.

    Raises:
        TrainingError: If the file is not a state.
    """
    header, _ = _read(path, tensors=False)
    try:
        return StateSummary(
            names=tuple(str(person["name"]) for person in header["people"]),
            settings=stored_settings(header["settings"]),
            consent=str(header.get("consent", "")),
            model=str(header["model"]["name"]),
            step=int(header["step"]),
            begun=begun_of(header, path),
        )
    except (KeyError, TypeError, ValueError, OSError, SettingsError) as error:
        raise _unusable(path) from error


def _tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    tensors = {
        "random": trainer.generator.get_state(),
        "average.sums": trainer.average.sums,
        "average.updates": trainer.average.updates,
    }
    parameters = dict(trainer.module.named_parameters())
    tensors |= {f"parameter.{name}": value.detach() for name, value in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    for index, snapshot in enumerate(trainer.tracker.snapshots):
        tensors[f"snapshot.{index}"] = snapshot
    for index, person in enumerate(trainer.pool.people):
        tensors[f"person.{index}.mean"] = person.latents.mean
        tensors[f"person.{index}.std"] = person.latents.std
        tensors[f"person.{index}.vectors"] = person.vectors
        tensors[f"person.{index}.thumbnail"] = torch.frombuffer(bytearray(person.thumbnail), dtype=torch.uint8)
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _pool(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> ViewPool:
    people = tuple(
        PersonViews(
            name=person["name"],
            thumbnail=tensors[f"person.{index}.thumbnail"].numpy().tobytes(),
            latents=LatentDistribution(tensors[f"person.{index}.mean"], tensors[f"person.{index}.std"]),
            vectors=tensors[f"person.{index}.vectors"],
            descriptions=tuple(person["descriptions"]),
        )
        for index, person in enumerate(header["people"])
    )
    return ViewPool(people, header["face_model"])


def _restore(trainer: Trainer, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    fused = bool(trainer.optimizer.param_groups[0]["fused"])
    with torch.no_grad():
        for name, parameter in trainer.module.named_parameters():
            parameter.copy_(tensors[f"parameter.{name}"])
    for name, parameter in trainer.module.named_parameters():
        prefix = "optimizer."
        state = {
            key.removeprefix(prefix).removesuffix(f".{name}"): value
            for key, value in tensors.items()
            if key.startswith(prefix) and key.endswith(f".{name}")
        }
        if state:
            # AdamW keeps its moments beside the parameter, and its step counter on the CPU unless it is fused.
            trainer.optimizer.state[parameter] = {
                key: value.to(parameter.device) if value.ndim or fused else value for key, value in state.items()
            }
    if header["scaler"]:  # empty if no loss was scaled where the run was saved: a scaler here starts afresh
        trainer.scaler.load_state_dict(header["scaler"])
    trainer.generator.set_state(tensors["random"])
    trainer.average.sums = tensors["average.sums"]
    trainer.average.updates = tensors["average.updates"]
    for index in range(header["snapshots"]):
        trainer.tracker.take(tensors[f"snapshot.{index}"])
    trainer.step = int(header["step"])
    trainer.seconds = float(header["seconds"])
    trainer.loss_sum = float(header["loss_sum"])


def _read(path: Path, *, tensors: bool = True) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The header, and copies of the tensors if they are wanted."""
    try:
        if path.exists():  # else opening it says that there is none
            check_safetensors(path)
        with safe_open(path, framework="pt") as file:
            header = parse_json((file.metadata() or {})["state"])
            if header["format"] != _FORMAT:
                raise TrainingError(
                    f"{path.name} is a learning state of format {header['format']}, this version reads {_FORMAT}: "
                    "finish it with the version that started it, or start again from the photos."
                )
            # Copies: mapped tensors keep the file open, and Windows would then refuse to overwrite it with the next state.
            keys = file.keys() if tensors else ()
            return header, {key: file.get_tensor(key).clone() for key in keys}
    except FileNotFoundError as error:
        raise TrainingError(
            f"There is no learning state at {path}: check the path, or start again from the photos."
        ) from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _unusable(path) from error


def _unusable(path: Path) -> TrainingError:
    return TrainingError(f"{path.name} is not a learning state, or is damaged: start again from the photos.")
