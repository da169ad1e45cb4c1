"""A learner's whole state in one safetensors file: resuming ends bit for bit as if there had been no interruption."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from celeb_basis.diffusion_model import DiffusionModel, LatentDistribution
from celeb_basis.errors import SettingsError, TrainingError
from celeb_basis.files import write_bytes
from celeb_basis.method import Basis
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.dataset import PersonViews, ViewPool
from celeb_basis.training.trainer import Trainer

_FORMAT = 1


def save_state(trainer: Trainer, path: Path, *, consent: str = "") -> None:
    """Write all of ``learner`` (parameters, optimizer, averages, random state, pool) to ``path``, atomically.

    Parameters: ``consent`` is the note that the identities are to keep.

    Raises: :class:`FileError` for a full disk, a read-only folder and the like.
    """
    from safetensors.torch import save

    header = {
        "format": _FORMAT,
        "settings": trainer.settings.as_dict(),
        "step": trainer.step,
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
    # Not safetensors' own writing of files: its error of a full disk is no OSError.
    write_bytes(path, save(_tensors(trainer), {"state": json.dumps(header, ensure_ascii=False)}))


def resume_trainer(path: Path, model: DiffusionModel, bases: Sequence[Basis]) -> Trainer:
    """The learner kept in ``path``, ready to :meth:`~Trainer.run` on.

    Raises: :class:`TrainingError` for a file that is no state, and for another model or basis than it was begun with.
    """
    header, tensors = _read(path)
    if header["model"]["sha256"] != model.info.sha256:
        raise TrainingError(
            f"{path.name} was begun with the model {header['model']['name']}, not with {model.info.name}: "
            "give that model to go on, or learn anew."
        )
    if header["bases"] != [basis.sha256 for basis in bases]:
        raise TrainingError(f"{path.name} was begun with another basis: give the same names list, or learn anew.")
    try:
        settings = TrainingSettings().changed(header["settings"])
        trainer = Trainer(model, bases, _pool(header, tensors), settings)
        _restore(trainer, header, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, SettingsError) as error:
        raise _unusable(path) from error
    return trainer


def state_people(path: Path) -> tuple[str, ...]:
    """Names of the people that the state in ``path`` is about."""
    header, _ = _read(path)
    return tuple(person["name"] for person in header["people"])


def state_consent(path: Path) -> str:
    """The note on consent that the run in ``path`` was begun with; empty in states of before it was kept."""
    header, _ = _read(path)
    return str(header.get("consent", ""))


def state_settings(path: Path) -> TrainingSettings:
    """The settings that the state in ``path`` was begun with."""
    header, _ = _read(path)
    return TrainingSettings().changed(header["settings"])


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
            # AdamW keeps its step counter on the CPU and the moments beside the parameter.
            trainer.optimizer.state[parameter] = {
                key: value if value.ndim == 0 else value.to(parameter.device) for key, value in state.items()
            }
    if header["scaler"]:  # empty from where no loss was scaled: a scaler here begins anew
        trainer.scaler.load_state_dict(header["scaler"])
    trainer.generator.set_state(tensors["random"])
    trainer.average.sums = tensors["average.sums"]
    trainer.average.updates = tensors["average.updates"]
    for index in range(header["snapshots"]):
        trainer.tracker.take(tensors[f"snapshot.{index}"])
    trainer.step = int(header["step"])
    trainer.seconds = float(header["seconds"])
    trainer.loss_sum = float(header["loss_sum"])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["state"])
            if header["format"] != _FORMAT:
                raise TrainingError(
                    f"{path.name} is a learning state of format {header['format']}, this version reads {_FORMAT}: "
                    "finish it with the version that began it, or learn anew."
                )
            # Copies: what is mapped from the file holds it, and Windows would then refuse to write the next state over it.
            return header, {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError as error:
        raise TrainingError(f"There is no learning state at {path}: check the path, or learn anew.") from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _unusable(path) from error


def _unusable(path: Path) -> TrainingError:
    return TrainingError(f"{path.name} is not a learning state, or is damaged: learn anew.")
