"""The text in a generated PNG file that says how it was drawn: the WebUI's form, which many tools show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celeb_basis.provenance import PEOPLE, people_read

KEY = "parameters"
_NEGATIVE = "Negative prompt: "


@dataclass(frozen=True)
class Drawn:
    """How a picture was drawn, as far as its file says."""

    prompt: str
    seed: int
    words: tuple[str, ...]
    """The learned words in the prompt, brackets and all."""


def parameters_text(
    *,
    prompt: str,
    negative: str,
    steps: int,
    guidance: float,
    seed: int,
    size: tuple[int, int],
    model: str,
    model_sha256: str,
    identities: Mapping[str, str],
) -> str:
    """The text for one picture. ``identities`` maps names to content hashes."""
    fields: dict[str, Any] = {
        "Steps": steps,
        "CFG scale": f"{guidance:g}",
        "Seed": seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model hash": model_sha256[:10],
        "Model": model,
        PEOPLE: json.dumps(dict(identities), ensure_ascii=False),
    }
    lines = [" ".join(prompt.splitlines())]
    if negative:
        lines.append(_NEGATIVE + " ".join(negative.splitlines()))
    lines.append(", ".join(f"{key}: {_quoted(str(value))}" for key, value in fields.items()))
    return "\n".join(lines)


def read_parameters(path: Path) -> Drawn | None:
    """How the PNG file ``path`` was drawn, or ``None`` if it does not say."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {}).get(KEY)
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ):  # whoever opens it for its pixels says what is wrong
        return None
    if not isinstance(text, str):
        return None
    *prompt, last = text.split("\n")
    values = _fields(last)
    prompt = prompt[: next((i for i, line in enumerate(prompt) if line.startswith(_NEGATIVE)), len(prompt))]
    try:
        seed = int(values["Seed"])
    except (KeyError, ValueError):
        return None
    return Drawn("\n".join(prompt), seed, tuple(f"<{name}>" for name in _names(values.get(PEOPLE, ""))))


def _names(value: str) -> tuple[str, ...]:
    """The people of a picture: as :func:`parameters_text` writes them, or as the WebUI's extension does."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    return tuple(found) if isinstance(found, dict) else tuple(name for name, _ in people_read(value))


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(char in value for char in ',:"\n') else value


def _fields(line: str) -> dict[str, str]:
    """``Key: value, Key: "value, with a comma"`` as a table."""
    decoder, values, rest = json.JSONDecoder(), {}, line
    while rest:
        key, colon, rest = rest.partition(": ")
        if not colon:
            break
        if rest.startswith('"'):
            try:
                value, end = decoder.raw_decode(rest)
            except ValueError:
                break
            rest = rest[end:].removeprefix(", ")
        else:
            value, _, rest = rest.partition(", ")
        values[key.strip()] = str(value)
    return values
