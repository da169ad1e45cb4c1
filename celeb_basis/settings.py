"""The settings of training: default, range and help text of each, defined once for command line, page and API."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from celeb_basis.errors import SettingsError

Mode = Literal["head", "direct"]
Start = Literal["mean", "guess", "random"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16"]
SwitchChoice = Literal["auto", "on", "off"]

_SPELLED = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


SettingGroup = Literal["Learning", "Pictures of the person", "Celeb basis", "Memory and speed"]


def _setting(
    default: Any,
    help_text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    label: str = "",
    group: SettingGroup = "Learning",
) -> Any:
    shown = {"help": help_text, "low": low, "high": high, "label": label, "group": group}
    return field(default=default, metadata=shown)


@dataclass(frozen=True)
class TrainingSettings:
    """How a person is learned. The defaults are the preset ``balanced``; ``PRESETS["paper"]`` is the paper's recipe.

    Raises:
        SettingsError: At construction, for a value out of its range.
    """

    mode: Mode = _setting(
        "direct",
        "direct: optimize the coefficients themselves; head: train a layer that maps face vectors to them, as in the paper",
        label="How coefficients are found",
    )
    start: Start = _setting(
        "mean",
        "where the coefficients start. mean: at the mean of the celebrities; guess: predicted from the photo by a "
        "regression on generated pictures of the celebrities (generated once per checkpoint); both need mode direct. "
        "random: at a random point of the unit sphere, where they stay, as in the paper",
        label="Starting point",
    )
    steps: int = _setting(200, "optimizer steps per person", low=1, high=100_000, label="Steps")
    batch_size: int = _setting(2, "augmented views per batch", low=1, high=64, label="Batch size")
    accumulation: int = _setting(
        1, "gradient accumulation: batches per optimizer step", low=1, high=64, label="Gradient accumulation"
    )
    learning_rate: float = _setting(0.01, "learning rate of AdamW", low=1e-7, high=10.0, label="Learning rate")
    weight_decay: float = _setting(0.01, "weight decay of AdamW", low=0.0, high=1.0, label="Weight decay")
    components: int = _setting(
        512,
        "basis components (K) per token vector",
        low=1,
        high=4096,
        label="Components of the basis (K)",
        group="Celeb basis",
    )
    shared: bool = _setting(
        False,
        "for models with two text encoders: use one set of coefficients for both",
        label="Same coefficients for both text encoders",
        group="Celeb basis",
    )
    average_decay: float = _setting(
        0.99, "decay of the moving average of the coefficients", low=0.0, high=0.99999, label="Moving average: decay"
    )
    precision: PrecisionChoice = _setting(
        "auto",
        "auto: the dtype that the model is loaded in; fp32 is the most stable",
        label="Precision",
        group="Memory and speed",
    )
    checkpointing: SwitchChoice = _setting(
        "auto",
        "gradient checkpointing: less memory, slower steps; auto: only if there is too little memory without it",
        label="Gradient checkpointing",
        group="Memory and speed",
    )
    cuda_graph: SwitchChoice = _setting(
        "auto",
        "record a training step once as a CUDA graph and replay it, which is faster on fast graphics cards; auto: where the "
        "program allows it and there is room for it",
        label="CUDA graph",
        group="Memory and speed",
    )
    size: int = _setting(
        0,
        "side of the training pictures in pixels; 0 is the model's own resolution",
        low=0,
        high=2048,
        label="Picture size",
        group="Pictures of the person",
    )
    views: int = _setting(
        64,
        "augmented views per person, encoded once before the first step",
        low=1,
        high=4096,
        label="Augmented views",
        group="Pictures of the person",
    )
    smallest: float = _setting(
        0.35,
        "smallest width of the picture in an augmented view, as a share of the frame",
        low=0.05,
        high=1.0,
        label="Smallest share of the frame",
        group="Pictures of the person",
    )
    describe: bool = _setting(
        True,
        "describe in the training prompt what the augmentation did to the view",
        label="Describe each view in its prompt",
        group="Pictures of the person",
    )
    early_stop: bool = _setting(
        True, "stop as soon as the coefficients have converged", label="Stop when nothing changes any more"
    )
    settled: float = _setting(
        0.02,
        "relative movement over 50 steps that counts as converged",
        low=0.0,
        high=1.0,
        label="Change that counts as none",
    )
    celebrities: int = _setting(
        640,
        "start guess: most celebrities whose faces the checkpoint generates, once; more make the guess better, up to the "
        "length of the list",
        low=16,
        high=100_000,
        label="Celebrities for the guess",
        group="Celeb basis",
    )
    celebrity_size: int = _setting(
        0,
        "start guess: side of the celebrities' pictures in pixels; 0 is the model's own resolution, smaller is faster",
        low=0,
        high=2048,
        label="Size of the celebrities' pictures",
        group="Celeb basis",
    )
    highest_noise: float = _setting(
        0.5,
        "learn on pictures with at most this much noise, as a share of the noise schedule; 1 is all of it, as in the paper, "
        "less is for the face and not for the whole picture",
        low=0.05,
        high=1.0,
        label="Most noise",
    )
    seed: int = _setting(0, "random seed; the same seed gives the same result", low=0, high=2**32 - 1, label="Seed")

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for item in fields(self):
            object.__setattr__(self, item.name, _checked(item, hints[item.name], getattr(self, item.name)))
        if self.start != "random" and self.mode != "direct":
            raise SettingsError(
                f"start = {self.start} needs coefficients that are optimized themselves: use mode = direct, or "
                "start = random."
            )

    def as_dict(self) -> dict[str, Any]:
        """All settings as JSON-ready values."""
        return asdict(self)

    def changed(self, changes: Mapping[str, Any]) -> TrainingSettings:
        """A copy with ``changes`` applied.

        Args:
            changes: New values by name; they may be text, as from a command line or a form.

        Raises:
            SettingsError: For an unknown setting or a value out of its range.
        """
        known = {item.name for item in fields(self)}
        if unknown := sorted(set(changes) - known):
            raise SettingsError(f"There is no setting {unknown[0]!r}: choose from {', '.join(sorted(known))}.")
        return replace(self, **changes)


def _checked(item: Field[Any], kind: Any, value: Any) -> Any:
    if choices := get_args(kind):
        if kind is SwitchChoice and str(value).lower() in _SPELLED:
            return "on" if _SPELLED[str(value).lower()] else "off"
        if value not in choices:
            raise SettingsError(f"{item.name} is {value!r}: choose one of {', '.join(map(str, choices))}.")
        return value
    if kind is bool:
        as_text = str(value).lower()
        if as_text not in _SPELLED:
            raise SettingsError(f"{item.name} is {value!r}: choose yes or no.")
        return _SPELLED[as_text]
    try:
        number = kind(value)
        if isinstance(value, float) and number != value:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        expected = "a whole number" if kind is int else "a number"
        raise SettingsError(f"{item.name} is {value!r}: give {expected}.") from None
    low, high = item.metadata["low"], item.metadata["high"]
    if not math.isfinite(number) or not low <= number <= high:
        raise SettingsError(f"{item.name} is {value}: choose a value from {low:g} to {high:g}.")
    return number


class EvaluationDefaults:
    """What an evaluation generates unless it is asked for something else: on the page, over the API and on the command line."""

    prompts = 6
    """How many of the prompts, from the first; 0 is all."""
    seeds = 2
    """Images for each prompt."""
    seed = 0
    steps = 20
    guidance = 7.5


PRESETS: Mapping[str, TrainingSettings] = {
    "quick": TrainingSettings(start="guess", steps=40, views=32),
    "balanced": TrainingSettings(),
    "best": TrainingSettings(start="guess", early_stop=False),
    "paper": TrainingSettings(
        mode="head",
        start="random",
        steps=400,
        describe=False,
        early_stop=False,
        views=800,
        smallest=0.1,
        highest_noise=1.0,
    ),
}
"""Named recipes. ``paper`` uses as many views as the paper's 400 steps of two pictures do; the others are ours. ``balanced``
takes 200 steps: after 400, people were no more alike, and less often recognized (``docs/evidence.md``). ``quick`` and
``best`` first generate a picture of up to 640 celebrities, once per checkpoint (``docs/evidence.md``)."""

_BEFORE_IT_WAS_A_SETTING: Mapping[str, Any] = {"highest_noise": 1.0}

AUTO = "auto"
"""The default in place of a preset: :func:`automatic_preset` chooses one when a run begins."""

PRESET_NAMES = (AUTO, *PRESETS)
"""What a user can ask for."""


def preset(name: str) -> TrainingSettings:
    """The preset called ``name``; for ``"auto"``, the one that starts right away on any checkpoint.

    Raises:
        SettingsError: If there is no such preset.
    """
    try:
        return PRESETS[automatic_preset(prepared=False) if name == AUTO else name]
    except KeyError:
        raise SettingsError(f"There is no preset {name!r}: choose from {', '.join(PRESET_NAMES)}.") from None


def stored_settings(stored: Mapping[str, Any]) -> TrainingSettings:
    """Settings that were stored, maybe by an earlier version: what that did not know yet is as it was then.

    Args:
        stored: Settings by name.

    Raises:
        SettingsError: For an unknown setting or a value out of its range.
    """
    return TrainingSettings().changed({**_BEFORE_IT_WAS_A_SETTING, **stored})


def automatic_preset(*, prepared: bool) -> str:
    """What ``"auto"`` stands for: the preset that is best without generating celebrities first.

    Args:
        prepared: Whether the faces of the celebrities are there already, as the checkpoint renders them.
    """
    return "quick" if prepared else "balanced"


def if_prepared(name: str, changes: Mapping[str, Any]) -> TrainingSettings | None:
    """What takes the place of ``preset(name)`` with the changes where the checkpoint is prepared.

    Args:
        name: A name of :data:`PRESET_NAMES`.
        changes: The user's changes to it.

    Returns:
        ``None`` where the user has chosen a preset, or says where the coefficients start: nothing is left to choose.

    Raises:
        SettingsError: For an unknown setting or a value out of its range.
    """
    if name != AUTO or {"mode", "start"} & set(changes):
        return None
    return PRESETS[automatic_preset(prepared=True)].changed(changes)
