"""Writing an identity as an ordinary textual inversion file of another tool."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import ExportError
from celeb_basis.exports.layouts import SINGLE_KEY, Layout, LayoutRules, layout_rules
from celeb_basis.exports.torch_files import write_torch_file
from celeb_basis.files import write_bytes
from celeb_basis.identities.identity import Identity

if TYPE_CHECKING:
    import torch


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
