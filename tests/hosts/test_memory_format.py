"""Weights in ``channels_last`` order for a while: the same numbers, and afterwards the same strides."""

from __future__ import annotations

import pytest
import torch

from celeb_basis.hosts.torch_utils import ChannelsLast


def _model() -> torch.nn.Sequential:
    made = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.GroupNorm(4, 16), torch.nn.Conv2d(16, 4, 1))
    already = torch.nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return torch.nn.Sequential(made, already, torch.nn.Linear(3, 3), made[0])  # a shared module, too


def _state(model: torch.nn.Module) -> list[tuple[bytes, tuple[int, ...]]]:
    return [
        (value.detach().contiguous().numpy().tobytes(), value.stride())
        for value in (*model.parameters(), *model.buffers())
    ]


@pytest.mark.parametrize("times", [1, 2])
def test_numbers_stay_and_strides_come_back(times: int) -> None:
    model = _model()
    before = _state(model)
    layout = ChannelsLast([model])
    for _ in range(times):
        layout.enable()
    weight = next(model.parameters())
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert [content for content, _ in _state(model)] == [content for content, _ in before]
    for _ in range(times):
        layout.restore()
    assert _state(model) == before


def test_what_a_convolution_answers_is_the_same() -> None:
    torch.manual_seed(0)
    layer, picture = torch.nn.Conv2d(8, 8, 3), torch.randn(1, 8, 6, 6)
    expected = layer(picture)
    ChannelsLast([layer]).enable()
    torch.testing.assert_close(layer(picture), expected)
