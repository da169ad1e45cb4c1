"""*Paint faces again with <ada>*: what becomes of ADetailer's arguments, as its version 25.3.0 gets them from page and API."""

from __future__ import annotations

import copy
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from celeb_basis.errors import HostError
from celeb_basis.identities.library import IdentityStatus
from celeb_basis.prompts.syntax import bracketed_in
from celeb_basis.webui import adetailer
from celeb_basis.webui.adetailer import ADetailer, paint_faces_again, prompt_for

ADA, BEN = "<ada>", "<ben>"
LEFT_TO_RIGHT = "Position (left to right)"
SORTINGS = ["None", LEFT_TO_RIGHT, "Position (center to edge)", "Area (large to small)"]

# As ADetailer's page passes the tab "1st", recorded in WebUI 1.10.1, shortened by what has no part in this.
TAB = {
    "ad_model": "face_yolov8n.pt",
    "ad_model_classes": "",
    "ad_tab_enable": True,
    "ad_prompt": "",
    "ad_negative_prompt": "",
    "ad_confidence": 0.3,
    "ad_mask_k": 0,
    "ad_denoising_strength": 0.4,
    "is_api": (),
}
MODELS = {
    "hand_yolov8n.pt": "h",
    "mediapipe_face_mesh_eyes_only": "e",
    "face_yolov8n.pt": "f",
    "mediapipe_face_full": "m",
}


def tab(**changes: Any) -> dict[str, Any]:
    return {**TAB, **changes}


def free(**changes: Any) -> dict[str, Any]:
    """Another tab as it is while nothing was set in it."""
    return tab(ad_model="None", **changes)


@dataclass
class Arguments:
    """ADetailer's class of arguments, as far as they are used here: it refuses what it does not know."""

    ad_model: str = "None"
    ad_model_classes: str = ""
    ad_tab_enable: bool = True
    ad_prompt: str = ""
    ad_negative_prompt: str = ""
    ad_confidence: float = 0.3
    ad_mask_k: int = 0
    ad_denoising_strength: float = 0.4
    is_api: Any = True


@functools.cache  # pydantic refuses the same validators twice
def _real_arguments() -> ModuleType | None:
    """``adetailer/args.py`` of the checkout in ``CELEB_BASIS_NEIGHBOURS``."""
    file = Path(os.environ.get("CELEB_BASIS_NEIGHBOURS") or "/nowhere") / "adetailer" / "adetailer" / "args.py"
    if not file.is_file():
        return None
    spec = importlib.util.spec_from_file_location("adetailer_args_for_tests", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks annotations up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["recorded", "its own source"])
def module(request: pytest.FixtureRequest) -> Any:
    """The module of ADetailer's script."""
    known = SimpleNamespace(
        ADetailerArgs=Arguments, model_mapping=dict(MODELS), BBOX_SORTBY=SORTINGS, __version__="25.3.0"
    )
    if request.param == "its own source":
        if (real := _real_arguments()) is None:
            pytest.skip("needs ADetailer: set CELEB_BASIS_NEIGHBOURS to a folder with its checkout")
        known.ADetailerArgs, known.BBOX_SORTBY = real.ADetailerArgs, real.BBOX_SORTBY
    return known


@dataclass
class FakeTokens:
    """A library of three, one of whom the checkpoint cannot draw."""

    known: tuple[str, ...] = ("ada", "ben", "large")

    def mentioned(self, *prompts: str) -> tuple[IdentityStatus, ...]:
        found = [one.partition(":")[0] for prompt in prompts for one in bracketed_in(prompt)]
        return tuple(
            IdentityStatus(
                name, Path(f"{name}.safetensors"), reason="It was learned on SDXL." if name == "large" else ""
            )
            for name in dict.fromkeys(one.casefold() for one in found)
            if name in self.known
        )


class AfterDetailerScript:
    """ADetailer's script among the host's: it takes four of their arguments."""

    args_from, args_to = 2, 6


@dataclass
class Job:
    """What is used of the host's processing object."""

    script_args: Any
    scripts: Any = field(default_factory=lambda: SimpleNamespace(alwayson_scripts=[AfterDetailerScript()]))
    override_settings: dict[str, Any] = field(default_factory=dict)
    override_settings_restore_afterwards: bool = True
    comments: list[str] = field(default_factory=list)

    def comment(self, text: str) -> None:
        self.comments.append(text)

    @property
    def theirs(self) -> Sequence[Any]:
        """ADetailer's arguments."""
        return list(self.script_args[2:6])


def job(on: bool, *tabs: dict[str, Any], skip: bool = False, **options: Any) -> Job:
    return Job((0, "another script's", on, skip, *tabs, ["ours"], "the last"), **options)


