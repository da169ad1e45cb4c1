"""Any Stable Diffusion checkpoint with photos of people as a testbed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.evidence.photos import photos_of_people, strangers_from_photos
from benchmarks.evidence.reporting import Reporter
from benchmarks.evidence.testbed import EvidenceTestbed, FaceJudge, HostSampler, PromptCase, PromptScorer, Stranger
from celeb_basis.errors import EvaluationError, MissingPackageError
from celeb_basis.evaluation.prompts import EVALUATION_PROMPTS
from celeb_basis.faces.network import FaceNetwork, Pixels
from celeb_basis.miniature import CELEBRITY_FACES

if TYPE_CHECKING:
    from celeb_basis.evaluation.clip import ClipScorer
    from celeb_basis.names.lists import NameList

KINDS = ("plain", "action", "dress", "place", "style")
"""The kinds of evaluation prompts that show one person."""

PAIR_PROMPTS = (PromptCase("a photo of {} and {}", "company"), PromptCase("{} and {} on a beach", "company"))

REFERENCE_PROMPTS = ("a photo of {}", "a close-up photo of {}, smiling", "a photo of the face of {}, outdoors")
"""Of the images that stand for a name that the model knows."""

DLIB = "dlib"
MOBILE_FACE_NET = "MobileFaceNet (cosine)"


@dataclass(frozen=True)
class RealWeights:
    """What the command line asks for."""

    model: Path
    photos: Path
    references: Path | None = None
    names: Path | None = None
    """List of names; the shipped one by default."""
    faces: str = "buffalo_l"
    """The face pack that learning uses."""
    judge: str | None = None
    """``"dlib"`` or another face pack: the main judge. By default dlib's network if it is installed, else the learning one."""
    clip: str | None = None
    """A CLIP for the Prompt figure, as ``celeb-basis evaluate --clip`` takes it."""
    device: str = "auto"
    dtype: str = "auto"
    prompts: int = 10
    """How many prompts with one person."""
    sampling_steps: int = 30
    guidance: float = 7.5


@dataclass(frozen=True)
class LoadedWeights:
    """A testbed, and what its page says of it."""

    testbed: EvidenceTestbed
    folder: str
    """Name of the folder of its results: another one for each model, set of photos and protocol."""
    judge: str
    second_judge: str
    third_judge: str
    prompt: str
    notes: tuple[str, ...]


def load_real_weights(wanted: RealWeights, report: Reporter) -> LoadedWeights:
    """Load model, photos and judges. The photos are looked at first: that takes seconds, the model may take minutes.

    Raises:
        CelebBasisError: If anything cannot be used; the message says what to do.
    """
    from celeb_basis.faces.insight import InsightFaceNetwork
    from celeb_basis.faces.packs import find_pack
    from celeb_basis.hosts.diffusers import load_host
    from celeb_basis.miniature import MODEL, NAME, shipped_model_names
    from celeb_basis.names.lists import read_names, shipped_names

    people, notes = photos_of_people(wanted.photos, wanted.references)
    report.say(f"{len(people)} people in {wanted.photos}; loading the face networks")
    faces = InsightFaceNetwork(find_pack(wanted.faces).folder)
    judge, second_judge = _judges(wanted.judge, faces)
    third_judge = mobile_face_net(report)
    names: NameList
    if wanted.names is not None:
        names = read_names(wanted.names)
    else:
        names = shipped_model_names() if wanted.model == MODEL else shipped_names()
    name = NAME if wanted.model == MODEL else wanted.model.name
    report.say(f"loading {name}")
    model = load_host(wanted.model, device=wanted.device, dtype=wanted.dtype, name=name)  # type: ignore[arg-type]
    clip: ClipScorer | None = None
    if wanted.clip is not None:
        from celeb_basis.evaluation.clip import load_clip

        report.say(f"loading {wanted.clip}")
        clip = load_clip(wanted.clip, device=str(model.device))
    report.say("finding the faces in the photos")
    strangers, more = strangers_from_photos(people, faces, model.info.resolution)
    notes += more
    if clip is None:
        notes.append("Prompt was not measured: give --clip with a folder of a CLIP, or open_clip:ARCHITECTURE:WEIGHTS.")
    for note in notes:
        report.say(note)
    prompts = chosen_prompts(wanted.prompts)
    parts: list[Any] = [
        [model.info.sha256, model.info.resolution, names.sha256, faces.name, judge.name],
        ["" if one is None else one.name for one in (second_judge, third_judge, clip)],
        [case.prompt for case in (*prompts, *PAIR_PROMPTS)],
        [wanted.sampling_steps, wanted.guidance, *REFERENCE_PROMPTS],
        [_digest(stranger) for stranger in strangers],
    ]
    key = f"{model.info.name} {hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]}"
    testbed = EvidenceTestbed(
        key=key,
        model=model,
        faces=faces,
        names=names,
        strangers=strangers,
        prompts=prompts,
        pair_prompts=PAIR_PROMPTS,
        sampler=HostSampler(model, wanted.sampling_steps, wanted.guidance),
        detect=faces.detect,
        judge=judge,
        second_judge=second_judge,
        third_judge=third_judge,
        score_prompts=clip_scores(clip),
        reference_prompts=REFERENCE_PROMPTS,
        known_faces=(CELEBRITY_FACES,),
        denoiser=model._pipeline.unet,
        latent_scale=float(model._pipeline.vae.config.scaling_factor),
        report=report,
    )
    return LoadedWeights(
        testbed,
        folder=re.sub(r"[^\w.-]+", "-", key),
        judge=_described(judge, faces),
        second_judge="" if second_judge is None else _described(second_judge, faces),
        third_judge="" if third_judge is None else MOBILE_FACE_NET,
        prompt="CLIP's cosine of image and prompt"
        + ("" if clip is None else f" ({clip.name}), with *person* as the name"),
        notes=tuple(notes),
    )


