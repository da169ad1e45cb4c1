"""CLIP's tokenizer, made offline from the vocabulary file that ``open_clip_torch`` ships.

A checkpoint in one file holds no tokenizer, and every Stable Diffusion uses this one.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import tempfile
import zlib
from pathlib import Path
from typing import Any, Literal

from celeb_basis.errors import MissingPackageError

Flavour = Literal["clip", "open_clip"]
"""``clip`` (SD1, SDXL's first) pads with the end-of-text token, ``open_clip`` (SD2, SDXL's second) with ``!``, id 0."""

START = "<|startoftext|>"
END = "<|endoftext|>"
MAX_TOKENS = 77
VOCABULARY_SIZE = 49_408

_FILE_NAME = "bpe_simple_vocab_16e6.txt.gz"
_REMEDY = "install it again with: pip install --force-reinstall open_clip_torch"


def clip_tokenizer(flavour: Flavour = "clip") -> Any:
    """The ``transformers.CLIPTokenizer`` of a Stable Diffusion text encoder, with 49,408 tokens and room for 77.

    Raises: :class:`MissingPackageError` if ``open_clip_torch`` or ``transformers`` is not installed, or the
    vocabulary in it is damaged.
    """
    try:
        from transformers import CLIPTokenizer
    except ImportError as error:
        raise MissingPackageError("transformers is not installed: run pip install celeb-basis[diffusers].") from error
    vocabulary, merges = clip_vocabulary()
    padding = END if flavour == "clip" else "!"
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_TOKENS,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": padding,
    }
    # Through files, because that is the one way in that every transformers from 4.44 to 5 has.
    with tempfile.TemporaryDirectory(prefix="celeb-basis-") as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    tokenizer.name_or_path = ""
    return tokenizer


def clip_vocabulary() -> tuple[dict[str, int], list[str]]:
    """CLIP's byte-pair vocabulary (token to id, 49,408 of them) and its merges, best first.

    Raises: :class:`MissingPackageError` if ``open_clip_torch`` is not installed or its file is damaged.
    """
    path = _vocabulary_file()
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise MissingPackageError(f"CLIP's vocabulary in open_clip_torch is damaged: {_REMEDY}.") from error
    # The first line is a heading; the file holds more merges than CLIP was trained with.
    merges = lines[1 : VOCABULARY_SIZE - 512 - 2 + 1]
    characters = _byte_characters()
    tokens = [*characters, *(char + "</w>" for char in characters), *("".join(merge.split()) for merge in merges)]
    tokens += [START, END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) != VOCABULARY_SIZE:
        raise MissingPackageError(f"CLIP's vocabulary in open_clip_torch is damaged: {_REMEDY}.")
    return vocabulary, merges


def _vocabulary_file() -> Path:
    # find_spec does not run the package, whose import asks for torchvision.
    spec = importlib.util.find_spec("open_clip")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(place) / _FILE_NAME).is_file():
            return path
    raise MissingPackageError(
        "CLIP's vocabulary comes with open_clip_torch, which is not installed: run pip install open_clip_torch."
    )


def _byte_characters() -> list[str]:
    """The 256 printable characters that stand for bytes in byte-level BPE, in the vocabulary's order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in set(printable)]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(rest))]
