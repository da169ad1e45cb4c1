"""The text in a generated PNG file that says how it was drawn: the WebUI's form, which many tools show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY = "parameters"
_IDENTITIES = "Celeb Basis"
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
        _IDENTITIES: json.dumps(dict(identities), ensure_ascii=False),
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
        names = tuple(json.loads(values.get(_IDENTITIES, "{}")))
        return Drawn("\n".join(prompt), int(values["Seed"]), tuple(f"<{name}>" for name in names))
    except (KeyError, ValueError, TypeError):
        return None


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
