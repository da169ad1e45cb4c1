"""Invent as a job: a sheet of people who do not exist, with an image of each; and saving one of them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from celeb_basis.basis import fitting_components
from celeb_basis.diffusion_model import GenerationRequest
from celeb_basis.errors import CelebBasisError, IdentityError
from celeb_basis.files import checked_name
from celeb_basis.hosts.a1111.app import open_loaded_model
from celeb_basis.identities.invention import InventionSettings, Inventor
from celeb_basis.provenance import marked
from celeb_basis.settings import TrainingSettings
from celeb_basis.webui.jobs import Job
from celeb_basis.webui.schemas import MAX_INVENTED, NameTakenError
from celeb_basis.webui.tasks.generation import counted_steps

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.hosts.a1111.app import HostApp
    from celeb_basis.identities.identity import Identity
    from celeb_basis.identities.library import IdentityStatus
    from celeb_basis.webui.people import People
    from celeb_basis.webui.schemas import InventRequest
    from celeb_basis.webui.tasks.basis import ModelAccess


@dataclass
class Sheet:
    """The people of a job, whose images are the job's own in the same order."""

    people: tuple[Identity, ...] = ()
    nearest: tuple[tuple[str, float], ...] = ()
    """Of each person, the most alike celebrity by cosine of the coefficients."""
    faces: tuple[bool, ...] | None = None
    """Whether each image shows a face; ``None`` while that is unknown."""
    few: bool = False
    """Whether so few images show a face that the checkpoint seems not to know the celebrities."""
    kept: dict[int, Any] = field(default_factory=dict)
    """Images that were there before, by number."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        people = []
        for place, (one, (celebrity, cosine)) in enumerate(zip(self.people, self.nearest, strict=True)):
            people.append(
                {
                    "number": place + 1,
                    "name": one.name,
                    "seed": one.metadata.settings.get("seed"),
                    "hash": one.content_hash,
                    "nearest": [celebrity, cosine],
                    "face": None if self.faces is None or place >= len(self.faces) else self.faces[place],
                }
            )
        return {"people": people}


@dataclass(frozen=True)
class InventTasks:
    """Inventing people on the loaded checkpoint."""

    people: People
    access: ModelAccess
    job: Callable[[str], Job]
    """Answers the job with an id."""

    def groups(self) -> tuple[str, ...]:
        """The groups of the chosen list of names.

        Raises:
            NamesError: The list cannot be read.
        """
        return tuple(self.access.names().groups())

    def invent_job(self, request: InventRequest) -> Job:
        """A job for :meth:`run`.

        Raises:
            CelebBasisError: The request cannot be right.
        """
        request.check()
        _settings(request)
        for number in (*request.more, *request.less, *request.keep):
            self.person(request.sheet, number)
        job = Job("invent", ())
        job.outcome = Sheet()
        return job

    def run(self, job: Job, request: InventRequest) -> None:
        """The work of a job: invent people, and generate an image of each. Nobody is saved."""
        queue, host = self.access.queue, self.access.queue.app
        if request.seed < 0:
            request = replace(request, seed=secrets.randbelow(2**31))
        job.report("Waiting for the WebUI to finish its work")
        with queue.write_lock(job.task, job.interrupt):
            model = open_loaded_model(host)
            sheet = self._sheet(job, request, model)
            job.outcome, job.result = sheet, sheet.as_dict() | {"seed": request.seed}
            with counted_steps(job, host, len(sheet.people), request.steps):
                _generate(job, host, model, request, sheet)
            reason = host.stop_reason()
            checkpoint = model.info.name
        self._finish(job, sheet, checkpoint)
        if job.interrupt.is_set() or reason:
            job.set_state("interrupted", "It was interrupted." if job.interrupt.is_set() else reason)
        elif len(job.pictures) < len(sheet.people):
            raise CelebBasisError("The WebUI generated fewer images than it was asked for: look at its log.")

    def save(self, job_id: str, number: int, name: str = "", *, replace_existing: bool = False) -> IdentityStatus:
        """Add a person of a sheet to the library.

        Args:
            job_id: The job that made the sheet.
            number: Of the person, from 1.
            name: What the person is called; the suggested name if empty.
            replace_existing: Whether a person of that name is replaced.

        Raises:
            NameTakenError: The name is taken or unusable.
            IdentityError: There is no such sheet or number.
        """
        from celeb_basis.evaluation.invented_sheet import thumbnail

        begun = time.time()
        one = self.person(job_id, number)
        name = checked_name(name) if name.strip() else one.name
        if (problem := self.people.check_name(name, replace=replace_existing)) is not None:
            raise NameTakenError(problem)
        job = self.job(job_id)
        picture = thumbnail(job.pictures[number - 1]) if number <= len(job.pictures) else None
        saved = replace(one, name=name, metadata=replace(one.metadata, thumbnail=picture))
        self.people.workspace.library.add(saved, replace=replace_existing, begun=begun)
        job.people = tuple(dict.fromkeys((*job.people, name)))  # deleting the person deletes the sheet's images
        return self.people.entry(name)

    def person(self, job_id: str, number: int) -> Identity:
        """A person of a sheet.

        Args:
            job_id: The job that made the sheet.
            number: Of the person, from 1.

        Raises:
            IdentityError: There is no such sheet or number.
        """
        sheet = self.job(job_id).outcome
        if not isinstance(sheet, Sheet):
            raise IdentityError("That job made no sheet of invented people: invent some first.")
        if not 1 <= number <= len(sheet.people):
            raise IdentityError(f"There is no number {number} on the sheet: it has {len(sheet.people)} people.")
        return sheet.people[number - 1]

    def _sheet(self, job: Job, request: InventRequest, model: DiffusionModel) -> Sheet:
        bases = self.access.bases(model, fitting_components(model.text_encoders, TrainingSettings.components), job)
        job.report("Inventing people", step=0, total=0)
        inventor = Inventor(bases, model.info, self.access.names(), _settings(request))
        more, less = ([self.person(request.sheet, n) for n in numbers] for numbers in (request.more, request.less))
        kept = {n: self.person(request.sheet, n) for n in request.keep if n <= request.count}
        taken = [*self.people.workspace.library.names(), *(one.name for one in kept.values())]
        people: list[Identity] = []
        for number in range(1, request.count + 1):
            one = kept.get(number)
            if one is None:
                one = inventor.invent(request.seed + number - 1, more=more, less=less, taken=taken)
            people.append(one)
            taken.append(one.name)
        before = self.job(request.sheet).pictures if kept else ()
        pictures = {n: before[n - 1] for n in kept if n <= len(before)}
        return Sheet(tuple(people), tuple(inventor.nearest(one) for one in people), kept=pictures)

    def _finish(self, job: Job, sheet: Sheet, checkpoint: str) -> None:
        """Look for faces in the images, which needs neither the checkpoint nor a license."""
        from celeb_basis.evaluation.invented_sheet import faces_in, faces_sentence, few_faces

        job.report("Looking for faces", seconds_left=None)
        sheet.faces = faces_in(job.pictures) if job.pictures else None
        sheet.few = few_faces(sheet.faces)
        sentence = faces_sentence(sheet.faces, checkpoint)
        job.result = job.result | sheet.as_dict() | {"faces": sentence, "pictures": len(job.pictures)}
        job.report("Generated", step=1, total=1, seconds_left=None)


def _settings(request: InventRequest) -> InventionSettings:
    return InventionSettings(
        request.way,  # type: ignore[arg-type]
        request.groups,
        request.leaning,
        request.distance,
        request.alike,
        request.unlike,
    )


def _generate(job: Job, host: HostApp, model: DiffusionModel, request: InventRequest, sheet: Sheet) -> None:
    """Generate the images that are missing, until the job is interrupted."""
    for number, one in enumerate(sheet.people, 1):
        token = f"<{one.name}>"
        if (picture := sheet.kept.get(number)) is None:
            generation = GenerationRequest(
                prompt=request.prompt.replace("{}", token),
                placeholder_tokens={token: one.token_vectors()},
                seed=request.picture_seed,
                steps=request.steps,
                guidance=request.guidance,
            )
            picture = next(iter(model.generate(generation)), None)
            if picture is None or host.stop_reason() or job.interrupt.is_set():
                return  # this image may be unfinished
            picture.info["title"] = f"{number} {one.name}"
        job.pictures = (*job.pictures, marked(picture, [token]))


def parsed_marks(text: str) -> tuple[str, dict[str, tuple[int, ...]]]:
    """The marks on the page, ``"more 3f2a:4,keep 3f2a:1"``: the id of the sheet's job, and numbers by mark."""
    found: dict[str, list[int]] = {"more": [], "less": [], "keep": []}
    sheet = ""
    for part in (text or "")[: 64 * MAX_INVENTED].split(","):
        mark, _, place = part.strip().partition(" ")
        job, _, number = place.partition(":")
        if mark in found and number.isascii() and number.isdecimal():
            sheet = job
            found[mark].append(int(number[:4]))
    return sheet, {mark: tuple(numbers) for mark, numbers in found.items()}


def chosen_person(text: str) -> tuple[str, int]:
    """A person on the page, ``"3f2a:4"``: the id of the sheet's job, and the number.

    Raises:
        IdentityError: Nobody is chosen.
    """
    job, _, number = (text or "").partition(":")
    if not job or not (number.isascii() and number.isdecimal()):
        raise IdentityError("Nobody is chosen: click on a face of the sheet first.")
    return job, int(number[:4])
