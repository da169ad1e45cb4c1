"""What the extension does with the face guidance of a job, before a batch, without a WebUI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from support.guided_jobs import Job, Names

from celeb_basis.errors import HostError, MissingPackageError
from celeb_basis.faces.guidance import FaceGuidance, GuidedBatch
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.prompts.places import parse_places
from celeb_basis.webui.guided_faces import WITHOUT, GuidedFaces, _pasted
from celeb_basis.webui.infotext import PerPicture


def use(job: Job, guidance: GuidedBatch | None) -> None:
    job.guidance = guidance


@pytest.fixture
def guided(names: Names, miniature_faces: InsightFaceNetwork) -> GuidedFaces:
    return GuidedFaces(use, lambda: names, lambda: miniature_faces)


def of(job: Job) -> Sequence[FaceGuidance | None]:
    assert job.guidance is not None
    return job.guidance.images


def test_a_person_with_a_photo_is_guided_and_written(guided: GuidedFaces) -> None:
    job = Job()
    guided.before_batch(job, 0.5)
    (one,) = of(job)
    assert one is not None
    assert one.strength == 0.5
    assert job.extra_generation_params == {"Face guidance": "0.5"}
    assert job.comments == []
    guided.after_job(job)
    assert job.guidance is None


@pytest.mark.parametrize("values", [(), (0,), (0.0,), (None,), ("",)])
def test_off_nothing_is_looked_at(values: tuple[Any, ...]) -> None:
    def never() -> Any:
        raise AssertionError

    job = Job(guidance=object(), extra_generation_params={"Face guidance": "of an earlier batch"})  # type: ignore[arg-type]
    GuidedFaces(use, never, never).before_batch(job, *values)
    assert (job.guidance, job.comments, job.extra_generation_params) == (None, [], {})


@pytest.mark.parametrize(
    ("prompt", "strength", "said"),
    [
        ("a photo of <eve>", 1, "eve was invented, so there is no photo"),
        ("a photo of <sam>", 1, "sam keeps no photo"),
        ("a photo of <xl>", 1, "<xl> cannot be used. It was learned on SDXL."),
        ("a photo of <nobody>", 1, "The prompt names nobody from your library"),
        ("a photo of <ada>", 1.5, "Face guidance of '1.5' is not possible: choose 0 to 1"),
        ("a photo of <ada>", "much", "Face guidance of 'much' is not possible"),
        ("a photo of <ada>", float("nan"), "Face guidance of 'nan' is not possible"),
        ("a photo of <ada>", [1], "is not possible"),
    ],
)
def test_what_is_not_possible_is_left_out_with_a_sentence(
    guided: GuidedFaces, prompt: str, strength: Any, said: str
) -> None:
    job = Job([prompt], guidance=object())  # type: ignore[arg-type]
    guided.before_batch(job, strength)
    assert (job.guidance, job.extra_generation_params) == (None, {})
    (comment,) = job.comments
    assert said in comment
    assert comment.endswith(WITHOUT)


def test_without_face_models_the_sentence_of_the_missing_package(names: Names) -> None:
    def missing() -> Any:
        raise MissingPackageError("insightface is not installed: install it.")

    for prompt, said in (("<ada>", "insightface is not installed: install it."), ("<eve>", "eve was invented")):
        job = Job([prompt])
        GuidedFaces(use, lambda: names, missing).before_batch(job, 1)
        assert (job.guidance, job.extra_generation_params) == (None, {})
        assert job.comments[0].startswith(said)
        assert job.comments[0].endswith(WITHOUT)


def test_a_program_that_cannot_says_so(names: Names, miniature_faces: InsightFaceNetwork) -> None:
    def refuse(job: Job, guidance: GuidedBatch | None) -> None:
        job.guidance = guidance
        if guidance is not None:
            raise HostError("This WebUI has no forward: use another.")

    job = Job()
    GuidedFaces(refuse, lambda: names, lambda: miniature_faces).before_batch(job, 1)
    assert (job.guidance, job.extra_generation_params) == (None, {})
    assert "has no forward" in job.comments[0]


def test_each_image_of_a_batch_has_its_own_people(guided: GuidedFaces) -> None:
    job = Job(["<ada>", "a cat", "<ada> and <eve>"], iteration=1)
    guided.before_batch(job, 1)
    assert [one is None for one in of(job)] == [False, True, False]
    both = of(job)[2]
    assert both is not None
    assert [one is None for one in both.targets] == [False, True]
    value = job.extra_generation_params["Face guidance"]
    assert isinstance(value, PerPicture)
    assert [value(job, index, job.all_prompts) for index in range(6)] == [None, None, None, "1", None, "1"]
    assert job.comments == [
        "The prompt names nobody from your library, so there is no photo for face guidance. "
        "eve was invented, so there is no photo for face guidance."
    ]


@pytest.mark.parametrize(
    ("text", "exchanged"),
    [(None, False), ("ada: left; ben: right", False), ("ada: right; ben: left", True), ("cyd: left", False)],
)
def test_two_people_are_taken_from_left_to_right(guided: GuidedFaces, text: str | None, exchanged: bool) -> None:
    job = Job(["<ada> and <ben>"])
    guided.before_batch(job, 1)
    # The script of places comes later.
    job.celeb_basis_places = None if text is None else parse_places(text)
    (one,) = of(job)
    assert one is not None
    alone = [Job([f"<{name}>"]) for name in ("ada", "ben")]
    for other in alone:
        guided.before_batch(other, 1)
    wanted = [of(other)[0].targets[0] for other in alone]  # type: ignore[union-attr]
    for target, vector in zip(one.targets, reversed(wanted) if exchanged else wanted, strict=True):
        np.testing.assert_array_equal(target, vector)


def test_the_recognizer_is_opened_once_and_can_carry_gradients(guided: GuidedFaces) -> None:
    with torch.inference_mode():
        first, second = Job(), Job()
        guided.before_batch(first, 1)
        guided.before_batch(second, 1)
    one, other = of(first)[0], of(second)[0]
    assert one is not None
    assert other is not None
    assert one.recognizer is other.recognizer
    assert not any(weight.is_inference() for weight in one.recognizer.buffers())


def test_pasted_parameters() -> None:
    assert _pasted({"Face guidance": "0.65"}) == 0.65
    assert [_pasted(one) for one in ({}, {"Face guidance": "9"}, {"Face guidance": "much"})] == [0, 0, 0]
