"""The two ends of learning: from people's portraits to a learner, and from a learner to identities."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import torch

from celeb_basis.basis.basis import Basis
from celeb_basis.faces.types import FaceNetwork
from celeb_basis.hosts.base import Host
from celeb_basis.identities.expand import new_identity
from celeb_basis.identities.identity import Identity
from celeb_basis.learning.events import Preparing
from celeb_basis.learning.first_guess import FirstGuess, guessed
from celeb_basis.learning.head import SpreadCoefficients
from celeb_basis.learning.learner import Learner
from celeb_basis.settings import LearnSettings
from celeb_basis.views.pool import Person, encode_views

# The views' random numbers come from a stream of their own: a learner that is resumed does not draw them again.
_VIEWS_STREAM = 0x5EED_0000_0000


def training_size(host: Host, settings: LearnSettings) -> int:
    """Side of the training pictures in pixels: the setting's, or the checkpoint's own."""
    return settings.size or host.info.resolution


def prepare_learner(
    host: Host,
    bases: Sequence[Basis],
    people: Sequence[Person],
    faces: FaceNetwork,
    settings: LearnSettings,
    *,
    guesses: Sequence[FirstGuess] = (),
) -> Generator[Preparing, None, Learner]:
    """Encode everybody's views, yielding progress, and return the learner that is ready to run.

    The people's portraits are squares of :func:`training_size` pixels. ``guesses``, one a text encoder, say where
    coefficients begin if the settings' start is a guess.
    """
    generator = torch.Generator().manual_seed(settings.seed + _VIEWS_STREAM)
    pool = yield from encode_views(
        host, people, faces, views=settings.views, smallest=settings.smallest, generator=generator
    )
    learner = Learner(host, bases, pool, settings)
    if settings.start == "guess" and isinstance(learner.model, SpreadCoefficients):
        learner.model.begin_at(torch.stack([_guess(bases, guesses, person, settings.shared) for person in people]))
    return learner


def _guess(bases: Sequence[Basis], guesses: Sequence[FirstGuess], person: Person, shared: bool) -> torch.Tensor:
    """``(G, E, K)``: where one person's photos say that learning begins."""
    vector = torch.from_numpy(np.mean([one.vector for one in person.portraits], axis=0))
    coefficients = torch.stack(guessed(bases, guesses, torch.nn.functional.normalize(vector, dim=0)))
    return coefficients.mean(dim=0, keepdim=True) if shared else coefficients


def make_identities(learner: Learner, *, consent: str = "", notes: str = "") -> tuple[Identity, ...]:
    """What ``learner`` has learned so far, as identities for the model it learned on.

    Parameters: ``consent`` is the user's note on the people's consent, kept in every identity.
    """
    settings = learner.settings
    return tuple(
        new_identity(
            learned.name,
            learned.coefficients,
            learner.bases,
            learner.host.info,
            face_model=learner.pool.face_model if settings.mode == "head" or settings.start == "guess" else "",
            steps=learner.step,
            settings=settings.as_dict(),
            consent=consent,
            notes=notes,
            thumbnail=learned.thumbnail or None,
        )
        for learned in learner.results()
    )
