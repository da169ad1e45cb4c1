"""A learner's whole state in one safetensors file: resuming ends bit for bit as if there had been no interruption."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from celeb_basis.diffusion_model import Host, LatentDistribution
from celeb_basis.errors import LearningError, SettingsError
from celeb_basis.files import write_bytes
from celeb_basis.method import Basis
from celeb_basis.settings import LearnSettings
from celeb_basis.training.dataset import PersonViews, ViewPool
from celeb_basis.training.trainer import Learner

_FORMAT = 1


def save_state(learner: Learner, path: Path, *, consent: str = "") -> None:
    """Write all of ``learner`` (parameters, optimizer, averages, random state, pool) to ``path``, atomically.

    Parameters: ``consent`` is the note that the identities are to keep.

    Raises: :class:`FileError` for a full disk, a read-only folder and the like.
    """
    from safetensors.torch import save

    header = {
        "format": _FORMAT,
        "settings": learner.settings.as_dict(),
        "step": learner.step,
        "seconds": learner.seconds,
        "loss_sum": learner.loss_sum,
        "scaler": learner.scaler.state_dict(),
        "model": {"name": learner.host.info.name, "sha256": learner.host.info.sha256},
        "bases": [basis.sha256 for basis in learner.bases],
        "face_model": learner.pool.face_model,
        "consent": consent,
        "people": [{"name": p.name, "descriptions": p.descriptions} for p in learner.pool.people],
        "snapshots": len(learner.tracker.snapshots),
    }
    # Not safetensors' own writing of files: its error of a full disk is no OSError.
    write_bytes(path, save(_tensors(learner), {"state": json.dumps(header, ensure_ascii=False)}))


def resume_learner(path: Path, host: Host, bases: Sequence[Basis]) -> Learner:
    """The learner kept in ``path``, ready to :meth:`~Learner.run` on.

    Raises: :class:`LearningError` for a file that is no state, and for another model or basis than it was begun with.
    """
    header, tensors = _read(path)
    if header["model"]["sha256"] != host.info.sha256:
        raise LearningError(
            f"{path.name} was begun with the model {header['model']['name']}, not with {host.info.name}: "
            "give that model to go on, or learn anew."
        )
    if header["bases"] != [basis.sha256 for basis in bases]:
        raise LearningError(f"{path.name} was begun with another basis: give the same names list, or learn anew.")
    try:
        settings = LearnSettings().changed(header["settings"])
        learner = Learner(host, bases, _pool(header, tensors), settings)
        _restore(learner, header, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, SettingsError) as error:
        raise _unusable(path) from error
    return learner


def state_people(path: Path) -> tuple[str, ...]:
    """Names of the people that the state in ``path`` is about."""
    header, _ = _read(path)
    return tuple(person["name"] for person in header["people"])


def state_consent(path: Path) -> str:
    """The note on consent that the run in ``path`` was begun with; empty in states of before it was kept."""
    header, _ = _read(path)
    return str(header.get("consent", ""))


def state_settings(path: Path) -> LearnSettings:
    """The settings that the state in ``path`` was begun with."""
    header, _ = _read(path)
    return LearnSettings().changed(header["settings"])


def _tensors(learner: Learner) -> dict[str, torch.Tensor]:
    tensors = {
        "random": learner.generator.get_state(),
        "average.sums": learner.average.sums,
        "average.updates": learner.average.updates,
    }
    parameters = dict(learner.model.named_parameters())
    tensors |= {f"parameter.{name}": value.detach() for name, value in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in learner.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    for index, snapshot in enumerate(learner.tracker.snapshots):
        tensors[f"snapshot.{index}"] = snapshot
    for index, person in enumerate(learner.pool.people):
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


def _restore(learner: Learner, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in learner.model.named_parameters():
            parameter.copy_(tensors[f"parameter.{name}"])
    for name, parameter in learner.model.named_parameters():
        prefix = "optimizer."
        state = {
            key.removeprefix(prefix).removesuffix(f".{name}"): value
            for key, value in tensors.items()
            if key.startswith(prefix) and key.endswith(f".{name}")
        }
        if state:
            # AdamW keeps its step counter on the CPU and the moments beside the parameter.
            learner.optimizer.state[parameter] = {
                key: value if value.ndim == 0 else value.to(parameter.device) for key, value in state.items()
            }
    if header["scaler"]:  # empty from where no loss was scaled: a scaler here begins anew
        learner.scaler.load_state_dict(header["scaler"])
    learner.generator.set_state(tensors["random"])
    learner.average.sums = tensors["average.sums"]
    learner.average.updates = tensors["average.updates"]
    for index in range(header["snapshots"]):
        learner.tracker.take(tensors[f"snapshot.{index}"])
    learner.step = int(header["step"])
    learner.seconds = float(header["seconds"])
    learner.loss_sum = float(header["loss_sum"])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["state"])
            if header["format"] != _FORMAT:
                raise LearningError(
                    f"{path.name} is a learning state of format {header['format']}, this version reads {_FORMAT}: "
                    "finish it with the version that began it, or learn anew."
                )
            # Copies: what is mapped from the file holds it, and Windows would then refuse to write the next state over it.
            return header, {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError as error:
        raise LearningError(f"There is no learning state at {path}: check the path, or learn anew.") from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _unusable(path) from error


def _unusable(path: Path) -> LearningError:
    return LearningError(f"{path.name} is not a learning state, or is damaged: learn anew.")
