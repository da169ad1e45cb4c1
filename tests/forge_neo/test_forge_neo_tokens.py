"""``<ada>`` in a real Forge Neo's prompts, and the same person through diffusers.

Run with ``CELEB_BASIS_FORGE_NEO`` set.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.forge import need_forge_neo, with_miniature
from support.forge_people import save_people
from support.forge_tokens import CHECKS, PLAIN, REQUEST

from celeb_basis.diffusion_model import DiffusionModel, GenerationRequest
from celeb_basis.hosts.diffusers import load_host
from celeb_basis.identities.identity import load_identity


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forge Neo's data folder."""
    need_forge_neo()
    return with_miniature(tmp_path_factory.mktemp("forge_neo"))


@pytest.fixture(scope="module")
def diffusers_host(data: Path) -> DiffusionModel:
    """The very checkpoint that Forge Neo has."""
    return load_host(data / "models" / "Stable-diffusion" / "miniature.safetensors", dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def report(data: Path, diffusers_host: DiffusionModel) -> dict[str, str]:
    """What failed in each check, and in the folder what Forge Neo has made of the people."""
    save_people(diffusers_host, data)
    try:
        answer: dict[str, str] = need_forge_neo().answer_of("support.forge_tokens", data=data, timeout=1800)
    except AssertionError as error:  # it did not start
        return dict.fromkeys(CHECKS, str(error))
    return answer


@pytest.mark.parametrize("check", CHECKS)
def test_in_forge_neo(check: str, report: dict[str, str]) -> None:
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
