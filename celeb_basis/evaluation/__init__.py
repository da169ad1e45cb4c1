"""Judging generated pictures: the paper's three figures, the prompts for them, and a contact sheet."""

from __future__ import annotations

from celeb_basis.evaluation.clip import ClipScorer, load_clip
from celeb_basis.evaluation.contact_sheet import contact_sheet, write_sheet
from celeb_basis.evaluation.metrics import (
    FaceToJudge,
    Figure,
    JudgedPicture,
    PictureToJudge,
    Verdict,
    judge,
    write_verdict,
)
from celeb_basis.evaluation.prompts import EVALUATION_PROMPTS, as_person, evaluation_prompts

__all__ = [
    "EVALUATION_PROMPTS",
    "ClipScorer",
    "FaceToJudge",
    "Figure",
    "JudgedPicture",
    "PictureToJudge",
    "Verdict",
    "as_person",
    "contact_sheet",
    "evaluation_prompts",
    "judge",
    "load_clip",
    "write_sheet",
    "write_verdict",
]
