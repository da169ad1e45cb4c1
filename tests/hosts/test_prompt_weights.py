"""Weights and long prompts on the command line's host, compared with the WebUI's own functions where it is installed."""

from __future__ import annotations

import ast
import os
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.models import make_host

from celeb_basis.diffusion_model import GenerationRequest
from celeb_basis.errors import HostError
from celeb_basis.hosts.diffusers import DiffusersHost
from celeb_basis.prompts.emphasis import BREAK, parse_emphasis, read_otherwise, split_into_chunks

DOCUMENTED = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("house", 1.5730000000000004),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641000000000006),
        (".", 1.1),
    ],
    "": [("", 1.0)],
    "one BREAK two": [("one", 1.0), BREAK, ("two", 1.0)],
}


@pytest.mark.parametrize("prompt", DOCUMENTED)
def test_weights_are_read_as_the_webui_documents(prompt: str) -> None:
    assert parse_emphasis(prompt) == DOCUMENTED[prompt]


@pytest.mark.parametrize("prompt", ["(a:1.2.3)", "(a:.)", "(a:..)", "(" * 10_000 + "a", "(a:" + "9" * 400 + ")"])
def test_impossible_weights_are_named(prompt: str) -> None:
    with pytest.raises(HostError, match="weight"):
        parse_emphasis(prompt)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a [cat:dog:0.5]", "[cat:dog:0.5]"),
        ("a [cat:10]", "[cat:10]"),
        ("a [cat::10]", "[cat::10]"),
        ("a [cat|dog]", "[cat|dog]"),
        ("a cat AND a dog", "AND"),
        ("a cat # and a dog", "# and a dog"),
    ],
)
def test_what_only_the_webui_reads_is_named(prompt: str, said: str) -> None:
    assert any(said in sentence for sentence in read_otherwise(prompt))


@pytest.mark.parametrize(
    "prompt", ["a [cat]", "(cat:1.2)", "a cat and a dog", r"\[cat|dog\]", "LAND", "[cat: the film]"]
)
def test_plain_prompts_cause_no_remark(prompt: str) -> None:
    assert read_otherwise(prompt) == []


# The WebUI's own code, taken from its files: it imports too much to be imported here


def webui_file(name: str) -> Path:
    folder = os.environ.get("CELEB_BASIS_WEBUI")
    if not folder:
        pytest.skip("CELEB_BASIS_WEBUI names no WebUI")
    return Path(folder) / "modules" / name


def webui_function(file: str, name: str, **names: Any) -> Any:
    """A function of the WebUI, by its source."""
    tree = ast.parse(webui_file(file).read_text(encoding="utf-8"))
    (node,) = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) and one.name == name]
    values = {"re": re, **names}
    exec(compile(ast.Module([node], []), file, "exec"), values)
    return values[name]


@pytest.fixture(scope="module")
def their_parser() -> Any:
    tree = ast.parse(webui_file("prompt_parser.py").read_text(encoding="utf-8"))
    values: dict[str, Any] = {"re": re}
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("re_attention", "re_break"):
            exec(compile(ast.Module([node], []), "prompt_parser.py", "exec"), values)
    return webui_function("prompt_parser.py", "parse_prompt_attention", **values)


WORDS = (
    "(", ")", "[", "]", "\\", ":", ":1.2)", ":0.7)", ": -1)", ":.5 )", "BREAK", " BREAK ", "a BREAK", "BREAKING", "photo", " ",
    "<p>", "<q>", "<p>, ", ", ", ",,", "very ", "\n", "'s", "red hat", "é", "1.5", "long " * 20, "word, " * 9,
)  # fmt: skip


def random_prompts(count: int) -> list[str]:
    chosen = random.Random(5)
    return ["".join(chosen.choices(WORDS, k=chosen.randint(0, 30))) for _ in range(count)]


def test_weights_are_read_as_by_the_webui(their_parser: Any) -> None:
    for prompt in random_prompts(3000):
        assert [list(piece) for piece in parse_emphasis(prompt)] == their_parser(prompt), prompt


VECTORS = {"<p>": 2, "<q>": 5}


