"""The memory estimate against what autograd really saves, and the choices that follow from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.bases import toy_bases, toy_pool
from support.counting import counting_kept
from support.toys import ToyModel

from celeb_basis.diffusion_model import DenoiserBlock, MemoryStats
from celeb_basis.errors import SettingsError
from celeb_basis.hosts.torch_utils import denoiser_blocks, free_memory
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.memory import estimate, saved_bytes
from celeb_basis.training.trainer import Trainer

FAMILIES = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="module", params=FAMILIES)
def full_size(request: pytest.FixtureRequest) -> Any:
    """A full-size UNet without memory: shapes only."""
    import diffusers

    from celeb_basis.hosts.diffusers.configs import component_configs

    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(component_configs(request.param)["unet"])
    return unet.requires_grad_(False).eval()


def _run(unet: Any, side: int, batch: int) -> None:
    added = None
    if unet.config.addition_embed_type:
        size = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        added = {
            "text_embeds": torch.zeros(batch, size, device="meta"),
            "time_ids": torch.zeros(batch, 6, device="meta"),
        }
    states = torch.zeros(batch, 77, unet.config.cross_attention_dim, device="meta", requires_grad=True)
    unet(
        torch.zeros(batch, 4, side, side, device="meta"),
        torch.zeros(batch, device="meta"),
        encoder_hidden_states=states,
        added_cond_kwargs=added,
    )


@pytest.mark.parametrize(("side", "batch"), [(32, 1), (64, 2), (96, 1)])
def test_saved_bytes_of_full_size_models(full_size: Any, side: int, batch: int) -> None:
    with counting_kept(full_size.parameters()) as kept:
        _run(full_size, side, batch)
    facts = MemoryStats(denoiser_blocks(full_size), 8, 0, 0, True, None)
    assert saved_bytes(facts, side, batch, 4, checkpointing=False) == pytest.approx(kept.bytes, rel=0.1)


def test_saved_bytes_with_checkpointing(full_size: Any) -> None:
    side = 64
    full_size.enable_gradient_checkpointing()
    full_size.train()
    try:
        with counting_kept(full_size.parameters()) as kept:
            _run(full_size, side, 1)
    finally:
        full_size.disable_gradient_checkpointing()
        full_size.eval()
    between = kept.bytes
    facts = MemoryStats(denoiser_blocks(full_size), 8, 0, 0, True, None)
    plain = saved_bytes(facts, side, 1, 4, checkpointing=False)
    checkpointed = saved_bytes(facts, side, 1, 4, checkpointing=True)
    largest = max(saved_bytes(replace(facts, blocks=(b,)), side, 1, 4, checkpointing=False) for b in facts.blocks)
    # diffusers keeps whole levels' inputs where we count every block's: never more than we say.
    assert between < checkpointed < plain * 0.6
    assert checkpointed - largest == pytest.approx(between, rel=0.6)


def test_blocks_are_found_with_their_scales() -> None:
    import diffusers

    from celeb_basis.hosts.diffusers.configs import component_configs

    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(component_configs("sd1")["unet"])
    blocks = denoiser_blocks(unet)
    resnets = [block for block in blocks if block.kind == "resnet"]
    assert [block.scale for block in resnets] == [1, 1, 2, 2, 4, 4, 8, 8, 8, 8, 8, 8, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1]
    assert resnets[0] == DenoiserBlock("resnet", 1, 320, 320)
    assert resnets[-1] == DenoiserBlock("resnet", 1, 640, 320)
    transformers = [block for block in blocks if block.kind == "transformer"]
    assert [(block.scale, block.channels) for block in transformers[:3]] == [(1, 320), (1, 320), (2, 640)]
    assert len(transformers) == 16
    assert {block.heads for block in transformers} == {8}


class _Host(ToyModel):
    """With the blocks of a large denoiser, and a given amount of free memory."""

    def __init__(self, free: int | None, weights: int = 0, elsewhere: int = 0) -> None:
        super().__init__()
        blocks = (DenoiserBlock("resnet", 1, 320, 320),) * 10 + (DenoiserBlock("transformer", 1, 320, 320, 8),) * 10
        self.facts = MemoryStats(blocks, 8, weights, elsewhere, False, free)
        self.checkpointing: bool | None = None

    def memory(self) -> MemoryStats:
        return self.facts

    def prepare_for_training(self, precision: Any, *, checkpointing: bool = False) -> Any:
        self.checkpointing = checkpointing
        return super().prepare_for_training(precision)


def test_checkpointing_is_chosen_by_the_free_memory() -> None:
    settings = TrainingSettings(size=512)
    need = estimate(_Host(None), settings)
    assert need.checkpointed < need.plain
    assert not need.checkpointing
    assert need.fits
    plenty, tight, short = need.plain * 2, (need.plain + need.checkpointed) // 2, need.checkpointed // 2
    assert not estimate(_Host(plenty), settings).checkpointing
    chosen = estimate(_Host(tight), settings)
    assert chosen.checkpointing
    assert chosen.fits
    assert chosen.needed == need.checkpointed
    assert "with gradient checkpointing" in chosen.sentence()
    missing = estimate(_Host(short), settings)
    assert missing.checkpointing
    assert not missing.fits
    assert "reduce the batch size" in missing.sentence()
    forced = estimate(_Host(tight), replace(settings, checkpointing="off"))
    assert not forced.checkpointing
    assert "enable gradient checkpointing" in forced.sentence()
    assert estimate(_Host(plenty), replace(settings, checkpointing="on")).checkpointing


def test_larger_batches_pictures_and_precisions_need_more() -> None:
    small = estimate(_Host(None), TrainingSettings(size=256)).plain
    assert small < estimate(_Host(None), TrainingSettings(size=512)).plain
    assert small < estimate(_Host(None), TrainingSettings(size=256, batch_size=4)).plain
    held = 2 * 10**9
    apart = estimate(_Host(None, weights=held, elsewhere=held), TrainingSettings(size=256)).plain
    assert apart == small + held
    autocast = estimate(_Host(None, weights=held), TrainingSettings(size=256, precision="bf16")).plain
    assert autocast > held / 2, "autocast keeps a copy of the weights in half precision"
    half = _Host(None, weights=held)
    half.dtype = torch.float16
    assert estimate(half, TrainingSettings(size=256, precision="fp32")).plain - small == held
    assert estimate(half, TrainingSettings(size=256)).plain < small


@pytest.mark.parametrize(("free", "expected"), [(None, False), (10**8, True)])
def test_a_run_uses_what_the_estimate_chose(free: int | None, expected: bool) -> None:
    model = _Host(free)
    settings = TrainingSettings(size=512, steps=1, components=8)
    list(Trainer(model, toy_bases(model), toy_pool(("ann",)), settings).run())
    assert model.checkpointing is expected


@pytest.mark.parametrize(
    ("given", "meant"), [(True, "on"), ("yes", "on"), (False, "off"), ("0", "off"), ("auto", "auto")]
)
def test_the_setting_also_accepts_yes_and_no(given: Any, meant: str) -> None:
    assert TrainingSettings().changed({"checkpointing": given}).checkpointing == meant
    with pytest.raises(SettingsError, match="checkpointing"):
        TrainingSettings().changed({"checkpointing": "sometimes"})


def test_free_memory_of_the_cpu_is_plausible() -> None:
    free = free_memory(torch.device("cpu"))
    assert free is None or 10**6 < free < 10**14
    assert free_memory(torch.device("meta")) is None
