"""Invented people: the same number is the same person, faces are where the picture says, and things are worn."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest

from celeb_basis.faces.network import DetectedFace, Floats, Pixels
from miniature.compiled import compiler
from miniature.people3d import casting, rasterizer
from miniature.people3d.casting import Bounds, Casting, cast, pictures_of
from miniature.people3d.hair import STYLES
from miniature.people3d.head_model import EYE_LEFT, HAIR, SKIN, head_model
from miniature.people3d.looks import CLOTHES, LIGHTS, Clothes, draw_lighting
from miniature.people3d.person import clean_shaven, draw_person, linear
from miniature.people3d.portrait import EXPRESSIONS, Cutout, Model, Pose
from miniature.people3d.things import HELD, WORN
from miniature.training.dlib_judge import RecognitionJudge
from miniature.training.places import face_network

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C compiler")

SIDE = 128
GRAY = np.ones((SIDE, SIDE, 3)) * linear(150, 150, 150)


@lru_cache
def model(number: int) -> Model:
    return Model(draw_person(number))


def picture(number: int, pose: Pose | None = None, expression: str = "neutral", **options: object) -> Cutout:
    light = draw_lighting("soft", np.random.default_rng(0))
    keywords = {"lighting": light, "clothes": None, **options}
    return model(number).picture(SIDE, pose or Pose(), expression, **keywords)  # type: ignore[arg-type]


def test_the_mesh_is_whole() -> None:
    head = head_model()
    assert head.base.shape == (5781, 3)
    assert head.triangles.max() == len(head.base) - 1
    assert {target.split("/")[0] for target in head.targets} >= {"macro", "nose", "eyes", "mouth", "chin", "face"}
    assert np.allclose(np.linalg.norm(head.normals(head.base), axis=1), 1, atol=1e-3)


def test_every_weight_is_a_shape_of_the_mesh() -> None:
    targets = set(head_model().targets)
    for number in range(40):
        named = {name for name, weight in draw_person(number).shape.items() if weight}
        assert {name for name in named if not name.startswith(("prop/", "macro/"))} <= targets


def test_the_same_number_is_the_same_person() -> None:
    one, again, other = draw_person(5), draw_person(5), draw_person(6)
    assert one.shape == again.shape
    assert one.shape != other.shape
    first, second = (
        Model(person).picture(64, lighting=draw_lighting("warm", np.random.default_rng(1)), clothes=None)
        for person in (one, again)
    )
    assert np.array_equal(first.color, second.color)


def test_people_are_of_all_kinds() -> None:
    people = [draw_person(number) for number in range(300)]
    assert 0.4 < np.mean([person.male for person in people]) < 0.6
    assert {person.hair.style for person in people} == {*STYLES, "bald"}
    assert {person.beard.kind for person in people} == {
        "none",
        "stubble",
        "moustache",
        "goatee",
        "short",
        "full",
        "vandyke",
    }
    darkness = np.array([person.skin.darkness for person in people])
    assert (darkness < 0.25).mean() > 0.15
    assert (darkness > 0.7).mean() > 0.15
    assert all(person.beard.kind == "none" for person in people if not person.male)


def test_a_wider_spread_is_odder() -> None:
    assert draw_person(3, 1.0).oddness < draw_person(3, 1.4).oddness < draw_person(3, 1.8).oddness


@pytest.mark.parametrize("pose", [Pose(), Pose(25, 3, 2), Pose(-25, -3, -4)])
def test_a_face_is_found_where_the_picture_says(pose: Pose) -> None:
    drawn = picture(29, pose, "smile")
    found = face_network().detect(drawn.over(GRAY))
    assert len(found) == 1
    apart = np.linalg.norm(found[0].landmarks - drawn.landmarks, axis=1)
    assert apart.mean() < 0.04 * SIDE


def test_turning_turns() -> None:
    """The nose moves toward the side to which the head turns: the person's left is the picture's right."""
    left, front, right = (picture(29, Pose(yaw)).landmarks[2, 0] for yaw in (-25, 0, 25))
    assert left < front - 4 < front + 4 < right


def test_cutouts_are_cut_out() -> None:
    drawn = picture(33)
    assert drawn.coverage.shape == (SIDE, SIDE, 1)
    assert drawn.coverage[0, 0, 0] == 0
    assert drawn.coverage[SIDE // 2, SIDE // 2, 0] == 1
    background = np.zeros((SIDE, SIDE, 3))
    assert (drawn.over(background)[0, 0] == 0).all()
    assert drawn.over(GRAY).dtype == np.uint8


def test_expressions_and_lights_change_the_picture() -> None:
    neutral = picture(29).over(GRAY).astype(int)
    for name in set(EXPRESSIONS) - {"neutral"}:
        assert np.abs(picture(29, None, name).over(GRAY) - neutral).mean() > 0.2, name
    lit = [
        picture(29, lighting=draw_lighting(name, np.random.default_rng(0))).over(GRAY).mean((0, 1)) for name in LIGHTS
    ]
    assert len({tuple(color.round(1)) for color in lit}) == len(LIGHTS)


@pytest.mark.parametrize("number", [194104, 202651])
def test_teeth_are_seen_through_the_open_mouth_alone(number: int) -> None:
    """Smiles of these two let teeth stand out below the lower lip."""

    def white(expression: str) -> tuple[int, int]:
        """Pixels as white as teeth between the corners of the mouth and the lower lip, and below that."""
        side, person = 256, Model(draw_person(number, 1.4))
        light = draw_lighting("soft", np.random.default_rng(0))
        cut = person.picture(side, expression=expression, lighting=light, clothes=None, zoom=2.0)
        shown = cut.over(np.ones((side, side, 3)) * linear(150, 150, 150))
        (left, mouth), (right, _) = cut.landmarks[3:].round().astype(int)
        width = right - left
        colors = shown[mouth - width // 4 : mouth + width, left:right].astype(int)
        teeth = (colors.min(2) > 150) & (colors.max(2) - colors.min(2) < 40)
        return int(teeth[: width // 2].sum()), int(teeth[width // 2 :].sum())

    assert white("smile") == (0, 0)
    opened, below = white("laugh")
    assert opened > 20
    assert below == 0


@pytest.mark.parametrize("kind", CLOTHES)
def test_clothes_cover_the_shoulders_and_not_the_face(kind: str) -> None:
    color = linear(20, 200, 30)
    bare, dressed = picture(29), picture(29, clothes=Clothes(kind, color, color))
    changed = np.abs(bare.color - dressed.color).sum(2) > 0.05
    assert changed[-6:, SIDE // 4 : -SIDE // 4].mean() > 0.5
    nose = dressed.landmarks[2].astype(int)
    assert not changed[nose[1] - 8 : nose[1] + 8, nose[0] - 8 : nose[0] + 8].any()


@pytest.mark.parametrize("name", [*WORN, *HELD])
def test_things_are_seen_and_leave_the_face(name: str) -> None:
    zoom = 0.66 if name in HELD else 0.85
    without, with_it = picture(41, zoom=zoom), picture(41, zoom=zoom, things=[name])
    changed = np.abs(without.over(GRAY).astype(int) - with_it.over(GRAY)).sum(2) > 30
    assert changed.mean() > 0.01
    assert len(face_network().detect(with_it.over(GRAY))) == 1


def test_a_headscarf_covers_the_hair(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original: Callable[..., rasterizer.Rendered] = rasterizer.render

    def watched(*arguments: object) -> rasterizer.Rendered:
        drawn = original(*arguments)
        seen.append((drawn.materials == HAIR).mean())
        return drawn

    monkeypatch.setattr("miniature.people3d.portrait.render", watched)
    long_haired = next(number for number in range(100) if draw_person(number).hair.style == "long")
    picture(long_haired)
    picture(long_haired, things=["headscarf"])
    assert seen[0] > 0.05
    assert seen[1] == 0


def test_the_rasterizer_draws_the_nearest_triangle() -> None:
    """Two triangles over each other, by hand: z is larger farther away."""
    corners = np.array([[0, 0], [16, 0], [0, 16]], float)
    near = np.column_stack([corners, np.full(3, 1.0), np.ones(3)])
    far = np.column_stack([corners + 4, np.full(3, 2.0), np.ones(3)])
    depth = rasterizer.depth_map(np.concatenate([far, near]), np.array([[0, 1, 2], [3, 4, 5]]), 16)
    assert depth[5, 5] == 1
    assert depth[12, 5] == 2
    assert depth[15, 15] > 1e8


def test_eyes_and_skin_are_drawn() -> None:
    head = head_model()
    assert {SKIN, EYE_LEFT} <= set(head.materials.tolist())
    drawn = picture(29)
    gray = drawn.color.mean(2)
    x, y = drawn.landmarks[0].astype(int)

    def contrast(row: int) -> float:
        return float(gray[row - 3 : row + 4, x - 4 : x + 5].std())

    assert contrast(y) > 2 * contrast(y + 14)


def test_without_a_beard() -> None:
    bearded = next(draw_person(number) for number in range(100) if draw_person(number).beard.kind == "full")
    assert clean_shaven(bearded).beard.kind == "none"
    assert clean_shaven(bearded).shape == bearded.shape


class Measures:
    """A judge for whom people are alike who are of one age."""

    name = "measures"

    def embed(self, picture: Pixels, face: DetectedFace) -> Floats:
        raise NotImplementedError

    def likeness(self, vectors: Floats, references: Floats) -> Floats:
        return -np.abs(vectors[:, None] - references[None]).max(-1)


def test_whoever_is_expected_to_be_least_alike_is_drawn() -> None:
    chosen = Casting(face_network(), [Bounds(Measures(), 0, 0)])
    people = [draw_person(number) for number in range(80)]
    for person in people[:60]:
        if person.age < 0.4:
            chosen.keep(person, [np.array([person.age, 0.0], np.float32)])
    promising = chosen.most_promising(people[60:])
    ages = sorted(person.age for person in people[60:])
    assert promising.age >= ages[-4]


def test_casting_keeps_people_apart_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    network = face_network()
    bounds = [Bounds(RecognitionJudge(network), 0.5, 0.5)]
    chosen = Casting(network, bounds)
    considered = list(cast(chosen, 0, 4, 1.4))
    assert len(chosen.numbers) == 4
    assert [number for _, number, problem in considered if not problem] == chosen.numbers
    again = Casting(network, bounds)
    again.restore(json.loads(json.dumps(chosen.state(considered[-1][0], 1.4))))
    assert again.numbers == chosen.numbers
    assert again.consider(draw_person(chosen.numbers[0])) == "like another person for recognition"
    monkeypatch.setattr(casting, "MOST_ODD", 0.5)
    assert again.consider(draw_person(50)) == "odd"
    assert len(list(pictures_of(draw_person(0), 64))) == 3


class Blind:
    """A detector that finds nobody in the pictures whose order is given."""

    def __init__(self, *blind: int) -> None:
        self._network, self._blind, self._looks = face_network(), blind, -1

    def detect(self, picture: Pixels) -> list[DetectedFace]:
        self._looks += 1
        return [] if self._looks in self._blind else self._network.detect(picture)


def test_a_casting_leaves_out_people_without_a_face(caplog: pytest.LogCaptureFixture) -> None:
    bounds = [Bounds(RecognitionJudge(face_network()), 0.5, 0.5)]
    again = Casting(Blind(1), bounds)  # type: ignore[arg-type]
    again.restore({"spread": 1.4, "next": 9, "numbers": [1, 4, 8]})
    assert again.numbers == [1, 8]
    assert "4 has no clear face" in caplog.text


def test_the_casting_that_comes_with_the_project_can_be_gone_on_with() -> None:
    state = json.loads(casting.CASTING_FILE.read_text(encoding="utf-8"))
    numbers = state["numbers"]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) < state["next"]
    assert all(draw_person(number, state["spread"]).oddness <= casting.MOST_ODD for number in numbers)
    bounds = [Bounds(RecognitionJudge(face_network()), 0.55, 0.6)]
    chosen = Casting(face_network(), bounds)
    chosen.restore({**state, "numbers": numbers[:6]})
    assert chosen.numbers == numbers[:6]
    assert chosen.consider(draw_person(numbers[0], state["spread"])) == "like another person for recognition"
