"""Reading plain textual inversion files of any tool, and putting them into a basis as identities."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from celeb_basis.errors import ExportError
from celeb_basis.exports.torch_files import MAX_FILE_SIZE, read_torch_file, write_torch_file
from celeb_basis.files import explained_os_errors, write_bytes
from celeb_basis.identities.expand import new_identity
from celeb_basis.identities.identity import Floats, Identity

if TYPE_CHECKING:
    import torch

    from celeb_basis.diffusion_model import ModelInfo
    from celeb_basis.method import Basis


MAX_VECTORS = 75
"""Most token vectors of one word: a prompt's chunk has room for no more."""


@dataclass(frozen=True)
class Embedding:
    """A plain textual inversion."""

    name: str
    """The file's stem, which is its word in most tools."""
    vectors: Mapping[str, Floats]
    """``(E, D)`` by text encoder (``"clip_l"``, ``"clip_g"``); under ``""`` where the file does not name one."""
    steps: int = 0


def import_embedding(path: Path) -> Embedding:
    """Read the textual inversion file ``path`` (``.safetensors``, ``.pt`` or ``.bin``), running nothing in it.

    Read are the WebUI's form, a single tensor under any key, and ``clip_l`` with ``clip_g``.

    Raises: :class:`ExportError` for a damaged, foreign or malicious file, :class:`FileError` if it cannot be read.
    """
    path = Path(path)
    content = _safetensors(path) if path.suffix.lower() == ".safetensors" else read_torch_file(path)
    if isinstance(content, np.ndarray):
        return Embedding(path.stem, {"": _rows(content, path)})
    if not isinstance(content, dict):
        raise _foreign(path)
    steps = content.get("step")
    steps = steps if isinstance(steps, int) and not isinstance(steps, bool) and 0 <= steps < 2**40 else 0
    tensors = content.get("string_to_param", content)
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(key, str) for key in tensors):
        raise _foreign(path)
    if {"clip_l", "clip_g"} <= set(tensors):
        return Embedding(path.stem, {key: _rows(tensors[key], path) for key in ("clip_l", "clip_g")}, steps)
    if len(tensors) != 1:
        raise ExportError(
            f"{path.name} holds {len(tensors)} entries, but an embedding is one word: export the words one by one."
        )
    (key, tensor), *_ = tensors.items()
    named = key if key in ("clip_l", "clip_g", "clip_h") else ""
    return Embedding(path.stem, {named: _rows(tensor, path)}, steps)


def identity_from_embedding(
    embedding: Embedding, bases: Sequence[Basis], info: ModelInfo, *, name: str | None = None
) -> Identity:
    """``embedding`` as an identity: the points of ``bases`` nearest to its vectors.

    What lies outside the space of celebrities is lost. The identity's notes and ``settings["explained"]`` say how much
    is kept: the share of the squared distance to the mean that the basis holds, 0 to 1 for each text encoder. A person
    learned in this basis has 1; an ordinary textual inversion far less, and will draw differently.

    Raises: :class:`ExportError` if the embedding has other text encoders, another width or another number of vectors.
    """
    vectors = _vectors_for(embedding, bases, info)
    return imported_identity(name or embedding.name, vectors, bases, info, origin=embedding.name, steps=embedding.steps)


def imported_identity(
    name: str, vectors: Sequence[torch.Tensor], bases: Sequence[Basis], info: ModelInfo, *, origin: str, steps: int = 0
) -> Identity:
    """An identity of the points of ``bases`` nearest to ``(E, D)`` vectors, one tensor for each basis."""
    coefficients = [basis.project(rows) for basis, rows in zip(bases, vectors, strict=True)]
    explained = [
        _explained(basis, rows, found) for basis, rows, found in zip(bases, vectors, coefficients, strict=True)
    ]
    shares = ", ".join(f"{share:.0%} for {basis.encoder}" for basis, share in zip(bases, explained, strict=True))
    return new_identity(
        name,
        coefficients,
        bases,
        info,
        source="imported",
        steps=steps,
        settings={"operation": "import", "file": origin, "explained": explained},
        notes=f"Imported from {origin}. The basis explains {shares} of its squared distance to the mean.",
    )


def _explained(basis: Basis, vectors: torch.Tensor, coefficients: torch.Tensor) -> float:
    whole = float((vectors.double() - basis.mean.double()).square().sum())
    kept = float(coefficients.double().square().sum())
    return min(1.0, kept / whole) if whole > 0 else 1.0


