"""The world: scenes are rendered as described, captions match them, and everything repeats with its seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest

from celeb_basis.names.lists import shipped_names
from celeb_basis.training.augment import BACKGROUNDS
from miniature.trainer.text_model import Tokens
from miniature.training import captions
from miniature.training.backdrops import SIDE
from miniature.training.captions import caption, used_tokens
from miniature.training.people import MOST_ALIKE, NAMED, STRANGERS, fit_to_show, is_frontal, read_people
from miniature.training.render import face_mask, render
from miniature.training.scenes import ACCESSORIES, Scene, draw_scene
from miniature.world.captions import PLACE_WORDS
from miniature.world.scenes import BACKDROPS, MEDIA, PLACES, PLAIN

NAMES = ["Ada Lovelace", "Alan Turing", "Jane Goodall"]


def face(color: tuple[int, int, int] = (200, 150, 120)) -> np.ndarray:
    """A flat face with darker eyes and mouth."""
    picture = np.full((64, 64, 3), color, np.uint8)
    picture[26:32, 17:25] = picture[26:32, 39:47] = picture[50:54, 22:42] = 40
    return picture


def drawn(scene: Scene, seed: int = 0) -> np.ndarray:
    return render(scene, [face()] * len(scene.people), np.random.default_rng(seed)).picture


@pytest.mark.parametrize("backdrop", BACKDROPS)
@pytest.mark.parametrize("medium", MEDIA)
def test_every_backdrop_in_every_medium(backdrop: str, medium: str) -> None:
    picture = drawn(Scene((0,), medium=medium, backdrop=backdrop, size="smaller"))
    assert picture.shape == (SIDE, SIDE, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 1


def test_the_same_seed_draws_the_same_picture() -> None:
    scenes = [draw_scene(np.random.default_rng(seed), 3) for seed in (5, 5, 6)]
    assert scenes[0] == scenes[1]
    scene = Scene((0,), backdrop="forest", accessories=("hat",), medium="oil painting")
    assert np.array_equal(drawn(scene, 3), drawn(scene, 3))
    assert not np.array_equal(drawn(scene, 3), drawn(scene, 4))


def test_the_face_stands_where_the_box_says() -> None:
    for scene in (
        Scene((0,), backdrop="blue"),
        Scene((0,), backdrop="blue", size="small", place="on the left"),
        Scene((0,), backdrop="blue", size="small", place="on the right"),
        Scene((0, 1), backdrop="blue", size="small"),
        Scene((0,), backdrop="blue", pasted=(0.5, 1.0, 0.0, "red")),
    ):
        rendering = render(scene, [face()] * len(scene.people), np.random.default_rng(1))
        assert len(rendering.boxes) == len(scene.people)
        for left, top, width in rendering.boxes:
            x, y = round(left + width / 2), round(top + width * 40 / 64)
            assert np.abs(rendering.picture[y, x].astype(int) - (200, 150, 120)).max() < 12
        if scene.place:
            assert (rendering.boxes[0][0] + rendering.boxes[0][2] / 2 < SIDE / 2) == (scene.place == "on the left")
    assert rendering.picture[100, 20].tolist() == list(BACKGROUNDS["red"])


def test_people_stand_from_left_to_right() -> None:
    scene = Scene((0, 1), backdrop="grey", size="small")
    picture = render(scene, [face((230, 60, 60)), face((60, 60, 230))], np.random.default_rng(0)).picture.astype(int)
    assert picture[64, 34, 0] > picture[64, 34, 2] + 50
    assert picture[64, 93, 2] > picture[64, 93, 0] + 50


@pytest.mark.parametrize("worn", ACCESSORIES)
def test_what_is_worn_shows(worn: str) -> None:
    plain, dressed = drawn(Scene((0,), size="smaller")), drawn(Scene((0,), size="smaller", accessories=(worn,)))
    changed = (np.abs(plain.astype(int) - dressed).max(2) > 30).mean()
    assert 0.005 < changed < 0.3


def test_media_are_what_they_say() -> None:
    scene = Scene((0,), backdrop="sunset")
    for medium in ("black and white photo", "pencil sketch"):
        picture = drawn(replace(scene, medium=medium)).astype(int)
        assert np.abs(picture - picture[..., :1]).max() == 0
    sepia = drawn(replace(scene, medium="sepia photo")).astype(float)
    assert sepia[..., 0].mean() > sepia[..., 1].mean() > sepia[..., 2].mean()
    with pytest.raises(ValueError, match="mosaic"):
        drawn(replace(scene, medium="mosaic"))


def test_the_mask_keeps_the_face_and_drops_the_corners() -> None:
    mask = face_mask()
    assert mask[33, 32] == 1
    assert mask[[0, 0, 63, 63], [0, 63, 0, 63]].max() == 0
    assert ((mask > 0) & (mask < 1)).any()


def test_captions_tell_everything_that_shows() -> None:
    rng = np.random.default_rng(0)
    for _ in range(400):
        scene = draw_scene(rng, 3)
        text = caption(scene, [NAMES[person] for person in scene.people], rng)
        assert all(NAMES[person] in text for person in scene.people)
        for worn in scene.accessories:
            assert any(words in text for words in captions._WEARING[worn]), (text, worn)
        if scene.backdrop in PLACES:
            place = [words.split(" ", 1)[1] for words in PLACE_WORDS[scene.backdrop]]
            assert scene.pasted is not None or any(words.removeprefix("of ") in text for words in place), text
        if scene.place:
            assert scene.place in text
        if scene.pasted is not None and scene.pasted[0] < 0.95:
            assert f"on a plain {scene.pasted[3]} background" in text
        if scene.medium != "photo":
            words = (scene.medium.split(" ")[0], "painting", "sketch", "drawing")
            assert any(word in text for word in words), text


def test_no_name_is_told_of_people_without_one() -> None:
    rng = np.random.default_rng(0)
    texts = [caption(Scene((-1,)), [None], rng) for _ in range(50)]
    assert all("person" in text or "someone" in text for text in texts)


def test_people_are_ordered_as_they_stand() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        text = caption(Scene((2, 0), size="small"), [NAMES[2], NAMES[0]], rng)
        assert text.index(NAMES[2]) < text.index(NAMES[0])


def test_scenes_are_as_often_plain_as_intended() -> None:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng, 640) for _ in range(4000)]
    plain = [scene for scene in scenes if scene == Scene(scene.people, backdrop=scene.backdrop, size=scene.size)]
    assert 0.4 < len(plain) / len(scenes) < 0.6
    assert {scene.backdrop for scene in scenes} == {*PLACES, *PLAIN}
    pairs = [scene for scene in scenes if len(scene.people) == 2]
    assert 0.07 < len(pairs) / len(scenes) < 0.13
    assert all(scene.people[0] != scene.people[1] for scene in pairs)
    assert all(asdict(scene)["medium"] in MEDIA for scene in scenes)


def test_the_people_that_ship() -> None:
    people = read_people()
    assert len(people.names) == NAMED >= 600
    assert len(people.strangers) == STRANGERS >= 60
    assert len({*people.candidates}) == len(people.candidates) == NAMED + STRANGERS
    assert {*people.names} <= {*shipped_names().names}
    assert MOST_ALIKE == 0.45
    tokens = Tokens()
    ids = [tokens.words(name) for name in people.names]
    assert {len(row) for row in ids} == {2}
    assert max(Counter(row[1] for row in ids).values()) == 1


def test_captions_hold_no_token_that_is_not_trained() -> None:
    people, tokens, rng = read_people(), Tokens(), np.random.default_rng(0)
    used = {*used_tokens(tokens, people.names)}
    for _ in range(500):
        scene = draw_scene(rng, len(people.names))
        named = [people.names[person] if rng.random() < 0.9 else None for person in scene.people]
        assert {*tokens.words(caption(scene, named, rng))} <= used


def test_ids_are_those_of_the_tokenizer() -> None:
    tokens = Tokens()
    texts = ["a photo of Ada Lovelace, small, on the left", "", "an oil painting of Alan Turing and Jane Goodall"]
    theirs = tokens.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert tokens(texts).equal(theirs)


def test_faces_that_are_not_fit_to_show() -> None:
    good = face((190, 150, 120))
    assert fit_to_show(good)
    half = good.copy()
    half[:, 32:] = half[:, 32:] // 2
    assert not fit_to_show(half)
    masked = good.copy()
    masked[45:] = (60, 120, 220)
    assert not fit_to_show(masked)


def test_frontal_landmarks() -> None:
    frontal = np.array([[40, 50], [72, 50], [56, 70], [42, 92], [70, 92]], np.float32)
    assert is_frontal(frontal)
    turned = frontal.copy()
    turned[2, 0] += 9
    assert not is_frontal(turned)
