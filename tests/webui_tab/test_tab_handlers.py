"""Handlers: their answers, errors that become notes, uploads in the form of each gradio version, and completion."""

from __future__ import annotations

import importlib
import io
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from celeb_basis.errors import FileError, IdentityError, NamesError
from celeb_basis.webui.face_models import FaceModels
from celeb_basis.webui.jobs import Job, Kind
from celeb_basis.webui.schemas import FoundFaces, SavedRun


def raising(error: Exception) -> object:
    raise error


def test_an_error_becomes_a_note_and_the_rest_stays(gradio_module: ModuleType) -> None:
    run = gradio_module.guarded(lambda: raising(IdentityError("Choose <another> name.")), ["a", "note"], note="note")
    answer = run()
    assert list(answer) == ["note"]
    assert "Choose &lt;another&gt; name." in answer["note"]
    assert 'role="alert"' in answer["note"]


def test_an_unusable_file_makes_room_for_another(gradio_module: ModuleType) -> None:
    outputs = ["a", "file", "note"]
    run = gradio_module.guarded(lambda: raising(FileError("Too large.")), outputs, note="note", clear_on_error="file")
    answer = run()
    assert answer.pop("file") is None
    assert list(answer) == ["note"]


def test_an_unexpected_error_is_shown_and_logged(gradio_module: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = gradio_module.guarded(lambda: raising(ZeroDivisionError("no")), ["a", "note"], note="note")()
    assert "error in celeb-basis itself" in answer["note"]
    assert "Traceback" not in answer["note"]
    assert caplog.records[0].exc_info


def test_an_answer_without_a_note_empties_it(gradio_module: ModuleType) -> None:
    guarded = gradio_module.guarded
    assert guarded(lambda: {"a": 1}, ["a", "b", "note"], note="note")() == {"a": 1, "note": ""}
    assert guarded(lambda: {"a": 1, "note": "said"}, ["a", "note"], note="note")() == {"a": 1, "note": "said"}
    assert guarded(lambda: None, ["note"], note="note")() == {"note": ""}
    assert guarded(lambda: {"a": 1}, ["a"])() == {"a": 1}


def test_no_change_is_no_empty_answer(gradio_module: ModuleType) -> None:
    """Gradio would show an empty dict as the value of the first output."""
    assert gradio_module.guarded(dict, ["a", "b"])() == {"a": gradio_module.gradio.update()}
    assert gradio_module.guarded(lambda: raising(FileError("Gone.")), ["a"])() == {"a": gradio_module.gradio.update()}
    assert gradio_module.guarded(lambda: None, [])() is None


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
    assert copy.is_file(), "only on request"
    # gradio makes one file of a photo that is uploaded twice.
    assert gradio_module.uploads([str(copy), str(copy), str(own)], spent=True) == [("ada.jpg", b"abc")] * 3
    assert not copy.parent.exists()
    assert own.is_file()
    third = SimpleNamespace(name=str(second), orig_name=str(first))  # as in Gradio 3
    assert gradio_module.upload_copies([third]) == [second, first]
    assert gradio_module.uploads([third], spent=True) == [("bob.jpg", b"abc")]
    assert not first.exists()
    assert not second.exists()


def test_the_number_in_front_of_a_picked_value_is_removed(gradio_module: ModuleType) -> None:
    assert gradio_module.picked("12:a:b") == "a:b"
    assert gradio_module.picked(None) == ""


def test_completion_offers_beginnings_first(gradio_module: ModuleType) -> None:
    assert gradio_module
    app = importlib.import_module("celeb_basis.webui.ui.app")
    names = ("Adam", "Grada", "ada", "bob", '<b id="x">')
    service = SimpleNamespace(workspace=SimpleNamespace(library=SimpleNamespace(names=lambda: names)))
    html = app.matching_names(service, "7:AD")
    assert html == '<div data-query="7:AD"><i>Adam</i><i>ada</i><i>Grada</i></div>'
    assert "<b id" not in app.matching_names(service, "8:")
    library = SimpleNamespace(names=lambda: tuple(f"p{i}" for i in range(500)))
    many = SimpleNamespace(workspace=SimpleNamespace(library=library))
    assert app.matching_names(many, "1:p").count("<i>") == app.MAX_COMPLETIONS


def test_photos_go_to_the_person_they_were_dropped_for(
    gradio_module: ModuleType, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = importlib.import_module("celeb_basis.webui.ui.learn_form").Draft()
    waiting: list[list[str]] = []

    def detect(_data: bytes, name: str) -> FoundFaces:
        waiting.append(list(draft.detecting))
        if name == "b.jpg":
            draft.add_person()  # another handler, at the same time
        if name == "c.jpg":
            raise FileError("c.jpg is no picture.")
        return FoundFaces(np.zeros((4, 4, 3), np.uint8), (), "No face.")

    files = [("a.jpg", b"a"), ("b.jpg", b"b"), ("c.jpg", b"c"), ("d.jpg", b"d")]
    monkeypatch.setattr(gradio_module, "uploads", lambda _given, **_: files)
    people = SimpleNamespace(check_name=lambda _name, **_: None)
    faces = SimpleNamespace(find_faces=detect, status=lambda: {"present": True})
    tab = build("learn", SimpleNamespace(faces=faces, people=people, preset_costs=dict))
    answer = tab.add_photos(draft, "ada", None)
    assert "c.jpg is no picture." in answer[tab.photo_note]
    assert answer[tab.files] is None
    assert tab.name not in answer, "the user may be typing in it"
    assert set(answer) == {*tab.draft_outputs, tab.files, tab.photo_note, tab.preset} - {
        tab.name,
        tab.name_note,
        tab.replace,
    }
    assert [[photo.name for photo in person.photos] for person in draft.people] == [["a.jpg", "b.jpg", "d.jpg"], []]
    assert waiting == [["a.jpg", "b.jpg", "c.jpg", "d.jpg"]] * 4
    assert draft.detecting == []


def test_photos_of_different_people_are_noticed_at_the_drop_zone(
    gradio_module: ModuleType, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, six_faces: Any
) -> None:
    models = FaceModels(lambda: "miniature")
    network = models.network()
    whole = Image.fromarray(six_faces)
    boxes = [face.box for face in network.detect(six_faces)]

    def jpeg(image: Image.Image, quality: int = 95) -> bytes:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return file.getvalue()

    def alone(number: int) -> Image.Image:
        left, top, right, bottom = boxes[number]
        margin = 0.6 * (bottom - top)
        part = whole.crop((left - margin, top - margin, right + margin, bottom + margin))
        return part.resize((part.width * 3, part.height * 3), Image.Resampling.BICUBIC)

    people = SimpleNamespace(check_name=lambda _name, **_: None)
    tab = build("learn", SimpleNamespace(faces=models, people=people, preset_costs=dict))
    draft = importlib.import_module("celeb_basis.webui.ui.learn_form").Draft()

    def add(name: str, data: bytes) -> str:
        monkeypatch.setattr(gradio_module, "uploads", lambda _given, **_: [(name, data)])
        return str(tab.add_photos(draft, "ada", None)[tab.likeness_note])

    assert add("one.jpg", jpeg(alone(0))) == ""
    assert add("again.jpg", jpeg(alone(0), 60)) == ""
    odd = add("other.jpg", jpeg(alone(1)))
    assert "other.jpg seems to show another person than the other photos" in odd
    assert "one.jpg" not in odd
    assert tab.remove_photo(draft)[tab.likeness_note] == ""
    # The largest face of a photo of several people is somebody else's, until the right one is selected.
    group = jpeg(ImageOps.mirror(whole))
    vectors = [models.vector(face) for face in models.find_faces(group).faces]
    right = int(np.argmax([vector @ models.vector(draft.person.photos[0].found.faces[0]) for vector in vectors]))
    add("group.jpg", group)
    wrong = next(number for number in range(6) if number != right)
    assert "group.jpg seems to show another person" in str(tab.pick_face(draft, f"1:{wrong + 1}")[tab.likeness_note])
    assert tab.pick_face(draft, f"2:{right + 1}")[tab.likeness_note] == ""
    tab.add_person(draft, "ada")
    assert add("other.jpg", jpeg(alone(1))) == "", "this one is another person"


def test_another_person_is_shown_with_every_component_of_the_draft(build: Callable[..., Any]) -> None:
    draft = importlib.import_module("celeb_basis.webui.ui.learn_form").Draft()
    people = SimpleNamespace(check_name=lambda _name, **_: "Choose another name.")
    tab = build("learn", SimpleNamespace(faces=SimpleNamespace(status=lambda: {"present": True}), people=people))
    answer = tab.add_person(draft, " ada ")
    assert set(answer) == set(tab.draft_outputs)
    assert (answer[tab.name], answer[tab.name_note]) == ("", "")
    answer = tab.select_person(draft, "", "1: ada")
    assert answer[tab.name] == "ada"
    assert "Choose another name." in answer[tab.name_note]


def test_the_weights_of_a_blend_belong_to_their_people(build: Callable[..., Any]) -> None:
    tab = build("blend", SimpleNamespace())
    rest = (0.5,) * (len(tab.weights) - 3)
    answer = tab.show_weights(["ada", "eve"], ["ada", "bob", "eve"], 0.9, 0.1, 0.3, *rest)
    sliders = [answer[weight] for weight in tab.weights]
    assert answer[tab.shown_people] == ["ada", "eve"]
    assert [(one["label"], one["value"]) for one in sliders[:2]] == [("ada", 0.9), ("eve", 0.3)]
    assert [one["value"] for one in sliders[2:]] == [0.5] * (len(tab.weights) - 2)
    assert "75%" in answer[tab.shares]
    assert "25%" in answer[tab.shares]
    again = tab.show_weights(["zoe", "ada"], ["ada", "eve"], 0.9, 0.3, *rest, 0.5)
    assert [again[weight]["value"] for weight in tab.weights[:2]] == [0.5, 0.9]
    assert not tab.show_shares(["ada"], 0.0)[tab.shares]


def test_the_steering_of_a_blend_becomes_its_request(build: Callable[..., Any]) -> None:
    asked: list[Any] = []
    job = Job("blend", ("ada",))
    job.set_state("done")
    library = SimpleNamespace(names=lambda: ("ada", "ben"))
    service = SimpleNamespace(
        start_blend=lambda request: asked.append(request) or job,
        jobs=lambda: [job],
        workspace=SimpleNamespace(library=library),
        inventing=SimpleNamespace(groups=lambda: ("women", "men")),
    )
    tab = build("blend", service)
    weights = (0.5,) * len(tab.weights)
    steering = (" Marie Curie ", 0.3, "", 0.5, "women", -0.4)
    tab.save(["ada"], "eve", 0.1, True, False, *steering, *weights)
    (request,) = asked
    assert (request.name, request.parts, request.toward_mean) == ("eve", (("ada", 0.5),), 0.1)
    assert request.celebrities == (("Marie Curie", 0.3),)
    assert request.groups == (("women", -0.4),)
    tab.save(["ada"], "eve", 0, True, False, None, 0.5, "", 0.5, "none", 0.5, *weights)
    assert (asked[1].celebrities, asked[1].groups) == ((), ())
    answer = tab.refresh(["ada", "gone"], "men")
    assert answer[tab.people]["value"] == ["ada"]
    assert (answer[tab.groups[0]]["choices"], answer[tab.groups[0]]["value"]) == (["none", "women", "men"], "men")
    service.inventing = SimpleNamespace(groups=lambda: raising(NamesError("The list is missing.")))
    answer = tab.refresh(["ada"], "men")[tab.groups[0]]
    assert (answer["choices"], answer["value"]) == (["none"], "none")


def test_a_job_is_shown_once_and_its_end_too(build: Callable[..., Any]) -> None:
    job = Job("evaluate", ("ada",))
    jobs: list[Job] = []
    tab = build("evaluate", SimpleNamespace(jobs=lambda: jobs))
    status, since = tab.view.status, tab.view._since
    mark = r'data-mark="([^"]*)"'
    assert since("none", tab.view.current()) == {}
    jobs.append(job)
    first = since("none", tab.view.current())
    assert set(first) == set(tab.view.outputs)
    seen = re.search(mark, first[status])
    assert seen
    assert since(seen[1], job) == {}
    job.set_state("running")
    running = re.search(mark, since(seen[1], job)[status])
    assert running
    job.report("Generating", step=1, total=3)
    assert set(since(running[1], job)) == {status}, "the results are the same"
    job.set_state("done")
    assert set(since(seen[1], job)) == set(tab.view.outputs)


def test_an_interrupted_run_is_discarded_only_after_a_question(build: Callable[..., Any]) -> None:
    saved = [SavedRun("0123456789ab", ("ada",), "sd1", 3, 12, ""), SavedRun("ba9876543210", ("bob",), "sd1", 1, 12, "")]
    done: list[tuple[str, str]] = []

    def discard(run: str) -> SavedRun:
        done.append(("discard", run))
        return saved.pop(next(index for index, one in enumerate(saved) if one.id == run))

    def resume(run: str) -> Job:
        done.append(("resume", run))
        return Job("learn", ("ada",))

    service = SimpleNamespace(
        faces=SimpleNamespace(status=lambda: {"present": True}),
        jobs=list,
        preset_costs=dict,
        saved_runs=lambda: list(saved),
        resume_run=resume,
        discard_run=discard,
    )
    tab = build("learn", service)
    runs = tab.runs
    asked = runs.pick("1:ask:ba9876543210")
    assert "discard:ba9876543210" in asked[runs.list]
    assert "discard:ba9876543210" not in runs.pick("2:keep:ba9876543210")[runs.list]
    assert done == []
    answer = runs.pick("3:discard:ba9876543210")
    assert "The run of bob is deleted." in answer[tab.note]
    assert "ba9876543210" not in answer[runs.list]
    assert set(runs.resume()) == {*tab.view.outputs, runs.list, tab.note}
    assert done == [("discard", "ba9876543210"), ("resume", "0123456789ab")]
    saved.clear()
    assert "no interrupted run" in runs.resume()[tab.note]


def test_a_fresh_page_shows_the_memory_the_runs_and_the_license(build: Callable[..., Any]) -> None:
    preset = importlib.import_module("celeb_basis.webui.ui.learn_form").preset_values("balanced")
    need: list[Any] = [None]
    service = SimpleNamespace(
        faces=SimpleNamespace(status=lambda: {"present": True}),
        jobs=list,
        preset_costs=lambda: {"quick": "about 20 s"},
        preparation_offer=lambda preset: "It is not prepared." if preset == "auto" else "",
        saved_runs=lambda: [SavedRun("0123456789ab", ("ada",), "sd1", 3, 12, "")],
        memory_need=lambda _preset, _settings: need[0],
    )
    tab = build("learn", service)
    assert 'data-unknown="celeb_basis_learn_opened"' in tab.show_memory("balanced", *preset)[tab.memory]
    need[0] = SimpleNamespace(sentence=lambda: "About 5 GB.", fits=True)
    shown = tab.show_memory("balanced", *preset)
    known, known_button = shown[tab.memory], shown[tab.prepare_button]
    assert "About 5 GB." in known
    assert "data-unknown" not in known
    now = tab.show_now()
    assert "resume:0123456789ab" in now[tab.runs.list]
    assert set(now) == {tab.runs.list, *tab.license_outputs, tab.preset, tab.interrupt_button, tab.resume_button}
    assert now[tab.preset]["choices"][:2] == [("Automatic", "auto"), ("Quick\nabout 20 s", "quick")]
    offered = tab.show_memory("auto", *preset)
    assert "It is not prepared." in offered[tab.memory]
    assert offered[tab.prepare_button]["visible"]
    assert not known_button["visible"], "a preset was chosen"
    assert now[tab.resume_button]["visible"], "a run was interrupted"
    assert not now[tab.interrupt_button]["visible"], "nothing is under way"


def test_a_run_that_is_under_way_can_be_interrupted_and_nothing_else(build: Callable[..., Any]) -> None:
    jobs = [Job("learn", ("ada",))]
    service = SimpleNamespace(
        faces=SimpleNamespace(status=lambda: {"present": True}),
        jobs=lambda: jobs,
        preset_costs=dict,
        saved_runs=lambda: [SavedRun("0123456789ab", ("bob",), "sd1", 3, 12, "")],
    )
    tab = build("learn", service)
    shown = tab.view.show()
    assert shown[tab.interrupt_button]["visible"]
    assert not shown[tab.resume_button]["visible"]
    jobs[0].set_state("done")
    shown = tab.view.show()
    assert not shown[tab.interrupt_button]["visible"]
    assert shown[tab.resume_button]["visible"]


def test_replacing_is_asked_only_for_a_name_that_is_taken(build: Callable[..., Any]) -> None:
    def check(name: str, *, replace: bool) -> str | None:
        return (
            "contains '/'" if "/" in name else "There is already a person." if name == "ada" and not replace else None
        )

    service = SimpleNamespace(
        faces=SimpleNamespace(status=lambda: {"present": True}),
        people=SimpleNamespace(check_name=check),
        preset_costs=dict,
    )
    tab = build("learn", service)
    draft = importlib.import_module("celeb_basis.webui.ui.learn_form").Draft()
    taken = tab.check_name(draft, "ada", False)
    assert "There is already a person." in taken[tab.name_note]
    assert taken[tab.replace] == {"__type__": "update", "value": False, "visible": True}
    replaced = tab.check_name(draft, "ada", True)
    assert "replaced" in replaced[tab.name_note]
    assert replaced[tab.replace]["value"]
    for name in ("eve", "e/e", ""):
        shown = tab.check_name(draft, name, True)
        assert shown[tab.replace] == {"__type__": "update", "value": False, "visible": False}, name


def test_the_job_that_is_next_is_shown_before_the_newest(build: Callable[..., Any]) -> None:
    resumed, queued, done = (Job("evaluate", (name,)) for name in ("ada", "bob", "eve"))
    done.set_state("done")
    jobs = [done, queued, resumed]  # newest first
    tab = build("evaluate", SimpleNamespace(jobs=lambda: jobs))
    assert tab.view.current() is resumed
    queued.set_state("running")
    assert tab.view.current() is queued
    for job in jobs:
        job.set_state("done")
    assert tab.view.current() is done


@pytest.mark.parametrize(
    ("name", "kind"), [("invent", "invent"), ("evaluate", "evaluate"), ("blend", "preview"), ("basis", "basis")]
)
def test_interrupt_is_shown_while_a_job_is_under_way(build: Callable[..., Any], name: str, kind: Kind) -> None:
    jobs: list[Job] = []
    tab = build(name, SimpleNamespace(jobs=lambda: jobs))
    assert not tab.view.show()[tab.interrupt_button]["visible"]
    jobs.append(Job(kind, ()))
    assert tab.view.show()[tab.interrupt_button]["visible"]
    jobs[0].set_state("interrupted")
    assert not tab.view.show()[tab.interrupt_button]["visible"]
    assert tab.interrupt_button in tab.view.outputs