def _vectors_for(embedding: Embedding, bases: Sequence[Basis], info: ModelInfo) -> list[torch.Tensor]:
    import torch

    given = dict(embedding.vectors)
    if set(given) == {""} and len(bases) == 1:
        given = {bases[0].encoder: given[""]}
    if set(given) != {basis.encoder for basis in bases}:
        has = ", ".join(sorted(filter(None, given))) or "one unnamed text encoder"
        wants = ", ".join(basis.encoder for basis in bases)
        raise ExportError(
            f"The embedding {embedding.name!r} is for {has}, but {info.name} has {wants}: choose a model of its family."
        )
    for basis in bases:
        rows, width = given[basis.encoder].shape
        if width != basis.width:
            raise ExportError(
                f"The embedding {embedding.name!r} has vectors of {width} numbers, but {info.name} needs {basis.width}: "
                "choose a model of its family."
            )
        if rows != basis.positions:
            raise ExportError(
                f"The embedding {embedding.name!r} has {rows} token vectors, but the basis describes words of "
                f"{basis.positions}: only embeddings of {basis.positions} vectors can be taken in."
            )
    return [torch.from_numpy(given[basis.encoder].copy()) for basis in bases]


def _rows(tensor: Any, path: Path) -> Floats:
    if not isinstance(tensor, np.ndarray) or tensor.dtype.kind != "f" or tensor.ndim not in (1, 2) or not tensor.size:
        raise _foreign(path)
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which is refused below
        rows: Floats = np.atleast_2d(tensor).astype(np.float32)
    if rows.shape[0] > MAX_VECTORS:
        raise ExportError(
            f"{path.name} holds {rows.shape[0]} vectors, more than a prompt has room for: choose another."
        )
    if not np.isfinite(rows).all():
        raise ExportError(f"{path.name} holds NaN or infinity: take another copy of it, or train it again.")
    return rows


def _foreign(path: Path) -> ExportError:
    return ExportError(f"{path.name} is no textual inversion embedding of a kind known here: choose another file.")


def _safetensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    with explained_os_errors(path, "read"), open(path, "rb") as file:
        data = file.read(MAX_FILE_SIZE + 1)
    if len(data) > MAX_FILE_SIZE:
        raise ExportError(
            f"{path.name} is larger than {MAX_FILE_SIZE >> 20} MB, so it is no embedding: choose another."
        )
    try:
        # Through torch, which knows bfloat16; only plain floats are of interest.
        return {key: tensor.float().numpy() for key, tensor in load(data).items()}
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError):
        raise ExportError(f"{path.name} is no safetensors file, or a damaged one: take another copy of it.") from None


# FOLDED: How other tools lay out a textual inversion file: one table, read by people and by
# FOLDED: :mod:`celeb_basis.exports.textual_inversion`.
# FOLDED:
# FOLDED: All of them hold the same thing, ``E`` token vectors a text encoder. What differs:
# FOLDED:
# FOLDED: - one text encoder (SD1, SD2): the WebUI and ComfyUI take a single tensor under any key, by custom
# FOLDED: ``emb_params``, and
# FOLDED:   InvokeAI under that key alone; the ``.pt`` of the WebUI is a dictionary with ``string_to_param``;
# FOLDED: diffusers takes
# FOLDED:   ``{word: tensor}``;
# FOLDED: - two text encoders (SDXL): all but diffusers take ``clip_l`` and ``clip_g`` and nothing else in one
# FOLDED: file; diffusers loads
# FOLDED:   one file for each text encoder.

Layout = Literal["webui", "diffusers", "comfyui", "invokeai"]


@dataclass(frozen=True)
class LayoutRules:
    """What one tool wants."""

    tool: str
    """The tool's name, for people."""
    suffixes: tuple[str, ...]
    """Suffixes it reads, the recommended one first."""
    keyed_by_word: bool
    """Whether a single tensor stands under the prompt's word, or under a fixed key."""
    file_for_each_encoder: bool
    """Whether a model with two text encoders takes two files."""
    unwritable: str
    """The characters of a file's stem that no prompt can name it with, as a regular expression; empty for none."""
    unwritable_why: str
    """What its prompts do with them, for people."""
    usage: str
    """One line that says where the file goes and what to write in a prompt, with ``{word}`` and ``{stem}``."""


LAYOUTS: Mapping[str, LayoutRules] = {
    "webui": LayoutRules(
        tool="AUTOMATIC1111 WebUI and its forks",
        suffixes=(".safetensors", ".pt"),
        keyed_by_word=False,
        file_for_each_encoder=False,
        unwritable="",
        unwritable_why="",
        usage="put it into the folder embeddings and write {stem} in a prompt",
    ),
    "diffusers": LayoutRules(
        tool="diffusers",
        suffixes=(".safetensors", ".bin", ".pt"),
        keyed_by_word=True,
        file_for_each_encoder=True,
        unwritable="",
        unwritable_why="",
        usage="pipeline.load_textual_inversion(file), and write {word} in a prompt",
    ),
    "comfyui": LayoutRules(
        tool="ComfyUI",
        suffixes=(".safetensors", ".pt"),
        keyed_by_word=False,
        file_for_each_encoder=False,
        unwritable=r"[\s,()]",
        unwritable_why="end a word at spaces, commas and parentheses",
        usage="put it into models/embeddings and write embedding:{stem} in a prompt",
    ),
    "invokeai": LayoutRules(
        tool="InvokeAI",
        suffixes=(".safetensors", ".pt"),
        keyed_by_word=False,
        file_for_each_encoder=False,
        unwritable=r"[^a-zA-Z0-9., _-]",
        unwritable_why="know words of plain letters, digits, spaces, dots, commas, hyphens and underscores alone",
        usage="import it in the Model Manager, and write <{stem}> in a prompt",
    ),
}

