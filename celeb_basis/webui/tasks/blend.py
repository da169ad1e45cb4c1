"""Blend as a job: mixing people, drawing the mixture before anybody is saved, and saving it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from celeb_basis.errors import CelebBasisError, IdentityError, SettingsError
from celeb_basis.hosts.a1111.app import open_loaded_model
from celeb_basis.provenance import marked
from celeb_basis.webui.jobs import Job
from celeb_basis.webui.tasks.evaluate import counted_steps

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.identities.identity import Identity
    from celeb_basis.webui.service import Service

MIXTURE = "mixture"
"""What the mixture is called while it has no name."""
MOST_PICTURES = 4
"""Pictures of one preview."""


@dataclass(frozen=True)
class BlendRequest:
    """People mixed, then moved toward the mean or a celebrity."""

    parts: tuple[tuple[str, float], ...]
    """Names and weights."""
    name: str
    toward_mean: float = 0.0
    toward_celebrity: str = ""
    celebrity_amount: float = 0.0
    keep_radius: bool = False
    replace: bool = False


@dataclass(frozen=True)
class PreviewRequest:
    """Pictures of a mixture that is not saved."""

    blend: BlendRequest
    """Its name may be empty."""
    prompt: str = "a photo of {}"
    """``{}`` is where the mixture stands."""
    count: int = 1
    seed: int = 0
    steps: int = 20
    guidance: float = 7.5

    def check(self) -> None:
        """Raise the sentence that says what is wrong.

        Raises: :class:`SettingsError`.
        """
        ranges = (("count", 1, MOST_PICTURES), ("seed", 0, 2**32 - 1), ("steps", 1, 150), ("guidance", 0, 50))
        for name, low, high in ranges:
            if not low <= getattr(self, name) <= high:
                raise SettingsError(f"{name} is {getattr(self, name)}: choose a value from {low} to {high}.")
        if "{}" not in self.prompt:
            raise SettingsError("The prompt has no {}: put it where the mixture is to stand.")


class Mixing:
    """What is done with mixtures, for one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def people(self, request: BlendRequest) -> list[tuple[Identity, float]]:
        """The people of the mixture with their weights.

        Raises: :class:`IdentityError` for nobody, or somebody who is not there.
        """
        people = [(self._service.people.identity(name), weight) for name, weight in request.parts]
        if not people:
            raise IdentityError("There is nobody to blend: give at least one person with a weight.")
        return people

    def mixed(self, request: BlendRequest, model: DiffusionModel, job: Job | None = None) -> Identity:
        """The mixture on the loaded checkpoint.

        Raises: :class:`CelebBasisError` for parts that do not fit it; :class:`StoppedError` if ``job`` was interrupted.
        """
        from celeb_basis.identities.blending import blend, toward_celebrity, toward_mean

        people = self.people(request)
        bases = self._service.own_bases(model, int(people[0][0].coefficients[0].shape[1]), job)
        parts = []
        for number, (person, weight) in enumerate(people):
            if job is not None:
                job.check_interrupted()
                job.say(f"Mixing in {person.name}", step=number, total=len(people))
            parts.append((self._service.fitted(person, model, job), weight))
        mixed = blend(parts, bases, model.info, name=request.name or MIXTURE, keep_radius=request.keep_radius)
        if request.toward_mean:
            mixed = toward_mean(mixed, request.toward_mean, bases, model.info)
        if request.toward_celebrity:
            mixed = toward_celebrity(
                mixed,
                request.toward_celebrity,
                request.celebrity_amount,
                bases,
                model.info,
                keep_radius=request.keep_radius,
            )
        if job is not None:
            job.check_interrupted()
        return mixed

    def save(self, job: Job, request: BlendRequest) -> None:
        """The work of a job: mix, and add the mixture to the library."""
        job.say("Waiting for the WebUI to finish what it does")
        with self._service.model(job) as model:
            mixed = self.mixed(request, model, job)
        self._service.library.add(mixed, replace=request.replace)
        job.result = {"person": self._service.people.entry(mixed.name).as_dict()}
        job.say("Saved", step=1, total=1)

    def preview(self, job: Job, request: PreviewRequest) -> None:
        """The work of a job: mix, and draw; nobody is added."""
        from celeb_basis.diffusion_model import GenerationRequest

        host = self._service.host
        job.say("Waiting for the WebUI to finish what it does")
        with self._service.host_queue.write_lock(job.task, job.interrupt):
            model = open_loaded_model(host)
            mixed = self.mixed(request.blend, model, job)
            word = f"<{mixed.name}>"
            drawing = GenerationRequest(
                prompt=request.prompt.replace("{}", word),
                placeholder_tokens={word: mixed.token_vectors()},
                count=request.count,
                seed=request.seed,
                steps=request.steps,
                guidance=request.guidance,
            )
            with counted_steps(job, host, request.count, request.steps):
                for image in model.generate(drawing):
                    if host.stop_reason() or job.interrupt.is_set():
                        break  # this one may be half drawn
                    image.info["title"] = word
                    job.pictures = (*job.pictures, marked(image, [word]))
            reason = host.stop_reason()
        job.result = {"word": word, "prompt": drawing.prompt, "pictures": len(job.pictures)}
        if job.interrupt.is_set() or reason:
            job.set_state("interrupted", "It was interrupted." if job.interrupt.is_set() else reason)
        elif len(job.pictures) < request.count:
            raise CelebBasisError("The WebUI drew fewer pictures than it was asked for: look at its log.")
        else:
            job.say("Drawn", step=1, total=1, seconds_left=None)
