"""Training goes on, on another machine, from the weights that are kept with the project."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from celeb_basis.errors import FileError
from miniature.training.autoencoder import new_autoencoder, trained_autoencoder
from miniature.training.checkpoints import load_state, read_facts, save_state
from miniature.training.kept import CLASSIFIER, bring, keep
from miniature.training.latent_scale import LatentScale
from miniature.training.scene_classifier import SceneClassifier, load_classifier
from miniature.training.text_model import Tokens, WorldText, load_text, save_text


def close(one: nn.Module, other: nn.Module) -> bool:
    """Equal but for the rounding to float16."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-6) for a, b in pairs)


def test_everything_comes_back_and_the_denoiser_goes_on_from_its_average(tmp_path: Path) -> None:
    there, kept, here = tmp_path / "there", tmp_path / "kept", tmp_path / "here"
    text = WorldText(Tokens().words("ada lovelace"))
    encoder, decoder = new_autoencoder(), new_autoencoder()
    with torch.no_grad():
        for value in decoder.decoder.parameters():
            value.add_(0.1)
    unet, average = nn.Linear(3, 4), nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(unet.parameters())
    unet(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    there.mkdir()
    save_text(there / "text.safetensors", text, {"step": 3})
    save_state(there / "encoder.safetensors", {"model": encoder}, (), {"step": 5})
    save_state(there / "decoder.safetensors", {"model": decoder}, (), {"step": 6})
    state: dict[str, nn.Module] = {"unet": unet, "unet_ema": average}
    save_state(there / "denoiser-state.safetensors", state, [optimizer], {"step": 9, "seconds": 2.5})
    LatentScale((0.0, 1.0), (2.0, 3.0)).write(there / "latent-scale.json")

    classifier = SceneClassifier()
    save_state(there / CLASSIFIER, {"model": classifier}, (), {"thing": 0.9})

    assert len(keep(there, kept)) == 5
    assert close(load_classifier(kept / CLASSIFIER), classifier)
    assert sum(path.stat().st_size for path in kept.iterdir()) < 0.4 * sum(
        path.stat().st_size for path in there.iterdir()
    )
    assert "denoiser-state.safetensors" not in bring(tmp_path / "other", kept, denoiser=False)
    assert len(bring(here, kept)) == 5
    assert close(load_text(here / "text.safetensors"), text)
    assert close(trained_autoencoder(here), decoder)
    assert LatentScale.read(here / "latent-scale.json") == LatentScale((0.0, 1.0), (2.0, 3.0))
    new, new_average = nn.Linear(3, 4), nn.Linear(3, 4)
    fresh = torch.optim.AdamW(new.parameters())
    facts = load_state(here / "denoiser-state.safetensors", {"unet": new, "unet_ema": new_average}, [fresh])
    assert facts == {"step": 9, "seconds": 2.5}
    assert close(new, average)
    assert close(new_average, average)
    assert not fresh.state


def test_what_is_there_already_is_left_alone(tmp_path: Path) -> None:
    there, kept = tmp_path / "there", tmp_path / "kept"
    there.mkdir()
    save_text(there / "text.safetensors", WorldText([5, 6]), {"step": 1})
    keep(there, kept)
    save_text(there / "text.safetensors", WorldText([5, 6]), {"step": 2})
    assert bring(there, kept) == []
    assert read_facts(there / "text.safetensors")["step"] == 2


def test_nothing_to_keep_or_to_bring_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="nothing trained"):
        keep(tmp_path, tmp_path / "kept")
    with pytest.raises(FileError, match="has no weights"):
        bring(tmp_path, tmp_path / "kept")
