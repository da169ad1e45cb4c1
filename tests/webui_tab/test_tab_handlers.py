"""Handlers: errors become sentences in the page, uploads are read in every form, completion finds names."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from celeb_basis.errors import FileError, IdentityError
from celeb_basis.webui.schemas import FoundFaces


def raising(error: Exception) -> object:
    raise error


def test_an_error_is_a_sentence_and_the_rest_stays(gradio_module: ModuleType) -> None:
    run = gradio_module.guarded(lambda: raising(IdentityError("Choose <another> name.")), 2, True)
    first, second, note = run()
    assert first == second == gradio_module.gradio.update()
    assert "Choose &lt;another&gt; name." in note
    assert 'role="alert"' in note


def test_a_file_of_no_use_makes_room_for_another(gradio_module: ModuleType) -> None:
    run = gradio_module.guarded(lambda: raising(FileError("Too large.")), 3, True, 1)
    stays = gradio_module.gradio.update()
    assert run()[:3] == [stays, None, stays]


def test_an_error_of_our_own_is_told_and_logged(gradio_module: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        _, note = gradio_module.guarded(lambda: raising(ZeroDivisionError("no")), 1, True)()
    assert "error in celeb-basis itself" in note
    assert "Traceback" not in note
    assert caplog.records[0].exc_info


def test_answers_are_completed_by_an_empty_note(gradio_module: ModuleType) -> None:
    keep = gradio_module.KEEP
    assert gradio_module.guarded(lambda: (1, keep), 2, True)() == [1, gradio_module.gradio.update(), ""]
    assert gradio_module.guarded(lambda: (1, "said"), 1, True)() == [1, "said"]
    assert gradio_module.guarded(lambda: 1, 1, False)() == 1
    assert gradio_module.guarded(lambda: "said", 0, True)() == "said"
    assert gradio_module.guarded(lambda: None, 0, True)() == ""
    assert gradio_module.guarded(lambda: None, 0, False)() is None


def test_uploads_of_both_gradio_versions(
    gradio_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "temporary.jpg"
    path.write_bytes(b"abc")
    third = SimpleNamespace(name=str(path), orig_name="/somewhere/ada.jpg")
    assert gradio_module.uploads([third]) == [("ada.jpg", b"abc")]
    assert gradio_module.uploads(str(path)) == [("temporary.jpg", b"abc")]
    assert gradio_module.uploads(None) == []
    with pytest.raises(FileError):
        gradio_module.uploads(str(tmp_path / "gone.jpg"))
    monkeypatch.setattr(gradio_module, "MAX_UPLOAD", 2)
    with pytest.raises(FileError, match="smaller file"):
        gradio_module.uploads(str(path))


def test_a_copy_that_gradio_made_is_deleted_and_no_other_file(
    gradio_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    copy, own = tmp_path / "gradio" / "0123abcd" / "ada.jpg", tmp_path / "ada.jpg"
    first, second = (tmp_path / "gradio" / name / "bob.jpg" for name in ("came", "copied"))
    for path in (copy, own, first, second):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"abc")
    assert gradio_module.uploads([str(copy)]) == [("ada.jpg", b"abc")]
    assert copy.is_file(), "only when it is asked for"
    # One photo given twice is one file to gradio.
    assert gradio_module.uploads([str(copy), str(copy), str(own)], spent=True) == [("ada.jpg", b"abc")] * 3
    assert not copy.parent.exists()
    assert own.is_file()
    third = SimpleNamespace(name=str(second), orig_name=str(first))  # as Gradio 3 gives it
    assert gradio_module.upload_copies([third]) == [second, first]
    assert gradio_module.uploads([third], spent=True) == [("bob.jpg", b"abc")]
    assert not first.exists()
    assert not second.exists()


def test_what_the_script_put_in_loses_its_number(gradio_module: ModuleType) -> None:
    assert gradio_module.picked("12:a:b") == "a:b"
    assert gradio_module.picked(None) == ""


def test_completion_offers_beginnings_first(gradio_module: ModuleType) -> None:
    assert gradio_module
    completion = importlib.import_module("celeb_basis.webui.ui.app")
    names = ("Adam", "ada", "Grada", "bob", '<b id="x">')
    service = SimpleNamespace(workspace=SimpleNamespace(library=SimpleNamespace(names=lambda: names)))
    html = completion.offered(service, "7:AD")
    assert html == '<div data-query="7:AD"><i>Adam</i><i>ada</i><i>Grada</i></div>'
    assert "<b id" not in completion.offered(service, "8:")
    library = SimpleNamespace(names=lambda: tuple(f"p{i}" for i in range(500)))
    many = SimpleNamespace(workspace=SimpleNamespace(library=library))
    assert completion.offered(many, "1:p").count("<i>") == completion.MOST


def test_photos_go_to_whom_they_were_dropped_for(gradio_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = importlib.import_module("celeb_basis.webui.ui.learn")
    drafts = importlib.import_module("celeb_basis.webui.ui.learn_form")
    draft = drafts.Draft()
    waiting: list[list[str]] = []

    def detect(_data: bytes, name: str) -> FoundFaces:
        waiting.append(list(draft.looked_at))
        if name == "b.jpg":
            draft.add_person()  # another handler, meanwhile
        if name == "c.jpg":
            raise FileError("c.jpg is no picture.")
        return FoundFaces(np.zeros((4, 4, 3), np.uint8), (), "No face.")

    files = [("a.jpg", b"a"), ("b.jpg", b"b"), ("c.jpg", b"c"), ("d.jpg", b"d")]
    monkeypatch.setattr(gradio_module, "uploads", lambda _given, **_: files)
    people = SimpleNamespace(check_name=lambda _name, **_: None)
    tab = learn.LearnTab(SimpleNamespace(faces=SimpleNamespace(find_faces=detect), people=people))
    *_, told = tab.add_photos(draft, "ada", None)
    assert "c.jpg is no picture." in told
    assert [[photo.name for photo in person.photos] for person in draft.people] == [["a.jpg", "b.jpg", "d.jpg"], []]
    assert waiting == [["a.jpg", "b.jpg", "c.jpg", "d.jpg"]] * 4
    assert draft.looked_at == []


@pytest.mark.usefixtures("gradio_module")
def test_sliders_of_a_mixture_belong_to_their_people() -> None:
    blend = importlib.import_module("celeb_basis.webui.ui.blend")
    tab = blend.BlendTab(SimpleNamespace())
    rest = (0.5,) * (blend.MOST - 3)
    names, *sliders, shares = tab.sliders(["ada", "eve"], ["ada", "bob", "eve"], 0.9, 0.1, 0.3, *rest)
    assert names == ["ada", "eve"]
    assert [(one["label"], one["value"]) for one in sliders[:2]] == [("ada", 0.9), ("eve", 0.3)]
    assert [one["value"] for one in sliders[2:]] == [0.5] * (blend.MOST - 2)
    assert "75%" in shares
    assert "25%" in shares
    _, first, second, *_ = tab.sliders(["zoe", "ada"], names, 0.9, 0.3, *rest, 0.5)
    assert (first["value"], second["value"]) == (0.5, 0.9)
