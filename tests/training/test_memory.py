"""The memory estimate against what autograd really saves, and the choices that follow from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.bases import toy_bases, toy_pool
from support.counting import counting_kept
from support.live_memory import LiveMemory
from support.toys import ToyModel

from celeb_basis.diffusion_model import Casting, DenoiserBlock, MemoryStats, VaeMemory
from celeb_basis.errors import SettingsError
from celeb_basis.hosts.torch_utils import denoiser_blocks, free_memory
from celeb_basis.settings import SwitchChoice, TrainingSettings
from celeb_basis.training.memory import advice_when_out_of_memory, estimate, saved_bytes
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
    narrower = estimate(_Host(None, weights=held), TrainingSettings(size=256, precision="bf16")).plain
    assert narrower > held / 2, "the weights in half precision lie beside the original ones on the CPU"
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


# What a graphics card would take, counted without one: shapes only, and attention that keeps no scores.


def _flash_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, False, False)[0]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_estimate_is_near_what_is_alive_at_the_peak_of_a_step(
    full_size: Any, batch: int, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoint included, as a card has to hold it, the estimate is within a tenth of what was counted."""
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", _flash_attention)
    config = full_size.config
    side, weights = {768: (64, 2.0e9), 1024: (96, 2.4e9), 2048: (128, 6.8e9)}[config.cross_attention_dim]
    given: dict[str, Any] = {"device": "meta", "dtype": torch.float16}
    added = None
    if config.addition_embed_type:
        size = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": torch.zeros(batch, size, **given), "time_ids": torch.zeros(batch, 6, **given)}
    states = torch.zeros(batch, 77, config.cross_attention_dim, requires_grad=True, **given)
    full_size.half()
    if checkpointing:
        full_size.enable_gradient_checkpointing()
        full_size.train()
    try:
        with LiveMemory() as live:
            steps, latents = torch.zeros(batch, device="meta"), torch.zeros(batch, 4, side, side, **given)
            output = full_size(latents, steps, encoder_hidden_states=states, added_cond_kwargs=added, return_dict=False)
            output[0].float().square().mean().backward()
    finally:
        full_size.disable_gradient_checkpointing()
        full_size.eval()
        full_size.float()
    host = _Host(None)
    host.dtype = torch.float16
    host.facts = MemoryStats(denoiser_blocks(full_size), 8, 0, 0, False, None)
    settings = TrainingSettings(batch_size=batch, size=8 * side, checkpointing="on" if checkpointing else "off")
    estimated = estimate(host, settings).needed
    # Beside the denoiser: text encoders, the convolutions' work space, the head.
    assert live.peak < estimated
    assert weights + estimated == pytest.approx(weights + live.peak + 0.15e9, rel=0.1)


class _Card(_Host):
    """The same on a graphics card that is not there."""

    def __init__(self, stored: torch.dtype, casting: Casting, free: int | None = None, capability: int = 9) -> None:
        super().__init__(free)
        self.device, self.dtype = torch.device("cuda"), stored
        self.facts = replace(
            self.facts,
            weights=1200 * 10**6 * stored.itemsize,
            denoiser=1000 * 10**6 * stored.itemsize,
            stored=stored,
            casting=casting,
        )
        self.capability = (capability, 0)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(stored: torch.dtype, casting: Casting = "once", free: int | None = None, capability: int = 9) -> _Card:
        found = _Card(stored, casting, free, capability)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device=None: found.capability)
        return found

    return make


_SMALL = TrainingSettings(size=64)


