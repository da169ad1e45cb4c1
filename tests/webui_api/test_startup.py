"""What is registered with a host, on stand-ins for its modules: the API where it serves its own, the chosen folder."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from celeb_basis.prompts.registry import Registry
from celeb_basis.webui import extension
from celeb_basis.webui.options import DATA_FOLDER, Options
from celeb_basis.webui.service import Service


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch, service: Service) -> Any:
    """``modules.shared`` of a host, and the service of this test."""
    made: Any = types.ModuleType("modules.shared")
    made.cmd_opts = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "modules", types.ModuleType("modules"))
    monkeypatch.setitem(sys.modules, "modules.shared", made)
    monkeypatch.setattr(extension, "service", lambda: service)
    return made


@pytest.mark.parametrize(
    ("flags", "served"),
    [({}, False), ({"api": False, "nowebui": False}, False), ({"api": True}, True), ({"nowebui": True}, True)],
)
def test_the_api_is_there_where_the_host_serves_its_own(shared: Any, flags: dict[str, bool], served: bool) -> None:
    shared.cmd_opts = SimpleNamespace(**flags)
    app = FastAPI()
    extension._api(None, app)
    assert (TestClient(app).get("/celeb-basis/v1/version").status_code == 200) is served


def test_another_data_folder_is_known_to_prompts_at_once(
    shared: Any, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [Options()]
    service.workspace.options = lambda: chosen[0]
    service.workspace.registry = Registry(tmp_path / "nowhere")
    asked: dict[str, Callable[[], None]] = {}
    shared.OptionInfo = lambda *_, **__: SimpleNamespace(info=lambda _about: None)
    shared.opts = SimpleNamespace(
        add_option=lambda *_: None, onchange=lambda key, function, **_: asked.update({key: function})
    )
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(Slider=None))
    extension._settings()
    chosen[0] = Options(data_folder=str(tmp_path / "other"))
    asked[DATA_FOLDER]()
    assert service.workspace.registry.folder == tmp_path / "other" / "people"
