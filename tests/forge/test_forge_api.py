"""Learning and drawing over the API of a real Forge without a page. Run with ``CELEB_BASIS_FORGE`` set."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.forge import need_forge
from support.forge_server import serving_forge
from support.webui_server import Server

from celeb_basis.cli.demo import STRANGERS
from celeb_basis.identities.identity import load_identity

SETTINGS = {"steps": 8, "views": 2, "batch_size": 1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path) -> Iterator[Server]:
    with serving_forge(need_forge(), tmp_path_factory.mktemp("data"), miniature_folder) as running:
        yield running


def learn(server: Server, photo: Path, *, replace: bool = False) -> Any:
    """``ada``, learned from a photo; the job as it ended."""
    content = base64.b64encode(photo.read_bytes()).decode()
    asked = {
        "people": [{"name": "ada", "photos": [{"name": photo.name, "data": content}]}],
        "settings": SETTINGS,
        "consent": True,
        "replace": replace,
    }
    return server.job_ended(server.ours("POST", "/learn", asked, expect=202)["id"])


def draw(server: Server, prompt: str, **changes: Any) -> tuple[bytes, str]:
    """A picture's pixels and its parameters."""
    asked = {"prompt": prompt, "steps": 3, "width": 64, "height": 64, "cfg_scale": 3, "seed": 1, "sampler_name": "DDIM"}
    status, answer = server.call("POST", "/sdapi/v1/txt2img", asked | changes)
    assert status == 200, answer
    with Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))) as picture:
        pixels = picture.convert("RGB").tobytes()
    return pixels, str(json.loads(answer["info"])["infotexts"][0])


def test_before_anything_is_loaded_a_person_is_learned(server: Server) -> None:
    job = learn(server, STRANGERS[0])
    assert job["state"] == "done", job
    (ada,) = server.ours("GET", "/people")["people"]
    assert ada["available"], ada
    assert (ada["learned_on"], ada["steps"]) == ("miniature", 8)
    assert server.ours("POST", "/learn/estimate", {"preset": "balanced"})


def test_the_person_is_drawn(server: Server) -> None:
    plain, without = draw(server, "a photo of a person")
    picture, parameters = draw(server, "a photo of <ada>, smiling")
    identity = load_identity(server.data / "celeb-basis" / "people" / "ada.safetensors")
    assert f'Celeb Basis: "ada: {identity.content_hash}"' in parameters
    assert "Celeb Basis" not in without
    assert picture != plain
    assert draw(server, "a photo of <ada>, smiling")[0] == picture
    assert draw(server, "a photo of <ada:0.5>, smiling")[0] == draw(server, "a photo of (<ada>:0.5), smiling")[0]
    assert draw(server, "a photo of a person", negative_prompt="<ada>")[0] != plain


def test_the_same_prompt_draws_a_person_learned_again(server: Server) -> None:
    before = draw(server, "a photo of <ada>")[0]
    assert draw(server, "a photo of <ada>")[0] == before
    assert learn(server, STRANGERS[1], replace=True)["state"] == "done"
    assert draw(server, "a photo of <ada>")[0] != before
