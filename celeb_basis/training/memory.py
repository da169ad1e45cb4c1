"""Estimate of the memory that training takes, whether it needs gradient checkpointing, and what would fit instead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from celeb_basis.diffusion_model import DenoiserBlock, DiffusionModel, MemoryStats, Precision
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.precision import precision_note, resolve_precision

# Tensors of a block's size that autograd saves, counted on full-size SD1.5, SD2.1 and SDXL (tests/training/test_memory.py
# counts them again): per channel in and out of a residual block, per channel of a transformer block, and per head and
# token of the prompt. Where attention keeps no scores, they are what is alive at the peak of a step.
_RESNET, _TRANSFORMER, _CROSS = 2.6, 13.2, 9.0
_RESNET_WITHOUT_SCORES, _TRANSFORMER_WITHOUT_SCORES = 4.66, 19.1
# Share of the scores of self-attention that are saved, if any are.
_SCORES = 0.8
_TOKENS = 77
# Computing a block takes some more tensors than it saves, above all copies of its scores, and torch's allocator cannot
# use every gap. With gradient checkpointing, half of the largest block's contents exist a second time, as gradients.
_WORKING, _WORKING_WITHOUT_SCORES, _WORKING_SCORES = 1.15, 1.05, 3.0
_CHECKPOINTED_BLOCKS = 1.5
# Text encoders, the head with its optimizer, views, libraries' work space, and what the allocator rounds up.
_FIXED = 250 << 20
# Share of the free memory that is used; the rest is for others: the desktop, the browser.
_USABLE = 0.9
# Memory of the device that is the processor's as well: what is kept elsewhere is kept there.
_SHARED_MEMORY = ("cpu", "mps")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class MemoryNeed:
    """Estimated bytes that a run takes in addition to the loaded checkpoint."""

    plain: int
    """Of the steps without gradient checkpointing."""
    checkpointed: int
    """Of the steps with gradient checkpointing."""
    free: int | None
    """Bytes that are free now; ``None`` if unknown."""
    checkpointing: bool
    """Whether this run would use gradient checkpointing."""
    images: int = 0
    """For encoding a view or decoding a preview, which happens between the steps."""
    advice: str = ""
    """Settings with which the run would fit, if it does not."""
    recording: bool = False
    """Whether steps may be recorded as a CUDA graph, which keeps their memory between the steps, too."""
    note: str = ""
    """A sentence on the precision, if there is something to know about it on this device."""

    @property
    def steps(self) -> int:
        """Bytes of the steps, with or without gradient checkpointing, whichever this run would use."""
        return self.checkpointed if self.checkpointing else self.plain

    @property
    def needed(self) -> int:
        """Bytes at the peak of the whole run."""
        return max(self.steps, self.images)

    @property
    def fits(self) -> bool:
        """Whether that much is free, as far as it is known."""
        return self.free is None or self.needed <= self.free

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "needed": self.needed, "fits": self.fits, "text": self.sentence()}

    def sentence(self) -> str:
        """The estimate as a sentence for the user."""
        text = f"Learning takes about {_gigabytes(self.needed)} of memory in addition to the checkpoint"
        if self.checkpointing:
            text += f", with gradient checkpointing ({_gigabytes(max(self.plain, self.images))} without)"
        if self.free is not None:
            text += f"; {_gigabytes(self.free)} are free"
            if not self.fits:
                text += f": {self.advice}"
        return f"{text}. {self.note}".rstrip() if self.note else f"{text}."


def estimate(model: DiffusionModel, settings: TrainingSettings) -> MemoryNeed:
    """Estimate what training would take now; the number of people makes no difference.

    Args:
        model: The loaded model.
        settings: The recipe. With ``checkpointing`` set to ``"auto"``, gradient checkpointing is used if there is too
            little free memory without it.
    """
    stats = model.memory()
    need = _need(model, stats, settings)
    note = precision_note(resolve_precision(settings.precision, model.dtype, model.device), model.device)
    return replace(need, note=note, advice="" if need.fits else _advice(model, stats, settings))


def advice_when_out_of_memory(model: DiffusionModel, settings: TrainingSettings) -> str:
    """What to change after a run with ``settings`` ran out of memory, as the rest of a sentence."""
    stats = model.memory()
    used = _need(model, stats, settings)
    # What the estimate says of these settings was too little, so it is believed only of what takes clearly less.
    for changed, words in _smaller(model, settings, stats):
        if _need(model, stats, changed).needed < 0.8 * used.needed:
            return f"{words}, or close other programs"
    return "close other programs"


def _need(model: DiffusionModel, stats: MemoryStats, settings: TrainingSettings) -> MemoryNeed:
    precision = resolve_precision(settings.precision, model.dtype, model.device)
    pixels = settings.size or model.info.resolution
    side = pixels // stats.vae_scale_factor
    stored = stats.stored or model.dtype
    size = _item_size(stats, stored, precision)
    scores = max((_scores(block, side, stats.keeps_scores) for block in stats.blocks), default=0.0)
    weights = stats.offloaded + _converted(stats, stored, precision, model.device)
    extra = _FIXED + int(settings.batch_size * size * _WORKING_SCORES * scores)
    working = _WORKING if stats.keeps_scores else _WORKING_WITHOUT_SCORES
    plain, checkpointed = (
        max(
            0,
            int(saved_bytes(stats, side, settings.batch_size, size, checkpointing=recompute) * working)
            + extra
            + weights,
        )
        for recompute in (False, True)
    )
    images = max(0, _images(stats, pixels) + max(0, weights))
    wanted = settings.checkpointing
    tight = stats.free is not None and plain > stats.free * _USABLE
    on = tight if wanted == "auto" else wanted == "on"
    # A recorded step and a preview have to fit together. With checkpointing nothing is recorded: memory is short then.
    room = stats.free is None or plain + images <= stats.free * _USABLE
    recording = not on and settings.cuda_graph != "off" and (room or settings.cuda_graph == "on")
    return MemoryNeed(plain, checkpointed, stats.free, on, images, recording=recording)


def _images(stats: MemoryStats, pixels: int) -> int:
    """Bytes for the VAE and one image, in tiles if there is no room for it as a whole."""
    vae = stats.vae
    if vae is None:
        return 0
    whole = vae.elsewhere + int(vae.per_pixel * pixels**2)
    if stats.free is None or whole <= stats.free or not 0 < vae.tile < pixels:
        return whole
    return vae.elsewhere + int(vae.per_pixel * vae.tile**2)


def _advice(model: DiffusionModel, stats: MemoryStats, settings: TrainingSettings) -> str:
    """The mildest change of settings with which the run fits, as the rest of a sentence; or what else could be done."""
    smallest = None
    for changed, words in _smaller(model, settings, stats):
        need = _need(model, stats, changed)
        smallest = min(need.needed, smallest or need.needed)
        if need.fits:
            return f"{words} ({_gigabytes(need.needed)})"
    least = "" if smallest is None else f" (the least that learning on this checkpoint takes is {_gigabytes(smallest)})"
    return f"close other programs, or choose a smaller checkpoint{least}"


def _smaller(
    model: DiffusionModel, settings: TrainingSettings, stats: MemoryStats
) -> Iterator[tuple[TrainingSettings, str]]:
    """Settings that take less, from the mildest change on, with the words that ask for it."""
    on = replace(settings, checkpointing="on")
    was_on = _need(model, stats, settings).checkpointing
    if not was_on:
        yield on, "enable gradient checkpointing"
    if settings.batch_size > 1:
        yield replace(settings, batch_size=1), "reduce the batch size to 1"
        if not was_on:
            yield replace(on, batch_size=1), "enable gradient checkpointing and reduce the batch size to 1"
    if resolve_precision(settings.precision, model.dtype, model.device) == "fp32" and settings.precision != "auto":
        yield replace(on, batch_size=1, precision="auto"), "set precision to auto and reduce the batch size to 1"
    pixels, step = settings.size or model.info.resolution, model.info.size_multiple
    for share in (0.75, 0.5):
        side = int(pixels * share) // step * step
        if side >= step:
            words = f"enable gradient checkpointing, reduce the batch size to 1 and the picture size to {side}"
            yield replace(on, batch_size=1, size=side), words


def saved_bytes(stats: MemoryStats, side: int, batch: int, item_size: float, *, checkpointing: bool) -> float:
    """Bytes that autograd saves in the denoiser between the forward and the backward pass.

    Args:
        stats: Facts about the model.
        side: Side of the latent.
        batch: Batch size.
        item_size: Bytes of one number.
        checkpointing: With gradient checkpointing, the inputs of all blocks are saved, and the contents of one block at
            a time.
    """
    if not stats.blocks:
        return 0.0
    each = [_saved(block, side, stats.keeps_scores) for block in stats.blocks]
    largest = max(each) * (1.0 if stats.keeps_scores else _CHECKPOINTED_BLOCKS)
    numbers = largest + sum(_positions(block, side) * block.channels_in for block in stats.blocks)
    return batch * item_size * (numbers if checkpointing else sum(each))


def _saved(block: DenoiserBlock, side: int, keeps_scores: bool) -> float:
    positions = _positions(block, side)
    if block.kind == "resnet":
        return (_RESNET if keeps_scores else _RESNET_WITHOUT_SCORES) * positions * (block.channels_in + block.channels)
    if not keeps_scores:
        return _TRANSFORMER_WITHOUT_SCORES * positions * block.channels
    saved = _TRANSFORMER * positions * block.channels + _CROSS * block.heads * positions * _TOKENS
    return saved + _SCORES * _scores(block, side, keeps_scores)


def _scores(block: DenoiserBlock, side: int, keeps_scores: bool) -> float:
    return block.heads * _positions(block, side) ** 2 if keeps_scores else 0.0


def _positions(block: DenoiserBlock, side: int) -> float:
    return (side / block.scale) ** 2


def _item_size(stats: MemoryStats, stored: torch.dtype, precision: Precision) -> float:
    if precision == "fp32":
        return 4.0
    # Autocast computes some operations in half precision, norms and sums in float32.
    return 3.0 if stats.casting == "autocast" and stored != _DTYPES[precision] else 2.0


def _converted(stats: MemoryStats, stored: torch.dtype, precision: Precision, device: torch.device) -> int:
    """Bytes by which weights on the device grow or, below zero, shrink because they are computed in another precision."""
    if stored == (wanted := _DTYPES[precision]):
        return 0
    of_denoiser = stats.denoiser // stored.itemsize * wanted.itemsize
    if stats.casting == "layers":  # each layer's copy is saved until the backward pass
        return of_denoiser
    of_text = (stats.weights - stats.denoiser) // stored.itemsize * wanted.itemsize
    if stats.casting == "autocast" and stored.itemsize > 1:
        of_text = of_text // wanted.itemsize * 4
    exact = wanted.itemsize > stored.itemsize
    return of_denoiser + of_text - (0 if not exact and device.type in _SHARED_MEMORY else stats.weights)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
