"""``generate --face-guidance``: its options, and the guidance of a request towards the photos of its people."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from celeb_basis.cli.common import UsageError, add_faces, open_faces
from celeb_basis.cli.progress import Console
from celeb_basis.errors import FacePackError

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import GenerationRequest
    from celeb_basis.identities.identity import Identity


def add_face_guidance(parser: argparse.ArgumentParser) -> None:
    """Add ``--face-guidance`` and the options of the face models."""
    group = parser.add_argument_group("face guidance")
    group.add_argument(
        "--face-guidance",
        type=float,
        default=0.0,
        metavar="X",
        help="how strongly the last third of the steps is moved towards the photos that the people of the prompt were "
        "learned from, 0 to 1; several people are taken from left to right. It takes longer and needs more memory",
    )
    add_faces(group)


def check_face_guidance(arguments: argparse.Namespace) -> None:
    """Check the strength.

    Raises:
        UsageError: It is out of range.
    """
    if not 0 <= arguments.face_guidance <= 1:
        raise UsageError("--face-guidance must be from 0 to 1.")


def with_face_guidance(
    request: GenerationRequest, arguments: argparse.Namespace, people: Sequence[Identity], console: Console
) -> tuple[GenerationRequest, dict[str, str]]:
    """The request with the guidance of ``--face-guidance``, and its parameters.

    Where nobody can be guided, the reason is shown and the request stays as it is.

    Args:
        request: The request, with its regions.
        arguments: The command's.
        people: Those whom the prompt names, in its order.
        console: Shows who is left alone, and why.
    """
    if not arguments.face_guidance:
        return request, {}
    without = "The images are generated without face guidance."
    if not people:
        console.note(f"warning: The prompt names nobody, so there is no photo for face guidance. {without}")
        return request, {}
    from celeb_basis.faces.guidance import FACE_GUIDANCE, FaceGuidance, open_recognizer
    from celeb_basis.identities.photo_vectors import from_left_to_right, photo_vectors

    faces = open_faces(arguments, console)
    try:
        recognizer = open_recognizer(faces)
    except FacePackError as error:
        console.note(f"warning: {error} {without}")
        return request, {}
    vectors, sentences = photo_vectors(from_left_to_right(people, request.regions), lambda: faces)
    for sentence in sentences:
        console.note(f"warning: {sentence}")
    if all(one is None for one in vectors):
        console.note(f"warning: {without}")
        return request, {}
    guidance = FaceGuidance(faces, recognizer, vectors, arguments.face_guidance)
    return replace(request, refine=guidance), {FACE_GUIDANCE: f"{arguments.face_guidance:g}"}
