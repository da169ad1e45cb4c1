"""Charts: valid files, the same bytes for the same data, and markers where the axes say."""

from __future__ import annotations

import io
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from celeb_basis.report import charts

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTILE = "_$x_{$ <b>&\"'\x00 \ud800\u202e 宮崎"
STEPS = list(range(1, 101))
LOSSES = [0.2 + 0.05 * np.sin(step) for step in STEPS]

PLOTS: dict[str, Callable[[charts.Format], bytes]] = {
    "variance": lambda fmt: charts.explained_variance([[0.5, 0.3, 0.1], [0.4, 0.2, 0.0]], fmt=fmt),
    "variance of nothing": lambda fmt: charts.explained_variance([], fmt=fmt),
    "loss": lambda fmt: charts.loss_curve(STEPS, LOSSES, LOSSES, fmt=fmt),
    "loss, wide": lambda fmt: charts.loss_curve(STEPS, [10.0**-s for s in STEPS], [2.0**-s for s in STEPS], fmt=fmt),
    "loss, one step": lambda fmt: charts.loss_curve([1], [0.1], [0.1], fmt=fmt),
    "loss, none": lambda fmt: charts.loss_curve([], [], [], fmt=fmt),
    "loss, broken": lambda fmt: charts.loss_curve([1, 2, 3], [1.0, float("nan"), float("inf")], [1.0] * 3, fmt=fmt),
    "loss, zero": lambda fmt: charts.loss_curve([1, 2], [0.0, 0.0], [0.0, 0.0], fmt=fmt),
    "movement": lambda fmt: charts.movement_curve(
        {"a": ([50, 75], [0.3, 0.01]), HOSTILE: ([50], [0.0])}, 0.02, fmt=fmt
    ),
    "movement, none": lambda fmt: charts.movement_curve({}, None, fmt=fmt),
    "movement, many": lambda fmt: charts.movement_curve(
        {str(i): ([1, 2], [0.1, 0.2]) for i in range(30)}, 0.0, fmt=fmt
    ),
    "gauge": lambda fmt: charts.distance_gauge({"a": 3.0, HOSTILE: 0.2}, [0.9, 1.0, 1.1, 1.3], fmt=fmt),
    "gauge alone": lambda fmt: charts.distance_gauge({"a": 0.0}, fmt=fmt),
    "gauge without people": lambda fmt: charts.distance_gauge({}, [], fmt=fmt),
}


@pytest.mark.parametrize("draw", PLOTS.values(), ids=PLOTS.keys())
def test_every_plot_is_a_sound_and_repeatable_file(draw: Callable[[charts.Format], bytes]) -> None:
    svg = draw("svg")
    assert svg == draw("svg")
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert b"dc:date" not in svg
    colors = {word[:7].lower() for word in svg.decode().split("#")[1:] for word in ["#" + word] if word[1:7].isalnum()}
    used = {color for color in colors if all(char in "0123456789abcdef" for char in color[1:]) and len(color) == 7}
    assert used <= {charts.INK, charts.QUIET, charts.GRID, charts.PAPER, *charts.SERIES}


def test_png_is_wide_enough() -> None:
    with Image.open(io.BytesIO(PLOTS["loss"]("png"))) as picture:
        assert picture.width >= 800
        assert picture.convert("RGB").getpixel((2, 2)) == (0xFD, 0xFD, 0xFC)


def test_text_stays_text() -> None:
    words = " ".join(ET.fromstring(PLOTS["movement"]("svg")).itertext())
    assert "settled below 0.02" in words
    assert "_$x_{$ <b>&" in words
    assert "mathdefault" not in words
    assert "celebrities" in " ".join(ET.fromstring(PLOTS["gauge"]("svg")).itertext())


def test_marker_stands_where_the_axis_says() -> None:
    """The gauge's dot for 3.0 lies on the line through the axis' own labels."""
    root = ET.fromstring(charts.distance_gauge({"someone": 3.0}))
    space = "{http://www.w3.org/2000/svg}"
    ticks = {}
    dots = []
    for group in root.iter(f"{space}g"):
        if (group.get("id") or "").startswith("xtick_"):
            use = next(group.iter(f"{space}use"))
            ticks[float("".join(group.itertext()).strip())] = float(use.get("x") or "nan")
    for use in root.iter(f"{space}use"):
        if charts.SERIES[0] in (use.get("style") or ""):
            dots.append(float(use.get("x") or "nan"))
    slope, start = np.polyfit(list(ticks), list(ticks.values()), 1)
    assert len(ticks) >= 4
    assert dots == pytest.approx([start + slope * 3.0], abs=0.01)


def test_nothing_global_is_touched_and_nothing_heavy_imported_early() -> None:
    code = (
        "import sys; from celeb_basis.report import charts; assert 'matplotlib' not in sys.modules;"
        "import matplotlib; kept = lambda: {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != 'backend'};"
        "before = kept(); charts.loss_curve([1, 2], [1, 2], [1, 2]);"
        "assert kept() == before; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)
