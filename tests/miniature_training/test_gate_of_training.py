"""The gate and its scene classifier, on the renderer's own pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from celeb_basis.faces.network import Pixels
from miniature.compiled import compiler
from miniature.training.autoencoder import new_autoencoder
from miniature.training.dlib_judge import RecognitionJudge
from miniature.training.gate import (
    DETECT,
    RANK1,
    RANK1_OF_LEARNING,
    Drawer,
    Renderer,
    asks,
    line,
    people_figures,
    scene_figures,
)
from miniature.training.judging import REFERENCES, Gallery, read_galleries, references_of
from miniature.training.kept import KEPT_REFERENCES
from miniature.training.places import face_network
from miniature.training.scene_classifier import PARTS, SceneClassifier, accuracy, label, load_classifier, right, train
from miniature.world.bank import Bank, draw_person_into, looks_of
from miniature.world.people import read_people
from miniature.world.pool import Sitters
from miniature.world.scenes import BACKDROPS, MEDIA, PLACES, THINGS, Look, Scene, Shown

NUMBERS = (1, 4, 9)
NAMES = ("Ada Ash", "Bob Birch", "Cy Cedar")


@pytest.fixture(scope="module")
def sitters(tmp_path_factory: pytest.TempPathFactory) -> Sitters:
    if compiler() is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("bank")
    looks = [
        Look(yaw, 0, 0, "neutral", "soft", "", near=near, seed=int(yaw) + 20)
        for yaw, near in ((0, True), (14, True), (-9, True), (6, True), (-14, True), (0, False), (9, False))
    ]
    for number in NUMBERS:
        draw_person_into(folder, number, 1.4, looks)
    return Sitters(Bank(folder), NUMBERS)


class Anything(Drawer):
    """Draws the same portrait, whatever was asked for."""

    def __init__(self, sitters: Sitters) -> None:
        self._sitters = sitters

    def draw(self, prompts: Sequence[str], seed: int, **_options: object) -> Pixels:
        picture, _ = self._sitters.picture(self._sitters.portrait(NUMBERS[0], 0), np.random.default_rng(seed))
        return np.stack([picture] * len(prompts))


def galleries(sitters: Sitters) -> list[Gallery]:
    gallery = Gallery(RecognitionJudge(face_network()), face_network())
    gallery.hang(references_of(sitters.bank, NUMBERS))
    return [gallery, gallery]


def test_the_right_people_pass_and_one_face_for_all_does_not(sitters: Sitters) -> None:
    good = list(people_figures(Renderer(sitters, NAMES, NUMBERS), galleries(sitters), NAMES))
    assert [value for _, value, _ in good] == [1.0, 1.0, 1.0]
    assert [least for _, _, least in good] == [RANK1_OF_LEARNING, RANK1, DETECT]
    same = list(people_figures(Renderer(sitters, NAMES, (NUMBERS[0],) * 3), galleries(sitters), NAMES))
    assert same[0][1] == pytest.approx(1 / 3)
    blurred = people_figures(Renderer(sitters, NAMES, NUMBERS, new_autoencoder()), galleries(sitters), NAMES)
    assert {name: value for name, value, _ in blurred}["detect"] < 1  # it was not trained
    assert line("rank1", 0.5, 0.9).endswith("short")
    assert line("rank1", 0.95, 0.9).endswith("ok")


def test_every_third_is_drawn_and_compared_with_all(sitters: Sitters) -> None:
    everybody = galleries(sitters)
    asked: list[str] = []

    class Asked(Renderer):
        def draw(self, prompts: Sequence[str], seed: int) -> Pixels:
            asked.extend(prompts)
            return super().draw(prompts, seed)

    figures = list(people_figures(Asked(sitters, NAMES, NUMBERS), everybody, NAMES, every=2))
    assert asked == [f"a photo of {NAMES[0]}", f"a photo of {NAMES[2]}"]
    assert [value for _, value, _ in figures] == [1.0, 1.0, 1.0]
    # Who looks like one of those who are not drawn is not recognized.
    swapped = (NUMBERS[1], NUMBERS[0], NUMBERS[2])
    figures = list(people_figures(Renderer(sitters, NAMES, swapped), everybody, NAMES, every=2))
    assert figures[0][1] == 0.5


def test_what_the_judges_saw_of_everybody_comes_with_the_project(tmp_path: Path) -> None:
    """The kept file is what the renderer draws, and what the face network sees in it."""
    if compiler() is None:
        pytest.skip("needs a C compiler")
    people, network = read_people(), face_network()
    gallery, number = Gallery(RecognitionJudge(network), network), people.named[400]
    assert read_galleries(KEPT_REFERENCES, [gallery], people.named)
    assert gallery.faces.shape == (960, REFERENCES, 512)
    kept = gallery.faces[400]
    assert read_galleries(KEPT_REFERENCES, [gallery], [number])
    assert np.array_equal(gallery.faces[0], kept)
    draw_person_into(tmp_path, number, people.spread, looks_of(number))
    seen = gallery.look(references_of(Bank(tmp_path), [number])[0])
    assert (seen * kept).sum(1).min() > 0.9  # backdrops are others


def test_every_kind_of_scene_is_asked_for() -> None:
    asked = asks(NAMES, 100)
    assert {ask.part for ask in asked} == set(PARTS)
    assert {ask.scene.thing for ask in asked if ask.part == "thing"} == set(THINGS)
    assert {ask.scene.medium for ask in asked if ask.part == "medium"} == set(MEDIA[1:])
    assert set(PLACES) <= {ask.scene.backdrop for ask in asked if ask.part == "backdrop"}
    assert all(label(ask.scene, ask.part) >= 0 for ask in asked)
    assert all("{}" not in ask.prompt for ask in asked)


def test_what_a_picture_does_not_tell_is_not_asked() -> None:
    look = Look(0, 0, 0, "neutral", "soft", "hat", near=True, seed=0)
    scene = Scene((Shown(0, 1, 0, look),), medium="sepia photo", backdrop="blue")
    assert label(scene, "backdrop") == -1
    assert label(replace(scene, medium="photo"), "backdrop") == BACKDROPS.index("blue")
    assert label(replace(scene, backdrop="beach"), "backdrop") == BACKDROPS.index("beach")
    assert label(replace(scene, medium="photo", pasted=(0.5, 0, 0, "red")), "backdrop") == -1
    assert label(scene, "thing") == THINGS.index("hat")
    assert label(replace(scene, people=()), "thing") == -1


def test_the_classifier_learns_and_is_read_again(sitters: Sitters, tmp_path: Path) -> None:
    path = tmp_path / "classifier.safetensors"
    before = accuracy(SceneClassifier().eval(), *_drawn(sitters))
    train(path, sitters, pictures=120, steps=25, batch=16)
    model = load_classifier(path)
    after = accuracy(model, *_drawn(sitters))
    assert after["people"] + after["medium"] > before["people"] + before["medium"]
    figures = scene_figures(Anything(sitters), model, NAMES, 40)
    assert set(figures) == {"scene", *PARTS}
    assert all(0 <= value <= 1 for value in figures.values())


def _drawn(sitters: Sitters) -> tuple[Pixels, list[Scene]]:
    rng = np.random.default_rng(8)
    scenes = [sitters.scene(rng) for _ in range(40)]
    return np.stack([sitters.picture(scene, rng)[0] for scene in scenes]), scenes


def test_right_compares_the_part_that_was_asked_for() -> None:
    ask = asks(NAMES, 1)[0]
    logits = {part: torch.zeros(1, count) for part, count in PARTS.items()}
    logits["medium"][0, MEDIA.index(ask.scene.medium)] = 1
    assert right(logits, [ask.scene], ["medium"]).tolist() == [True]
    logits["medium"][0, 0] = 2
    assert right(logits, [ask.scene], ["medium"]).tolist() == [False]
