"""Before a person is deleted: the paths that go, those that stay with the reason, and the same person under another name."""

from __future__ import annotations

import hashlib
import json
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.api_client import need_test_client
from support.people import family_bases, model_info, person
from support.service import ended, request, until

from celeb_basis.errors import FileError, IdentityError
from celeb_basis.exports.textual_inversion import export_identity, identity_from_embedding, import_embedding
from celeb_basis.files import cache_folder
from celeb_basis.identities.blending import blend
from celeb_basis.identities.deletion import delete_person, traces_of
from celeb_basis.identities.generated_files import RECORD, GeneratedFiles
from celeb_basis.identities.library import Library
from celeb_basis.provenance import PARAMETERS, marked, parameters_text, save_generated_image
from celeb_basis.webui.service import Service


def written(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


# The same person under another name

BASES = family_bases("sd1")


@pytest.fixture
def library(tmp_path: Path) -> Library:
    library = Library(tmp_path / "people")
    library.add(person("ada", bases=BASES))
    library.add(person("bob", bases=BASES, seed=1))
    return library


@pytest.mark.parametrize(
    ("layout", "suffix"),
    [("webui", ".safetensors"), ("webui", ".pt"), ("diffusers", ".bin"), ("comfyui", ".safetensors")],
)
def test_an_import_of_an_export_is_listed_and_stays(library: Library, tmp_path: Path, layout: Any, suffix: str) -> None:
    (file,) = export_identity(library.load("ada"), tmp_path / f"from-a-friend{suffix}", layout)
    library.add(identity_from_embedding(import_embedding(file), BASES, model_info("sd1"), name="carol"))
    traces = traces_of(library, "ada")
    assert traces.same_person == ("carol",)
    assert "the same person under another name: <carol>" in traces.sentence()
    assert "Delete that as well" in traces.sentence()
    assert traces.as_dict()["same_person"] == ["carol"]
    assert not any("carol" in str(path) for path in traces.paths())
    deleted = delete_person(library, "ada")
    assert deleted.same_person == ("carol",)
    assert "the same person under another name: <carol>" in deleted.sentence()
    assert library.names() == ("bob", "carol")
    assert traces_of(library, "carol").same_person == ()


def test_the_file_says_whose_export_it_was_whatever_the_checkpoint(library: Library, tmp_path: Path) -> None:
    """Projected onto another checkpoint's basis, the numbers are others."""
    (file,) = export_identity(library.load("ada"), tmp_path / "x.safetensors")
    others = family_bases("sd1", seed=77)
    library.add(identity_from_embedding(import_embedding(file), others, model_info("sd1", "other"), name="carol"))
    assert not np.allclose(library.load("carol").coefficients[0], library.load("ada").coefficients[0], atol=0.1)
    assert traces_of(library, "ada").same_person == ("carol",)


def test_a_copy_of_the_identity_is_listed_from_both_sides(library: Library) -> None:
    (library.folder / "copy.safetensors").write_bytes(library.path_of("ada").read_bytes())
    assert traces_of(library, "ada").same_person == ("copy",)
    assert traces_of(library, "copy").same_person == ("ada",)
    assert traces_of(library, "bob").same_person == ()


def test_others_and_blends_are_not_the_same_person(library: Library) -> None:
    ada, bob = library.load("ada"), library.load("bob")
    library.add(blend([(ada, 1), (bob, 0)], BASES, model_info("sd1"), name="hardly"))
    traces = traces_of(library, "ada", mixtures=False)
    assert traces.mixtures == ("hardly",)
    assert traces.same_person == ()


@pytest.mark.parametrize("value", [3, [1], {"a": 1}, None, "x" * 12])
def test_hostile_settings_link_nobody(library: Library, value: Any) -> None:
    library.add(person("carol", bases=BASES, seed=5, settings={"exported_from": value}))
    (library.folder / "broken.safetensors").write_bytes(b"x")
    assert traces_of(library, "ada").same_person == ()


# Notes of saved runs are followed by what the file holds


def state_of(service: Service, name: str) -> Path:
    job = service.start_learning(request(name, steps=100_000, replace=True))
    until(job, 1)
    service.learning.interrupt(job.id)
    ended(job)
    return next(path for path in service.learning.saved_files(job) if path.suffix == ".safetensors")


def test_a_note_of_a_run_deletes_that_run_alone(service: Service, tmp_path: Path) -> None:
    library = service.workspace.library
    ada, bob = (state_of(service, name).read_bytes() for name in ("ada", "bob"))
    state = tmp_path / "mine" / "run.safetensors"
    written(state).write_bytes(ada)
    GeneratedFiles(library.folder).note([state], "unfinished run", ["ada"], changes=True)
    for other in (b"the user's thesis", bob, b""):
        state.write_bytes(other)
        traces = traces_of(library, "ada")
        ((path, reason),) = traces.stay
        assert path == state
        assert "is not the saved run any more" in reason
        assert state not in traces.paths()
        library.add(person("ada"), replace=True)
        deleted = delete_person(library, "ada")
        assert [path for path, _ in deleted.left] == [state]
        assert state.read_bytes() == other
        library.add(person("ada"))
    state.write_bytes(ada)
    assert traces_of(library, "ada").stay == ()
    assert state in delete_person(library, "ada").files


# Images that version 0.1.0 noted


def picture(path: Path, *names: str, seed: int = 0) -> Path:
    """An image as the command line writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = parameters_text(
        prompt="a photo",
        negative="",
        steps=1,
        guidance=1.0,
        seed=seed,
        size=(8, 8),
        model="m",
        model_sha256="0" * 64,
        identities=dict.fromkeys(names, "0123456789ab"),
    )
    image = marked(Image.new("RGB", (8, 8)), [f"<{name}>" for name in names])
    save_generated_image(path, image, texts={PARAMETERS: text})
    return path


def noted_by_0_1_0(library: Library, *paths: Path, kind: str = "picture", people: tuple[str, ...] = ("ada",)) -> None:
    """Add notes without a signature."""
    record = library.folder / RECORD
    files = json.loads(record.read_text())["files"] if record.exists() else []
    for path in paths:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        files.append({"path": str(path), "kind": kind, "people": list(people), "sha256": digest})
    record.write_text(json.dumps({"format": 1, "files": files}))


def test_images_of_version_0_1_0_go_from_our_folders_if_they_name_the_person(library: Library, tmp_path: Path) -> None:
    pictures, elsewhere = tmp_path / "pictures", tmp_path / "elsewhere"
    written_here = picture(pictures / "signed.png", "bob")
    GeneratedFiles(library.folder).note([written_here], "picture", ["bob"])
    ours = picture(pictures / "a.png", "ada")
    in_the_library, in_the_cache = (
        picture(library.folder / "b.png", "ada"),
        picture(cache_folder() / "c.png", "ada", "bob"),
    )
    nameless, of_bob = written(pictures / "d.png"), picture(pictures / "e.png", "bob")
    outside, around = picture(elsewhere / "f.png", "ada"), picture(elsewhere / "g.png", "ada")
    report, changed = written(pictures / "h.html", "ada"), picture(pictures / "i.png", "ada")
    by_a_detour = pictures / ".." / "elsewhere" / around.name
    linked = pictures / "k.png"
    linked.symlink_to(outside)
    noted_by_0_1_0(library, ours, in_the_library, in_the_cache, nameless, of_bob, outside, by_a_detour, changed, linked)
    noted_by_0_1_0(library, report, kind="report")
    picture(changed, "ada", seed=1)
    traces = traces_of(library, "ada")
    reasons = dict(traces.stay)
    assert {ours, in_the_library, in_the_cache} <= set(traces.paths())
    assert set(reasons) == {nameless, of_bob, outside, by_a_detour, changed, linked, report}
    assert "its own parameters do not name the person" in reasons[nameless]
    assert "its own parameters do not name the person" in reasons[of_bob]
    for path in (outside, by_a_detour, linked):
        assert "outside of the folders that this installation writes images to" in reasons[path]
    assert "changed after it was written" in reasons[changed]
    assert "left to you" in reasons[report]
    deleted = delete_person(library, "ada")
    assert dict(deleted.left) == reasons
    assert not any(path.exists() for path in (ours, in_the_library, in_the_cache))
    assert all(path.exists() for path in (nameless, of_bob, outside, around, changed, linked, report, written_here))


# What is shown


@pytest.fixture
def with_traces(service: Service, tmp_path: Path) -> dict[str, Path]:
    """Everything that there may be of ada, by what it is."""
    library, paths = service.workspace.library, service.workspace.paths
    state = state_of(service, "ada")
    first = service.start_learning(request("bob", steps=100_000))
    until(first, 1)
    waiting = service.start_learning(request("ada"))
    service.learning.interrupt(waiting.id)
    service.learning.interrupt(first.id)
    ended(waiting), ended(first)
    (photo,) = (path for path in (paths.uploads / waiting.id).rglob("*") if path.is_file())
    identity = library.add(person("ada"), replace=True)
    picture_, thesis = written(tmp_path / "out" / "<b>.png"), written(tmp_path / "thesis.txt", "years of work")
    GeneratedFiles(library.folder).note([picture_], "picture", ["ada"])
    noted_by_0_1_0(library, thesis, kind="export")
    return {
        "identity": identity,
        "card": written(identity.with_name("ada.preview.png")),
        "state": state,
        "record": paths.unfinished / f"{waiting.id}.json",
        "photo": photo,
        "picture": picture_,
        "thesis": thesis,
    }


def test_every_path_is_shown_before_and_goes_after(service: Service, with_traces: dict[str, Path]) -> None:
    from celeb_basis.webui.ui import markup

    traces = service.people.traces("ada")
    assert with_traces["thesis"] not in traces.paths()
    assert {path for what, path in with_traces.items() if what != "thesis"} <= set(traces.paths())
    html = str(markup.deletion(traces))
    assert all(str(path).replace("<b>", "&lt;b&gt;") in html for path in (*traces.paths(), with_traces["thesis"]))
    assert "<b>" not in html
    assert "left to you" in html
    before = set(traces.paths())
    deleted = service.people.delete("ada")
    assert before <= set(deleted.files)
    assert not any(path.exists() for path in before)
    assert [path for path, _ in deleted.left] == [with_traces["thesis"]]
    assert with_traces["thesis"].read_text() == "years of work"


def test_many_paths_are_cut_on_the_page(library: Library) -> None:
    from dataclasses import replace

    from celeb_basis.webui.ui import markup

    paths = [library.folder / f"{number}.png" for number in range(markup.MAX_PATHS + 7)]
    traces = replace(traces_of(library, "ada"), stay=tuple((path, "why") for path in paths))
    html = str(markup.deletion(traces))
    assert "and 7 more" in html
    assert html.count("why") == markup.MAX_PATHS


def test_the_api_lists_paths_of_runs_within_the_data_folder(service: Service, with_traces: dict[str, Path]) -> None:
    fastapi = pytest.importorskip("fastapi")
    testclient = need_test_client()
    from celeb_basis.webui.api import PREFIX
    from celeb_basis.webui.api.routes import mount

    app = fastapi.FastAPI()
    mount(app, service, None, Namespace())
    with testclient.TestClient(app) as client:
        answer = client.get(f"{PREFIX}/people/ada/traces").json()
    data = service.workspace.paths.data
    assert answer["unfinished"] == 2
    expected = {with_traces[what].relative_to(data).as_posix() for what in ("state", "record", "photo")}
    assert expected <= set(answer["unfinished_files"])
    assert all((data / path).is_file() for path in answer["unfinished_files"])
    assert {"people/ada.safetensors", "people/ada.preview.png", *expected} <= set(answer["goes"])
    assert str(with_traces["picture"]) in answer["goes"]
    (stays,) = answer["stays"]
    assert stays["path"] == str(with_traces["thesis"])
    assert "left to you" in stays["reason"]
    assert answer["same_person"] == []


# Several people in one file: all of them or none


def test_several_people_are_added_all_or_none(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(person("bob"))
    before = library.path_of("bob").read_bytes()
    several = [person(name, seed=seed) for seed, name in enumerate(("ada", "bob", "carol"), start=1)]
    with pytest.raises(IdentityError, match="already an identity 'bob'"):
        library.add_all(several)
    assert library.names() == ("bob",)
    with pytest.raises(IdentityError, match="both called"):
        library.add_all([person("ada"), person("ADA", seed=1)])
    begun = time.time()
    library.add(person("carol"))
    delete_person(library, "carol")
    with pytest.raises(IdentityError, match="'carol' was deleted"):
        library.add_all(several, replace=True, begun=begun)
    assert library.names() == ("bob",)
    assert library.path_of("bob").read_bytes() == before
    assert [path.stem for path in library.add_all(several, replace=True)] == ["ada", "bob", "carol"]
    assert library.names() == ("ada", "bob", "carol")


@pytest.mark.parametrize("call", ["flush_to_disk", "replace_file"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_disk_that_fails_at_any_of_several_people_adds_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    from celeb_basis import files

    library = Library(tmp_path)
    library.add(person("bob"))
    before = library.path_of("bob").read_bytes()
    original: Callable[..., None] = getattr(files, call)
    calls: list[object] = []

    def failing(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == number:
            raise OSError(28, "No space left on device")
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(files, call, failing)
        with pytest.raises(FileError, match="the disk is full"):
            library.add_all([person(name, seed=1) for name in ("ada", "bob", "carol")], replace=True)
    assert library.names() == ("bob",)
    assert library.path_of("bob").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tmp-")]


def test_a_file_of_two_people_is_imported_whole_or_not(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coefficients of the CelebBasis repository with two slots; the second name is taken."""
    library = service.workspace.library
    two = [person("ada"), person("eve", seed=1)]
    monkeypatch.setattr(type(service.import_export), "_read", lambda *_: two)
    full: list[Path] = []

    def refused(path: Path) -> None:
        full.append(path)
        if len(full) == 2:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("celeb_basis.files.flush_to_disk", refused)
        with pytest.raises(FileError, match="the disk is full"):
            service.import_export.import_file(b"", "two.pt")
    assert library.names() == ()
    assert [status.name for status in service.import_export.import_file(b"", "two.pt")] == ["ada", "eve"]