@pytest.mark.parametrize(
    ("stored", "precision", "casting", "grown"),
    [
        (torch.float16, "fp16", "once", 0.0),
        (torch.float16, "bf16", "once", 0.0),
        (torch.bfloat16, "fp16", "once", 0.0),
        (torch.float16, "fp32", "once", 2.4),
        (torch.float32, "fp16", "once", -2.4),
        (torch.float16, "bf16", "autocast", 0.4),  # the text encoders in float32
        (torch.float32, "bf16", "autocast", -2.0),
        (torch.float16, "bf16", "layers", 2.0),
        (torch.float32, "fp16", "layers", 2.0),
        (torch.float8_e4m3fn, "fp16", "autocast", 1.2),
    ],
)
def test_weights_in_another_precision_are_counted_as_they_are_cast(
    card: Any, stored: torch.dtype, precision: Any, casting: Casting, grown: float
) -> None:
    host = card(stored, casting)
    found = estimate(host, replace(_SMALL, precision=precision)).plain
    host.facts = replace(host.facts, weights=0, denoiser=0)
    without = estimate(host, replace(_SMALL, precision=precision)).plain
    assert found == max(0, without + round(grown * 1e9)) or found == pytest.approx(without + grown * 1e9, abs=2)


def test_the_vae_counts_where_it_takes_more_than_a_step(card: Any) -> None:
    host = card(torch.float16)
    steps = estimate(host, _SMALL).needed
    vae = VaeMemory(weights=300 * 10**6, elsewhere=100 * 10**6, per_pixel=4000.0, tile=512)
    host.facts = replace(host.facts, vae=vae)
    large = replace(_SMALL, size=1024, batch_size=1, checkpointing="on")
    assert estimate(host, _SMALL).needed == steps, "a small image takes less than a step"
    assert estimate(host, large).images == 100 * 10**6 + 4000 * 1024**2
    assert estimate(host, large).needed >= estimate(host, large).images
    host.facts = replace(host.facts, free=3 * 10**9)
    assert estimate(host, large).images == 100 * 10**6 + 4000 * 512**2, "in tiles, if there is no room for the whole"


def test_a_card_without_bf16_and_a_card_in_fp32_are_named(card: Any) -> None:
    assert "no bf16" in estimate(card(torch.float16, capability=7), replace(_SMALL, precision="bf16")).sentence()
    assert "no bf16" not in estimate(card(torch.bfloat16, capability=7), _SMALL).sentence(), "auto takes fp16 instead"
    assert "no bf16" not in estimate(card(torch.float16), replace(_SMALL, precision="bf16")).sentence()
    slow = estimate(card(torch.float16), replace(_SMALL, precision="fp32"))
    assert "twice as long" in slow.sentence()
    assert slow.as_dict()["note"]
    assert estimate(_Host(None), replace(_SMALL, precision="fp32")).note == ""


def test_the_advice_is_the_mildest_change_that_fits() -> None:
    settings = TrainingSettings(size=512, batch_size=4)
    need = estimate(_Host(None), settings)
    advice: tuple[tuple[int, SwitchChoice, str], ...] = (
        (4, "on", "enable gradient checkpointing"),
        (1, "off", "batch size to 1"),
    )
    for batch, checkpointing, words in advice:
        smaller = estimate(_Host(None), replace(settings, batch_size=batch, checkpointing=checkpointing)).needed
        told = estimate(_Host(smaller), replace(settings, checkpointing="off"))
        assert not told.fits
        if words in told.sentence():
            break
    else:
        raise AssertionError("no advice fitted")
    least = estimate(_Host(None), replace(settings, batch_size=1, checkpointing="on"))
    advised = estimate(_Host(least.needed), settings)
    assert "reduce the batch size to 1" in advised.sentence()
    assert need.advice == "", "nothing is known to be missing"
    hopeless = estimate(_Host(1000), settings).sentence()
    assert "close other programs, or choose a smaller checkpoint (the least" in hopeless
    assert "picture size to" in estimate(_Host(least.needed * 7 // 10), settings).sentence()


def test_the_advice_after_running_out_of_memory_takes_clearly_less() -> None:
    settings = TrainingSettings(size=512, batch_size=2)
    assert "gradient checkpointing" in advice_when_out_of_memory(_Host(None), settings)
    assert "batch size to 1" in advice_when_out_of_memory(_Host(None), replace(settings, checkpointing="on"))
    tight = replace(settings, checkpointing="on", batch_size=1, size=64)
    assert advice_when_out_of_memory(_Host(None), tight) == "close other programs"
