"""Settings: the paper's values, ranges, and text from forms."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from celeb_basis.errors import SettingsError
from celeb_basis.settings import (
    AUTO,
    PRESETS,
    TrainingSettings,
    automatic_preset,
    if_prepared,
    preset,
    stored_settings,
)


def test_the_preset_paper_is_the_papers_recipe() -> None:
    paper = preset("paper")
    assert (paper.mode, paper.steps, paper.batch_size, paper.learning_rate) == ("head", 400, 2, 0.01)
    assert (paper.components, paper.average_decay, paper.smallest) == (512, 0.99, 0.1)
    assert (paper.describe, paper.early_stop, paper.highest_noise) == (False, False, 1.0)
    assert paper.views == paper.steps * paper.batch_size


def test_what_an_earlier_version_stored_is_as_it_was_then() -> None:
    stored = {name: value for name, value in preset("balanced").as_dict().items() if name != "highest_noise"}
    assert stored_settings(stored).highest_noise == 1.0
    assert stored_settings(preset("balanced").as_dict()) == preset("balanced")
    assert stored_settings({"steps": "7", "highest_noise": 0.25}).highest_noise == 0.25


def test_every_setting_has_a_help_text_and_its_default_is_in_range() -> None:
    for item in fields(TrainingSettings):
        assert len(item.metadata["help"]) > 10, item.name
    for settings in PRESETS.values():
        assert TrainingSettings(**settings.as_dict()) == settings


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"steps": "250"}, ("steps", 250)),
        ({"learning_rate": "3e-3"}, ("learning_rate", 0.003)),
        ({"describe": "no"}, ("describe", False)),
        ({"early_stop": True}, ("early_stop", True)),
        ({"precision": "bf16"}, ("precision", "bf16")),
        ({"steps": 250.0}, ("steps", 250)),
    ],
)
def test_text_from_a_form_becomes_a_value(changes: dict[str, Any], expected: tuple[str, Any]) -> None:
    name, value = expected
    result = getattr(TrainingSettings().changed(changes), name)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 0}, "steps is 0: choose a value from 1"),
        ({"steps": 2.5}, "whole number"),
        ({"steps": "many"}, "whole number"),
        ({"steps": None}, "whole number"),
        ({"learning_rate": "nan"}, "choose a value"),
        ({"learning_rate": "inf"}, "choose a value"),
        ({"average_decay": 1}, "choose a value"),
        ({"precision": "fp8"}, "choose one of auto"),
        ({"mode": "magic"}, "choose one of head, direct"),
        ({"describe": "perhaps"}, "yes or no"),
        ({"speed": 1}, "no setting 'speed'"),
    ],
)
def test_values_out_of_range_are_explained_in_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        TrainingSettings().changed(changes)


def test_the_error_for_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="quick, balanced, best, paper"):
        preset("finest")


def test_automatic_is_quick_where_the_checkpoint_is_prepared_and_else_balanced() -> None:
    assert preset(AUTO) == PRESETS[automatic_preset(prepared=False)] == PRESETS["balanced"]
    assert if_prepared(AUTO, {}) == PRESETS[automatic_preset(prepared=True)] == PRESETS["quick"]
    changed = if_prepared(AUTO, {"steps": "33"})
    assert changed is not None
    assert (changed.steps, changed.start) == (33, "guess")
    for name in PRESETS:
        assert if_prepared(name, {}) is None, "a preset that is named is kept"
    assert if_prepared(AUTO, {"start": "mean"}) is None, "there is nothing to choose"
    assert if_prepared(AUTO, {"mode": "head", "start": "random"}) is None
