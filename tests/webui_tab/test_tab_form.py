"""The state of the Learn tab's form: people and photos, and the advanced settings."""

from __future__ import annotations

from dataclasses import fields as dataclass_fields
from typing import Any

import numpy as np
import pytest

from celeb_basis.errors import SettingsError, TrainingError
from celeb_basis.faces.network import DetectedFace
from celeb_basis.settings import PRESET_NAMES, PRESETS, TrainingSettings, preset
from celeb_basis.webui.schemas import FoundFace, FoundFaces
from celeb_basis.webui.ui.learn_form import Draft, changes, form_fields, position, preset_values


def found(count: int) -> FoundFaces:
    faces = [
        FoundFace(DetectedFace((10.0 * i, 5.0, 10.0 * i + 8, 15.0), np.zeros((5, 2), np.float32), 0.9), ())
        for i in range(count)
    ]
    return FoundFaces(np.zeros((40, 80, 3), np.uint8), tuple(faces), "" if faces else "No face was found.")


def test_every_setting_is_in_the_form_with_its_help_and_range() -> None:
    form = {one.name: one for one in form_fields()}
    assert list(form) == [item.name for item in dataclass_fields(TrainingSettings)]
    for item in dataclass_fields(TrainingSettings):
        assert form[item.name].info.lower().startswith(item.metadata["help"].lower())
        assert form[item.name].default == item.default
    assert form["steps"].info.endswith("(1 to 100,000)")
    assert (form["steps"].kind, form["learning_rate"].kind) == ("whole", "number")
    assert (form["describe"].kind, form["mode"].kind) == ("switch", "choice")
    assert form["mode"].choices == ("head", "direct")


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_an_untouched_form_changes_nothing(name: str) -> None:
    values = preset_values(name)
    assert changes(name, values) == {}
    shown_as_floats = [float(value) if type(value) is int else value for value in values]
    assert preset(name).changed(changes(name, shown_as_floats)) == preset(name)


def test_only_changed_settings_are_requested() -> None:
    values: list[Any] = preset_values("quick")
    names = [one.name for one in form_fields()]
    values[names.index("steps")] = 33.0
    values[names.index("describe")] = False
    values[names.index("learning_rate")] = None  # emptied
    asked = changes("quick", values)
    assert asked == {"steps": 33, "describe": False}
    assert PRESETS["quick"].changed(asked).steps == 33


def test_a_value_out_of_its_range_is_the_settings_own_error() -> None:
    values = preset_values("balanced")
    values[2] = 0
    with pytest.raises(SettingsError, match="steps is 0: choose a value from 1 to 100000"):
        PRESETS["balanced"].changed(changes("balanced", values))


def test_people_and_photos_come_and_go() -> None:
    draft = Draft()
    draft.person.name = "ada"
    draft.person.add_photo("a.jpg", b"a", found(3))
    draft.person.add_photo("b.jpg", b"b", found(1))
    assert [photo.name for photo in draft.person.photos] == ["a.jpg", "b.jpg"]
    assert draft.person.shown == 1
    draft.add_person()
    assert draft.labels() == ["1: ada", "2: no name yet"]
    draft.person.name = "bob"
    draft.person.add_photo("c.jpg", b"c", found(1))
    draft.current = position(draft.labels(), "1: ada")
    draft.remove_photo()
    assert [photo.name for photo in draft.person.photos] == ["a.jpg"]
    draft.remove_person()
    assert draft.labels() == ["1: bob"]
    draft.remove_person()
    assert draft.labels() == ["1: no name yet"]
    draft.remove_photo()  # there is none
    draft.add_person()
    draft.clear()
    assert (draft.labels(), draft.current) == (["1: no name yet"], 0)


@pytest.mark.parametrize(("number", "chosen"), [("3", 2), ("1", 0), ("0", 1), ("4", 1), ("x", 1), ("", 1), ("-1", 1)])
def test_a_face_is_selected_by_the_number_that_is_shown(number: str, chosen: int) -> None:
    draft = Draft()
    draft.person.add_photo("a.jpg", b"a", found(3))
    draft.select_face("2")
    draft.select_face(number)
    assert draft.person.photos[0].face == chosen


def test_the_request_holds_people_photos_and_choices() -> None:
    draft = Draft()
    draft.person.name = " ada "
    draft.person.add_photo("a.jpg", b"a", found(3))
    draft.select_face("3")
    draft.add_person()  # left empty
    asked = draft.request("quick", {"steps": 5}, consent=True, consent_note=" by mail ", notes="n ", replace=True)
    asked.check()
    (person,) = asked.people
    assert person.name == "ada"
    assert [(photo.name, photo.data, photo.face) for photo in person.photos] == [("a.jpg", b"a", 2)]
    assert (asked.consent_note, asked.notes, asked.replace) == ("by mail", "n", True)
    assert asked.learn_settings() == PRESETS["quick"].changed({"steps": 5})


def test_an_empty_draft_is_refused_with_a_message() -> None:
    draft = Draft()
    draft.person.name = "ada"
    with pytest.raises(TrainingError, match="ada has no photo"):
        draft.request("quick", {}, consent=True).check()
    draft.person.add_photo("a.jpg", b"a", found(1))
    with pytest.raises(TrainingError, match="Consent is missing"):
        draft.request("quick", {}, consent=False).check()


def test_photos_are_those_of_the_person_they_were_dropped_for() -> None:
    draft = Draft()
    ada = draft.person
    draft.add_person()
    ada.add_photo("a.jpg", b"a", found(1))
    assert draft.person.photos == []
    assert [photo.name for photo in ada.photos] == ["a.jpg"]


def test_nothing_starts_while_faces_are_being_detected() -> None:
    draft = Draft()
    draft.person.name = "ada"
    draft.person.add_photo("a.jpg", b"a", found(1))
    draft.detecting.append("b.jpg")
    with pytest.raises(TrainingError, match=r"detected in b\.jpg"):
        draft.request("quick", {}, consent=True)


def test_a_large_photo_is_kept_only_as_large_as_it_is_shown() -> None:
    face = DetectedFace((1000.0, 600.0, 1400.0, 1200.0), np.full((5, 2), 1200, np.float32), 0.9)
    large = FoundFaces(np.full((1800, 3600, 3), 9, np.uint8), (FoundFace(face, ("blurred",)),), "")
    draft = Draft()
    draft.person.add_photo("a.jpg", b"a", large)
    (photo,) = draft.person.photos
    assert photo.found.picture.shape == (450, 900, 3)
    assert photo.found.faces[0].face.box == pytest.approx((250, 150, 350, 300))
    assert photo.found.faces[0].face.landmarks == pytest.approx(np.full((5, 2), 300))
    assert photo.found.faces[0].warnings == ("blurred",)
    assert photo.data == b"a", "the photo that is learned from stays as it is"
