"""Learning and drawing over the API of a real Forge without a page. Run with ``CELEB_BASIS_FORGE`` set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.forge import need_forge
from support.forge_server import draw, learn, serving_forge
from support.webui_server import Server

from celeb_basis.cli.demo import STRANGERS
from celeb_basis.identities.identity import load_identity


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path) -> Iterator[Server]:
    with serving_forge(need_forge(), tmp_path_factory.mktemp("data"), miniature_folder) as running:
        yield running


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
