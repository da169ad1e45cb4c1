"""Textual inversion files: writes an identity for another tool, and reads any tool's file as an identity.

All tools store the same thing, ``E`` token vectors for each text encoder. They differ in how the tensors are named:

- With one text encoder (SD1, SD2), the WebUI and ComfyUI take a single tensor under any key, by convention ``emb_params``,
  and InvokeAI takes it under that key only. A ``.pt`` file of the WebUI is a dictionary with ``string_to_param``. diffusers
  takes ``{placeholder token: tensor}``.
- With two text encoders (SDXL), all but diffusers take one file with ``clip_l`` and ``clip_g`` and nothing else. diffusers
  loads one file for each text encoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save

from celeb_basis.errors import ExportError
from celeb_basis.exports.foreign_files import content_of, kind_of_file
from celeb_basis.exports.picture_embedding import read_picture_embedding
from celeb_basis.exports.torch_files import read_torch_file, write_torch_file
from celeb_basis.files import explained_os_errors, open_regular, write_bytes
from celeb_basis.identities.expand import new_identity
from celeb_basis.identities.identity import Floats, Identity
from celeb_basis.model_files import PICTURES, SAFETENSORS, TORCH
from celeb_basis.reading import MAX_HEADER, UnreadableError, read_header, read_tensors, safetensors_metadata

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import ModelInfo
    from celeb_basis.method import Basis

# Layouts of the tools' files.

Layout = Literal["webui", "diffusers", "comfyui", "invokeai"]


@dataclass(frozen=True)
class LayoutRules:
    """What one tool expects of a textual inversion file."""

    tool: str
    """The tool's name in messages."""
    suffixes: tuple[str, ...]
    """Suffixes that the tool reads, the recommended one first."""
    keyed_by_word: bool
    """Whether a single tensor's key is the placeholder token; :data:`SINGLE_KEY` otherwise."""
    file_for_each_encoder: bool
    """Whether a model with two text encoders takes two files."""
    unwritable: str
    """Regular expression of the characters in a file's stem that the tool's prompts cannot contain; empty for none."""
    unwritable_why: str
    """What the tool's prompts do with these characters, as the end of a sentence."""
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
        usage="put the file into the embeddings folder and write {stem} in a prompt",
    ),
    "diffusers": LayoutRules(
        tool="diffusers",
        suffixes=(".safetensors", ".bin", ".pt"),
        keyed_by_word=True,
        file_for_each_encoder=True,
        unwritable="",
        unwritable_why="",
        usage="call pipeline.load_textual_inversion(file) and write {word} in a prompt",
    ),
    "comfyui": LayoutRules(
        tool="ComfyUI",
        suffixes=(".safetensors", ".pt"),
        keyed_by_word=False,
        file_for_each_encoder=False,
        unwritable=r"[\s,()]",
        unwritable_why="end a name at spaces, commas and parentheses",
        usage="put the file into models/embeddings and write embedding:{stem} in a prompt",
    ),
    "invokeai": LayoutRules(
        tool="InvokeAI",
        suffixes=(".safetensors", ".pt"),
        keyed_by_word=False,
        file_for_each_encoder=False,
        unwritable=r"[^a-zA-Z0-9., _-]",
        unwritable_why="allow only unaccented letters, digits, spaces, dots, commas, hyphens and underscores in a name",
        usage="add the file in the Model Manager and write <{stem}> in a prompt",
    ),
}

SINGLE_KEY = "emb_params"
"""Key of a file's only tensor, as most trainers write it."""


# Writing.


def export_identity(
    identity: Identity, path: Path, layout: Layout = "webui", *, word: str | None = None
) -> tuple[Path, ...]:
    """Write the token vectors of ``identity`` as another tool's textual inversion.

    Args:
        identity: The identity.
        path: The file to write, with a suffix that the tool reads, or an existing folder, in which ``NAME.safetensors``
            is written. In the WebUI, ComfyUI and InvokeAI the file's stem is what a prompt contains.
        layout: The tool, a key of :data:`LAYOUTS`.
        word: Placeholder token for diffusers; ``<NAME>`` by default. The other tools ignore it.

    Returns:
        The files written. It is one file, except for SDXL in diffusers: ``STEM.clip_l.safetensors`` and
        ``STEM.clip_g.safetensors``.

    Raises:
        ExportError: The layout is unknown, the tool does not read the suffix, or its prompts cannot contain the name.
        FileError: A file cannot be written, for example because the disk is full.
    """
    rules = _rules_of(layout)
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
            write_bytes(target, save(tensors, _header(identity)))
        elif layout == "webui" and len(vectors) == 1:
            write_torch_file(target, _webui_dictionary(identity, tensors[SINGLE_KEY]))
        else:
            # Tensors only: the WebUI takes every entry of an SDXL file for a tensor, and diffusers requires a single entry.
            write_torch_file(target, tensors)
    return tuple(files)


