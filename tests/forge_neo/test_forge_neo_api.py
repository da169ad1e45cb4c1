"""Learning and drawing over the API of a real Forge Neo. Run with ``CELEB_BASIS_FORGE_NEO`` set.

The tests depend on one another, as a user's steps do. Every weight of the checkpoint has to be what it was, whichever way a
run ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.forge import need_forge_neo
from support.forge_server import begin, draw, learn, serving_forge, weights
from support.webui_server import Server

from celeb_basis.cli.demo import STRANGERS
from celeb_basis.identities.identity import load_identity

LONG: dict[str, Any] = {"steps": 4000, "early_stop": False}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path) -> Iterator[Server]:
    with serving_forge(need_forge_neo(), tmp_path_factory.mktemp("data"), miniature_folder) as running:
        yield running


@pytest.fixture(scope="module")
def untouched(server: Server) -> tuple[dict[str, str], bytes]:
    """Digests of the weights before anything is learned, and a picture."""
    picture, _ = draw(server, "a photo of a person")
    return weights(server), picture


def unchanged(server: Server, untouched: tuple[dict[str, str], bytes]) -> None:
    assert weights(server) == untouched[0]
    assert draw(server, "a photo of a person")[0] == untouched[1]


def test_the_extension_starts_without_a_fault(server: Server) -> None:
    log = server.log.read_text()
    assert "Error loading script" not in log
    assert "Error executing callback" not in log
    assert server.ours("GET", "/people") == {"people": []}


def test_a_person_is_learned(server: Server, untouched: tuple[dict[str, str], bytes]) -> None:
    job = learn(server, STRANGERS[0])
    assert job["state"] == "done", job
    (ada,) = server.ours("GET", "/people")["people"]
    assert ada["available"], ada
    assert (ada["learned_on"], ada["steps"]) == ("miniature", 8)
    unchanged(server, untouched)


def test_the_person_is_drawn(server: Server, untouched: tuple[dict[str, str], bytes]) -> None:
    plain, without = untouched[1], draw(server, "a photo of a person")[1]
    picture, parameters = draw(server, "a photo of <ada>, smiling")
    identity = load_identity(server.data / "celeb-basis" / "people" / "ada.safetensors")
    assert f'Celeb Basis: "ada: {identity.content_hash}"' in parameters
    assert "Celeb Basis" not in without
    assert picture != plain
    assert draw(server, "a photo of <ada>, smiling")[0] == picture
    assert draw(server, "a photo of <ada:0.5>, smiling")[0] == draw(server, "a photo of (<ada>:0.5), smiling")[0]
    assert draw(server, "a photo of a person", negative_prompt="<ada>")[0] != plain


def test_an_interrupted_run_leaves_every_weight_as_it_was(
    server: Server, untouched: tuple[dict[str, str], bytes]
) -> None:
    job = begin(server, STRANGERS[1], "eve", **LONG)
    server.job_when(job, lambda found: (found.get("progress") or {}).get("step", 0) >= 3)
    assert server.call("POST", "/sdapi/v1/interrupt")[0] == 200
    assert server.job_ended(job)["state"] == "interrupted"
    unchanged(server, untouched)


def test_a_failed_run_leaves_every_weight_as_it_was(server: Server, untouched: tuple[dict[str, str], bytes]) -> None:
    """The folder of the people becomes a file while one is learned, so that the run cannot end."""
    people = server.data / "celeb-basis" / "people"
    job = begin(server, STRANGERS[1], "kim")
    server.job_when(job, lambda found: (found.get("progress") or {}).get("step", 0) >= 1 or found["state"] != "running")
    people.rename(people.with_name("moved"))
    people.write_bytes(b"")
    ended = server.job_ended(job)
    people.unlink()
    people.with_name("moved").rename(people)
    assert ended["state"] == "failed", ended
    unchanged(server, untouched)


def test_the_same_prompt_draws_a_person_learned_again(server: Server) -> None:
    before = draw(server, "a photo of <ada>")[0]
    assert draw(server, "a photo of <ada>")[0] == before
    assert learn(server, STRANGERS[1], replace=True)["state"] == "done"
    assert draw(server, "a photo of <ada>")[0] != before


def test_an_exported_embedding_lies_where_forge_neo_looks(server: Server) -> None:
    (name,) = server.ours("POST", "/people/ada/embedding")["files"]
    written = server.data / "models" / "embeddings" / name
    assert written.is_file()


def test_programs_that_ask_for_embeddings_are_told_of_people(server: Server) -> None:
    status, found = server.call("GET", "/sdapi/v1/embeddings")
    assert status == 200
    assert found["loaded"]["<ada>"]["vectors"] == 2
    assert found["loaded"]["<ada>"]["sd_checkpoint_name"] == "miniature"
