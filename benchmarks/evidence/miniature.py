"""The miniature Stable Diffusion as a testbed, judged by networks that its training never used.

Its strangers are people whom no part of the training shows: they are learned from one plain portrait from the front, and
compared with pictures of the same person in other poses, lights, expressions and clothes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.evidence.real_weights import mobile_face_net
from benchmarks.evidence.reporting import Reporter
from benchmarks.evidence.testbed import (
    DdimSampler,
    EvidenceTestbed,
    PromptCase,
    PromptScorer,
    Stranger,
)
from celeb_basis.errors import FaceError, HostError
from celeb_basis.faces.network import FaceNetwork, Pixels
from celeb_basis.faces.portraits import portrait as crop_portrait
from celeb_basis.miniature import CELEBRITY_FACES, MODEL, NAMES
from celeb_basis.names.lists import name_list
from miniature.training.kept import CLASSIFIER, KEPT
from miniature.training.places import ROOT
from miniature.training.scene_classifier import PARTS, Part, SceneClassifier, as_input
from miniature.world.bank import Bank, draw_bank
from miniature.world.captions import MEDIUM_WORDS, PLACE_WORDS, THING_WORDS
from miniature.world.people import read_people
from miniature.world.photos import photos_of
from miniature.world.scenes import BACKDROPS, MEDIA, THINGS

_PLACES, _THINGS, _MEDIA = (
    ("beach", "forest", "city at night"),
    ("glasses", "hat", "cake"),
    ("pencil sketch", "oil painting"),
)
PROMPTS = (
    PromptCase("a photo of {}", "medium: photo"),
    *(PromptCase(MEDIUM_WORDS[medium][0], f"medium: {medium}") for medium in _MEDIA),
    *(PromptCase(f"a photo of {{}} {PLACE_WORDS[place][0]}", f"backdrop: {place}") for place in _PLACES),
    *(PromptCase(f"a photo of {{}} {THING_WORDS[thing][0]}", f"thing: {thing}") for thing in _THINGS),
    PromptCase("a photo of {} on a plain blue background", "backdrop: blue"),
)
PAIR_PROMPTS = (
    PromptCase("a photo of {} and {}", "people: 2"),
    PromptCase("a photo of {} and {} on a beach", "people: 2"),
)
REFERENCE_PROMPTS = (
    "a photo of {} on a plain red background",
    "a photo of {} on a plain blue background",
    "a photo of {} on a plain beige background",
)
BANK = ROOT / ".assets" / "evidence" / "strangers"
"""Where the strangers' pictures are drawn."""
_REFERENCES = 4
_SAMPLING_STEPS = 20


