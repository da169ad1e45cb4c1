"""Evaluation of generated images: the paper's three figures, the prompts for them, and a contact sheet.

:mod:`celeb_basis.evaluation.clip`, which needs torch, is imported by itself.
"""

from __future__ import annotations

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
    "Estimate",
    "EvaluationResult",
    "FaceChoice",
    "ImageScores",
    "ImageToEvaluate",
    "as_person",
    "contact_sheet",
    "evaluate_images",
    "evaluation_prompts",
    "write_result",
    "write_sheet",
]
