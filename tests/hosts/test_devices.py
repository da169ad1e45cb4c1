"""Graphics cards and Apple's devices as torch 2.1.2 treats them, where there is neither: its functions stand in."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch

from celeb_basis.errors import HostError
from celeb_basis.hosts.torch_utils import (
    check_autocast,
    free_memory,
    torch_attention_keeps_scores,
    with_index,
    without_autocast,
)

CARD = 3


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    def free_and_total(device: Any) -> tuple[int, int]:
        if device.index is None:
            raise ValueError(f"Expected a torch.device with a specified index or an integer, but got:{device}")
        return 100 * device.index, 1000

    for name, answer in {
        "current_device": lambda: CARD,
        "mem_get_info": free_and_total,
        "memory_reserved": lambda _device: 30,
        "memory_allocated": lambda _device: 20,
        "get_per_process_memory_fraction": lambda _device: 1.0,
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer, raising=False)


@pytest.fixture
def old_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.autocast

    def autocast(kind: str, **options: Any) -> Any:
        if kind not in ("cuda", "cpu"):
            raise RuntimeError(f"User specified an unsupported autocast device_type '{kind}'")
        return original(kind, **options)

    monkeypatch.setattr(torch, "autocast", autocast)


@pytest.mark.usefixtures("cards")
@pytest.mark.parametrize(("given", "free"), [("cuda", 100 * CARD + 10), ("cuda:1", 110)])
def test_free_memory_of_a_card_that_a_program_gives_no_number(given: str, free: int) -> None:
    assert free_memory(torch.device(given)) == free


@pytest.mark.usefixtures("cards")
def test_free_memory_of_a_card_of_which_this_process_may_take_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _device: 0.2)
    assert free_memory(torch.device("cuda")) == 1000 * 0.2 - 20
    monkeypatch.delattr(torch.cuda, "get_per_process_memory_fraction")  # torch 2.1
    assert free_memory(torch.device("cuda")) == 100 * CARD + 10


def test_free_memory_of_apples_device_is_unknown_where_torch_does_not_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "mps", types.SimpleNamespace(driver_allocated_memory=lambda: 20))
    assert free_memory(torch.device("mps")) is None
    torch.mps.recommended_max_memory = lambda: 120
    assert free_memory(torch.device("mps")) == 100


@pytest.mark.usefixtures("cards")
def test_a_card_without_a_number_is_the_one_in_use() -> None:
    for given, meant in {"cuda": f"cuda:{CARD}", "cuda:1": "cuda:1", "cpu": "cpu", "mps": "mps"}.items():
        assert with_index(torch.device(given)) == torch.device(meant)


@pytest.mark.usefixtures("old_autocast")
def test_autocast_is_switched_off_where_torch_has_it() -> None:
    one = torch.ones(1, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (one @ one).dtype == torch.bfloat16
        with without_autocast(torch.device("cpu")):
            assert (one @ one).dtype == torch.float32
    with without_autocast(torch.device("mps")):
        pass


@pytest.mark.usefixtures("old_autocast")
def test_a_precision_that_torch_cannot_cast_to_is_refused_in_words() -> None:
    check_autocast(torch.device("cpu"), torch.bfloat16)
    with pytest.raises(HostError, match=r"cannot compute in float16 on the device mps .*: set precision to fp32"):
        check_autocast(torch.device("mps"), torch.float16)


def test_torchs_attention_keeps_scores_where_it_has_one_way_only() -> None:
    assert [torch_attention_keeps_scores(torch.device(kind)) for kind in ("cpu", "mps", "cuda")] == [True, True, False]
