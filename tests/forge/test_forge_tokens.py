"""``<ada>`` in a real Forge's prompts, and the same person through diffusers. Run with ``CELEB_BASIS_FORGE`` set."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.forge import need_forge, with_miniature
from support.forge_people import save_people
from support.forge_tokens import CHECKS, PLAIN, REQUEST

from celeb_basis.diffusion_model import DiffusionModel, GenerationRequest
from celeb_basis.hosts.diffusers import load_host
from celeb_basis.identities.identity import load_identity


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forge's data folder."""
    need_forge()
    return with_miniature(tmp_path_factory.mktemp("forge"))


@pytest.fixture(scope="module")
def diffusers_host(data: Path) -> DiffusionModel:
    """The very checkpoint that Forge has."""
    file = data / "models" / "Stable-diffusion" / "miniature.safetensors"
    return load_host(file, dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def people(data: Path, diffusers_host: DiffusionModel) -> Path:
    """The folder with two people of the miniature's basis, as the command line would have learned them."""
    save_people(diffusers_host, data)
    return data


@pytest.fixture(scope="module")
def report(people: Path) -> dict[str, str]:
    """What failed in each check, and in the folder what Forge has made of the people."""
    answer: dict[str, str] = need_forge().answer_of("support.forge_tokens", data=people, timeout=1800)
    return answer


@pytest.mark.parametrize("check", CHECKS)
def test_in_forge(check: str, report: dict[str, str]) -> None:
    assert not report[check], report[check]


def test_conditioning_is_that_of_diffusers_within_rounding(
    data: Path, report: dict[str, str], diffusers_host: DiffusionModel
) -> None:
    assert report
    words = {"<ada>": load_identity(data / "people" / "ada.safetensors").token_vectors()}
    found = load_file(data / "encoded.safetensors")
    for number, prompt in enumerate(PLAIN):
        expected = diffusers_host.encode_prompts([prompt], words).states
        torch.testing.assert_close(
            found[str(number)], expected, rtol=0, atol=2e-5, msg=partial("{}: {}".format, prompt)
        )


def test_the_picture_is_that_of_diffusers(data: Path, report: dict[str, str], diffusers_host: DiffusionModel) -> None:
    """The same person, seed and sampler; the hosts round otherwise, and other people make another picture altogether."""
    assert report
    words = {"<ada>": load_identity(data / "people" / "ada.safetensors").token_vectors()}
    (expected,) = diffusers_host.generate(GenerationRequest(placeholder_tokens=words, **REQUEST))  # type: ignore[arg-type]
    (other,) = diffusers_host.generate(GenerationRequest(**REQUEST))  # type: ignore[arg-type]
    drawn, ours, without = (
        np.asarray(picture.convert("RGB"), float) for picture in (Image.open(data / "drawn.png"), expected, other)
    )
    assert np.abs(drawn - ours).mean() < 0.2 * np.abs(without - ours).mean()