def test_chunks_are_those_of_the_webui(their_parser: Any) -> None:
    """The WebUI's ``tokenize_line`` with words for tokens; where it forgets an embedding that it moves, ours must not."""

    class Chunk(SimpleNamespace):
        def __init__(self) -> None:
            super().__init__(tokens=[], multipliers=[], fixes=[])

    ids: dict[str, int] = {}

    def tokens_of(text: str) -> list[int | str]:
        return [
            one if one in VECTORS else ids.setdefault(one, 10 + len(ids))
            for one in re.findall(r"<[pq]>|\w+|[^\w\s]", text)
        ]

    their_prompts = SimpleNamespace(parse_prompt_attention=their_parser)
    tokenize_line = webui_function(
        "sd_hijack_clip.py",
        "tokenize_line",
        opts=SimpleNamespace(emphasis="Original", comma_padding_backtrack=20),
        prompt_parser=their_prompts,
        PromptChunk=Chunk,
        PromptChunkFix=lambda offset, embedding: (offset, embedding),
    )
    comma = tokens_of(",")[0]
    assert isinstance(comma, int)

    def at(tokens: list[Any], position: int) -> tuple[Any, Any]:
        found = tokens[position]
        return (SimpleNamespace(vectors=VECTORS[found], name=found), 1) if found in VECTORS else (None, None)

    view = SimpleNamespace(
        tokenize=lambda texts: [tokens_of(text) for text in texts],
        chunk_length=75,
        id_start=1,
        id_end=2,
        comma_token=comma,
        hijack=SimpleNamespace(embedding_db=SimpleNamespace(find_embedding_at_position=at)),
    )
    several = moved = 0
    for prompt in random_prompts(1500):
        theirs, _ = tokenize_line(view, prompt)
        pieces = [None if one == BREAK else (tokens_of(one[0]), one[1]) for one in parse_emphasis(prompt)]
        ours = split_into_chunks(pieces, VECTORS, room=75, comma=comma)
        several += len(ours) > 1
        assert len(ours) == len(theirs), prompt
        for mine, their in zip(ours, theirs, strict=True):
            padding = 75 - len(mine)
            assert [1, *(one.id for one in mine), *[2] * padding, 2] == their.tokens, prompt
            assert [1.0, *(one.weight for one in mine), *[1.0] * padding, 1.0] == their.multipliers, prompt
            places = [(at, one.placeholder) for at, one in enumerate(mine) if one.placeholder and one.vector == 0]
            moved += places != [(offset, embedding.name) for offset, embedding in their.fixes]
            for place, name in places:
                assert [one.vector for one in mine[place : place + VECTORS[name]]] == list(range(VECTORS[name]))
    assert several > 300
    assert moved < 100  # only where the WebUI moves an embedding and leaves its offset behind


def test_the_mean_is_restored_as_by_the_webui(sd1_host: DiffusersHost) -> None:
    source = webui_file("sd_emphasis.py").read_text(encoding="utf-8")
    values: dict[str, Any] = {"__name__": "sd_emphasis"}
    exec(compile(source, "sd_emphasis.py", "exec"), values)
    encoder = sd1_host.text_encoders[0]
    (plain,) = encoder.chunks("a red hat", {}, 0)
    (weighted,) = encoder.chunks("a (red:1.5) [hat]", {}, 0)
    with torch.no_grad():
        states, _ = encoder.encode_chunks([plain], {}, 0, penultimate=False)
        found, _ = encoder.encode_chunks([weighted], {}, 0, penultimate=False)
    emphasis = values["EmphasisOriginal"]()
    emphasis.multipliers, emphasis.z = torch.asarray([weighted.weights]), states
    emphasis.after_transformers()
    assert weighted.weights[:4] == (1.0, 1.0, 1.5, 1 / 1.1)
    assert torch.equal(found, emphasis.z)


# Conditioning and images


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def model(request: pytest.FixtureRequest) -> DiffusersHost:
    return make_host(request.param, width=64, second_width=128)