def chosen_prompts(count: int) -> tuple[PromptCase, ...]:
    """``count`` of the evaluation prompts with one person: the first of every kind, then the second, and so on."""
    kinds = [[PromptCase(prompt, kind) for prompt in EVALUATION_PROMPTS[kind]] for kind in KINDS]
    longest = max(map(len, kinds))
    mixed = [kind[row] for row in range(longest) for kind in kinds if row < len(kind)]
    return tuple(mixed[:count])


def clip_scores(clip: ClipScorer | None) -> PromptScorer:
    """A prompt scorer that asks a CLIP, with "person" in place of the people; without a CLIP, nothing is measured."""

    def score(images: Sequence[Pixels], cases: Sequence[PromptCase]) -> list[float | None]:
        if clip is None:
            return [None] * len(images)
        texts = [case.prompt.replace("{}", "person") for case in cases]
        scores = np.asarray(clip.score([Image.fromarray(image) for image in images], texts))
        if not np.isfinite(scores).all():
            raise EvaluationError(f"The CLIP {clip.name} gives scores that are no numbers: choose another one.")
        return [float(one) for one in scores]

    return score


def _judges(wanted: str | None, faces: FaceNetwork) -> tuple[FaceJudge, FaceJudge | None]:
    """The main judge, and the learning network as a second opinion if it is not the main one."""
    from celeb_basis.faces.insight import InsightFaceNetwork
    from celeb_basis.faces.packs import find_pack
    from miniature.training.dlib_judge import DlibJudge, RecognitionJudge

    learning = RecognitionJudge(faces, faces.name)
    if wanted in (None, DLIB):
        try:
            return DlibJudge(), learning
        except MissingPackageError:
            if wanted == DLIB:
                raise
            return learning, None
    network = InsightFaceNetwork(find_pack(str(wanted)).folder)
    if network.name == faces.name:
        return learning, None
    return RecognitionJudge(network, network.name), learning


def mobile_face_net(report: Reporter) -> FaceJudge | None:
    """The judge MobileFaceNet, if it is installed; says what to do if it is not."""
    from miniature.face_pack.mobile_face_net import MobileFaceNetJudge

    try:
        return MobileFaceNetJudge()
    except MissingPackageError as error:
        report.say(f"Without a third opinion: {error}")
        return None


def _described(judge: FaceJudge, faces: FaceNetwork) -> str:
    if judge.name == DLIB:
        return "dlib's network (1 - distance)"
    if judge.name == faces.name:
        return f"`{judge.name}`, the network that learning used, as in the paper (cosine)"
    return f"`{judge.name}` (cosine)"


def _digest(stranger: Stranger) -> str:
    images = (stranger.portrait.picture, *stranger.references)
    return hashlib.sha256(stranger.name.encode() + b"".join(image.tobytes() for image in images)).hexdigest()
