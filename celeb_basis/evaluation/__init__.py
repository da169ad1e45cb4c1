"""Judging generated pictures: the paper's three figures, the prompts for them, and a contact sheet."""

from __future__ import annotations

from celeb_basis.evaluation.clip import ClipScorer, load_clip
from celeb_basis.evaluation.contact_sheet import contact_sheet, write_sheet
from celeb_basis.evaluation.metrics import (
    Estimate,
    EvaluationResult,
    FaceChoice,
    ImageScores,
    ImageToEvaluate,
    evaluate_images,
    write_result,
)
from celeb_basis.evaluation.prompts import EVALUATION_PROMPTS, as_person, evaluation_prompts

__all__ = [
    "EVALUATION_PROMPTS",
    "ClipScorer",
    "Estimate",
    "EvaluationResult",
    "FaceChoice",
    "ImageScores",
    "ImageToEvaluate",
    "as_person",
    "contact_sheet",
    "evaluate_images",
    "evaluation_prompts",
    "load_clip",
    "write_result",
    "write_sheet",
]
