"""Photos of strangers, from which they are learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miniature.compiled import compiler
from miniature.training.places import face_network
from miniature.world.bank import Bank, draw_person_into
from miniature.world.people import read_people
from miniature.world.photos import CHOSEN, photos_of, write_photos
from miniature.world.scenes import SIDE, Look


@pytest.fixture(autouse=True)
def needs_a_compiler() -> None:
    if compiler() is None:
        pytest.skip("needs a C compiler")


def test_the_photo_is_near_calm_from_the_front_and_without_things(tmp_path: Path) -> None:
    good = Look(4, 0, 0, "smile", "soft", "", near=True, seed=1)
    looks = [
        Look(0, 0, 0, "neutral", "soft", "hat", near=True, seed=2),
        Look(0, 0, 0, "neutral", "soft", "", near=False, seed=3),
        Look(25, 0, 0, "neutral", "soft", "", near=True, seed=4),
        Look(0, 0, 0, "surprise", "soft", "", near=True, seed=5),
        good,
    ]
    draw_person_into(tmp_path, 5, 1.4, looks)
    bank = Bank(tmp_path)
    first, *others = photos_of(bank, 5, 5)
    assert first.shape == (SIDE, SIDE, 3)
    assert len(others) == 4
    draw_person_into(tmp_path / "good", 5, 1.4, [good])
    assert np.array_equal(first, photos_of(Bank(tmp_path / "good"), 5, 1)[0])


def test_the_demos_photos_show_one_face_each(tmp_path: Path) -> None:
    people = read_people()
    assert len(set(CHOSEN)) == 2
    path = tmp_path / "photos" / "stranger1.png"
    write_photos([path], people, CHOSEN[:1])
    assert len(face_network().detect(np.asarray(Image.open(path).convert("RGB")))) == 1
