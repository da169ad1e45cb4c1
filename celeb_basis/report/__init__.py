"""A report on a demo or a training run, as one self-contained HTML file."""

from __future__ import annotations

from celeb_basis.report.content import (
    Report,
    ReportBasis,
    ReportCommand,
    ReportFile,
    ReportLoss,
    ReportModel,
    ReportPerson,
    ReportPhoto,
    ReportPicture,
    ReportScale,
    ReportStage,
)
from celeb_basis.report.page import render_report, write_report

__all__ = [
    "Report",
    "ReportBasis",
    "ReportCommand",
    "ReportFile",
    "ReportLoss",
    "ReportModel",
    "ReportPerson",
    "ReportPhoto",
    "ReportPicture",
    "ReportScale",
    "ReportStage",
    "render_report",
    "write_report",
]
