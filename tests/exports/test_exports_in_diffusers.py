"""Exported files in diffusers' own ``load_textual_inversion``: the very vectors, and the very conditioning, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import torch
from safetensors.torch import load_file
from support.models import make_host
from support.people import WIDTHS, model_info, random_basis, unit_coefficients

from celeb_basis.exports.textual_inversion import export_identity
from celeb_basis.identities.expand import new_identity
from celeb_basis.identities.identity import Identity
from miniature.small_models.pipelines import make_pipeline

if TYPE_CHECKING:
    from celeb_basis.hosts.diffusers import DiffusersHost
    from celeb_basis.hosts.diffusers.configs import Family

FAMILIES = sorted(WIDTHS)
NARROW: dict[str, Any] = {"width": 64, "second_width": 128}
"""Widths of the text encoders: diffusers takes long to make room in a table of the true width."""


def learned(family: str, widths: Sequence[int] = tuple(NARROW.values())) -> Identity:
    encoders = zip(WIDTHS[family], widths, strict=False)
    bases = [random_basis(encoder, width, seed=i) for i, (encoder, width) in enumerate(encoders)]
    return new_identity("ada", unit_coefficients(bases), bases, model_info(family))


def pipeline_with_the_word(family: str, files: Sequence[Path], **sizes: int) -> Any:
    """A pipeline into whose text encoders diffusers has loaded the exported files."""
    pipeline = make_pipeline(family, **sizes)  # type: ignore[arg-type]
    for file, part in zip(files, parts_of(pipeline), strict=True):
        pipeline.load_textual_inversion(str(file), **part)
    return pipeline


def parts_of(pipeline: Any) -> list[dict[str, Any]]:
    """The arguments that choose each text encoder of a pipeline in ``load_textual_inversion``."""
    parts = [{"text_encoder": pipeline.text_encoder, "tokenizer": pipeline.tokenizer}]
    if getattr(pipeline, "text_encoder_2", None) is not None:
        parts.append({"text_encoder": pipeline.text_encoder_2, "tokenizer": pipeline.tokenizer_2})
    return parts


def rows_of(part: dict[str, Any], word: str) -> torch.Tensor:
    """What stands in the embedding table for the word's tokens."""
    ids = part["tokenizer"].convert_tokens_to_ids([word, f"{word}_1"])
    table: torch.Tensor = part["text_encoder"].get_input_embeddings().weight
    return table[ids].detach()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pt"])
def test_the_table_gets_our_vectors(family: str, suffix: str, tmp_path: Path) -> None:
    identity = learned(family)
    files = export_identity(identity, tmp_path / f"ada{suffix}", "diffusers")
    pipeline = pipeline_with_the_word(family, files, **NARROW)
    for part, vectors in zip(parts_of(pipeline), identity.token_vectors(), strict=True):
        assert torch.equal(rows_of(part, "<ada>"), vectors)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_the_webui_s_files_load_too(family: Family, suffix: str, tmp_path: Path) -> None:
    identity = learned(family)
    (file,) = export_identity(identity, tmp_path / f"ada{suffix}", "webui")
    pipeline = make_pipeline(family, **NARROW)
    pipeline.load_textual_inversion(str(file), token="<ada>")
    assert torch.equal(rows_of(parts_of(pipeline)[0], "<ada>"), identity.token_vectors()[0])


def test_the_webui_s_sdxl_file_loads_the_way_diffusers_documents(tmp_path: Path) -> None:
    identity = learned("sdxl")
    (file,) = export_identity(identity, tmp_path / "ada.safetensors", "webui")
    pipeline = make_pipeline("sdxl", **NARROW)
    tensors = load_file(file)
    for part, key, vectors in zip(parts_of(pipeline), ("clip_l", "clip_g"), identity.token_vectors(), strict=True):
        pipeline.load_textual_inversion(tensors[key], token="<ada>", **part)
        assert torch.equal(rows_of(part, "<ada>"), vectors)


PROMPTS = [
    "a photo of <ada>",
    "<ada>, smiling",
    "<ada>",
    "a close-up photo of <ada> person, (detailed), 35mm",
    "<ada> talks with <ada> in a cafe",
    "Portrait of <ada> 's friend, by the sea",
    "nobody here",
]

Both: TypeAlias = "tuple[Identity, DiffusersHost, Any]"


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_conditioning_is_ours_bit_for_bit(both: Both, prompt: str) -> None:
    assert_same_conditioning(both, prompt)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_conditioning_is_ours_at_the_true_widths(family: str, tmp_path: Path) -> None:
    identity = learned(family, tuple(WIDTHS[family].values()))
    files = export_identity(identity, tmp_path / "ada.safetensors", "diffusers")
    both = identity, make_host(family), pipeline_with_the_word(family, files)
    for prompt in PROMPTS:
        assert_same_conditioning(both, prompt)


def test_the_word_matters(both: Both) -> None:
    """The comparison above can fail: other vectors give another conditioning."""
    identity, model, _ = both
    vectors = identity.token_vectors()
    with torch.no_grad():
        one = model.encode_prompts(["a photo of <ada>"], {"<ada>": vectors}).states
        two = model.encode_prompts(["a photo of <ada>"], {"<ada>": [v + 1e-3 for v in vectors]}).states
    assert not torch.equal(one, two)


def assert_same_conditioning(both: Both, prompt: str) -> None:
    identity, model, pipeline = both
    with torch.no_grad():
        ours = model.encode_prompts([prompt], {"<ada>": identity.token_vectors()})
        theirs = pipeline.encode_prompt(
            prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    assert torch.equal(ours.states, theirs[0])
    if ours.pooled is not None:
        assert torch.equal(ours.pooled, theirs[2])


@pytest.fixture(scope="module", params=FAMILIES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """An identity, our host, and a pipeline of the same weights that has loaded the identity's exported files."""
    identity = learned(request.param)
    files = export_identity(identity, tmp_path_factory.mktemp("exported") / "ada.safetensors", "diffusers")
    return (
        identity,
        make_host(request.param, **NARROW),
        pipeline_with_the_word(request.param, files, **NARROW),
    )
