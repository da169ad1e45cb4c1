"""A checkpoint's own resolution: what its ``.yaml`` says for us, else the family's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.model import A1111Checkpoint


def _model(
    config: Path | None = None, *, sdxl: bool = False, sd2: bool = False, velocity: bool = False
) -> SimpleNamespace:
    return SimpleNamespace(
        is_sdxl=sdxl,
        is_sd1=not (sdxl or sd2),
        is_sd2=sd2,
        is_sd3=False,
        is_ssd=False,
        parameterization="v" if velocity else "eps",
        used_config=None if config is None else str(config),
    )


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (_model(), 512),
        (_model(velocity=True), 512),
        (_model(sd2=True), 512),
        (_model(sd2=True, velocity=True), 768),
        (_model(sdxl=True), 1024),
    ],
)
def test_families(model: SimpleNamespace, expected: int) -> None:
    assert A1111Checkpoint(model).resolution == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("celeb_basis:\n  resolution: 128\nmodel: {}\n", 128),
        ("model: {}\n", 512),
        ("celeb_basis: 3\n", 512),
        ("[1, 2", 512),
        ("", 512),
    ],
)
def test_a_config_may_say_it(tmp_path: Path, content: str, expected: int) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(content, encoding="utf-8")
    assert A1111Checkpoint(_model(path)).resolution == expected


def test_a_config_that_is_gone_says_nothing(tmp_path: Path) -> None:
    assert A1111Checkpoint(_model(tmp_path / "gone.yaml")).resolution == 512


def test_only_sd2_is_asked_what_it_predicts() -> None:
    """Models of flow matching, for which reForge has no answer, are described all the same."""

    class OfFlowMatching(A1111Checkpoint):
        @property
        def predicts_velocity(self) -> bool:
            raise HostError("It predicts neither noise nor velocity.")

    assert OfFlowMatching(_model()).resolution == 512
    assert OfFlowMatching(_model(sdxl=True)).resolution == 1024
    with pytest.raises(HostError):
        _ = OfFlowMatching(_model(sd2=True)).resolution