def miniature_testbed(
    folder: Path | None, *, strangers: int, report: Reporter, skipped: int = 0, bank: Path = BANK
) -> EvidenceTestbed:
    """Load the testbed of a miniature.

    Args:
        folder: The diffusers folder that ``python -m miniature.training.export`` wrote; by default the miniature that ships.
        strangers: How many strangers are wanted.
        report: Where progress is written.
        skipped: How many are left out before them, to get others than those.
        bank: Folder of :mod:`miniature.world.bank`; strangers who are not in it are drawn into it.

    Raises:
        HostError: If there is no model.
        MissingPackageError: If the main judge's packages are not installed.
    """
    from celeb_basis.hosts.diffusers.checkpoint import load_host
    from celeb_basis.names.lists import read_names
    from miniature.training.dlib_judge import DlibJudge, RecognitionJudge
    from miniature.training.places import face_network
    from miniature.training.scene_classifier import load_classifier

    folder = folder or MODEL
    if not folder.exists():
        raise HostError(f"There is no {folder}: make it with `python -m miniature.training.export`.")
    report.say(f"loading {folder.name} and the pictures of {strangers} strangers, drawn first if need be")
    model = load_host(folder, device="cpu", dtype="fp32")
    faces, people = face_network(), read_people()
    named = folder / NAMES.name
    names = read_names(named) if named.is_file() else name_list(people.names, "the miniature's names")
    wanted = count = skipped + strangers
    while True:
        numbers = people.strangers[:count]
        draw_bank(bank, numbers, people.spread, processes=os.cpu_count() or 1)
        found = strangers_of(Bank(bank), numbers, faces, model.info.resolution)
        if len(found) >= wanted or count >= len(people.strangers):
            break
        count += wanted - len(found)  # in place of those whose photo shows no face
    chosen = found[skipped:wanted]
    vae, unet = model._pipeline.vae, model._pipeline.unet
    side = int(unet.config.sample_size)
    judge, third = DlibJudge(), mobile_face_net(report)
    identity = [
        model.info.sha256,
        [case.prompt for case in (*PROMPTS, *PAIR_PROMPTS)],
        [digest_of(stranger) for stranger in chosen],
        [judge.name, third.name if third else ""],
    ]
    decode = decoder_of(vae)

    def pictures_of(wanted: Sequence[str]) -> dict[str, list[Pixels]]:
        by_name = dict(zip(people.names, people.named, strict=True))
        named = bank.parent / f"{bank.name}-named"
        draw_bank(named, [by_name[name] for name in wanted], people.spread, processes=os.cpu_count() or 1)
        drawn = Bank(named)
        return {name: photos_of(drawn, by_name[name], 1 + _REFERENCES)[1:] for name in wanted}

    return EvidenceTestbed(
        key=f"miniature {hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]}",
        model=model,
        faces=faces,
        names=names,
        strangers=chosen,
        prompts=PROMPTS,
        pair_prompts=PAIR_PROMPTS,
        sampler=DdimSampler(
            model,
            decode=lambda latents: pixels_of(decode(latents)),
            latent_shape=(int(unet.config.in_channels), side, side),
            steps=_SAMPLING_STEPS,
        ),
        detect=faces.detect,
        judge=judge,
        second_judge=RecognitionJudge(faces),
        third_judge=third,
        score_prompts=parts_shown(load_classifier(KEPT / CLASSIFIER)),
        reference_prompts=REFERENCE_PROMPTS,
        pictures_of=pictures_of,
        known_faces=(CELEBRITY_FACES,),
        denoiser=unet,
        latent_scale=float(vae.config.scaling_factor),
        report=report,
    )


def strangers_of(bank: Bank, numbers: Sequence[int], faces: FaceNetwork, side: int) -> tuple[Stranger, ...]:
    """Strangers with a photo from the front to learn from, and others in other looks to be compared with.

    Args:
        bank: Their pictures.
        numbers: Who they are.
        faces: Detects faces; people whose photo or references show none are left out.
        side: Of the portraits in pixels.
    """
    found = []
    for row, number in enumerate(numbers):
        pictures = photos_of(bank, number, 1 + _REFERENCES)
        try:
            photo = crop_portrait(pictures[0], faces, size=side, source="a stranger's photo")
        except FaceError:
            continue
        references = tuple(picture for picture in pictures[1:] if faces.detect(picture))
        if references:
            found.append(Stranger(f"stranger{row:02d}", references, photo))
    return tuple(found)


def digest_of(stranger: Stranger) -> str:
    """A digest of all pictures of a stranger."""
    images = (stranger.portrait.picture, *stranger.references)
    return hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()


def decoder_of(vae: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from scaled latents to images in about -1 to 1, with gradients to the latents."""
    factor, shift = float(vae.config.scaling_factor), float(getattr(vae.config, "shift_factor", None) or 0.0)

    def decode(latents: torch.Tensor) -> torch.Tensor:
        decoded: torch.Tensor = vae.decode(latents / factor + shift).sample
        return decoded

    return decode


def pixels_of(images: torch.Tensor) -> list[Pixels]:
    """Images ``(N, 3, H, W)`` in -1 to 1 as ``(H, W, 3)`` pictures."""
    values = ((images.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255)
    return list(values.byte().cpu().numpy())


def parts_shown(classifier: SceneClassifier) -> PromptScorer:
    """A prompt scorer of 1 for images that show what their prompt's label says, such as ``backdrop: beach``, else 0."""
    classes: dict[Part, tuple[str, ...]] = {
        "medium": MEDIA,
        "backdrop": BACKDROPS,
        "thing": (*THINGS, ""),
        "people": ("0", "1", "2"),
    }

    @torch.no_grad()
    def score(images: Sequence[Pixels], cases: Sequence[PromptCase]) -> list[float | None]:
        logits = classifier(as_input(np.stack(images)))
        shown = {part: logits[part].argmax(1).tolist() for part in PARTS}
        scores: list[float | None] = []
        for row, case in enumerate(cases):
            part, wanted = case.label.split(": ")
            seen = next(classes[name][shown[name][row]] for name in PARTS if name == part)
            scores.append(float(seen == wanted))
        return scores

    return score
