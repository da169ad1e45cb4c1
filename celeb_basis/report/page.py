"""The page itself: one HTML file that holds everything, asks nothing of the network and runs no script."""

from __future__ import annotations

from importlib.resources import files as package_files
from typing import TYPE_CHECKING

from celeb_basis.files import write_text
from celeb_basis.report import sections
from celeb_basis.report.markup import text

if TYPE_CHECKING:
    from pathlib import Path

    from celeb_basis.report.types import Report

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render_report(report: Report) -> str:
    """The page as HTML; the same report gives the same page."""
    style = package_files("celeb_basis.report").joinpath("page.css").read_text(encoding="utf-8")
    body = [
        sections.headline(report),
        "<main>",
        sections.notice(report),
        sections.photos(report),
        sections.learned(report),
        sections.pictures(report),
        sections.files(report),
        sections.time_spent(report),
        sections.basis(report),
        sections.settings(report),
        sections.commands(report),
        "</main>",
        f"<footer><p>Made by Celeb Basis {text(report.version)}, from photos on this computer.</p></footer>",
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{text(report.title)}</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            *(part for part in body if part),
            "</body>",
            "</html>",
            "",
        ]
    )


def write_report(path: Path, report: Report) -> None:
    """Write a report as one self-contained HTML file, whole or not at all.

    Raises: :class:`~celeb_basis.errors.FileError` if it cannot be written.
    """
    write_text(path, render_report(report))
