"""Initialization of the narrow autoencoder, with which minutes of training are enough, and its form for other tools.

Group normalization with 32 groups over 64 channels removes the mean and the scale of every pair of channels, and with
them the color of a plain background. Two measures keep it:

* signals start on pairs of channels with both signs: the pair's mean is 0, and ``silu(s) - silu(-s)`` is ``s``;
* the last norms of the decoder are trained with a large epsilon, which makes them nearly linear. :func:`folded` then
  scales the weights before them down until Stable Diffusion's own epsilon does the same.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

EPSILON = 4.0
"""Of the decoder's last norms while training."""

_OWN_EPSILON = 1e-6
_ANCHOR = 3.0
_QUIET = 0.05
_COLORS = 3


@torch.no_grad()
def start_with_colors(model: Any) -> None:
    """Initialize the weights so that the untrained network keeps blurred colors: latents 0 to 2 are red, green, blue."""
    encoder, decoder = model.encoder, model.decoder
    for name, module in model.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            module.weight.mul_(_QUIET)
    _pairs(encoder.conv_in)
    for block in encoder.down_blocks[:3]:
        _keep(block.downsamplers[0].conv, corner=True)
    _to_groups_of_four(encoder.down_blocks[3].resnets[0].conv_shortcut)
    out = encoder.conv_out
    out.weight.mul_(0.1)
    out.weight[:_COLORS] *= 0.3
    for color in range(_COLORS):
        out.weight[color, 4 * color, 1, 1] = 1.0
        out.weight[color, 4 * color + 1, 1, 1] = -1.0
    out.bias[4:] = -4.0
    for layer in (model.quant_conv, model.post_quant_conv):
        layer.weight.copy_(torch.eye(layer.weight.shape[0])[:, :, None, None])
        layer.bias.zero_()
    _pairs(decoder.conv_in)
    for block in decoder.up_blocks[:3]:
        _keep(block.upsamplers[0].conv, corner=False)
    for block in decoder.up_blocks:
        if (shortcut := block.resnets[0].conv_shortcut) is not None:
            _keep(shortcut, corner=False)
    decoder.conv_out.weight.mul_(0.1)
    for color in range(_COLORS):
        decoder.conv_out.weight[color, 2 * color, 1, 1] = 1.0
        decoder.conv_out.weight[color, 2 * color + 1, 1, 1] = -1.0
    for norm in last_norms(model):
        norm.weight.fill_(EPSILON**0.5)
    soften(model)


def last_norms(model: Any) -> list[nn.GroupNorm]:
    """The norms after the decoder's last upsampling whose input is the sum of the residual branches."""
    resnets = model.decoder.up_blocks[-1].resnets
    return [*(resnet.norm1 for resnet in resnets), model.decoder.conv_norm_out]


def soften(model: Any) -> None:
    """Set the large epsilon of the last norms, which is not a weight and so is not loaded."""
    for norm in last_norms(model):
        norm.eps = EPSILON


@torch.no_grad()
def folded(model: Any) -> Any:
    """A copy with Stable Diffusion's own epsilon everywhere that gives the same pictures."""
    model = copy.deepcopy(model)
    _scale_before_last_norms(model, (_OWN_EPSILON / EPSILON) ** 0.5)
    for norm in last_norms(model):
        norm.eps = _OWN_EPSILON
    return model


def _scale_before_last_norms(model: Any, scale: float) -> None:
    before = [model.decoder.up_blocks[-2].upsamplers[0].conv]
    before += [resnet.conv2 for resnet in model.decoder.up_blocks[-1].resnets]
    for layer in before:
        layer.weight.mul_(scale)
        layer.bias.mul_(scale)


def _pairs(layer: nn.Conv2d) -> None:
    """Channels 0 to 5: the three colors, each with both signs."""
    layer.weight[: 2 * _COLORS] = 0
    for color in range(_COLORS):
        layer.weight[2 * color, color, 1, 1] = 1.0
        layer.weight[2 * color + 1, color, 1, 1] = -1.0
    assert layer.bias is not None
    layer.bias[: 2 * _COLORS] = 0


def _keep(layer: nn.Conv2d, *, corner: bool) -> None:
    """Pass channels 0 to 5 through, averaged over the pixels that become one (``corner``), or over all taps."""
    assert layer.bias is not None
    for channel in range(2 * _COLORS):
        layer.weight[channel] = 0
        layer.bias[channel] = 0
        if layer.weight.shape[-1] == 1:
            layer.weight[channel, channel] = 1.0
        elif corner:
            layer.weight[channel, channel, :2, :2] = 0.25
        else:
            layer.weight[channel, channel] = 1 / 9


def _to_groups_of_four(layer: nn.Conv2d) -> None:
    """Each color becomes a group: both signs and two constants, which fix the group's scale."""
    assert layer.bias is not None
    for color in range(_COLORS):
        rows = slice(4 * color, 4 * color + 4)
        layer.weight[rows] = 0
        layer.weight[4 * color, 2 * color] = 2.0
        layer.weight[4 * color + 1, 2 * color] = -2.0
        layer.bias[rows] = torch.tensor([0.0, 0.0, _ANCHOR, -_ANCHOR])