def usage(identity: Identity, path: Path, layout: Layout, *, word: str | None = None) -> str:
    """Return one line that says how to use an exported file.

    Args:
        identity: The exported identity.
        path: The exported file.
        layout: The layout it was written in.
        word: Placeholder token that was given to :func:`export_identity`.
    """
    return _rules_of(layout).usage.format(stem=Path(path).stem, word=word or f"<{identity.name}>")


def _rules_of(layout: str) -> LayoutRules:
    try:
        return LAYOUTS[layout]
    except KeyError:
        raise ExportError(f"There is no export layout {layout!r}: choose one of {', '.join(LAYOUTS)}.") from None


def _checked_path(identity: Identity, path: Path, rules: LayoutRules) -> Path:
    if path.is_dir():
        return path / (_writable(identity.name, rules) + rules.suffixes[0])
    if path.suffix.lower() not in rules.suffixes:
        raise ExportError(
            f"{rules.tool} cannot read {path.name!r} as an embedding: name the file with {' or '.join(rules.suffixes)}."
        )
    if (better := _writable(path.stem, rules)) != path.stem:
        raise ExportError(
            f"Prompts of {rules.tool} {rules.unwritable_why}: name the file {better + path.suffix!r}, for example."
        )
    return path


def _writable(stem: str, rules: LayoutRules) -> str:
    """Replace the characters of ``stem`` that the tool's prompts cannot contain."""
    return re.sub(f"(?:{rules.unwritable})+", "_", stem) if rules.unwritable else stem


def _webui_dictionary(identity: Identity, rows: torch.Tensor) -> dict[str, Any]:
    """The WebUI's own format. The WebUI never reads ``string_to_token``; 265, CLIP's id of ``*``, is what all tools write."""
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": rows},
        "name": identity.name,
        "step": identity.metadata.steps,
        "sd_checkpoint": identity.metadata.base_sha256[:10] or None,
        "sd_checkpoint_name": identity.metadata.base_model or None,
    }


def _header(identity: Identity) -> dict[str, str]:
    """Metadata of a safetensors file. Tools ignore the fields that they do not know."""
    metadata = identity.metadata
    return {
        "name": identity.name,
        "step": str(metadata.steps),
        "base_model": metadata.base_model,
        "base_model_family": metadata.family,
        "generator": metadata.generator,
        "content_hash": identity.content_hash,
    }


# Reading.

_CONTENT_HASH = re.compile(r"[0-9a-f]{12}")
_VOCABULARY = 49_408
"""CLIP's tokens. Some trainers save the whole token table, where the learned vectors follow on the vocabulary's."""

MAX_VECTORS = 75
"""Most token vectors of an embedding that is read: a prompt's chunk has no more tokens."""


class OtherKindError(ExportError):
    """The file is known to be something else than an embedding of Stable Diffusion 1, 2 or XL."""


@dataclass(frozen=True)
class Embedding:
    """A textual inversion of any tool."""

    name: str
    """The file's stem, by which most tools call it in a prompt."""
    vectors: Mapping[str, Floats]
    """``(E, D)`` by text encoder (``"clip_l"``, ``"clip_g"``); under ``""`` if the file does not name one."""
    steps: int = 0
    """Training steps, if the file says so."""
    content_hash: str = ""
    """Hash of the identity that the file was exported from, if it says so."""


