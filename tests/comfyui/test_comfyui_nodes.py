"""The nodes in a real ComfyUI, over its HTTP API, with the workflows that ship. Run with ``CELEB_BASIS_COMFYUI`` set."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.comfyui import need_comfyui, with_models
from support.comfyui_server import Server, Workflow, node_of, serving_comfyui, shipped
from support.comfyui_workflows import (
    LEARN,
    cancelled,
    hashes,
    learning,
    lora_loader,
    save_lora,
    saved_runs,
    shown,
)

from celeb_basis.hosts.diffusers import load_host
from celeb_basis.identities.deletion import delete_person
from celeb_basis.identities.generated_files import GeneratedFiles
from celeb_basis.identities.identity import Identity
from celeb_basis.identities.library import Library
from celeb_basis.miniature import NAME, PHOTOS, shipped_model
from celeb_basis.provenance import KEY, sentence, workflow_sentence
from celeb_basis.python_api import invent_people, token_vectors
from celeb_basis.training.state import read_summary

PROMPT, BLEND = "CelebBasisPersonToPrompt", "CelebBasisBlendPeople"
INVENT = "CelebBasisInventPerson"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """ComfyUI whose people are in a folder that another program uses as its library too."""
    comfyui = need_comfyui()
    base = with_models(tmp_path_factory.mktemp("comfyui"), "miniature", "sd2")
    for number, name in ((1, "photo"), (2, "other")):
        (base / "input" / f"{name}.png").write_bytes((PHOTOS / f"stranger{number}.png").read_bytes())
    Image.new("RGB", (256, 256), (90, 120, 90)).save(base / "input" / "nobody.png")
    save_lora(base)
    paths = base / "paths.yaml"
    paths.write_text(f"celeb_basis:\n    celeb_basis: {base / 'webui' / 'people'}\n", "utf-8")
    with serving_comfyui(comfyui, base, more=["--extra-model-paths-config", str(paths)]) as running:
        yield running


@pytest.fixture
def people(server: Server) -> Iterator[Library]:
    """The library, as this process sees it; empty before and afterwards."""
    library = Library(server.base / "webui" / "people")
    _clear(library, server)
    yield library
    _clear(library, server)


def _clear(library: Library, server: Server) -> None:
    for name in library.names():
        library.delete(name)
    for path in saved_runs(server):
        path.unlink()


def test_nobody_is_learned_without_consent(server: Server, people: Library) -> None:
    workflow = learning("ada", consent=False)
    assert "switch consent on if everyone in the photo has agreed" in server.refused(workflow)
    assert not people.names()


@dataclass(frozen=True)
class Learned:
    """What the workflow that ships made."""

    person: Identity
    outputs: dict[str, Any]
    texts: list[str]
    """What was shown on the node."""
    progress: list[tuple[int, int]]
    before: dict[str, Any]
    after: dict[str, Any]
    """All weights before and after."""


@pytest.fixture(scope="module")
def learned(server: Server) -> Learned:
    """The person whom the workflow that ships learns."""
    before, texts, done = hashes(server), [], []
    with server.listening("page") as messages:
        prompt = server.queue(learning("ada", consent_note="Ada said yes."), "page")
        for message in messages:
            data = message.get("data") or {}
            if message["type"] == "text" and message["node"] == "3":
                texts.append(message["text"])
            elif message["type"] == "progress" and data.get("node") == "3":
                done.append((data["value"], data["max"]))
            elif message["type"] in ("execution_success", "execution_error") and data["prompt_id"] == prompt:
                break
    ended = server.ended(prompt)
    assert ended.status == "success", ended.messages.get("execution_error")
    person = Library(server.base / "webui" / "people").load("ada")
    return Learned(person, ended.outputs, texts, done, before, hashes(server))


def test_the_shipped_workflow_learns_a_person_and_generates(server: Server, learned: Learned) -> None:
    assert learned.after == learned.before
    assert learned.before["forwards"] == 0
    (picture,) = learned.outputs["9"]["images"]
    with Image.open(server.base / "output" / picture["filename"]) as image:
        assert image.size == (64, 64)
    person = learned.person
    assert person.metadata.consent == "Ada said yes."
    assert (person.metadata.family, person.metadata.base_model, person.metadata.steps) == ("sd1", "miniature", 4)
    assert person.metadata.thumbnail
    # The digest is the file's, as in every other program: the vectors serve there as they are, bit for bit.
    file = server.base / "models" / "checkpoints" / "miniature.safetensors"
    model = load_host(file, device="cpu")
    assert person.metadata.base_sha256 == model.info.sha256
    (stored,) = person.token_vectors()
    assert torch.equal(token_vectors(person, model)["clip_l"], stored)
    embedding = server.base / "models" / "embeddings" / "celeb_basis" / "ada.safetensors"
    assert torch.equal(load_file(str(embedding))["emb_params"], stored)
    noted = GeneratedFiles(server.base / "webui" / "people").of("ada")
    assert [(one.path, one.kind) for one in noted] == [(embedding, "embedding")]
    assert not list(server.base.rglob("image 1.png")), "photos are not kept"


def test_progress_is_shown_on_the_node(learned: Learned) -> None:
    assert (4, 4) in learned.progress
    assert any(text.startswith("Learning ada: step 4 of 4") for text in learned.texts)
    assert any(text.startswith("<ada> was learned in 4 steps.") for text in learned.texts)


def test_a_person_in_a_prompt_is_bit_for_bit_the_embedding(server: Server, people: Library, learned: Learned) -> None:
    people.add(learned.person)
    texts = ("a photo of <ada>, smiling", "a photo of embedding:ada, smiling", "a photo of nobody, smiling")
    pictures = []
    for kind, text in zip((PROMPT, "CLIPTextEncode", "CLIPTextEncode"), texts, strict=True):
        workflow = shipped("learn_person")
        del workflow["2"], workflow["3"]
        workflow["4"] = {"class_type": kind, "inputs": {"clip": ["1", 1], "text": text}}
        (picture,) = server.succeed(workflow)["9"]["images"]
        with Image.open(server.base / "output" / picture["filename"]) as image:
            pictures.append(image.tobytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_saved_images_say_that_they_are_ai_generated(server: Server, people: Library, learned: Learned) -> None:
    people.add(learned.person)
    workflow = shipped("learn_person")
    del workflow["2"], workflow["3"]
    workflow["4"]["inputs"] = {"clip": ["1", 1], "text": "a photo of <ada>, smiling"}

    def texts_of(outputs: dict[str, Any], node: str = "9") -> dict[str, str]:
        (picture,) = outputs[node]["images"]
        with Image.open(server.base / "output" / picture["filename"]) as image:
            return dict(image.text)

    said = texts_of(server.succeed(workflow))
    assert json.loads(said[KEY]) == sentence(["<ada>"])
    assert set(json.loads(said["prompt"])) == set(workflow), "all else that ComfyUI writes is there"
    workflow["7"]["inputs"]["seed"] = 2
    assert json.loads(texts_of(server.succeed(workflow))[KEY]) == sentence(["<ada>"]), "the prompt's node is cached"
    photo = {"class_type": "LoadImage", "inputs": {"image": "photo.png"}}
    saved = {"class_type": "SaveImage", "inputs": {"images": ["photo", 0], "filename_prefix": "photo"}}
    workflow["7"]["inputs"]["seed"] = 3
    outputs = server.succeed(workflow | {"photo": photo, "saved": saved})
    for node in ("9", "saved"):
        assert json.loads(texts_of(outputs, node)[KEY]) == workflow_sentence(["<ada>"])
    workflow["4"]["inputs"]["text"] = "a photo of a tree"
    assert KEY not in texts_of(server.succeed(workflow))


def test_a_person_of_the_library_is_used_and_learned_again_on_demand(
    server: Server, people: Library, learned: Learned
) -> None:
    people.add(learned.person)
    server.succeed(learning("ADA"))
    assert people.load("ada").content_hash == learned.person.content_hash
    server.succeed(learning("ada", existing="learn again", steps=2))
    assert people.load("ada").metadata.steps == 2
    people.delete("ada")
    server.succeed(learning("ada", steps=3))
    people.delete("ada")
    server.succeed(learning("ada", steps=3))
    assert people.names() == ("ada",), "deleted elsewhere, so learned once more"


def noted_runs(people: Library) -> list[Path]:
    """The runs of ada that deleting her finds."""
    return [one.path for one in GeneratedFiles(people.folder).of("ada") if one.kind == "unfinished run"]


def test_interrupting_leaves_everything_as_it_was(server: Server, people: Library) -> None:
    before = hashes(server)
    text = cancelled(server, learning("ada", steps=4000))
    assert text.startswith("Cancelled at step ")
    assert text.endswith(": run it again with the same inputs, and it goes on from there.")
    assert not people.names()
    assert hashes(server) == before


def test_learning_goes_on_where_it_was_cancelled(server: Server, people: Library) -> None:
    """The person is bit for bit the one of a run that was not cancelled."""
    before, workflow = hashes(server), learning("ada", steps=60, consent_note="Ada said yes.")
    step = int(cancelled(server, workflow).removeprefix("Cancelled at step ").partition(":")[0])
    (state,) = saved_runs(server)
    assert (read_summary(state).step, read_summary(state).names) == (step, ("ada",))
    assert state in noted_runs(people)
    texts = shown(server, workflow)["3"]
    assert f"Going on from step {step} of 60, where learning ada was cancelled" in texts
    assert texts[-1].startswith("<ada> was learned in 60 steps.")
    assert not saved_runs(server)
    assert state not in noted_runs(people)
    resumed = people.load("ada")
    assert resumed.metadata.consent == "Ada said yes."
    assert resumed.metadata.thumbnail
    people.delete("ada")
    server.succeed(workflow)
    assert people.load("ada").content_hash == resumed.content_hash
    assert hashes(server) == before


def test_a_cancelled_run_is_for_the_same_inputs_and_ends_with_the_person(
    server: Server, people: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = learning("ada", steps=60)
    cancelled(server, workflow)
    (state,) = saved_runs(server)
    other = learning("ada", steps=3)
    node_of(other, "LoadImage")["image"] = "other.png"
    assert not any(text.startswith("Going on") for text in shown(server, other)["3"]), "another photo"
    assert not saved_runs(server), "ada is learned"
    people.delete("ada")
    cancelled(server, workflow)
    assert saved_runs(server) == [state]
    monkeypatch.setenv("CELEB_BASIS_CACHE", str(server.base / "cache"))
    assert state in delete_person(people, "ada").files
    assert not saved_runs(server)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"photo": "nobody.png"}, "No face was found"),
        ({"name": "a/b"}, "a/b"),
        ({"size": 72}, "72"),
        ({"faces": "antelopev2"}, "switch accept_face_license on"),
    ],
)
def test_a_failure_leaves_everything_as_it_was(
    server: Server, people: Library, changes: dict[str, Any], expected: str
) -> None:
    before = hashes(server)
    workflow = learning("ada")
    node_of(workflow, LEARN).update({key: value for key, value in changes.items() if key != "photo"})
    if "photo" in changes:
        node_of(workflow, "LoadImage")["image"] = changes["photo"]
    error = server.run(workflow).error
    assert expected in error
    assert error.endswith("."), error
    assert not people.names()
    assert hashes(server) == before


def test_a_lora_is_learned_with_and_put_back(server: Server, people: Library, learned: Learned) -> None:
    # In this order: ComfyUI itself leaves a weight that it has patched without the mark that gradients are wanted for it.
    patched, plain = hashes(server, lora=True), hashes(server)
    assert plain["unet"] != patched["unet"]
    workflow = learning("ada", model=["lora", 0], clip=["lora", 1]) | {"lora": lora_loader()}
    server.succeed(workflow)
    assert hashes(server, lora=True) == patched
    assert hashes(server) == plain
    with_lora = people.load("ada")
    assert with_lora.metadata.base_model == "miniature"
    assert with_lora.metadata.base_sha256 != learned.person.metadata.base_sha256
    assert not torch.equal(with_lora.token_vectors()[0], learned.person.token_vectors()[0])


def person_named(people: Library, known: Identity, *names: str) -> None:
    for name in names:
        people.add(replace(known, name=name))


def test_two_programs_share_the_people(server: Server, people: Library, learned: Learned) -> None:
    """Each sees whom the other adds, and of many that both add at once none is lost."""
    known = learned.person
    person_named(people, known, "ada", "Ben Two")
    _, about = server.call("GET", "/object_info/CelebBasisLoadPerson")
    assert about["CelebBasisLoadPerson"]["input"]["required"]["person"][0] == ["Ben Two", "ada"]
    blending = shipped("blend_people")
    node_of(blending, "CelebBasisLoadPerson")["person"] = "ada"
    blending["3"]["inputs"]["person"] = "Ben Two"
    adding = threading.Thread(target=person_named, args=(people, known, *(f"mine{number}" for number in range(12))))
    adding.start()
    for number in range(6):
        node_of(blending, BLEND).update(name=f"theirs{number}", save=True)
        blending["5"]["inputs"]["text"] = "<person> <person_2>"
        server.succeed(blending)
    adding.join()
    expected = {"ada", "Ben Two", *(f"mine{n}" for n in range(12)), *(f"theirs{n}" for n in range(6))}
    assert set(people.names()) == expected
    assert all(one.available for one in people.entries())
    blend = people.load("theirs0")
    assert blend.metadata.source == "blended"
    assert "ada: " in blend.metadata.consent
    node_of(blending, BLEND)["amount"] = 0.25
    assert "already an identity 'theirs5'" in server.run(blending).error


def test_people_who_are_not_there_or_do_not_fit_are_named(server: Server, people: Library, learned: Learned) -> None:
    people.add(learned.person)
    blending = shipped("blend_people")
    assert "There is no identity 'ben' in" in server.refused(blending)
    blending["3"]["inputs"]["person"] = "ada"
    blending["5"]["inputs"]["text"] = "a photo of <person>"
    assert "write <person_2> or <blend>" in server.run(blending).error
    blending["5"]["inputs"]["text"] = "<person>, <person_2> and <person_3>"
    assert "names <person_3>, but nobody is connected there" in server.run(blending).error
    blending["5"]["inputs"]["text"] = "<person>, <person_2>, <lora:ada:1>, <adda>"
    server.succeed(blending)
    assert "<adda> is read as text: nobody in your library has this name. Did you mean <ada>?" in server.log.read_text()
    other = shipped("blend_people", checkpoint="sd2")
    other["5"]["inputs"] = {"clip": ["1", 1], "text": "a photo of <ada>"}
    for node in ("2", "3", "4"):
        del other[node]
    error = server.run(other).error
    assert "'ada' was made for miniature (sd1), but sd2 is sd2" in error


def invented(*seeds: int, **options: Any) -> list[Identity]:
    """The same people by the Python API, on diffusers."""
    model = load_host(shipped_model(), device="cpu", name=NAME)
    return [invent_people(model, 1, seed=seed, **options)[0] for seed in seeds]


def choosing(seed: int, **inputs: Any) -> Workflow:
    """The workflow that ships, for the person of one seed, who is saved."""
    workflow = shipped("invent_person")
    node_of(workflow, INVENT).update({"seed": seed, "count": 1, "save": True, **inputs})
    return workflow


def test_a_sheet_of_invented_people_is_drawn_and_one_is_saved(server: Server, people: Library) -> None:
    before = hashes(server)
    texts = shown(server, shipped("invent_person"))
    expected = invented(*range(1, 10))
    lines = texts["2"][-1].splitlines()
    assert [line.partition(", nearest to ")[0] for line in lines] == [
        f"{number}: {one.name}, seed {number}" for number, one in enumerate(expected, 1)
    ]
    assert "of 9 images" in texts["8"][-1], "in how many a face was found"
    assert not people.names(), "nobody is saved"
    chosen = expected[3]
    assert f"<{chosen.name}> is in the library." in shown(server, choosing(4))["2"][-1]
    saved = people.load(chosen.name)
    assert (saved.metadata.source, saved.metadata.consent) == ("invented", chosen.metadata.consent)
    assert saved.metadata.settings["seed"] == 4
    # Another version of torch rounds otherwise.
    torch.testing.assert_close(saved.token_vectors()[0], chosen.token_vectors()[0], rtol=1e-4, atol=1e-5)
    assert hashes(server) == before


def test_an_invented_person_is_saved_once_and_takes_nobodys_name(
    server: Server, people: Library, learned: Learned
) -> None:
    server.succeed(choosing(4, name="mira"))
    server.succeed(choosing(4, name="mira", distance=1.0, leaning=0.5))  # without a group that is the same person
    assert people.names() == ("mira",)
    assert "already an identity 'mira'" in server.run(choosing(5, name="mira")).error
    server.succeed(choosing(5, name="mira", replace=True))
    assert people.load("mira").metadata.settings["seed"] == 5
    (suggested,) = invented(6)
    people.add(replace(learned.person, name=suggested.name))
    for leaning in (1.0, 0.5):
        server.succeed(choosing(6, leaning=leaning))
    (other,) = set(people.names()) - {"mira", suggested.name}
    assert people.load(other).metadata.settings["seed"] == 6, "another name was suggested, once"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"count": 2}, "set count to 1"),
        ({"people": "women"}, "do not say who is from where: set people to women and men"),
        ({"name": "a/b"}, "a/b"),
        ({"distance": 1.5, "name": "<x>"}, "<x>"),
    ],
)
def test_what_cannot_be_invented_is_said_in_a_sentence(
    server: Server, people: Library, changes: dict[str, Any], expected: str
) -> None:
    error = server.run(choosing(1, **changes)).error
    assert expected in error
    assert error.endswith(".")
    assert not people.names()


def test_people_lean_to_groups_and_fit_their_family_alone(server: Server, people: Library) -> None:
    workflow = shipped("invent_person", checkpoint="sd2")
    node_of(workflow, INVENT).update(count=1, people="women", region="East Asia", name="yuna", save=True)
    server.succeed(workflow)
    recipe = people.load("yuna").metadata.settings
    assert (recipe["operation"], recipe["groups"], recipe["leaning"]) == ("invent", ["women", "East Asia"], 1.0)
    workflow["1b"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "miniature.safetensors"}}
    workflow["3"]["inputs"]["clip"] = ["1b", 1]
    error = server.run(workflow).error
    assert "'yuna' was made for sd2 (sd2), but miniature is sd1" in error