SINGLE_KEY = "emb_params"
"""Key of a file's only tensor, as most trainers write it."""


def layout_rules(layout: str) -> LayoutRules:
    """The rules of ``layout``.

    Raises: :class:`ExportError` if there is no such layout.
    """
    try:
        return LAYOUTS[layout]
    except KeyError:
        raise ExportError(f"There is no export layout {layout!r}: choose one of {', '.join(LAYOUTS)}.") from None


# FOLDED: Writing an identity as an ordinary textual inversion file of another tool.


def export_identity(
    identity: Identity, path: Path, layout: Layout = "webui", *, word: str | None = None
) -> tuple[Path, ...]:
    """Write the token vectors of ``identity`` for another tool; answers the files written, one for most.

    Parameters: ``path`` is a file whose suffix is one that the layout has, or an existing folder, which gets
    ``NAME.safetensors``. In the WebUI, ComfyUI and InvokeAI the file's stem is the word for prompts; ``word`` is the one for
    diffusers (``<NAME>`` by default). For SDXL diffusers gets two files, ``STEM.clip_l`` and ``STEM.clip_g``.

    Raises: :class:`ExportError` for an unknown layout, a suffix that the tool does not read, or a name that cannot be
    written in its prompts; :class:`FileError` for a full disk, a read-only folder and the like.
    """
    rules = layout_rules(layout)
    path = _checked_path(identity, Path(path), rules)
    word = word or f"<{identity.name}>"
    vectors = dict(zip(identity.encoders, identity.token_vectors(), strict=True))
    if rules.file_for_each_encoder and len(vectors) > 1:
        files = {path.with_name(f"{path.stem}.{name}{path.suffix}"): {word: rows} for name, rows in vectors.items()}
    else:
        key = word if rules.keyed_by_word else SINGLE_KEY
        files = {path: vectors if len(vectors) > 1 else {key: next(iter(vectors.values()))}}
    for target, tensors in files.items():
        if target.suffix.lower() == ".safetensors":
            from safetensors.torch import save

            write_bytes(target, save(tensors, _header(identity)))
        elif layout == "webui" and len(vectors) == 1:
            write_torch_file(target, _webui_dictionary(identity, tensors[SINGLE_KEY]))
        else:
            # Tensors alone: the WebUI takes every entry of an SDXL file for one, diffusers asks for a single entry.
            write_torch_file(target, tensors)
    return tuple(files)


def usage(identity: Identity, path: Path, layout: Layout, *, word: str | None = None) -> str:
    """One line that tells a user what to do with an exported file."""
    return layout_rules(layout).usage.format(stem=Path(path).stem, word=word or f"<{identity.name}>")


def _checked_path(identity: Identity, path: Path, rules: LayoutRules) -> Path:
    if path.is_dir():
        return path / (_written(identity.name, rules) + rules.suffixes[0])
    if path.suffix.lower() not in rules.suffixes:
        raise ExportError(
            f"{rules.tool} cannot read {path.name!r} as an embedding: name the file with {' or '.join(rules.suffixes)}."
        )
    if (better := _written(path.stem, rules)) != path.stem:
        raise ExportError(
            f"Prompts of {rules.tool} {rules.unwritable_why}: name the file {better + path.suffix!r}, for example."
        )
    return path


def _written(stem: str, rules: LayoutRules) -> str:
    """``stem`` as the tool's prompts can write it."""
    return re.sub(f"(?:{rules.unwritable})+", "_", stem) if rules.unwritable else stem


def _webui_dictionary(identity: Identity, rows: torch.Tensor) -> dict[str, Any]:
    """The WebUI's own form. It never reads ``string_to_token``; 265 is CLIP's id of ``*``, as everybody writes it."""
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": rows},
        "name": identity.name,
        "step": identity.metadata.steps,
        "sd_checkpoint": identity.metadata.base_sha256[:10] or None,
        "sd_checkpoint_name": identity.metadata.base_model or None,
    }


def _header(identity: Identity) -> dict[str, str]:
    """Remarks for a safetensors file's header. Tools that read them ignore what they do not know."""
    metadata = identity.metadata
    return {
        "name": identity.name,
        "step": str(metadata.steps),
        "base_model": metadata.base_model,
        "base_model_family": metadata.family,
        "generator": metadata.generator,
        "content_hash": identity.content_hash,
    }
