"""How much memory learning takes, and whether gradient checkpointing is needed: told before the start."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from celeb_basis.diffusion_model import DenoiserBlock, DiffusionModel, MemoryStats, Precision
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.precision import resolve_precision

if TYPE_CHECKING:
    import torch

# Tensors of a block's size that autograd keeps, counted on full-size SD1.5, SD2.1 and SDXL (tests/training/test_memory.py
# counts them again): for each channel in and out of a residual block, each channel of a transformer block, and each head
# and token of the prompt.
_RESNET, _TRANSFORMER, _CROSS = 2.6, 13.2, 9.0
# Share of the scores of self-attention that are kept, where they are.
_SCORES = 0.8
_TOKENS = 77
# Computing a block takes some tensors more than it keeps, above all copies of its scores, and torch's allocator cannot
# use every gap.
_WORKING, _WORKING_SCORES = 1.15, 3.0
# Text encoders, the head with its optimizer, views, and what the allocator rounds up.
_FIXED = 300 << 20
# Of what is free, some is left to others: the desktop, the browser, a preview picture's VAE.
_USABLE = 0.9


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a run takes beside the checkpoint that is loaded already. An estimate."""

    plain: int
    checkpointed: int
    """With gradient checkpointing."""
    free: int | None
    """Bytes that are free now; ``None`` where nobody can tell."""
    checkpointing: bool
    """Whether this run would use gradient checkpointing."""

    @property
    def needed(self) -> int:
        """Bytes of the way that is chosen."""
        return self.checkpointed if self.checkpointing else self.plain

    @property
    def fits(self) -> bool:
        """Whether that is free, or nobody can tell."""
        return self.free is None or self.needed <= self.free

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "needed": self.needed, "fits": self.fits, "text": self.sentence()}

    def sentence(self) -> str:
        """The estimate for people."""
        text = f"Learning takes about {_gigabytes(self.needed)} of memory beside the checkpoint"
        if self.checkpointing:
            text += f", with gradient checkpointing ({_gigabytes(self.plain)} without)"
        if self.free is None:
            return f"{text}."
        text += f"; {_gigabytes(self.free)} are free"
        if self.fits:
            return f"{text}."
        if not self.checkpointing:
            return f"{text}: switch gradient checkpointing on ({_gigabytes(self.checkpointed)}), or make the batch smaller."
        return f"{text}: make batch size or picture size smaller, or close other programs."


def estimate(model: DiffusionModel, settings: TrainingSettings) -> MemoryNeed:
    """What learning with ``settings`` would take on ``host`` as it is now, for any number of people.

    ``settings.checkpointing`` of ``"auto"`` chooses gradient checkpointing when the memory that is free asks for it.
    """
    facts = model.memory()
    precision = resolve_precision(settings.precision, model.dtype, model.device)
    side = (settings.size or model.info.resolution) // facts.vae_scale_factor
    size = _item_size(model.dtype, precision)
    scores = max((_scores(block, side, facts.keeps_scores) for block in facts.blocks), default=0.0)
    extra = facts.elsewhere + _converted(facts, model.dtype, precision) + _FIXED
    extra += int(settings.batch_size * size * _WORKING_SCORES * scores)
    plain, checkpointed = (
        int(kept_bytes(facts, side, settings.batch_size, size, checkpointing=checkpointing) * _WORKING) + extra
        for checkpointing in (False, True)
    )
    wanted = settings.checkpointing
    tight = facts.free is not None and plain > facts.free * _USABLE
    return MemoryNeed(plain, checkpointed, facts.free, tight if wanted == "auto" else wanted == "on")


def kept_bytes(facts: MemoryStats, side: int, batch: int, item_size: float, *, checkpointing: bool) -> float:
    """Bytes that autograd keeps of the denoiser between the forward and the backward pass.

    Parameters: ``side`` is that of a latent, ``item_size`` the bytes of a number. With ``checkpointing``, what goes into
    every block is kept, and of one block at a time what is in it.
    """
    if not facts.blocks:
        return 0.0
    each = [_kept(block, side, facts.keeps_scores) for block in facts.blocks]
    numbers = max(each) + sum(_places(block, side) * block.channels_in for block in facts.blocks)
    return batch * item_size * (numbers if checkpointing else sum(each))


def _kept(block: DenoiserBlock, side: int, keeps_scores: bool) -> float:
    places = _places(block, side)
    if block.kind == "resnet":
        return _RESNET * places * (block.channels_in + block.channels)
    kept = _TRANSFORMER * places * block.channels + _CROSS * block.heads * places * _TOKENS
    return kept + _SCORES * _scores(block, side, keeps_scores)


def _scores(block: DenoiserBlock, side: int, kept: bool) -> float:
    return block.heads * _places(block, side) ** 2 if kept else 0.0


def _places(block: DenoiserBlock, side: int) -> float:
    return (side / block.scale) ** 2


def _item_size(held: torch.dtype, precision: Precision) -> float:
    if precision == "fp32":
        return 4.0
    # Autocast computes some in half precision, and norms and sums in float32.
    return 2.0 if held.itemsize == 2 else 3.0


def _converted(facts: MemoryStats, held: torch.dtype, precision: Precision) -> int:
    """Bytes by which weights grow that are held narrower, or that autocast makes copies of in half precision."""
    wanted = 4 if precision == "fp32" else 2
    if held.itemsize < wanted:
        return facts.weights // held.itemsize * (wanted - held.itemsize)
    return facts.weights // held.itemsize * wanted if held.itemsize > wanted else 0


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
