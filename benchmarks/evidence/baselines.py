"""Training loops of the baselines: coefficients without the unit sphere (textual inversion), and LoRA by peft."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from celeb_basis.errors import MissingPackageError
from celeb_basis.events import StepDone
from celeb_basis.method import CoefficientHead, DirectCoefficients
from celeb_basis.training.trainer import Batch, Trainer

RANK = 4
RARE_TOKENS = ("sks", "zwx", "olis", "phol", "vdb", "gwt", "ohwx", "kdj", "xqz", "bnha")
"""Rare tokens that stand for the identities of a LoRA, one for each person of a group."""

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The linear layers of every attention block: what diffusers' LoRA scripts train by default."""


class _FreeRows(DirectCoefficients):
    def forward(self, vectors: torch.Tensor, people: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        shape = self.shape
        return self.raw[people].reshape(-1, shape.groups, shape.positions, shape.components)


class _FreeHead(CoefficientHead):
    def forward(self, vectors: torch.Tensor, people: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        shape = self.shape
        raw = nn.functional.leaky_relu(nn.functional.linear(vectors, self.weight, self.bias), 0.2)
        return raw.reshape(-1, shape.groups, shape.positions, shape.components)


class FreeLearner(Trainer):
    """Learns coefficients that are not normalized.

    In the celeb basis this is the paper's ablation without the unit sphere, in the free space plain textual inversion
    (Gal et al. 2022).
    """

    def make_module(self, people: int) -> CoefficientHead | DirectCoefficients:
        """The parameters that are trained, without the unit sphere."""
        if self.settings.mode == "head":
            return _FreeHead(self.shape, self.generator)
        return _FreeRows(self.shape, people, self.generator)


@contextmanager
def lora_adapters(denoiser: nn.Module, generator: torch.Generator, rank: int = RANK) -> Iterator[nn.ParameterList]:
    """Add peft's LoRA adapters (Hu et al. 2021) to the denoiser's attention while open.

    The scaling ``alpha / rank`` is 1. ``B`` starts at zero, so the denoiser is unchanged until the first step; ``A`` is
    sampled from ``N(0, 1 / in_features)`` instead of peft's own choices, with the run's generator: results stay comparable
    with those measured before peft was used, and a seed gives the same run on every machine.

    Args:
        denoiser: Gets the adapters.
        generator: The source of their first weights.
        rank: Of the adapters.

    On leaving, the adapters are removed, and the denoiser's own layers and gradient flags are restored.

    Yields:
        The adapters' parameters in float32: ``A`` ``(rank, in_features)`` and ``B`` ``(out_features, rank)`` of each layer.

    Raises:
        MissingPackageError: If peft is not installed.
    """
    # Imported here: the page is written from finished results without peft, which takes seconds to import.
    try:
        from peft import LoraConfig, LoraModel
        from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise MissingPackageError(
            "The LoRA baseline needs peft: run `python -m pip install --no-deps -r benchmarks/evidence/requirements.txt`."
        ) from error

    flags = [(parameter, parameter.requires_grad) for parameter in denoiser.parameters()]
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS))
    model = LoraModel(denoiser, config, "default")
    try:
        layers = [module for module in denoiser.modules() if isinstance(module, LoraLayer)]
        for layer in layers:
            for matrix in (layer.lora_A, layer.lora_B):
                matrix["default"].float()  # peft takes the dtype of the layer, and half precision cannot be trained
            weight = layer.lora_A["default"].get_parameter("weight")
            weight.data.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5)
        yield nn.ParameterList(matrix["default"].weight for layer in layers for matrix in (layer.lora_A, layer.lora_B))
    finally:
        model.unload()
        for parameter, required in flags:
            parameter.requires_grad_(required)


class LoraLearner(Trainer):
    """Trains LoRA adapters with the project's own loop; the coefficients are the rare tokens' own vectors, fixed.

    Needs the free space, whose coefficients are token vectors. Call :meth:`use` before the first step.
    """

    def use(self, adapters: nn.ParameterList) -> None:
        """Train ``adapters`` instead of coefficients."""
        self.module = adapters  # type: ignore[assignment]
        settings = self.settings
        self.optimizer = torch.optim.AdamW(
            adapters.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        encoders = self.model.text_encoders
        tables = [encoder.token_table() for encoder in encoders]
        rows = []
        for number in range(len(self.pool.people)):
            ids = [encoder.tokenize([RARE_TOKENS[number % len(RARE_TOKENS)]])[0] for encoder in encoders]
            fixed = [
                table[torch.tensor((one * 2)[: self.shape.positions])].float().cpu()
                for table, one in zip(tables, ids, strict=True)
            ]
            size = self.shape.components
            rows.append(torch.stack([nn.functional.pad(one, (0, size - one.shape[-1])) for one in fixed]))
        self._token_vectors = torch.stack(rows).to(self.model.device)

    def coefficients(self, batch: Batch) -> torch.Tensor:
        """``(B, G, E, D)`` token vectors of the batch's rare tokens."""
        return self._token_vectors[batch.people]

    def make_recorder(self) -> None:
        """None: a recorded step has gradients of the denoiser's inputs alone, not of adapters in it."""

    def _one_step(self) -> StepDone:
        # The adapters are part of the denoiser, whose parameters the host freezes for as long as it is learning.
        self.module.requires_grad_(True)
        return super()._one_step()
