"""Estimate of the memory that training takes, and whether it needs gradient checkpointing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from celeb_basis.diffusion_model import DenoiserBlock, DiffusionModel, MemoryStats, Precision
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.precision import resolve_precision

# Tensors of a block's size that autograd saves, counted on full-size SD1.5, SD2.1 and SDXL (tests/training/test_memory.py
# counts them again): per channel in and out of a residual block, per channel of a transformer block, and per head and
# token of the prompt.
_RESNET, _TRANSFORMER, _CROSS = 2.6, 13.2, 9.0
# Share of the scores of self-attention that are saved, if any are.
_SCORES = 0.8
_TOKENS = 77
# Computing a block takes some more tensors than it saves, above all copies of its scores, and torch's allocator cannot
# use every gap.
_WORKING, _WORKING_SCORES = 1.15, 3.0
# Text encoders, the head with its optimizer, views, and what the allocator rounds up.
_FIXED = 300 << 20
# Share of the free memory that is used; the rest is for others: the desktop, the browser, a preview picture's VAE.
_USABLE = 0.9


@dataclass(frozen=True)
class MemoryNeed:
    """Estimated bytes that a run takes in addition to the loaded checkpoint."""

    plain: int
    """Without gradient checkpointing."""
    checkpointed: int
    """With gradient checkpointing."""
    free: int | None
    """Bytes that are free now; ``None`` if unknown."""
    checkpointing: bool
    """Whether this run would use gradient checkpointing."""

    @property
    def needed(self) -> int:
        """Bytes with or without gradient checkpointing, whichever this run would use."""
        return self.checkpointed if self.checkpointing else self.plain

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
            text += f", with gradient checkpointing ({_gigabytes(self.plain)} without)"
        if self.free is None:
            return f"{text}."
        text += f"; {_gigabytes(self.free)} are free"
        if self.fits:
            return f"{text}."
        if not self.checkpointing:
            return f"{text}: enable gradient checkpointing ({_gigabytes(self.checkpointed)}), or reduce the batch size."
        return f"{text}: reduce the batch size or the picture size, or close other programs."


def estimate(model: DiffusionModel, settings: TrainingSettings) -> MemoryNeed:
    """Estimate what training would take now; the number of people makes no difference.

    Args:
        model: The loaded model.
        settings: The recipe. With ``checkpointing`` set to ``"auto"``, gradient checkpointing is used if there is too
            little free memory without it.
    """
    stats = model.memory()
    precision = resolve_precision(settings.precision, model.dtype, model.device)
    side = (settings.size or model.info.resolution) // stats.vae_scale_factor
    size = _item_size(model.dtype, precision)
    scores = max((_scores(block, side, stats.keeps_scores) for block in stats.blocks), default=0.0)
    extra = stats.offloaded + _converted(stats, model.dtype, precision) + _FIXED
    extra += int(settings.batch_size * size * _WORKING_SCORES * scores)
    plain, checkpointed = (
        int(saved_bytes(stats, side, settings.batch_size, size, checkpointing=checkpointing) * _WORKING) + extra
        for checkpointing in (False, True)
    )
    wanted = settings.checkpointing
    tight = stats.free is not None and plain > stats.free * _USABLE
    return MemoryNeed(plain, checkpointed, stats.free, tight if wanted == "auto" else wanted == "on")


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
    numbers = max(each) + sum(_positions(block, side) * block.channels_in for block in stats.blocks)
    return batch * item_size * (numbers if checkpointing else sum(each))


def _saved(block: DenoiserBlock, side: int, keeps_scores: bool) -> float:
    positions = _positions(block, side)
    if block.kind == "resnet":
        return _RESNET * positions * (block.channels_in + block.channels)
    saved = _TRANSFORMER * positions * block.channels + _CROSS * block.heads * positions * _TOKENS
    return saved + _SCORES * _scores(block, side, keeps_scores)


def _scores(block: DenoiserBlock, side: int, keeps_scores: bool) -> float:
    return block.heads * _positions(block, side) ** 2 if keeps_scores else 0.0


def _positions(block: DenoiserBlock, side: int) -> float:
    return (side / block.scale) ** 2


def _item_size(dtype: torch.dtype, precision: Precision) -> float:
    if precision == "fp32":
        return 4.0
    # Autocast computes some operations in half precision, norms and sums in float32.
    return 2.0 if dtype.itemsize == 2 else 3.0


def _converted(stats: MemoryStats, dtype: torch.dtype, precision: Precision) -> int:
    """Bytes by which weights grow if their dtype is narrower, or that autocast takes for copies in half precision."""
    wanted = 4 if precision == "fp32" else 2
    if dtype.itemsize < wanted:
        return stats.weights // dtype.itemsize * (wanted - dtype.itemsize)
    return stats.weights // dtype.itemsize * wanted if dtype.itemsize > wanted else 0


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
