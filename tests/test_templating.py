"""Templates escape whatever they are given, and are part of the wheel; durations and sizes read well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from celeb_basis.templating import date_text, duration, file_size, linked, render

ROOT = Path(__file__).resolve().parents[1]


def test_values_are_escaped_and_markup_is_kept() -> None:
    inner = render("celeb_basis.report", "chart.html.jinja", view_box="0 0 1 1", described="'\"<b>\x00", drawing="<g>")
    assert inner == (
        '<svg viewBox="0 0 1 1" class="chart" role="img" aria-label="&#39;&#34;&lt;b&gt;\ufffd">&lt;g&gt;</svg>'
    )
    outer = render("celeb_basis.report", "chart.html.jinja", view_box="0 0 1 1", described="", drawing=inner)
    assert str(inner) in outer


def test_a_name_that_is_missing_is_an_error() -> None:
    with pytest.raises(Exception, match="'drawing' is undefined"):
        render("celeb_basis.report", "chart.html.jinja", view_box="0 0 1 1", described="")


def test_jinja_is_imported_with_the_first_page() -> None:
    code = "import sys, celeb_basis.templating; assert 'jinja2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_templates_are_package_data() -> None:
    folders = {path.parent.name for path in (ROOT / "celeb_basis").rglob("*.jinja")}
    assert folders == {"templates"}
    assert '"**/*.jinja"' in (ROOT / "pyproject.toml").read_text("utf-8")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.031, "0.03 s"), (0.44, "0.4 s"), (9.96, "10 s"), (59.6, "1 min 0 s"),
     (200, "3 min 20 s"), (3599.7, "1 h 0 min"), (7500, "2 h 5 min")],
)  # fmt: skip
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (7213, "7.2 kB"), (123_456, "123 kB"), (999_999, "1.0 MB"), (5 * 10**12, "5000 GB")],
)  # fmt: skip
def test_sizes(count: int, said: str) -> None:
    assert file_size(count) == said


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("2026-11-28T14:13:02+00:00", "28 November 2026, 14:13 UTC"),
        ("2026-01-02T03:04:05", "2 January 2026, 03:04"),
        ("2026-01-02T03:04:05+02:00", "2 January 2026, 03:04"),
        ("", ""),
        ("last <summer>", "last <summer>"),
    ],
)
def test_dates(written: str, said: str) -> None:
    assert date_text(written) == said
    assert date_text(written, hour=False) == said.partition(",")[0]


def test_web_addresses_become_links_and_the_rest_stays_text() -> None:
    text = linked('Get <b> from https://example.org/a?b=1&c="2" (see http://example.org/x).')
    assert 'href="https://example.org/a?b=1&amp;c="' in text
    assert '<a href="http://example.org/x" target="_blank" rel="noopener noreferrer">http://example.org/x</a>).' in text
    assert "&lt;b&gt;" in text
    assert "&#34;2&#34;" in text
    assert linked("javascript:alert(1)") == "javascript:alert(1)"
