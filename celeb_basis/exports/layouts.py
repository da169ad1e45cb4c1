"""How other tools lay out a textual inversion file: one table, read by people and by :mod:`celeb_basis.exports.write`.

All of them hold the same thing, ``E`` token vectors a text encoder. What differs:

- one text encoder (SD1, SD2): the WebUI and ComfyUI take a single tensor under any key, by custom ``emb_params``; the
  ``.pt`` of the WebUI is a dictionary with ``string_to_param``; diffusers takes ``{word: tensor}``;
- two text encoders (SDXL): the WebUI and ComfyUI take ``clip_l`` and ``clip_g`` and nothing else in one file; diffusers
  loads one file for each text encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from celeb_basis.errors import ExportError

Layout = Literal["webui", "diffusers", "comfyui"]


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
    spaces: bool
    """Whether a file name with spaces or commas can be written in a prompt."""
    usage: str
    """One line that says where the file goes and what to write in a prompt, with ``{word}`` and ``{stem}``."""


LAYOUTS: Mapping[str, LayoutRules] = {
    "webui": LayoutRules(
        tool="AUTOMATIC1111 WebUI and its forks",
        suffixes=(".safetensors", ".pt"),
        keyed_by_word=False,
        file_for_each_encoder=False,
        spaces=True,
        usage="put it into the folder embeddings and write {stem} in a prompt",
    ),
    "diffusers": LayoutRules(
        tool="diffusers",
        suffixes=(".safetensors", ".bin", ".pt"),
        keyed_by_word=True,
        file_for_each_encoder=True,
        spaces=True,
        usage="pipeline.load_textual_inversion(file), and write {word} in a prompt",
    ),
    "comfyui": LayoutRules(
        tool="ComfyUI",
        suffixes=(".safetensors", ".pt"),
        keyed_by_word=False,
        file_for_each_encoder=False,
        spaces=False,
        usage="put it into models/embeddings and write embedding:{stem} in a prompt",
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