def import_embedding(path: Path) -> Embedding:
    """Read the textual inversion file ``path``. Nothing in it is executed.

    It may have the WebUI's own format, a single tensor under any key, or ``clip_l`` with ``clip_g``, in a ``.safetensors``,
    ``.pt`` or ``.bin`` file or in the WebUI's pictures. What it is is read off its content.

    Raises:
        OtherKindError: The file is something else, which the message names.
        ExportError: The file is damaged, malicious, or of another format.
        FileError: The file cannot be read.
    """
    path = Path(path)
    kind = content_of(path)
    try:
        if kind in PICTURES:
            content: Any = read_picture_embedding(path, str(kind))
        elif kind == SAFETENSORS or (path.suffix.lower() == ".safetensors" and kind not in TORCH):
            content = _safetensors(path)
        else:
            content = read_torch_file(path, first_row=_VOCABULARY)
        found = safetensors_metadata(path, most_bytes=MAX_HEADER).get("content_hash", "")
        return replace(_embedding(content, path), content_hash=found if _CONTENT_HASH.fullmatch(found) else "")
    except OtherKindError:
        raise
    except ExportError as error:
        if (kind := kind_of_file(path)) is None or kind == "an embedding" or kind in PICTURES:
            raise
        other = kind.startswith(("an identity", "a learning state"))
        advice = "" if ":" in kind else ": import it as it is" if other else ": choose the file of an embedding"
        raise OtherKindError(f"{path.name} is {kind}{advice}.") from error


def _embedding(content: Any, path: Path) -> Embedding:
    if isinstance(content, np.ndarray):
        return Embedding(path.stem, {"": _rows(content, path)})
    if not isinstance(content, dict):
        raise _foreign(path)
    steps = content.get("step")
    steps = steps if isinstance(steps, int) and not isinstance(steps, bool) and 0 <= steps < 2**40 else 0
    tensors = content.get("string_to_param", content)
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(key, str) for key in tensors):
        raise _foreign(path)
    if (model := _model_of(tensors)) is not None:
        raise OtherKindError(
            f"{path.name} is an embedding for {model}, whose text encoders Stable Diffusion 1, 2 and XL do not have: choose "
            "an embedding for one of these."
        )
    if {"clip_l", "clip_g"} <= set(tensors):
        if len(tensors) > 2:
            extra = next(key for key in tensors if key not in ("clip_l", "clip_g"))
            raise ExportError(
                f"{path.name} contains {extra[:40]!a} besides clip_l and clip_g, so it is for another kind of model than "
                "Stable Diffusion XL: choose an embedding for Stable Diffusion 1, 2 or XL."
            )
        return Embedding(path.stem, {key: _rows(tensors[key], path) for key in ("clip_l", "clip_g")}, steps)
    if len(tensors) != 1:
        raise ExportError(
            f"{path.name} contains {len(tensors)} entries, but an embedding is a single placeholder token: "
            "export each one to a file of its own."
        )
    (key, tensor), *_ = tensors.items()
    named = key if key in ("clip_l", "clip_g", "clip_h") else ""
    return Embedding(path.stem, {named: _rows(tensor, path)}, steps)


def _model_of(tensors: Mapping[str, Any]) -> str | None:
    """The model that an embedding with these text encoders is for, if it is none of ours."""
    encoders = {key.lower() for key in tensors}
    t5 = any("t5" in key for key in encoders)
    if t5 and encoders & {"clip_g", "clip_l"}:
        return "Stable Diffusion 3 (CLIP and T5)" if "clip_g" in encoders else "Flux (CLIP-L and T5)"
    for part, model in _ENCODERS_OF_OTHERS:
        if any(key.startswith(part) for key in encoders):
            return model
    widths = {value.shape[-1] for value in tensors.values() if isinstance(value, np.ndarray) and value.ndim in (1, 2)}
    return "a model with the text encoder T5, such as Flux or Stable Diffusion 3" if widths == {_T5_WIDTH} else None


_T5_WIDTH = 4096
_ENCODERS_OF_OTHERS = (
    *(("hydit", "Hunyuan-DiT"), ("mt5", "Hunyuan-DiT"), ("umt5", "Wan"), ("pile_t5", "AuraFlow")),
    *(
        ("t5", "a model with the text encoder T5, such as Flux, Stable Diffusion 3 or PixArt"),
        ("gemma", "Lumina or Sana"),
    ),
    *(
        ("llama", "HunyuanVideo or HiDream"),
        ("llava", "HunyuanVideo"),
        ("qwen", "Qwen-Image or another model with Qwen"),
    ),
    *(("mistral", "Flux 2"), ("jina", "a model with Jina CLIP"), ("byt5", "HunyuanImage")),
)
"""Beginnings of the names of other models' text encoders."""


