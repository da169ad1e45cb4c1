"""Prompts that a picture is drawn from and that other extensions keep beside the job's own, among its parameters.

ADetailer paints the faces that it finds anew, from prompts of its own. Embedding Merge writes ``<'EM_1'>`` into a prompt
in the place of each of its expressions, which may hold people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_ADETAILER = re.compile(r"ADetailer (negative )?prompt( \w+)?")
_MERGES = "EmbeddingMerge"
_MERGE = re.compile(r"([<{]'EM_\d+'[>}])=")


def prompts_beside(prompts: Iterable[str], parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """The further prompts of a picture that is drawn from ``prompts``; ``parameters`` are its generation parameters."""
    written = tuple(prompts)
    found = [text for key, text in parameters.items() if isinstance(text, str) and _ADETAILER.fullmatch(key)]
    merges = parameters.get(_MERGES)
    if isinstance(merges, str):
        # "<'EM_1'>=<'a'+'b'>, {'EM_2'}={'c'*2}", of all pictures of the job.
        _, *parts = _MERGE.split(merges)
        found += [
            text for word, text in zip(parts[::2], parts[1::2], strict=True) if any(word in one for one in written)
        ]
    return tuple(found)
