from __future__ import annotations

import importlib.util

import pytest

from celeb_basis.errors import MissingPackageError
from celeb_basis.hosts.diffusers.configs import clip_tokenizer, clip_vocabulary


def test_ids_of_clip_are_the_published_ones() -> None:
    tokenizer = clip_tokenizer()
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert len(tokenizer) == 49408
    assert tokenizer.model_max_length == 77


def test_vocabulary_has_the_published_places() -> None:
    vocabulary, merges = clip_vocabulary()
    assert len(vocabulary) == 49408
    assert len(merges) == 48894
    assert merges[0] == "i n"
    # openai/CLIP's own: 256 bytes, 256 bytes that end a word, merges, start and end
    assert vocabulary["!"] == 0
    assert vocabulary["!</w>"] == 256
    assert vocabulary["in"] == 512
    assert vocabulary["<|startoftext|>"] == 49406
    assert vocabulary["<|endoftext|>"] == 49407


@pytest.mark.parametrize(("flavor", "padding"), [("clip", 49407), ("open_clip", 0)])
def test_the_two_flavors_differ_in_padding(flavor: str, padding: int) -> None:
    ids = clip_tokenizer(flavor)("cat", padding="max_length", max_length=77).input_ids  # type: ignore[arg-type]
    assert ids[:3] == [49406, 2368, 49407]
    assert set(ids[3:]) == {padding}
    assert len(ids) == 77


def test_without_the_package_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingPackageError, match="pip install open_clip_torch"):
        clip_vocabulary()
