"""A discriminator of patches, with which Stable Diffusion's autoencoder was trained, too: it makes decoded pictures sharp.

The mean of all that a blurred eye may have been is the best answer to a loss of pixels, and it is blurred. A network that
learns to distinguish decoded patches from real ones is not satisfied with it ("Taming Transformers for High-Resolution
Image Synthesis", Esser et al. 2021, section 3.1 and equation 7). It sees patches of 38 pixels and knows no faces. Alone,
it accepts any sharp eye, not only the right one; therefore what its layers see of a decoded picture shall also
be near what they see of the real one ("High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs",
Wang et al. 2018, equation 4).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniature.training.checkpoints import load_state, save_state

WIDTHS = (48, 96, 192)
RATE = 5e-4
MATCHING = 10.0
"""Weight of what the layers see beside what is said in the end, as in Wang et al."""
WEIGHT = 0.7
"""Of the gradient of both at the decoder's last layer, where 1 is as much as all other losses have there."""
_MOST = 1e4
"""Highest factor of the adversarial loss, where its gradient is almost nothing."""
_NEGATIVE = 0.2


class Discriminator(nn.Module):
    """Says of each patch of a picture whether it is real, by a number above or below zero."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for order, outputs in enumerate(WIDTHS):
            layers.append(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=not order))
            if order:
                layers.append(nn.GroupNorm(8, outputs))
            layers.append(nn.LeakyReLU(_NEGATIVE))
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, 1, 3, 1, 1))

    def seen(self, pictures: Tensor) -> list[Tensor]:
        """What each layer sees of ``(N, 3, h, w)`` pictures, after its activation, and the verdicts at the end."""
        features, found = pictures, []
        for layer in self.layers:
            features = layer(features)
            if isinstance(layer, nn.LeakyReLU):
                found.append(features)
        return [*found, features]

    def forward(self, pictures: Tensor) -> Tensor:
        """``(N, 1, h / 8, w / 8)`` of ``(N, 3, h, w)`` pictures in -1 to 1."""
        verdicts: Tensor = self.layers(pictures)
        return verdicts


class Adversary:
    """A discriminator in training beside a decoder, with its file in ``folder``."""

    def __init__(self, folder: Path, device: str) -> None:
        """Begin, or go on from ``discriminator.safetensors``."""
        self._path = folder / "discriminator.safetensors"
        self._network = Discriminator().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._step = 0
        self._optimizer = torch.optim.AdamW(self._network.parameters(), lr=RATE, betas=(0.5, 0.9), weight_decay=1e-3)
        if self._path.exists():
            self._step = load_state(self._path, {"model": self._network}, (self._optimizer,))["step"]

    def learn(self, decoded: Tensor, pictures: Tensor) -> Tensor:
        """One step with decoded and real pictures ``(N, 3, h, w)``: the hinge loss."""
        real, made = self._network(torch.cat([pictures, decoded.detach()])).chunk(2)
        loss: Tensor = (F.relu(1 - real) + F.relu(1 + made)).mean() / 2
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._step += 1
        return loss.detach()

    def term(self, decoded: Tensor, pictures: Tensor, others: Tensor, last: Tensor) -> Tensor:
        """What a decoder's loss gets besides.

        Args:
            decoded: ``(N, 3, h, w)`` pictures of the decoder.
            pictures: ``(N, 3, h, w)`` what they should be.
            others: The sum of its other losses.
            last: The weight of its last layer, at which gradients are balanced.
        """
        self._network.requires_grad_(False)
        with torch.no_grad():
            real = self._network.seen(pictures)[:-1]
        *seen, verdicts = self._network.seen(decoded)
        apart = [F.l1_loss(one, other) for one, other in zip(seen, real, strict=True)]
        made: Tensor = MATCHING * torch.stack(apart).mean() - verdicts.mean()
        self._network.requires_grad_(True)
        wanted, against = (torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (others, made))
        factor: Tensor = WEIGHT * (wanted / (against + 1e-4)).clamp(max=_MOST).detach()
        return factor * made

    def save(self) -> None:
        """Write the network and its optimizer."""
        save_state(self._path, {"model": self._network}, (self._optimizer,), {"step": self._step})
