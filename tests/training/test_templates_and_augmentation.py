"""Training prompts in the paper's form, and views whose landmarks and descriptions are correct."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from celeb_basis.faces.network import Portrait
from celeb_basis.training.augment import (
    BACKGROUNDS,
    TEMPLATES,
    Augmentation,
    augment,
    describe_view,
    draw_augmentation,
    training_prompt,
)

_SIDE = 128
_PLAIN = Augmentation(
    flip=False, brightness=1, contrast=1, saturation=1, hue=0, width=1, aspect=1, left=0, top=0, background="grey"
)


def _portrait() -> Portrait:
    """Five dots of different colors on black, a landmark at the middle of each."""
    picture = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    landmarks = np.array([[40, 50], [88, 52], [64, 70], [46, 92], [84, 94]], np.float32)
    for index, (x, y) in enumerate(landmarks.astype(int)):
        picture[y - 4 : y + 5, x - 4 : x + 5] = np.eye(3, dtype=np.uint8)[index % 3] * 255 if index < 3 else 255
    return Portrait(picture, landmarks, np.zeros(512, np.float32), "dots.png")


def test_there_are_sixty_templates_with_one_placeholder_each() -> None:
    assert len(set(TEMPLATES)) == len(TEMPLATES) == 60
    assert all(template.count("{}") == 1 for template in TEMPLATES)


def test_prompt_has_the_papers_form_and_says_what_the_augmentation_did() -> None:
    assert training_prompt("a photo of the {}", "<p>", "") == "a photo of the face of <p> person"
    description = describe_view(0.3, (0.9, 0.9), "light blue")
    assert description == "small, at the bottom on the right, on a plain light blue background"
    assert training_prompt("a photo of the {}", "<p>", description).endswith(description)
    assert describe_view(1.0, (0.5, 0.5), "grey") == ""


def test_the_neutral_augmentation_changes_nothing() -> None:
    portrait = _portrait()
    view = augment(portrait, _PLAIN)
    np.testing.assert_array_equal(view.picture, portrait.picture)
    np.testing.assert_allclose(view.landmarks, portrait.landmarks)
    assert view.description == ""


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_landmarks_follow_the_picture(seed: int) -> None:
    choice = draw_augmentation(torch.Generator().manual_seed(seed), 0.4)
    view = augment(_portrait(), choice)
    assert view.picture.shape == (_SIDE, _SIDE, 3)
    background = np.array(BACKGROUNDS[choice.background], float)
    order = (1, 0, 2, 4, 3) if choice.flip else range(5)
    for place, original in enumerate(order):
        x, y = np.rint(view.landmarks[place]).astype(int)
        pixel = view.picture[y, x].astype(float)
        assert np.abs(pixel - background).max() > 25 or original > 2
        if original < 3:  # the dot's own color still leads
            assert pixel.argmax() == original % 3


def test_choices_stay_within_the_methods_ranges_and_reach_their_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    choices = [draw_augmentation(generator, 0.1) for _ in range(2000)]
    for field, low, high in (
        ("brightness", 0.8, 1.2), ("contrast", 0.8, 1.2), ("saturation", 0.8, 1.2),
        ("hue", -0.01, 0.01), ("width", 0.1, 1.0), ("aspect", 0.9, 1.1), ("left", 0, 1), ("top", 0, 1),
    ):  # fmt: skip
        values = np.array([getattr(choice, field) for choice in choices])
        assert low <= values.min() < low + 0.02 * (high - low), field
        assert high >= values.max() > high - 0.02 * (high - low), field
    assert 0.45 < np.mean([choice.flip for choice in choices]) < 0.55
    assert {choice.background for choice in choices} == set(BACKGROUNDS)


@pytest.mark.parametrize("width", [0.1, 0.3, 0.7])
def test_view_is_the_picture_on_the_named_background(width: float) -> None:
    choice = Augmentation(
        flip=False,
        brightness=1,
        contrast=1,
        saturation=1,
        hue=0,
        width=width,
        aspect=1.1,
        left=1,
        top=0,
        background="red",
    )
    view = augment(_portrait(), choice)
    covered = round(_SIDE * width)
    assert (view.picture[:, : _SIDE - covered] == BACKGROUNDS["red"]).all()
    assert (view.picture[round(covered * 1.1) :] == BACKGROUNDS["red"]).all()
    assert "on a plain red background" in view.description
    assert "on the right" in view.description or width > 0.65
