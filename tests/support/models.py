"""Small random Stable Diffusion models, made once per session. Shared ones must not be changed: make your own instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

if TYPE_CHECKING:
    from celeb_basis.hosts.diffusers import DiffusersHost

HostFactory: TypeAlias = "Callable[..., DiffusersHost]"


def make_host(kind: str = "sd1", **options: Any) -> DiffusersHost:
    """A fresh small model of the family ``kind``; ``options`` go to :func:`miniature.small_models.pipelines.make_pipeline`."""
    from celeb_basis.hosts.diffusers import DiffusersHost
    from miniature.small_models.pipelines import make_pipeline

    return DiffusersHost(make_pipeline(kind, **options), name=f"small-{kind}")  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def host_factory() -> HostFactory:
    """:func:`make_host`, for tests that need a model of their own."""
    return make_host


@pytest.fixture(scope="session")
def sd1_host() -> DiffusersHost:
    """SD1-shaped: one text encoder of width 768, epsilon, 64 pixels, float32 on the CPU."""
    return make_host("sd1")


@pytest.fixture(scope="session")
def sd2_host() -> DiffusersHost:
    """SD2-shaped: one text encoder of width 1024, v-prediction, 64 pixels, float32 on the CPU."""
    return make_host("sd2")


@pytest.fixture(scope="session")
def sdxl_host() -> DiffusersHost:
    """SDXL-shaped: two text encoders of widths 768 and 1280, epsilon, 64 pixels, float32 on the CPU."""
    return make_host("sdxl")
