"""The form of advanced settings, from the settings' own metadata. No gradio here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from celeb_basis.settings import LearnSettings, preset


@dataclass(frozen=True)
class FormField:
    """One setting as a form shows it."""

    name: str
    label: str
    kind: Literal["switch", "choice", "whole", "number"]
    default: Any
    info: str
    """Help text with the range."""
    choices: tuple[str, ...] = ()


def form_fields() -> tuple[FormField, ...]:
    """Every learning setting in its order."""
    hints = get_type_hints(LearnSettings)
    return tuple(_field(item.name, hints[item.name], item.default, item.metadata) for item in fields(LearnSettings))


def preset_values(name: str) -> list[Any]:
    """The values of a preset, in the fields' order.

    Raises: :class:`SettingsError` if there is no such preset.
    """
    settings = preset(name)
    return [getattr(settings, item.name) for item in fields(LearnSettings)]


def changes(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """The settings that differ from the preset ``name``; an emptied field counts as the preset's own value.

    Raises: :class:`SettingsError` for an unknown preset.
    """
    own = preset_values(name)
    pairs = zip(form_fields(), values, own, strict=True)
    return {field.name: _plain(field, value) for field, value, usual in pairs if value not in (None, "", usual)}


def _field(name: str, kind: Any, default: Any, metadata: Mapping[str, Any]) -> FormField:
    label = name.replace("_", " ").capitalize()
    text = str(metadata["help"])
    text = text[0].upper() + text[1:]
    if choices := get_args(kind):
        return FormField(name, label, "choice", default, text, tuple(map(str, choices)))
    if kind is bool:
        return FormField(name, label, "switch", default, text)
    low, high = metadata["low"], metadata["high"]
    reach = f"{text} ({_shown(low)} to {_shown(high)})"
    return FormField(name, label, "whole" if kind is int else "number", default, reach)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def _plain(field: FormField, value: Any) -> Any:
    # A number field of the page answers 400.0 for 400 in some versions of gradio.
    if field.kind == "whole" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value