def people(model: DiffusersHost) -> dict[str, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return {
        word: [torch.randn(count, encoder.width, generator=generator) * 0.02 for encoder in model.text_encoders]
        for word, count in VECTORS.items()
    }


def encoded(model: DiffusersHost, prompt: str) -> Any:
    with torch.no_grad():
        return model._encode_weighted(prompt, people(model))


@pytest.mark.parametrize(
    "prompt", ["a photo of <p>", "<p>, smiling", "", "<q>'s hat: red", "  <p>  and\n<q>\t!", "very " * 73]
)
def test_a_plain_prompt_is_encoded_to_the_same_bits_as_in_training(model: DiffusersHost, prompt: str) -> None:
    with torch.no_grad():
        plain = model.encode_prompts([prompt], people(model))
    found = encoded(model, prompt)
    assert torch.equal(found.states, plain.states)
    assert (found.pooled is None) == (plain.pooled is None)
    assert found.pooled is None or torch.equal(found.pooled, plain.pooled)


@pytest.mark.parametrize(
    ("typed", "same"),
    [
        ("a photo of <p:0.8>", "a photo of (<p>:0.8)"),
        ("a ((<p>)) hat", "a (<p>:1.21) hat"),
        ("a [<p>] hat", "a (<p>:0.9090909090909091) hat"),
        (r"a \(<p>\)", r"a \(<p>\)"),
    ],
)
def test_spellings_of_one_weight_are_the_same(model: DiffusersHost, typed: str, same: str) -> None:
    assert torch.allclose(encoded(model, typed).states, encoded(model, same).states, atol=1e-5)


def test_a_weight_changes_the_conditioning_in_proportion(model: DiffusersHost) -> None:
    plain, weighted = encoded(model, "a photo of <p>, smiling"), encoded(model, "a photo of (<p>:1.3), smiling")
    ratio = weighted.states / plain.states
    assert not torch.allclose(ratio[:, 4:6], torch.ones_like(ratio[:, 4:6]), atol=0.05)
    # Of each text encoder, the positions without a weight change by one factor alone.
    widths = [encoder.width for encoder in model.text_encoders]
    for part in ratio.split(widths, dim=-1):
        assert torch.allclose(part[:, 6:], part[:, :1, :1].expand_as(part[:, 6:]), rtol=1e-3)
        assert torch.allclose(part[:, 4:6] / part[:, :1, :1], torch.full_like(part[:, 4:6], 1.3), rtol=1e-3)
    assert plain.pooled is None or torch.equal(plain.pooled, weighted.pooled)


def test_nobody_behind_token_75_is_lost(model: DiffusersHost) -> None:
    long = "very " * 80
    with_p, with_q = encoded(model, long + "<p>"), encoded(model, long + "<q>")
    assert with_p.states.shape[1] == 2 * model.text_encoders[0].max_tokens
    assert not torch.equal(with_p.states, with_q.states)


def test_break_begins_a_chunk(model: DiffusersHost) -> None:
    found = encoded(model, "a photo of <p> BREAK a hat")
    apart = torch.cat([encoded(model, "a photo of <p>").states, encoded(model, "a hat").states], dim=1)
    assert torch.equal(found.states, apart)


@pytest.mark.parametrize("negative", ["", "ugly, " * 60])
@pytest.mark.parametrize("prompt", ["a (<p>:1.2)", "a hat BREAK a coat BREAK <p>"])
def test_images_of_prompts_of_any_length(model: DiffusersHost, prompt: str, negative: str) -> None:
    request = GenerationRequest(prompt, negative, people(model), steps=1, guidance=4.0)
    (image,) = model.generate(request)
    assert min(image.size) > 0


def test_a_negative_of_another_length_is_as_if_computed_apart(sd1_host: DiffusersHost) -> None:
    """Guidance needs equally long prompts, and attention does not notice that all of one is repeated."""
    states = encoded(sd1_host, "a photo of <p>")
    latents, times = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([500])
    with torch.no_grad():
        once = sd1_host.predict(latents, times, states)
        thrice = sd1_host.predict(latents, times, type(states)(states.states.repeat(1, 3, 1), states.pooled))
    assert torch.allclose(once, thrice, atol=1e-5)
