"""Where words stand in a prompt: what every adapter must agree on."""

from __future__ import annotations

import re
from collections.abc import Sequence


def split_at_words(prompt: str, words: Sequence[str]) -> list[str]:
    """Cut a prompt into the words and what stands between them; where words overlap, the longest one counts.

    Example:
        >>> split_at_words("<a>, smiling", ["<a>"])
        ['<a>', ', smiling']
    """
    if not words:
        return [prompt] if prompt else []
    pattern = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return [piece for piece in re.split(f"({pattern})", prompt) if piece]
