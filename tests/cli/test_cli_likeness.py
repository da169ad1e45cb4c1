"""The likeness at the end of ``learn``: what is printed, what stops it, and that the person is saved whatever happens."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celeb_basis.cli.progress import LearnBar
from celeb_basis.events import Event, MeasuringPicture
from celeb_basis.identities.library import Library


def _learn(celeb: Callable[..., Any], parts: Any, *more: object) -> Any:
    return celeb("learn", parts.photo, "--name", "ada", *parts.learning, "--likeness", "--replace", *more)


def test_a_run_ends_with_a_likeness_in_words_and_in_json(
    celeb: Callable[..., Any], parts: Any, own_library: Path
) -> None:
    said = _learn(celeb, parts)
    assert said.code == 0, said.err
    assert "  likeness: " in said.out
    assert "not prepared, so the preset is balanced" in said.err
    (row,) = _learn(celeb, parts, "--json").json["people"]
    assert row["likeness"]["pictures"] == 4
    assert row["likeness"]["verdict"] in ("low", "fair", "good", "unknown")
    assert row["likeness"]["sentences"][0] in said.out or row["likeness"]["faces"] >= 0
    (without,) = _learn(celeb, parts, "--json", "--no-likeness").json["people"]
    assert without["likeness"] is None
    assert Library(own_library).names() == ("ada",)


def test_a_clip_that_is_not_here_costs_the_likeness_and_not_the_person(
    celeb: Callable[..., Any], parts: Any, own_library: Path
) -> None:
    said = _learn(celeb, parts, "--clip", "open_clip:ViT-B-32:openai")
    assert said.code == 0
    assert "the likeness was not measured: open_clip:ViT-B-32:openai is not on this machine" in said.err
    assert "likeness:" not in said.out
    assert Library(own_library).names() == ("ada",)


def test_ctrl_c_while_it_is_measured_keeps_the_person(
    celeb: Callable[..., Any], parts: Any, own_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = LearnBar.show

    def ctrl_c(bar: LearnBar, event: Event) -> None:
        show(bar, event)
        if isinstance(event, MeasuringPicture):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(LearnBar, "show", ctrl_c)
    said = _learn(celeb, parts)
    assert said.code == 0
    assert "since you stopped it" in said.err
    assert Library(own_library).names() == ("ada",)


@pytest.mark.slow
def test_everyone_of_a_folder_is_measured(celeb: Callable[..., Any], parts: Any, tmp_path: Path) -> None:
    people = tmp_path / "people"
    people.mkdir()
    for name in ("ada", "bea"):
        (people / f"{name}.png").write_bytes(parts.photo.read_bytes())
    said = celeb("learn", people, *parts.learning, "--likeness", "--json")
    assert said.code == 0, said.err
    assert [row["likeness"]["name"] for row in said.json["people"]] == ["ada", "bea"]
