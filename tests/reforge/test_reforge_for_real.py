"""In a real reForge: its adapter computes what diffusers computes, leaves no trace, and prompts know people by name."""

from __future__ import annotations

from typing import Any

import pytest
from support.reforge import furnished, need_reforge

ROUNDING = 1e-5


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    reforge = need_reforge()
    data = furnished(tmp_path_factory.mktemp("reforge"))
    return reforge.answer_of("support.reforge_checks", data=data)


def test_reforge_is_recognised(seen: dict[str, Any]) -> None:
    assert seen["adapter"] == "reForge"


def test_the_checkpoint_is_what_diffusers_says_it_is(seen: dict[str, Any]) -> None:
    found = seen["compared"]
    assert (found["family"], found["resolution"], found["prediction"]) == ("sd1", 192, "v_prediction")
    assert found["schedule"] < 1e-6
    assert found["table"] == 0


def test_it_encodes_and_denoises_as_diffusers_does(seen: dict[str, Any]) -> None:
    found = seen["compared"]
    assert found["latents"] < ROUNDING
    assert found["decoded"] < ROUNDING
    assert found["same_text_encoder"]
    assert found["conditioning"] < ROUNDING
    assert found["prediction_of_noise"] < ROUNDING


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_to_a_persons_vectors_are_those_of_diffusers(seen: dict[str, Any], checkpointing: bool) -> None:
    assert seen["compared"][f"slope_checkpointing_{checkpointing}"] < 1e-4


def test_learning_and_its_previews_leave_the_model_as_it_was(seen: dict[str, Any]) -> None:
    left = seen["left"]
    assert left["weights"]
    assert left["flags"]
    assert left["patches"]
    assert left["pictures"] == [[192, 192]]
    assert left["slopes_differ"] == 0


def test_a_lora_that_was_merged_into_the_weights_is_not_learned_through(seen: dict[str, Any]) -> None:
    lora = seen["lora"]
    assert lora["merged"] > 0.9
    assert lora["in_inference_mode"]
    assert lora["slopes_differ"] < ROUNDING
    assert lora["left"] < ROUNDING


def test_a_prompt_is_given_the_vectors_of_the_identity_file_bit_for_bit(seen: dict[str, Any]) -> None:
    assert seen["names"]["vectors"]
    assert seen["names"]["kept_for_gradients"]


@pytest.mark.parametrize("case", ["plain", "punctuation", "emphasis", "brackets", "unknown"])
def test_a_name_is_encoded_as_its_vectors_wherever_it_stands(seen: dict[str, Any], case: str) -> None:
    assert seen["names"][case] == 0
