"""Prompts with words against diffusers' own ``load_textual_inversion``, bit for bit."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import make_host

from celeb_basis.diffusion_model import split_at_placeholders
from celeb_basis.errors import HostError
from celeb_basis.hosts.diffusers import DiffusersHost

PROMPTS = [
    "a photo of <p>",
    "<p>, smiling",
    "<p>'s hat",
    ",<p>",
    "(<p>:1.2), [<p>]",
    "<p>",
    "  <p>  and\n<q>\t!",
    "<p><q>",
    "<p><p> <q><q>",
    "Ein Foto von <p>, Größe 10, 北京 émoji 😀<q>!?",
    "A PHOTO OF <p> IN PARIS",
    "x<p>y",
    "<q>.",
    "<p>...<q>'s",
    "no word at all",
    "",
    " ".join(["very"] * 73) + " <p> cut",
    " ".join(["very"] * 74) + " <p>",
    " ".join(["very"] * 100),
    "<p> " * 60,
]

E = {"<p>": 2, "<q>": 3}


def vectors_for(model: DiffusersHost, seed: int = 1) -> dict[str, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        word: [torch.randn(count, encoder.width, generator=generator) * 0.02 for encoder in model.text_encoders]
        for word, count in E.items()
    }


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def ours_and_theirs(request: pytest.FixtureRequest) -> tuple[DiffusersHost, Any, dict[str, list[torch.Tensor]]]:
    # Narrow, because resizing the table, as load_textual_inversion does, takes seconds at the true width
    narrow = {"width": 64, "second_width": 128}
    ours = make_host(request.param, **narrow)
    theirs = make_host(request.param, **narrow)._pipeline
    words = vectors_for(ours)
    parts = [(theirs.tokenizer, theirs.text_encoder)]
    if request.param == "sdxl":
        parts.append((theirs.tokenizer_2, theirs.text_encoder_2))
    for which, (tokenizer, encoder) in enumerate(parts):
        for word, vectors in words.items():
            theirs.load_textual_inversion({word: vectors[which]}, tokenizer=tokenizer, text_encoder=encoder)
    return ours, theirs, words


def check_equal(ours_and_theirs: tuple[DiffusersHost, Any, Any], prompts: list[str]) -> None:
    ours, theirs, words = ours_and_theirs
    with torch.no_grad():
        mine = ours.encode_prompts(prompts, words)
        reference = theirs.encode_prompt(
            prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    assert torch.equal(mine.states, reference[0])
    assert mine.states.shape[1] == 77
    if ours.info.family == "sdxl":
        assert torch.equal(mine.pooled, reference[2])


@pytest.mark.parametrize("prompt", PROMPTS)
def test_same_bits_as_textual_inversion(ours_and_theirs: Any, prompt: str) -> None:
    check_equal(ours_and_theirs, [prompt])


def test_same_bits_for_several_prompts_at_once(ours_and_theirs: Any) -> None:
    check_equal(ours_and_theirs, PROMPTS)


PIECES = st.sampled_from(
    ["<p>", "<q>", " ", ",", "'s", "(", "photo", "Ärger", "x1", "!", ".", "<", ">", "人", "a man's", "\n", ":1.2)", "“"]
)


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(PIECES, max_size=12))
def test_same_ids_as_an_added_token_for_any_prompt(ours_and_theirs: Any, pieces: list[str]) -> None:
    ours, theirs, words = ours_and_theirs
    prompt = "".join(pieces)
    tokenizer = theirs.tokenizer
    expected = tokenizer(
        theirs.maybe_convert_prompt(prompt, tokenizer), padding="max_length", max_length=77, truncation=True
    ).input_ids
    found = ours.text_encoders[0]._tokenized(prompt, {word: vectors[0] for word, vectors in words.items()})
    added = {position: (word, number) for position, word, number in found.positions}
    for position, (mine, reference) in enumerate(zip(found.ids, expected, strict=True)):
        if position in added:
            word, number = added[position]
            assert reference == tokenizer.convert_tokens_to_ids(f"{word}_{number}" if number else word)
        else:
            assert mine == reference


def test_pooling_finds_the_end_though_the_config_is_the_public_one(
    sdxl_host: DiffusersHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = vectors_for(sdxl_host)
    with torch.no_grad():
        right = sdxl_host.encode_prompts(["<p> here"], words).pooled
        # With this id transformers takes the highest id of a prompt for its end, which an added token would be.
        monkeypatch.setattr(sdxl_host._pipeline.text_encoder_2.text_model, "eos_token_id", 2)
        assert torch.equal(sdxl_host.encode_prompts(["<p> here"], words).pooled, right)


def test_nothing_of_the_model_changes_and_no_hook_stays(sd1_host: DiffusersHost) -> None:
    model = sd1_host._pipeline.text_encoder
    before = model.get_input_embeddings().weight.clone()
    vocabulary = len(sd1_host._pipeline.tokenizer)
    sd1_host.encode_prompts(["a <p>"], vectors_for(sd1_host))
    with pytest.raises(HostError):
        sd1_host.encode_prompts(["a <p>"], {"<p>": [torch.zeros(2, 5)]})
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert len(sd1_host._pipeline.tokenizer) == vocabulary
    assert not model.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_gradients_reach_the_vectors_and_equal_finite_differences(kind: str, request: pytest.FixtureRequest) -> None:
    model: DiffusersHost = request.getfixturevalue(f"{kind}_host")
    words = {word: [vector.requires_grad_() for vector in of_word] for word, of_word in vectors_for(model).items()}
    latents, steps = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])

    def loss(changed: dict[str, list[torch.Tensor]]) -> torch.Tensor:
        return model.predict(latents, steps, model.encode_prompts(["<p> with <p>"], changed)).double().square().mean()

    with model.prepare_for_training("fp32"):
        loss(words).backward()
        for which in range(len(model.text_encoders)):
            gradient = words["<p>"][which].grad
            assert gradient is not None
            direction = gradient / gradient.norm()
            ends = []
            for sign in (1, -1):
                moved = [vector.detach().clone() for vector in words["<p>"]]
                moved[which] += sign * 0.02 * direction
                with torch.no_grad():
                    ends.append(loss({"<p>": moved}))
            assert float((ends[0] - ends[1]) / 0.04) == pytest.approx(float(gradient.norm()), rel=0.03)
    assert all(vector.grad is None for vector in words["<q>"])


def test_a_cut_prompt_is_reported(sd1_host: DiffusersHost, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        sd1_host.encode_prompts(["very " * 80], {})
    assert "cut at its end" in caplog.text
    caplog.clear()
    sd1_host.encode_prompts(["very " * 75], {})
    assert not caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"<p>": [torch.zeros(2, 12)]}, "rows of 768 numbers"),
        ({"<p>": []}, "no vectors for the text encoder clip_l"),
        ({"": [torch.zeros(2, 768)]}, "empty"),
    ],
)
def test_wrong_words_are_refused(sd1_host: DiffusersHost, words: Any, message: str) -> None:
    with pytest.raises(HostError, match=message):
        sd1_host.encode_prompts(["a <p>"], words)


def test_splitting_prefers_the_longest_word() -> None:
    words = ["p1", "p10", "<person1>", "<person10>"]
    assert split_at_placeholders("p10 <person10>p1", words) == ["p10", " ", "<person10>", "p1"]
    assert split_at_placeholders("nothing", []) == ["nothing"]
    assert split_at_placeholders("", words) == []


def test_tokenizing_has_no_special_tokens_padding_or_limit(sd1_host: DiffusersHost) -> None:
    encoder = sd1_host.text_encoders[0]
    assert encoder.tokenize(["a photo of a cat", "", "very " * 100]) == [[320, 1125, 539, 320, 2368], [], [1070] * 100]
    assert encoder.tokenize([]) == []
    assert encoder.token_table().shape == (49408, 768)
    assert not encoder.token_table().requires_grad
