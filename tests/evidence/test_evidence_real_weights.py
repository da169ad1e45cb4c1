"""The same table on any checkpoint: which folders of photos will do, and that the command runs, can be killed and goes on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.evidence import tuning
from benchmarks.evidence.__main__ import ROOT, main
from benchmarks.evidence.photos import photos_of_people, strangers_from_photos
from benchmarks.evidence.real_weights import KINDS, chosen_prompts, clip_scores
from benchmarks.evidence.testbed import PromptCase
from celeb_basis.errors import EvaluationError, FileError, PhotoError
from celeb_basis.evaluation.prompts import EVALUATION_PROMPTS
from celeb_basis.miniature import MODEL, NAMES


def _touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not opened")
    return folder


# Which folders will do


def test_the_first_photo_is_learned_from_and_the_others_are_scored_against(tmp_path: Path) -> None:
    folder = _touch(tmp_path, "ada/2.jpg", "ada/1.jpg", "ada/3.png", "ben/a.jpg", "ben/b.jpg", "cleo/only.jpg")
    people, notes = photos_of_people(folder)
    assert [(one.name, one.learned.name, [path.name for path in one.references]) for one in people] == [
        ("ada", "1.jpg", ["2.jpg", "3.png"]),
        ("ben", "a.jpg", ["b.jpg"]),
    ]
    assert notes == ["cleo is left out: there is one photo only."]


def test_references_may_be_in_a_folder_of_their_own(tmp_path: Path) -> None:
    photos = _touch(tmp_path / "photos", "ada.jpg", "Ben/1.jpg", "Ben/2.jpg", "cleo.png")
    references = _touch(tmp_path / "references", "Ada/x.jpg", "Ada/y.jpg", "ben.jpg", "dora/1.jpg")
    people, notes = photos_of_people(photos, references)
    assert {one.name: (one.learned.name, [path.name for path in one.references]) for one in people} == {
        "Ben": ("1.jpg", ["2.jpg", "ben.jpg"]),
        "ada": ("ada.jpg", ["x.jpg", "y.jpg"]),
    }
    assert notes == ["cleo is left out: there is one photo only."]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ((), "There is nobody in"),
        (("ada/notes.txt", "readme.md"), "There is nobody in"),
        (("ada.jpg",), "There is one photo of one person only"),
        (("ada/1.jpg",), "There is one photo of one person only"),
        (("ada/1.jpg", "ada/2.jpg"), "ada is the only person"),
        (("ada.jpg", "ben.jpg", "cleo/1.jpg"), "Each of the 3 people in"),
        (("ada/1.jpg", "ada/2.jpg", "ben.jpg"), "Only ada has more than one photo"),
    ],
)
def test_folders_that_are_not_enough_say_what_the_table_needs(
    tmp_path: Path, files: tuple[str, ...], words: str
) -> None:
    with pytest.raises(PhotoError) as caught:
        photos_of_people(_touch(tmp_path, *files))
    assert str(caught.value).startswith(words)
    assert "at least 2 people" in str(caught.value)
    assert "at least 2 photos each" in str(caught.value)
    assert "one to learn from" in str(caught.value)


def test_references_of_nobody(tmp_path: Path) -> None:
    photos = _touch(tmp_path / "photos", "ada.jpg", "ben.jpg")
    with pytest.raises(PhotoError, match="called as in --photos"):
        photos_of_people(photos, _touch(tmp_path / "empty", "notes.txt"))
    with pytest.raises(PhotoError, match="is called like anybody in"):
        photos_of_people(photos, _touch(tmp_path / "others", "cleo.jpg"))
    with pytest.raises(FileError):
        photos_of_people(tmp_path / "nowhere")


def test_people_without_a_face_are_left_out_and_pairs_are_complete(tmp_path: Path) -> None:
    from support.evidence_testbeds import ColorFaces

    class Faces(ColorFaces):
        def detect(self, picture: Any) -> Any:
            return super().detect(picture) if picture.mean() > 60 else []

    for name, shades in {
        "ada": (90, 100),
        "ben": (120, 20, 140),
        "cleo": (200, 10),
        "dora": (10, 200),
        "eve": (170, 180),
    }.items():
        (tmp_path / name).mkdir()
        for number, shade in enumerate(shades):
            Image.new("RGB", (128, 128), (shade, shade, shade)).save(tmp_path / name / f"{number}.png")
    people, _ = photos_of_people(tmp_path)
    strangers, notes = strangers_from_photos(people, Faces(), 64)
    assert [(one.name, len(one.references), one.portrait.picture.shape) for one in strangers] == [
        ("ada", 1, (64, 64, 3)),
        ("ben", 1, (64, 64, 3)),
    ]
    text = "\n".join(notes)
    for words in (
        "A photo of ben is left out: no face is found in 1.png.",
        "cleo is left out: no photo to score against shows a face.",
        "dora is left out: ",
        "eve is left out: people are learned in pairs.",
        "2 people only",
    ):
        assert words in text
    with pytest.raises(PhotoError, match="Only 1 of 2 people can be used"):
        strangers_from_photos([people[0], people[2]], Faces(), 64)


# Prompts and their scores


def test_prompts_are_of_every_kind_and_have_one_person() -> None:
    cases = chosen_prompts(7)
    assert [case.label for case in cases] == [*KINDS, *KINDS[:2]]
    assert cases[0].prompt == EVALUATION_PROMPTS["plain"][0]
    every = chosen_prompts(1000)
    assert len({case.prompt for case in every}) == len(every) == sum(len(EVALUATION_PROMPTS[kind]) for kind in KINDS)


def test_clip_sees_a_person_in_place_of_the_name() -> None:
    class Clip:
        name = "clip"
        scores: Any = np.array([0.25, 0.5], np.float32)
        asked: Any = None

        def score(self, images: Any, prompts: Any) -> Any:
            assert len(images) == len(prompts)
            self.asked = prompts
            return self.scores

    clip = Clip()
    images = [np.zeros((8, 8, 3), np.uint8)] * 2
    cases = [PromptCase("a photo of {}"), PromptCase("{} and {} on a beach")]
    assert clip_scores(clip)(images, cases) == [0.25, 0.5]
    assert clip.asked == ["a photo of person", "person and person on a beach"]
    clip.scores = np.array([np.nan, 1.0])
    with pytest.raises(EvaluationError):
        clip_scores(clip)(images, cases)
    assert clip_scores(None)(images, cases) == [None, None]


# The command


def test_options_that_do_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--photos", str(tmp_path)]) == 2
    assert main(["--model", "miniature", "--references", str(tmp_path)]) == 2
    assert main(["--model", "miniature", "--photos", str(tmp_path), "--faces", "miniature"]) == 1
    assert "There is nobody in" in capsys.readouterr().err


@pytest.fixture(scope="module")
def rendered_people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos of each of two invented people, in another pose, light and expression."""
    from miniature.compiled import compiler

    if compiler() is None:
        pytest.skip("invented people are drawn by a C program, and there is no compiler")
    from miniature.people3d.looks import draw_clothes, draw_lighting
    from miniature.people3d.person import draw_person
    from miniature.people3d.portrait import Model, Pose
    from miniature.people3d.sheet import backdrop

    folder = tmp_path_factory.mktemp("people")
    looks = (("soft", Pose(), "neutral"), ("warm", Pose(14, -3, 2), "slight smile"))
    for number in (3, 4):
        model, rng = Model(draw_person(number)), np.random.default_rng(number)
        (folder / f"person {number}").mkdir()
        for at, (light, pose, expression) in enumerate(looks):
            lighting, clothes = draw_lighting(light, rng), draw_clothes(rng)
            cutout = model.picture(256, pose, expression, lighting=lighting, clothes=clothes)
            Image.fromarray(cutout.over(backdrop(256, rng))).save(folder / f"person {number}" / f"{at}.png")
    return folder


