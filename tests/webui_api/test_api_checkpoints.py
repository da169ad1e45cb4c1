"""Learning over HTTP on every kind of checkpoint that a real WebUI has loaded; skipped where there is no WebUI."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.sample_photos import sample_photos
from support.webui import need_webui
from support.webui_server import Server, serving

SETTINGS = {"steps": 3, "views": 2, "batch_size": 1, "components": 16, "size": 64, "early_stop": False}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path) -> Iterator[Server]:
    webui = need_webui("sd1", "sd2v", "sdxl", "sd2inpaint")
    data = tmp_path_factory.mktemp("data")
    with serving(webui, data, miniature_folder, more=["--celeb-basis-dir", str(data / "elsewhere")]) as running:
        yield running


def learned(server: Server, name: str) -> Any:
    photo = base64.b64encode(sample_photos()["six"].read_bytes()).decode()
    body = {"people": [{"name": name, "photos": [{"data": photo}]}], "settings": SETTINGS, "consent": True}
    return server.job_ended(server.ours("POST", "/learn", body, expect=202)["id"])


def choose(server: Server, checkpoint: str) -> None:
    assert server.call("POST", "/sdapi/v1/options", {"sd_model_checkpoint": f"{checkpoint}.safetensors"})[0] == 200


@pytest.mark.parametrize(("checkpoint", "family"), [("sd1", "sd1"), ("sd2v", "sd2"), ("sdxl", "sdxl")])
def test_every_family_learns_and_knows_its_own(server: Server, checkpoint: str, family: str) -> None:
    choose(server, checkpoint)
    job = learned(server, f"on-{checkpoint}")
    assert job["state"] == "done", job["error"]
    people = {one["name"]: one for one in server.ours("GET", "/people")["people"]}
    assert people[f"on-{checkpoint}"]["family"] == family
    assert people[f"on-{checkpoint}"]["available"]
    others = [one for one in people.values() if one["family"] != family]
    assert not any(one["available"] for one in others)
    assert all(one["family"] in one["reason"] for one in others)
    assert (server.data / "elsewhere" / "people" / f"on-{checkpoint}.safetensors").is_file()
    assert not (server.data / "celeb-basis").exists(), "the flag says where people are kept"


def test_an_inpainting_checkpoint_is_learned_on(server: Server) -> None:
    choose(server, "sd2inpaint")
    job = learned(server, "inpainted")
    assert job["state"] == "done", job["error"]
    people = {one["name"]: one for one in server.ours("GET", "/people")["people"]}
    assert (people["inpainted"]["family"], people["inpainted"]["available"]) == ("sd2", True)


def test_an_unloaded_checkpoint_comes_back_or_is_asked_for(server: Server) -> None:
    choose(server, "sd1")
    assert server.call("POST", "/sdapi/v1/unload-checkpoint")[0] == 200
    job = learned(server, "unloaded")
    assert job["state"] == "done" or (job["state"] == "failed" and "checkpoint" in job["error"]), job["error"]
    assert server.call("POST", "/sdapi/v1/reload-checkpoint")[0] == 200
    assert learned(server, "reloaded")["state"] == "done"
