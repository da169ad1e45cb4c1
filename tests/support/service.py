"""Requests to the service for people in a sample photo, and waiting for a job."""

from __future__ import annotations

import time
from typing import Any

from support.sample_photos import sample_photos

from celeb_basis.webui.jobs import Job
from celeb_basis.webui.schemas import LearnRequest, PhotoUpload, UploadedPhoto

SETTINGS = {"steps": 5, "views": 2, "batch_size": 1, "components": 8, "early_stop": False}


def request(
    *names: str,
    face: int | None = 0,
    consent: bool = True,
    replace: bool = False,
    likeness: bool = False,
    **settings: Any,
) -> LearnRequest:
    photo = UploadedPhoto(sample_photos()["six"].read_bytes(), "six people.jpg", face)
    people = tuple(PhotoUpload(name, (photo,)) for name in names)
    return LearnRequest(
        people,
        settings=SETTINGS | settings,
        consent=consent,
        notes="a note",
        replace=replace,
        likeness=likeness,
    )


def ended(job: Job) -> Job:
    assert job.wait(120)
    return job


def until(job: Job, step: int) -> None:
    end = time.monotonic() + 60
    while not (job.progress().stage == "Learning" and job.progress().step >= step):
        assert time.monotonic() < end
        assert not job.finished, job.error
        time.sleep(0.005)
