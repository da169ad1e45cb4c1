"""The user's own list of names: saved if it is valid, refused with a message if it is not."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from celeb_basis.errors import NamesError, SettingsError
from celeb_basis.names.lists import read_names, shipped_names
from celeb_basis.webui.options import Paths
from celeb_basis.webui.tasks.basis import use_own_names, use_shipped_names


class Settings:
    """The part of the host's settings object that is used."""

    def __init__(self) -> None:
        self.data: dict[str, str] = {}
        self.saved = 0
        self.frozen = False

    def set(self, key: str, value: str) -> bool:
        assert not self.frozen, "changing settings is disabled"
        self.data[key] = value
        return True

    def save(self, _name: str) -> None:
        self.saved += 1


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    made = Settings()
    shared = ModuleType("modules.shared")
    shared.opts, shared.config_filename = made, "config.json"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modules", ModuleType("modules"))
    monkeypatch.setitem(sys.modules, "modules.shared", shared)
    return made


@pytest.fixture
def service(tmp_path: Path, settings: Settings) -> Any:
    def names() -> Any:
        chosen = settings.data.get("celeb_basis_names", "")
        return read_names(Path(chosen)) if chosen else shipped_names()

    return SimpleNamespace(workspace=SimpleNamespace(paths=Paths(tmp_path / "data"), names=names))


def test_a_list_is_saved_and_used(service: Any, settings: Settings) -> None:
    assert use_own_names(service.workspace, "mine.txt", b"Ada Lovelace\nAlan Turing\n").names == (
        "Ada Lovelace",
        "Alan Turing",
    )
    assert Path(settings.data["celeb_basis_names"]).read_bytes() == b"Ada Lovelace\nAlan Turing\n"
    assert settings.saved == 1
    assert use_shipped_names(service.workspace).names == shipped_names().names


def test_an_unusable_list_changes_nothing(service: Any, settings: Settings) -> None:
    use_own_names(service.workspace, "mine.txt", b"Ada Lovelace\n")
    with pytest.raises(NamesError, match=r"^bad\.txt is a binary file"):
        use_own_names(service.workspace, "bad.txt", b"\0\0")
    assert service.workspace.names().names == ("Ada Lovelace",)
    assert settings.saved == 1


def test_frozen_settings_are_reported(service: Any, settings: Settings) -> None:
    settings.frozen = True
    with pytest.raises(SettingsError, match="changing settings is disabled"):
        use_own_names(service.workspace, "mine.txt", b"Ada Lovelace\n")
