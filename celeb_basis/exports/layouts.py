"""How other tools lay out a textual inversion file: one table, read by people and by :mod:`celeb_basis.exports.write`.

All of them hold the same thing, ``E`` token vectors a text encoder. What differs:

- one text encoder (SD1, SD2): the WebUI and ComfyUI take a single tensor under any key, by custom ``emb_params``, and
  InvokeAI under that key alone; the ``.pt`` of the WebUI is a dictionary with ``string_to_param``; diffusers takes
  ``{word: tensor}``;
- two text encoders (SDXL): all but diffusers take ``clip_l`` and ``clip_g`` and nothing else in one file; diffusers loads
  one file for each text encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from celeb_basis.errors import ExportError

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
