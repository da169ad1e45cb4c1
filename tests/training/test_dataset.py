"""The pool of views on real faces: the face network still recognizes the person, and latents belong to the views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.sample_photos import sample_photos
from support.toys import ToyModel

from celeb_basis.errors import TrainingError
from celeb_basis.events import Preparing, follow
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.network import Portrait
from celeb_basis.faces.portraits import portrait
from celeb_basis.photos import open_photo
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.dataset import ViewPool, encode_views, to_model_range
from celeb_basis.training.run import PhotoInput, TrainingTask, prepare_trainer, training_size


@pytest.fixture(scope="module")
def two_people(miniature_faces: InsightFaceNetwork) -> dict[str, list[Portrait]]:
    photo = open_photo(sample_photos()["six"])
    return {f"person{i}": [portrait(photo, miniature_faces, size=128, choose=i)] for i in range(2)}


def _pool(
    people: Mapping[str, Sequence[Portrait]],
    faces: InsightFaceNetwork,
    smallest: float = 0.6,
    views: int = 8,
    seed: int = 0,
) -> ViewPool:
    generator = torch.Generator().manual_seed(seed)
    steps = encode_views(ToyModel(), people, faces, views=views, smallest=smallest, generator=generator)
    events: list[Preparing] = []
    pool = follow(steps, events.append)
    assert events == [Preparing(i + 1, views * len(people)) for i in range(views * len(people))]
    return pool


def test_views_resemble_their_person_and_not_the_other(
    two_people: dict[str, list[Portrait]], miniature_faces: InsightFaceNetwork
) -> None:
    pool = _pool(two_people, miniature_faces)
    assert pool.face_model == miniature_faces.name
    for person, other_name in zip(pool.people, ("person1", "person0"), strict=True):
        own = person.vectors.numpy() @ two_people[person.name][0].vector
        other = person.vectors.numpy() @ two_people[other_name][0].vector
        assert own.min() > 0.5, own
        assert (own > other + 0.2).all()
        np.testing.assert_allclose(person.vectors.norm(dim=1), 1, atol=1e-5)
        assert person.latents.mean.shape == person.latents.std.shape == (8, 4, 16, 16)
        assert len(person.descriptions) == 8
        assert person.thumbnail.startswith(b"\x89PNG")


def test_same_seed_same_pool_other_seed_other_views(
    two_people: dict[str, list[Portrait]], miniature_faces: InsightFaceNetwork
) -> None:
    first, again, other = (_pool(two_people, miniature_faces, views=3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.people[0].latents.mean, again.people[0].latents.mean)
    assert torch.equal(first.people[1].vectors, again.people[1].vectors)
    assert first.people[0].descriptions == again.people[0].descriptions
    assert not torch.equal(first.people[0].latents.mean, other.people[0].latents.mean)


def test_pictures_are_scaled_to_the_models_range() -> None:
    tensor = to_model_range(np.array([[[0, 127, 255]]], np.uint8))
    assert tensor.shape == (1, 3, 1, 1)
    np.testing.assert_allclose(tensor.flatten(), [-1, -1 / 255, 1], atol=1e-6)


def test_the_trainer_is_prepared_at_the_models_own_size(
    two_people: dict[str, list[Portrait]], miniature_faces: InsightFaceNetwork
) -> None:
    from support.bases import toy_bases

    model = ToyModel()
    settings = TrainingSettings(components=8, views=2, steps=2, early_stop=False)
    assert training_size(model, settings) == 64
    assert training_size(model, settings.changed({"size": 128})) == 128
    trainer = follow(prepare_trainer(model, toy_bases(model), two_people, miniature_faces, settings))
    assert trainer.total == 4


def test_unusable_portraits_are_refused(
    two_people: dict[str, list[Portrait]], miniature_faces: InsightFaceNetwork
) -> None:
    (first,) = two_people["person0"]
    small = replace(first, picture=first.picture[:64, :64])
    odd = replace(first, picture=first.picture[:60, :60])
    cases: list[tuple[dict[str, list[Portrait]], str]] = [
        ({}, "nobody to learn"),
        ({"ann": []}, "no usable photo"),
        (two_people | {"small": [small]}, "different sizes"),
        ({"odd": [odd]}, "multiple of 8"),
    ]
    for people, sentence in cases:
        with pytest.raises(TrainingError, match=sentence):
            _pool(people, miniature_faces)


def test_two_people_of_one_name_are_refused() -> None:
    with pytest.raises(TrainingError, match="Two people are both called 'ann'"):
        TrainingTask((PhotoInput("ann", ()), PhotoInput("Ann", ())), TrainingSettings())