def identity_from_embedding(
    embedding: Embedding, bases: Sequence[Basis], info: ModelInfo, *, name: str | None = None
) -> Identity:
    """Project ``embedding`` onto ``bases``: the result is the identity nearest to its token vectors.

    What lies outside the celeb basis is lost. The identity's notes and ``settings["explained"]`` say how much remains: the
    share of the squared distance to the mean that the basis explains, 0 to 1 for each text encoder. It is 1 for a person
    learned in this basis and far less for an ordinary textual inversion, which will generate different images.

    Args:
        embedding: The textual inversion.
        bases: Celeb basis of each of the model's text encoders.
        info: The model.
        name: Name of the identity; the embedding's own by default.

    Raises:
        ExportError: The embedding has other text encoders, another width, or another number of vectors.
    """
    vectors = _vectors_for(embedding, bases, info)
    details = {"origin": embedding.name, "steps": embedding.steps, "exported_from": embedding.content_hash}
    return imported_identity(name or embedding.name, vectors, bases, info, **details)  # type: ignore[arg-type]


def imported_identity(
    name: str,
    vectors: Sequence[torch.Tensor],
    bases: Sequence[Basis],
    info: ModelInfo,
    *,
    origin: str,
    steps: int = 0,
    exported_from: str = "",
) -> Identity:
    """Make an identity by projecting ``(E, D)`` token vectors onto ``bases``, one tensor for each basis.

    Args:
        name: Name of the identity.
        vectors: ``(E, D)`` token vectors for each basis.
        bases: Celeb basis of each of the model's text encoders.
        info: The model.
        origin: Name of the imported file.
        steps: Training steps, if the file says so.
        exported_from: Hash of the identity that the file was exported from, by which deleting that one finds this one.
    """
    coefficients = [basis.project(rows) for basis, rows in zip(bases, vectors, strict=True)]
    explained = [
        _explained(basis, rows, found) for basis, rows, found in zip(bases, vectors, coefficients, strict=True)
    ]
    shares = ", ".join(f"{share:.0%} for {basis.encoder}" for basis, share in zip(bases, explained, strict=True))
    return new_identity(
        name,
        *(coefficients, bases, info),
        source="imported",
        steps=steps,
        settings={"operation": "import", "file": origin, "explained": explained, "exported_from": exported_from},
        notes=f"Imported from {origin}. The basis explains {shares} of its squared distance to the mean.",
    )


def _explained(basis: Basis, vectors: torch.Tensor, coefficients: torch.Tensor) -> float:
    whole = float((vectors.double() - basis.mean.double()).square().sum())
    kept = float(coefficients.double().square().sum())
    return min(1.0, kept / whole) if whole > 0 else 1.0


def _vectors_for(embedding: Embedding, bases: Sequence[Basis], info: ModelInfo) -> list[torch.Tensor]:
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
                f"The embedding {embedding.name!r} has {rows} token vectors, but the basis has {basis.positions} positions: "
                f"import an embedding of {basis.positions} vectors."
            )
    return [torch.from_numpy(given[basis.encoder].copy()) for basis in bases]


def _rows(tensor: Any, path: Path) -> Floats:
    if not isinstance(tensor, np.ndarray) or tensor.dtype.kind != "f" or tensor.ndim not in (1, 2) or not tensor.size:
        raise _foreign(path)
    if tensor.ndim == 2 and tensor.shape[0] > MAX_VECTORS:
        raise ExportError(
            f"{path.name} contains {tensor.shape[0]} vectors, more than fit into a prompt: choose another file."
        )
    with np.errstate(over="ignore"):  # numbers too large for float32 become infinite, which is refused below
        rows: Floats = np.atleast_2d(tensor).astype(np.float32)
    if not np.isfinite(rows).all():
        raise ExportError(f"{path.name} contains NaN or infinity: use another copy of it, or train it again.")
    return rows


def _foreign(path: Path) -> ExportError:
    return ExportError(f"{path.name} is not a textual inversion of a known format: choose another file.")


def _safetensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with open_regular(path) as file, explained_os_errors(path, "read"):
            return read_tensors(file, read_header(file), first_row=_VOCABULARY)
    except UnreadableError as error:
        raise ExportError(f"{path.name} cannot be read: {str(error)[:1].lower()}{str(error)[1:]}") from None
