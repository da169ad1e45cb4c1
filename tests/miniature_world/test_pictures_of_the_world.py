"""Scenes of the world: what the caption says is in the picture, and heads are where the renderer says."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miniature.compiled import compiler
from miniature.people3d.traits import WHO, Description
from miniature.training.judging import reference_places
from miniature.training.places import face_network
from miniature.training.shards import EXTRAS_FROM, HOLDING_FROM, PORTRAITS_FROM, shard_name, shard_paths
from miniature.training.text_model import Tokens
from miniature.world import bank as banks
from miniature.world.bank import Bank, draw_bank, draw_clipping, draw_person_into, looks_of
from miniature.world.captions import MEDIUM_WORDS, PLACE_WORDS, THING_WORDS, caption, used_tokens
from miniature.world.people import People
from miniature.world.pool import (
    CAPTIONS,
    VIEWS,
    Shard,
    Sitters,
    alike_of,
    draw_shard,
    main,
    read_shard,
    views,
    write_shard,
)
from miniature.world.scenes import (
    BACKDROPS,
    MEDIA,
    PLACES,
    PLAIN,
    SIDE,
    SIZES,
    THINGS,
    UNNAMED,
    Look,
    Scene,
    Shown,
    draw_look,
)

NUMBERS = (1, 4)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    if compiler() is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("bank")
    for number in NUMBERS:
        looks = [
            Look(0, 0, 0, "neutral", "soft", "", near=near, seed=number + near) for near in (True, True, False, False)
        ]
        draw_person_into(folder, number, 1.4, looks)
    return Bank(folder)


def shown(number: int = 1, place: int = 0, **look: object) -> Shown:
    plain = Look(0, 0, 0, "neutral", "soft", "", near=True, seed=0)
    return Shown(0, number, place, replace(plain, **look))  # type: ignore[arg-type]


def test_a_clipping_has_nothing_behind_the_person(bank: Bank) -> None:
    pixels = bank.clipping(1, 0).pixels
    assert pixels.shape == (224, 224, 4)
    assert pixels[:20, :20, 3].max() == 0
    assert pixels[112, 112, 3] == 255


def test_looks_are_the_same_for_a_number_and_serve_every_scene() -> None:
    assert looks_of(7) == looks_of(7) != looks_of(8)
    for number in range(30):
        looks = looks_of(number, 12)
        assert [look.posed for look in looks] == [False] * 12 + [True] * banks.POSED_LOOKS
        looks = looks[:12]
        assert any(look.near for look in looks)
        assert any(not look.near and not look.thing for look in looks)


@pytest.mark.parametrize("size", SIZES)
def test_heads_are_where_the_renderer_says(bank: Bank, size: str) -> None:
    sitters, rng = Sitters(bank, NUMBERS), np.random.default_rng(3)
    place = 0 if size in ("close-up", "") else 2
    scene = Scene((shown(place=place, near=place == 0),), backdrop="grey", size=size)  # type: ignore[arg-type]
    picture, boxes = sitters.picture(scene, rng)
    found = face_network().detect(picture)
    assert len(found) == 1
    nose = found[0].landmarks[2]
    left, top, width = boxes[0]
    assert abs(nose[0] - (left + width / 2)) < 0.15 * width
    assert top + 0.3 * width < nose[1] < top + 0.9 * width
    assert boxes[1].tolist() == [0, 0, 0]


def test_two_people_stand_in_the_order_of_the_caption_with_faces_of_eighty_pixels(bank: Bank) -> None:
    sitters = Sitters(bank, NUMBERS)
    pair = (shown(1, 2, near=False), shown(4, 2, near=False))
    picture, boxes = sitters.picture(Scene(pair, backdrop="white", size="smaller"), np.random.default_rng(0))
    found = sorted(face_network().detect(picture), key=lambda face: face.box[0])
    assert len(found) == 2
    assert boxes[0][0] < boxes[1][0]
    for face in found:
        assert face.box[3] - face.box[1] >= 70
    words = caption(Scene(pair, size="smaller"), ["Ada", "Bob"], np.random.default_rng(0))
    assert words.index("Ada") < words.index("Bob")


def test_a_pasted_picture_lies_on_its_color(bank: Bank) -> None:
    scene = Scene((shown(),), backdrop="beach", pasted=(0.5, 1.0, 0.0, "red"))
    picture, boxes = Sitters(bank, NUMBERS).picture(scene, np.random.default_rng(0))
    assert picture[-1, 0].tolist() == [180, 50, 50]
    left, top, width = boxes[0]
    assert left > SIDE / 2 - 0.3 * width
    assert top < SIDE / 2


@pytest.mark.parametrize("backdrop", BACKDROPS)
def test_every_backdrop_can_be_drawn_and_said(bank: Bank, backdrop: str) -> None:
    rng = np.random.default_rng(5)
    picture, _ = Sitters(bank, NUMBERS).picture(Scene((shown(),), backdrop=backdrop), rng)
    assert picture.shape == (SIDE, SIDE, 3)
    said = [caption(Scene((shown(),), backdrop=backdrop), ["Ada"], rng) for _ in range(40)]
    words = PLACE_WORDS.get(backdrop, (f"{backdrop} background",))
    assert any(word in text for text in said for word in words)
    assert backdrop not in PLACES or all(any(word in text for word in words) for text in said)


@pytest.mark.parametrize("thing", THINGS)
def test_what_is_worn_or_held_is_said(thing: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        text = caption(Scene((shown(thing=thing),)), ["Ada"], rng)
        assert any(words in text for words in THING_WORDS[thing])


@pytest.mark.parametrize("medium", MEDIA)
def test_media_differ_and_are_said(bank: Bank, medium: str) -> None:
    sitters = Sitters(bank, NUMBERS)
    photo, _ = sitters.picture(Scene((shown(),)), np.random.default_rng(2))
    picture, _ = sitters.picture(Scene((shown(),), medium=medium), np.random.default_rng(2))
    assert (medium == "photo") == bool((photo == picture).all())
    text = caption(Scene((shown(),), medium=medium), [None], np.random.default_rng(2))
    starts = [words.split("{}")[0] for words in MEDIUM_WORDS.get(medium, ())]
    assert not starts or any(text.startswith(start) for start in starts)


def test_half_of_the_captions_only_name_a_person_and_others_describe_them() -> None:
    said = [Description("old man", ("full lips", "freckles", "a very long nose"))]
    rng = np.random.default_rng(6)
    texts = [caption(Scene((shown(),)), ["Ada Ash"], rng, said) for _ in range(400)]
    named = [("Ada Ash" in text, "old man" in text) for text in texts]
    shares = [named.count(kind) / len(named) for kind in ((True, False), (True, True), (False, True))]
    assert sum(shares) == 1
    assert np.allclose(shares, (0.5, 0.25, 0.25), atol=0.08)
    both = next(text for text, kind in zip(texts, named, strict=True) if all(kind))
    assert "Ada Ash, an old man" in both
    assert all(
        any(words in text for words in said[0].details) for text, kind in zip(texts, named, strict=True) if kind[1]
    )


def test_people_without_names_are_described_and_pairs_in_their_order() -> None:
    said = [Description("woman", ("full lips", "freckles")), Description("young man", ("a wide nose",))]
    pair = Scene((shown(1, 2, near=False), shown(4, 2, near=False)), size="smaller")
    rng = np.random.default_rng(8)
    texts = [caption(pair, [None, None], rng, said) for _ in range(100)]
    described = [text for text in texts if "young man" in text]
    assert 0.5 < len(described) / len(texts) < 0.95
    assert all(text.index("woman") < text.index("young man") for text in described)
    assert "Ada" in caption(pair, ["Ada", "Bob"], rng)


def test_only_plain_portraits_differ_in_little_but_the_face() -> None:
    said = [Description("old man", ())]
    plain = Scene((shown(),), backdrop="grey")
    assert alike_of(plain, said) == WHO.index("old man")
    for other in (
        replace(plain, backdrop="beach"),
        replace(plain, medium="sepia photo"),
        replace(plain, size="small"),
        replace(plain, people=(shown(thing="hat"),)),
        replace(plain, people=(shown(), shown(4))),
        replace(plain, pasted=(0.5, 0.5, 0.5, "red")),
        replace(plain, people=()),
    ):
        assert alike_of(other, said * len(other.people)) == -1


def test_a_shard_is_the_same_again_and_never_shows_one_person_twice(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "miniature.world.people.read_people", lambda _: People(("Ada Ash", "Bob Birch"), NUMBERS, (), 1.4)
    )
    folder = bank.folder
    one, other = (draw_shard(folder, tmp_path, 2, 0, 24) for _ in range(2))
    assert (one.pictures == other.pictures).all()
    assert (one.captions == other.captions).all()
    assert one.captions.shape == (24, CAPTIONS, 77)
    assert ((one.boxes[..., 2] > 0).sum(1) <= 2).all()
    allowed = set(used_tokens(Tokens(), ("Ada Ash", "Bob Birch")))
    assert set(one.captions.ravel().tolist()) <= allowed
    write_shard(tmp_path, 0, one)
    again = read_shard(shard_paths(tmp_path)[0])
    assert (again.pictures == one.pictures).all()
    assert (again.alike == one.alike).all()
    small = read_small(tmp_path)
    assert small.shape == (24, VIEWS, 64, 64, 3)
    assert abs(float(small[:, 0].mean()) - float(one.pictures.mean())) < 1


def test_other_views_are_nearer_to_the_face_of_one_head_and_to_all_of_two() -> None:
    # Red heads on black.
    picture, boxes = np.zeros((3, 192, 192, 3), np.uint8), np.zeros((3, 2, 3), np.float32)
    boxes[0, 0], boxes[1] = (20, 30, 60), [(10, 60, 50), (110, 70, 40)]
    for row, heads in enumerate(boxes):
        for left, top, width in heads.astype(int):
            picture[row, top : top + width, left : left + width, 0] = 200
    seen = views(picture, boxes, np.random.default_rng(3))
    share = (seen[..., 0] > 100).mean((2, 3))
    assert share[0, 0] == pytest.approx(60**2 / 192**2, abs=0.01)
    assert (share[0, 1:] > 0.2).all()
    assert (share[1, 1:] >= share[1, 0]).all()
    assert not share[2].any()
    for view in (1, 2):
        assert (seen[0, view, 24:40, 24:40, 0] == 200).all()
        edge = np.concatenate([seen[1, view, (0, -1)].ravel(), seen[1, view][:, (0, -1)].ravel()])
        assert edge.max() < 200


def read_small(folder: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    pictures: np.ndarray = load_file(str(folder / "pairs" / "shard-00000.safetensors"))["pictures"]
    return pictures


def test_scenes_take_people_of_whom_there_are_pictures(bank: Bank) -> None:
    sitters, rng = Sitters(bank, NUMBERS), np.random.default_rng(9)
    scenes = [sitters.scene(rng) for _ in range(200)]
    assert {len(scene.people) for scene in scenes} == {0, 1, 2}
    for scene in scenes:
        assert len({one.number for one in scene.people}) == len(scene.people)
        for one in scene.people:
            assert one.row != UNNAMED
            assert bank.looks(one.number)[one.place] == one.look
            assert one.look.near == (scene.size in ("close-up", ""))


def test_the_bank_is_not_drawn_twice_and_looks_that_are_missing_are_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = looks_of(3, 1)
    path = draw_person_into(tmp_path, 3, 1.4, looks[:2])
    before, drawn = Bank(tmp_path), []
    monkeypatch.setattr(banks, "draw_clipping", lambda model, look: drawn.append(look) or draw_clipping(model, look))
    draw_person_into(tmp_path, 3, 1.4, looks)
    after = Bank(tmp_path)
    assert drawn == looks[2:]
    assert after.looks(3) == looks
    for place in range(2):
        assert np.array_equal(after.clipping(3, place).pixels, before.clipping(3, place).pixels)
    monkeypatch.setattr(banks, "draw_person_into", None)
    written = path.read_bytes()
    draw_bank(tmp_path, [3], 1.4, looks=1)
    assert path.read_bytes() == written


@pytest.mark.parametrize("useful", [True, False])
def test_a_bank_goes_on_after_a_process_that_crashed_if_it_had_drawn_anybody(
    useful: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []

    def crashing(folder: Path, wanted: dict[int, list[Look]], spread: float, *_: int) -> None:
        asked.append(list(wanted))
        for number in list(wanted)[: 2 * useful]:
            draw_person_into(folder, number, spread, wanted[number])
        if len(wanted) > 2 or not useful:
            raise BrokenProcessPool

    monkeypatch.setattr(banks, "_draw", crashing)
    monkeypatch.setattr(banks, "looks_of", lambda number, count: looks_of(number, count)[:1])
    if useful:
        draw_bank(tmp_path, [3, 8, 9], 1.4)
        assert asked == [[3, 8, 9], [9]]
    else:
        with pytest.raises(BrokenProcessPool, match="crash"):
            draw_bank(tmp_path, [3, 8, 9], 1.4)


def test_another_person_is_drawn_again_where_the_looks_are_others(tmp_path: Path) -> None:
    draw_person_into(tmp_path, 3, 1.4, looks_of(4, 1)[:1])
    draw_person_into(tmp_path, 3, 1.4, looks_of(3, 1)[:2])
    assert Bank(tmp_path).looks(3) == looks_of(3, 1)[:2]


def test_looks_stay_within_thirty_degrees() -> None:
    rng = np.random.default_rng(0)
    yaws = [draw_look(rng).yaw for _ in range(500)]
    assert max(map(abs, yaws)) <= 30
    assert 0.2 < np.mean(np.abs(yaws) > 10) < 0.6


def test_portraits_from_the_front_show_a_person_without_things_on_a_plain_background(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = Look(5, 0, 0, "neutral", "soft", "", near=True, seed=0)
    looks = {
        1: [replace(plain, yaw=20), replace(plain, thing="hat"), plain, replace(plain, near=False)],
        4: [replace(plain, yaw=-25), replace(plain, yaw=12), replace(plain, near=False)],
    }
    bank = Bank(tmp_path)
    monkeypatch.setattr(bank, "looks", looks.__getitem__)
    sitters, rng = Sitters(bank, NUMBERS), np.random.default_rng(4)
    scenes = [sitters.front(rng) for _ in range(60)]
    assert {(scene.people[0].number, scene.people[0].place) for scene in scenes} == {(1, 2), (4, 1)}
    assert {scene.size for scene in scenes} == {"", "close-up"}
    assert {scene.backdrop for scene in scenes} <= set(PLAIN)


def test_most_portraits_from_the_front_are_posed_and_no_scene_or_reference_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bank = Bank(tmp_path)
    monkeypatch.setattr(bank, "looks", looks_of)
    sitters, rng = Sitters(bank, NUMBERS), np.random.default_rng(5)
    fronts = [sitters.front(rng).people[0].look for _ in range(400)]
    assert np.mean([look.posed for look in fronts]) == pytest.approx(0.75, abs=0.08)
    for look in fronts:
        if look.posed:
            assert max(abs(look.yaw), abs(look.pitch), abs(look.roll)) <= 5
            assert (look.light, look.thing, look.near) == ("soft", "", True)
            assert look.expression in ("neutral", "slight smile")
    assert not any(one.look.posed for _ in range(300) for one in sitters.scene(rng).people)
    for number in NUMBERS:
        assert sorted(reference_places(bank, number)) == list(range(banks.LOOKS))


def test_who_holds_something_is_seen_with_it_and_prompts_need_no_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    far = Look(0, 0, 0, "neutral", "soft", "", near=False, seed=0)
    looks = {
        1: [replace(far, near=True), replace(far, thing="cake"), far, replace(far, near=True, thing="hat")],
        4: [far, replace(far, thing="cup"), replace(far, thing="book"), replace(far, near=True)],
    }
    bank = Bank(tmp_path)
    monkeypatch.setattr(bank, "looks", looks.__getitem__)
    sitters, rng = Sitters(bank, NUMBERS), np.random.default_rng(4)
    scenes = [sitters.holding(rng) for _ in range(300)]
    assert {(scene.people[0].number, scene.people[0].place) for scene in scenes} == {(1, 1), (4, 1), (4, 2)}
    plain = [scene for scene in scenes if scene.medium == "photo" and scene.backdrop in PLAIN]
    assert 0.5 < len(plain) / len(scenes) < 0.7
    assert {scene.size for scene in scenes} == {"smaller", "small"}
    for scene in scenes:
        words = [caption(scene, ["Ada"], rng) for _ in range(4)]
        assert all("Ada" in text and any(thing in text for thing in ("cake", "cup", "book")) for text in words)
        assert any("small" in text for text in words) == (scene.size == "small")
    looks[1] = looks[4] = [far, replace(far, near=True)]
    assert {sitters.holding(rng).people[0].place for _ in range(20)} == {0}


def test_extras_have_portraits_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = looks_of(banks.EXTRAS_FROM + 3)
    assert [look.posed for look in looks] == [False] * banks.EXTRA_LOOKS + [True]
    assert looks != looks_of(banks.EXTRAS_FROM + 4)
    for number in range(30):
        assert all(look.near and not look.thing for look in looks_of(banks.EXTRAS_FROM + number))
    extras = [banks.EXTRAS_FROM, banks.EXTRAS_FROM + 5]
    for number in (1, 4, banks.UNNAMED_FROM, *extras):
        (tmp_path / f"{number:06d}.safetensors").touch()
    bank = Bank(tmp_path)
    assert (bank.unnamed(), bank.extras()) == ([banks.UNNAMED_FROM], extras)
    monkeypatch.setattr(bank, "looks", looks_of)
    sitters, rng = Sitters(bank, NUMBERS), np.random.default_rng(7)
    scenes = [sitters.extra(rng) for _ in range(200)]
    assert np.mean([scene.people[0].look.posed for scene in scenes]) == pytest.approx(0.75, abs=0.1)
    assert {scene.people[0].number for scene in scenes} == set(extras)
    assert {scene.people[0].place for scene in scenes} == set(range(banks.EXTRA_LOOKS + 1))
    assert all(scene.people[0].row == UNNAMED and scene.backdrop in PLAIN for scene in scenes)
    seen = [one.number for _ in range(200) for one in (*sitters.scene(rng).people, *sitters.front(rng).people)]
    assert not set(seen) & set(extras)


def test_shards_of_portraits_have_numbers_of_their_own(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miniature.world.people.read_people", lambda *_: People(("A", "B"), NUMBERS, (), 1.4))
    drawn: list[int] = []

    def shards(*arguments: Any) -> Iterator[tuple[int, Shard]]:
        for number in arguments[3]:
            drawn.append(number)
            # The bank has no extras.
            yield number, draw_shard(bank.folder, tmp_path, 2, number % EXTRAS_FROM, 2)

    monkeypatch.setattr("miniature.world.pool.drawn_ahead", shards)
    for more in (["--shards", "1"], ["--shards", "2", "--holding", "1", "--portraits", "1", "--extras", "1"]):
        monkeypatch.setattr("sys.argv", ["pool", str(tmp_path), "--bank", str(bank.folder), *more])
        main()
    assert drawn == [0, 1, HOLDING_FROM, PORTRAITS_FROM, EXTRAS_FROM]
    assert [path.name for path in shard_paths(tmp_path)] == [shard_name(number) for number in drawn]