@pytest.fixture
def host(module: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The host's record of the scripts that it has loaded."""
    loaded = SimpleNamespace(scripts_data=[SimpleNamespace(script_class=AfterDetailerScript, module=module)])
    monkeypatch.setattr(adetailer, "host_module", lambda _name: loaded)
    return loaded


@pytest.fixture
def paint(host: Any) -> Callable[..., tuple[str, ...]]:
    assert host
    tokens: Any = FakeTokens  # which need no registry here
    return lambda one, chosen: paint_faces_again(one, chosen, tokens)


Paint = Callable[..., tuple[str, ...]]


def test_faces_are_painted_with_the_person(paint: Paint) -> None:
    one = job(False, tab(), free())
    assert paint(one, ["ada"]) == ()
    assert one.theirs == [True, False, tab(ad_prompt=ADA), free()]
    assert (one.script_args[:2], one.script_args[6:]) == ((0, "another script's"), (["ours"], "the last"))
    assert type(one.script_args) is tuple
    assert one.override_settings == {}
    assert one.comments == []


@pytest.mark.parametrize("nobody", [[], None, "", [""], "<>", 0, {}])
def test_without_a_choice_nothing_is_touched(paint: Paint, nobody: Any) -> None:
    one = job(True, tab(ad_prompt="own"), free(), skip=True)
    arguments, before = one.script_args, copy.deepcopy(one.script_args)
    assert paint(one, nobody) == ()
    assert one.script_args is arguments
    assert one.script_args == before
    assert (one.override_settings, one.comments) == ({}, [])


def test_what_was_passed_is_not_changed(paint: Paint) -> None:
    """The API passes the same defaults to every request."""
    one = job(False, tab(), free(ad_prompt="x"))
    arguments, before = one.script_args, copy.deepcopy(one.script_args)
    settings = one.override_settings
    paint(one, ["ada", "ben"])
    assert arguments == before
    assert settings == {}


@pytest.mark.parametrize("chosen", ["ada", "<ada>", ["<ada>"], ("ADA",), [" ada ", "Ada"]])
def test_a_person_may_be_written_in_any_way(paint: Paint, chosen: Any) -> None:
    one = job(False, tab(), free())
    assert paint(one, chosen) == ()
    assert one.theirs[2]["ad_prompt"] == ADA


def test_two_people_go_from_left_to_right_and_further_faces_stay(paint: Paint) -> None:
    one = job(False, tab(), free())
    paint(one, ["ben", "ada"])
    assert one.theirs[2]["ad_prompt"] == "<ben> [SEP] <ada> [SEP] [SKIP]"
    assert one.override_settings == {"ad_bbox_sortby": LEFT_TO_RIGHT}


def test_the_order_that_the_job_asks_for_counts(paint: Paint) -> None:
    one = job(False, tab(), free(), override_settings={"ad_bbox_sortby": "Area (large to small)", "x": 1})
    assert paint(one, ["ada", "ben"]) == ()
    assert one.override_settings == {"ad_bbox_sortby": "Area (large to small)", "x": 1}


def test_a_job_that_changes_settings_for_good_does_not_get_ours(paint: Paint) -> None:
    one = job(False, tab(), free(), override_settings_restore_afterwards=False)
    (message,) = paint(one, ["ada", "ben"])
    assert one.override_settings == {}
    assert LEFT_TO_RIGHT in message
    assert one.comments == [message]
    assert "[SEP]" in one.theirs[2]["ad_prompt"]


def test_a_version_that_cannot_sort_says_so(paint: Paint, module: Any) -> None:
    del module.BBOX_SORTBY
    one = job(False, tab(), free())
    (message,) = paint(one, ["ada", "ben"])
    assert "order" in message
    assert one.override_settings == {}


# What the user set in ADetailer


def test_settings_of_the_tab_are_kept_and_the_person_stands_before_its_prompt(paint: Paint) -> None:
    own = tab(ad_prompt="oil painting", ad_negative_prompt="blurry", ad_confidence=0.7, ad_denoising_strength=0.6)
    hand = tab(ad_model="hand_yolov8n.pt", ad_prompt="a hand")
    one = job(True, hand, own, skip=True)
    assert paint(one, "ada") == ()
    assert one.theirs == [True, True, hand, own | {"ad_prompt": "<ada>, oil painting"}]


def test_what_was_switched_off_does_not_run_beside(paint: Paint) -> None:
    hand = tab(ad_model="hand_yolov8n.pt", ad_prompt="a hand")
    one = job(False, hand, tab(), skip=True)
    assert paint(one, "ada") == ()
    assert one.theirs == [True, False, hand | {"ad_model": "None"}, tab(ad_prompt=ADA)]


def test_a_tab_that_is_on_goes_before_one_that_is_off(paint: Paint) -> None:
    one = job(True, tab(ad_tab_enable=False), tab(ad_model="mediapipe_face_short"))
    paint(one, "ada")
    assert one.theirs[2:] == [tab(ad_tab_enable=False), tab(ad_model="mediapipe_face_short", ad_prompt=ADA)]


def test_a_tab_for_faces_that_is_off_is_switched_on(paint: Paint) -> None:
    one = job(True, tab(ad_tab_enable=False), tab(ad_model="hand_yolov8n.pt"))
    paint(one, "ada")
    assert one.theirs[2:] == [tab(ad_prompt=ADA), tab(ad_model="hand_yolov8n.pt")]


def test_a_free_tab_gets_a_detector_of_whole_faces(paint: Paint) -> None:
    one = job(True, tab(ad_model="mediapipe_face_mesh_eyes_only"), free(ad_confidence=0.5))
    paint(one, "ada")
    expected = tab(ad_model="face_yolov8n.pt", ad_prompt=ADA, ad_confidence=0.5)
    assert one.theirs[2:] == [tab(ad_model="mediapipe_face_mesh_eyes_only"), expected]


def test_without_a_free_tab_it_says_so_and_nothing_is_changed(paint: Paint) -> None:
    hand = tab(ad_model="hand_yolov8n.pt")
    one = job(True, hand, hand)
    (message,) = paint(one, "ada")
    assert one.theirs == [True, False, hand, hand]
    assert message.startswith("No face was painted again: every tab of ADetailer")
    assert one.comments == [message]


def test_tabs_for_other_things_are_free_while_adetailer_is_off(paint: Paint) -> None:
    hand = tab(ad_model="hand_yolov8n.pt", ad_prompt="a hand", ad_confidence=0.9)
    one = job(False, hand, hand)
    assert paint(one, "ada") == ()
    _, _, first, second = one.theirs
    assert (first["ad_model"], first["ad_prompt"], second["ad_model"]) == ("face_yolov8n.pt", ADA, "None")
    assert "ad_confidence" not in first, "a setting for hands"


def test_without_a_detector_for_faces_it_says_so(paint: Paint, module: Any) -> None:
    module.model_mapping = {"hand_yolov8n.pt": "h"}
    one = job(True, free(), free())
    (message,) = paint(one, "ada")
    assert "models/adetailer" in message
    assert one.theirs == [True, False, free(), free()]


def test_a_prompt_of_adetailers_own_with_people_wins_and_is_named(paint: Paint) -> None:
    own = tab(ad_prompt="a photo of <ben:0.8>")
    one = job(True, own, free())
    (message,) = paint(one, "ada")
    assert one.theirs[2] == own
    assert BEN in message
    assert ADA in message
    assert one.comments == [message]


def test_the_same_job_again_changes_nothing_more_and_says_nothing(paint: Paint) -> None:
    """ADetailer and scripts such as *Loopback* begin the same job several times."""
    one = job(False, tab(ad_prompt="smiling"), tab(ad_model="hand_yolov8n.pt"))
    paint(one, ["ada", "ben"])
    once, settings = copy.deepcopy(one.script_args), dict(one.override_settings)
    assert paint(one, ["ada", "ben"]) == ()
    assert (one.script_args, one.override_settings) == (once, settings)


def test_adetailers_own_jobs_are_left_alone(paint: Paint) -> None:
    one = job(True, tab(), free())
    one._ad_inner = True  # type: ignore[attr-defined]
    assert paint(one, "ada") == ()
    assert one.theirs == [True, False, tab(), free()]


def test_the_api_may_leave_out_the_switches(paint: Paint) -> None:
    one = Job([0, "x", {"ad_model": "face_yolov8n.pt"}, False, tab(), None, ["ours"]])
    paint(one, "ada")
    assert one.theirs == [{"ad_model": "face_yolov8n.pt", "ad_prompt": ADA}, False, tab(), None]
    assert type(one.script_args) is list


# People who cannot be drawn


@pytest.mark.parametrize(
    ("chosen", "word"), [("eve", "no <eve>"), ("large", "SDXL"), (["ada", "eve"], "no <eve>"), ("a:b", "no <a:b>")]
)
def test_who_cannot_be_drawn_is_named_and_nothing_is_painted(paint: Paint, chosen: Any, word: str) -> None:
    one = job(True, tab(), free())
    (message,) = paint(one, chosen)
    assert one.theirs == [True, False, tab(), free()]
    assert word in message
    assert message.startswith("No face was painted again: ")
    assert one.comments == [message]


# Versions that are not known


def test_an_unknown_version_is_a_sentence(paint: Paint, module: Any, host: Any) -> None:
    def renamed(**given: Any) -> Any:
        raise ValueError(given)

    for name, value in (
        ("ADetailerArgs", None),
        ("ADetailerArgs", renamed),
        ("ADetailerArgs", lambda **given: SimpleNamespace(ad_prompt="", ad_model=given["ad_model"])),
        ("ADetailerArgs", lambda **_given: object()),
        ("model_mapping", None),
        ("model_mapping", ["face.pt"]),
    ):
        changed = SimpleNamespace(**{**vars(module), "__version__": "99.1", name: value})
        host.scripts_data[0].module = changed
        one = job(True, tab(), free())
        (message,) = paint(one, "ada")
        assert "ADetailer 99.1 is not known" in message, (name, value)
        assert "25.3" in message
        assert message.count("\n") == 0
        assert one.theirs == [True, False, tab(), free()]


def test_arguments_of_another_form_are_a_sentence(paint: Paint) -> None:
    one = Job((0, "x", True, False, "face_yolov8n.pt", "", ["ours"]))
    (message,) = paint(one, "ada")
    assert "not known" in message
    assert one.theirs == [True, False, "face_yolov8n.pt", ""]


def test_any_other_failure_is_a_sentence_too(paint: Paint, host: Any) -> None:
    class Hostile(AfterDetailerScript):
        args_from = property(lambda _self: 1 / 0)

    Hostile.__name__ = "AfterDetailerScript"
    assert host
    one = job(True, tab(), free(), scripts=SimpleNamespace(alwayson_scripts=[Hostile()]))
    (message,) = paint(one, "ada")
    assert message.startswith("No face was painted again: ADetailer")
    assert one.comments == [message]


@pytest.mark.parametrize("scripts", [None, SimpleNamespace(alwayson_scripts=[]), object()])
def test_without_adetailer_it_says_so(paint: Paint, scripts: Any) -> None:
    one = job(True, tab(), free(), scripts=scripts)
    (message,) = paint(one, "ada")
    assert "not installed" in message


def test_it_is_found_among_the_hosts_scripts(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert adetailer.is_installed()
    host.scripts_data.pop()
    assert not adetailer.is_installed()
    monkeypatch.setattr(adetailer, "host_module", lambda _name: SimpleNamespace())  # a fork that keeps them elsewhere
    assert not adetailer.is_installed()


def test_a_host_without_comments_still_paints(paint: Paint, caplog: pytest.LogCaptureFixture) -> None:
    one = job(True, tab(), free())
    one.comment = None  # type: ignore[assignment, method-assign]
    assert len(paint(one, "eve")) == 1
    assert "eve" in caplog.text


# The prompt, as ADetailer 25.3.0 reads it


def read_by_adetailer(prompt: str, face: int) -> str:
    """What it paints a face from: the parts between [SEP], the last of them for all further faces."""
    parts = re.split(r"\s*\[SEP\]\s*", prompt)
    return parts[min(face, len(parts) - 1)]


@pytest.mark.parametrize(
    ("people", "own", "faces"),
    [
        ([ADA], "", [ADA, ADA, ADA]),
        ([ADA], "smiling", ["<ada>, smiling"] * 3),
        ([ADA], "young [SEP] old", ["<ada>, young", "<ada>, old", "<ada>, old"]),
        ([ADA], "[SKIP] [SEP] old", ["[SKIP]", "<ada>, old", "<ada>, old"]),
        ([ADA, BEN], "", [ADA, BEN, "[SKIP]"]),
        ([ADA, BEN], "[PROMPT]", ["<ada>, [PROMPT]", "<ben>, [PROMPT]", "[SKIP]"]),
        ([ADA, BEN], "young [SEP] old", ["<ada>, young", "<ben>, old", "[SKIP]"]),
        ([ADA, BEN], "young [SEP] [SEP] old", ["<ada>, young", BEN, "old"]),
        ([ADA, BEN], "  ", [ADA, BEN, "[SKIP]"]),
    ],
)
def test_each_face_gets_its_person_and_the_users_words(people: list[str], own: str, faces: list[str]) -> None:
    prompt = prompt_for(people, own)
    assert [read_by_adetailer(prompt, face) for face in range(len(faces))] == faces


def test_what_is_read_from_the_module(module: Any) -> None:
    found = ADetailer.of(module)
    assert (found.version, list(found.sortings)) == ("25.3.0", SORTINGS)
    with pytest.raises(HostError, match="of an unknown version is not known"):
        ADetailer.of(SimpleNamespace())