@pytest.fixture(scope="module")
def single_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature as one file, as checkpoints are shared."""
    diffusers = pytest.importorskip("diffusers")
    from miniature.small_models.ldm_layout import save_single_file

    path = tmp_path_factory.mktemp("model") / "some-checkpoint.safetensors"
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(MODEL, safety_checker=None, local_files_only=True)
    save_single_file(pipeline, path)
    return path


def _command(model: Path, people: Path, results: Path, *more: str) -> list[str]:
    few_names = results / "names.txt"
    results.mkdir(exist_ok=True)
    few_names.write_text("\n".join(NAMES.read_text("utf-8").splitlines()[:40]), "utf-8")
    options = ["--model", str(model), "--photos", str(people), "--results", str(results), "--faces", "miniature"]
    options += ["--names", str(few_names), "--device", "cpu", "--judge", "miniature", "--prompts", "2"]
    options += ["--sampling-steps", "2", "--steps", "2", *more]
    for name in ("a name that the model knows", "random name", "mean", "paper", "balanced"):
        options += ["--only", name]
    return options


@pytest.mark.slow
def test_the_table_on_a_single_file_survives_a_kill(single_file: Path, rendered_people: Path, tmp_path: Path) -> None:
    options = _command(single_file, rendered_people, tmp_path / "out")
    command = [sys.executable, "-m", "benchmarks.evidence", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    running = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stderr is not None
    seen: list[str] = []
    for line in running.stderr:
        seen.append(line)
        if "2/5 " in line:
            running.kill()
            break
    running.communicate()
    assert "2/5 random name" in seen[-1], "".join(seen)
    (kept,) = (tmp_path / "out").glob("*/results.jsonl")
    finished = kept.read_text("utf-8").splitlines()
    assert 2 <= len(finished) < 5

    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "2/5 random name" not in again.stderr
    assert re.search(r"5/5 .*: measured", again.stderr)
    lines = kept.read_text("utf-8").splitlines()
    assert set(finished) < set(lines)
    assert len(lines) == 5
    (page,) = (tmp_path / "out").glob("*/evidence.md")
    text = page.read_text("utf-8")
    for name in ("a name that the model knows", "random name", "mean", "paper", "balanced"):
        assert f"\n| {name} | 2 × 1 |" in text
    assert "| Identity, share of the ceiling |" in text
    assert "Prompt was not measured: give --clip" in text
    assert "Recipes ran for at most 2 steps" in text
    assert "some-checkpoint.safetensors" in text
    assert str(page) in again.stdout
    known = json.loads(next(line for line in lines if '"a name that the model knows"' in line))
    assert set(known["group"]) <= set(NAMES.read_text("utf-8").splitlines()[:40])


@pytest.mark.slow
def test_other_photos_are_another_folder(
    rendered_people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del capsys
    options = _command(MODEL, rendered_people, tmp_path / "out")
    options = [*options[: options.index("--only")], "--only", "mean"]
    assert main(options) == 0
    changed = tmp_path / "changed"
    for path in rendered_people.rglob("*.png"):
        (changed / path.parent.name).mkdir(parents=True, exist_ok=True)
        with Image.open(path) as opened:
            opened.point(lambda level: min(255, round(level * 1.1))).save(changed / path.parent.name / path.name)
    options[options.index("--photos") + 1] = str(changed)
    assert main(options) == 0
    options[options.index("--prompts") + 1] = "1"
    assert main(options) == 0
    assert len(list((tmp_path / "out").glob("*/results.jsonl"))) == 3


@pytest.mark.slow
def test_baselines_are_tuned_on_others_than_are_evaluated(
    rendered_people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [one for one in tuning.candidates() if one.name.startswith("textual inversion")][:2]
    monkeypatch.setattr(tuning, "candidates", lambda: tuple(few))
    options = _command(MODEL, rendered_people, tmp_path / "out")
    options = options[: options.index("--only")]
    options[options.index("--prompts") + 1] = options[options.index("--sampling-steps") + 1] = "1"
    options[options.index("--steps") + 1] = "16"
    assert main([*options, "--tune"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^textual inversion, tuned: textual inversion, rate .*, \d+ steps \(score", out, re.MULTILINE)
    (written,) = (tmp_path / "out").glob("tuned-*/tuned.json")
    assert set(json.loads(written.read_text("utf-8"))["methods"]) == {
        "textual inversion, tuned",
        "textual inversion, tuned, same time",
    }
    only = ["--only", "textual inversion, tuned", "--only", "mean"]
    assert main([*options, *only]) == 1
    assert "whom the baselines were tuned on" in capsys.readouterr().err
    others = tmp_path / "others"
    for path in rendered_people.rglob("*.png"):
        (others / path.parent.name).mkdir(parents=True, exist_ok=True)
        with Image.open(path) as opened:
            opened.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(others / path.parent.name / path.name)
    options[options.index("--photos") + 1] = str(others)
    assert main([*options, *only]) == 0
    out = capsys.readouterr().out
    assert "\n| textual inversion, tuned | 2 × 1 |" in out
    assert "\n| mean | 2 × 1 |" in out
