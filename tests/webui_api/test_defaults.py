"""What a user does not say is the same on the page, over the API, on the command line and from Python."""

from __future__ import annotations

import argparse
import inspect
from dataclasses import fields
from typing import Any

import pytest

from celeb_basis.cli import evaluate
from celeb_basis.cli import people as people_commands
from celeb_basis.identities import blending
from celeb_basis.webui.api.payloads import BlendBody, EvaluateBody, MixtureBody
from celeb_basis.webui.schemas import BlendRequest, EvaluateRequest, PreviewRequest


@pytest.fixture
def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    commands: Any = parser.add_subparsers()
    evaluate.add_parser(commands)
    people_commands.add_parser(commands)
    return parser


def _defaults(kind: type) -> dict[str, Any]:
    return {item.name: item.default for item in fields(kind)}


def _body_defaults(kind: Any) -> dict[str, Any]:
    described = getattr(kind, "model_fields", None) or kind.__fields__
    return {name: item.default for name, item in described.items()}


def test_an_evaluation(command_line: argparse.ArgumentParser) -> None:
    typed = vars(command_line.parse_args(["evaluate", "--reference", "ada.jpg"]))
    request, body = _defaults(EvaluateRequest), _body_defaults(EvaluateBody)
    for name in ("prompts", "seeds", "seed", "steps", "guidance"):
        assert typed[name] == body[name] == request[name], name


def test_a_blend(command_line: argparse.ArgumentParser) -> None:
    words = ["blend", "ada", "bob", "--as", "mix", "--model", "miniature"]
    assert command_line.parse_args(words).keep_radius is True
    assert command_line.parse_args([*words, "--keep-radius"]).keep_radius is True
    assert command_line.parse_args([*words, "--no-keep-radius"]).keep_radius is False
    for body in (BlendBody, MixtureBody):
        assert _body_defaults(body)["keep_radius"] is True
    for request in (BlendRequest, PreviewRequest):
        assert _defaults(request).get("keep_radius", True) is True
    for function in (blending.blend, blending.toward_celebrity):
        assert inspect.signature(function).parameters["keep_radius"].default is True
