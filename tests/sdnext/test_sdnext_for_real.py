"""In a real SD.Next: people are learned as with diffusers, and prompts know them as the embeddings they would export."""

from __future__ import annotations

from typing import Any

import pytest
from support.sdnext import furnished, need_sdnext


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    sdnext = need_sdnext()
    data = furnished(tmp_path_factory.mktemp("sdnext"))
    return sdnext.answer_of("support.sdnext_checks", data=data)


def test_sdnext_is_recognised(seen: dict[str, Any]) -> None:
    assert seen["adapter"] == "SD.Next"


def test_the_checkpoint_is_what_diffusers_says_it_is(seen: dict[str, Any]) -> None:
    found = seen["compared"]
    assert (found["family"], found["resolution"], found["prediction"]) == ("sd1", 192, "v_prediction")
    assert found["schedule"] == 0
    assert found["same_weights"]


def test_gradients_to_a_persons_vectors_are_those_of_diffusers(seen: dict[str, Any]) -> None:
    assert seen["compared"]["slope"] < 1e-4
    assert seen["compared"]["weights_stay"]


def test_a_prompt_is_given_the_vectors_of_the_identity_file_bit_for_bit(seen: dict[str, Any]) -> None:
    assert seen["names"]["vectors"]
    assert seen["names"]["rows"] == 2 * 2  # the embedding's and the person's


def test_the_exported_person_is_an_embedding_of_sdnexts(seen: dict[str, Any]) -> None:
    assert seen["names"]["embedding_loaded"]


@pytest.mark.parametrize("case", ["plain", "punctuation", "emphasis", "a1111", "fixed"])
def test_a_name_is_encoded_as_the_exported_embedding_is(seen: dict[str, Any], case: str) -> None:
    assert seen["names"][case] == 0


def test_the_conditioning_is_that_of_diffusers(seen: dict[str, Any]) -> None:
    assert seen["names"]["diffusers"] < 1e-5


def test_sdnext_is_put_back_as_it_was(seen: dict[str, Any]) -> None:
    assert seen["names"]["uninstalled"]


def test_balanced_offloading_is_there_again_after_learning(seen: dict[str, Any]) -> None:
    found = seen["offloaded"]
    assert found["before"] == found["after"] == [True] * 4
