"""The likeness: where a person stands between anybody and the checkpoint's own celebrities, what it costs, and advice."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.full_disk import full_disk
from support.people import unit_coefficients
from support.toys import ToyModel

from celeb_basis.basis import BasisOptions, build_bases
from celeb_basis.diffusion_model import GenerationRequest
from celeb_basis.errors import CelebBasisError, EvaluationError
from celeb_basis.evaluation import known_celebrities as module
from celeb_basis.evaluation.clip import is_on_disk
from celeb_basis.evaluation.known_celebrities import MOST_CELEBRITIES
from celeb_basis.evaluation.likeness import (
    FEW_CELEBRITIES,
    Likeness,
    PersonToMeasure,
    measure_people,
    not_measured,
    person_to_measure,
)
from celeb_basis.events import MeasuringPicture, follow
from celeb_basis.faces.network import DetectedFace, Floats, Pixels, Portrait
from celeb_basis.identities.expand import new_identity
from celeb_basis.names.lists import name_list
from celeb_basis.provenance import words_in
from celeb_basis.settings import PRESETS
from celeb_basis.training.celebrity_faces import PROMPT
from celeb_basis.training.celebrity_files import CelebrityFile, file_name
from celeb_basis.training.first_guess import faces_folder

NAMES = name_list([f"first{number} last{number}" for number in range(200)], "toys")


def face_of(who: str) -> Floats:
    """``(512,)`` L2-normalized: what a person looks like."""
    seed = int.from_bytes(hashlib.sha256(who.encode()).digest()[:4], "big")
    vector = np.random.default_rng(seed).normal(size=512).astype(np.float32)
    return vector / np.linalg.norm(vector)


class Painter(ToyModel):
    """Generates whom the prompt names: a picture that holds the face vector, more or less like the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[GenerationRequest] = []
        self.celebrities_alike = 0.8
        """Cosine of a celebrity's picture to the celebrity."""
        self.person_alike = 0.8
        """Cosine of the person's picture to ``ada``."""
        self.faceless = False
        self.celebrities_faceless = False

    def generate(self, request: GenerationRequest) -> Iterator[Image.Image]:
        self.asked.append(request)
        who, alike = request.prompt.removeprefix("a photo of ").partition(" on ")[0], self.celebrities_alike
        without = self.faceless if request.placeholder_tokens else self.celebrities_faceless
        if request.placeholder_tokens:
            who, alike = "ada", self.person_alike
        noise = face_of(f"{request.prompt} {request.seed}")
        vector = alike * face_of(who) + (1 - alike**2) ** 0.5 * noise
        pixels = np.zeros((64, 64, 3), np.float32)
        pixels.reshape(-1)[1:513] = 128 + 900 * vector
        pixels.reshape(-1)[0] = 0 if without else 255
        yield Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))

    @property
    def celebrities(self) -> list[str]:
        return [request.prompt for request in self.asked if not request.placeholder_tokens]


class Reader:
    """A face network for :class:`Painter`'s pictures."""

    name = "reader:12345678"

    def detect(self, picture: Pixels) -> list[DetectedFace]:
        if picture[0, 0, 0] < 100:
            return []
        return [DetectedFace((0.0, 0.0, 64.0, 64.0), np.zeros((5, 2), np.float32), 1.0)]

    def align(self, picture: Pixels, landmarks: Floats) -> Pixels:
        del landmarks
        return picture

    def embed(self, aligned: Sequence[Pixels]) -> Floats:
        rows = np.stack([(one.reshape(-1)[1:513].astype(np.float32) - 128) / 900 for one in aligned])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def model() -> Painter:
    return Painter()


def person(model: Painter, *, preset: str = "best", warnings: tuple[str, ...] = ()) -> PersonToMeasure:
    bases = [one.basis for one in build_bases(model.text_encoders, NAMES, BasisOptions(6))]
    identity = new_identity(
        "ada", unit_coefficients(bases), bases, model.info, settings=PRESETS[preset].as_dict(), consent=""
    )
    return PersonToMeasure(identity, face_of("ada")[None], warnings)


def measure(model: Painter, who: PersonToMeasure | None = None, **options: Any) -> Likeness:
    (found,) = follow(measure_people(model, [who or person(model)], Reader(), NAMES, **options))
    return found


def test_the_ends_of_the_scale_are_anybody_and_the_checkpoints_own_celebrities(model: Painter) -> None:
    found = measure(model)
    # Two pictures of a celebrity with 0.8 to the celebrity each; the person's with 0.8 to the photo.
    assert found.known == pytest.approx(0.64, abs=0.05)
    assert found.anybody == pytest.approx(0.0, abs=0.06)
    assert found.likeness == pytest.approx(0.8, abs=0.04)
    assert found.likeness is not None
    assert found.anybody is not None
    assert found.known is not None
    assert found.share == pytest.approx((found.likeness - found.anybody) / (found.known - found.anybody))
    assert (found.verdict, found.pictures, found.faces, found.known_of, found.anybody_of) == ("good", 4, 4, 2, 4)
    assert "As alike as toy" in found.sentences[0]
    json.dumps(found.as_dict(), allow_nan=False)


@pytest.mark.parametrize(("alike", "verdict"), [(0.0, "low"), (0.1, "low"), (0.32, "fair"), (0.6, "good")])
def test_a_person_stands_where_the_pictures_are(model: Painter, alike: float, verdict: str) -> None:
    model.person_alike = alike
    found = measure(model)
    assert found.share == pytest.approx(alike / 0.64, abs=0.2)
    assert found.verdict == verdict


def test_it_costs_at_most_eight_pictures_and_four_once_enough_celebrities_are_known(model: Painter) -> None:
    events: list[MeasuringPicture] = []
    follow(measure_people(model, [person(model)], Reader(), NAMES), events.append)
    assert len(model.asked) == 8
    assert [(event.done, event.total) for event in events] == [(number, 8) for number in range(1, 9)]
    assert [words_in(event.image) for event in events if event.image is not None] == [("<ada>",)] * 4
    assert [event.name for event in events] == ["ada"] * 4 + [""] * 4, "nobody is shown a celebrity"
    first = set(model.celebrities)
    known = 2
    while known < MOST_CELEBRITIES:
        model.asked.clear()
        found = measure(model)
        known += 2
        assert len(model.asked) == 8
        assert not first & set(model.celebrities), "others than before"
        assert found.known_of == known
        assert any("so far" in text for text in found.sentences) == (known < FEW_CELEBRITIES)
    model.asked.clear()
    assert measure(model).known_of == MOST_CELEBRITIES
    assert len(model.asked) == 4


def test_a_celebritys_two_pictures_have_other_seeds_and_prompts(model: Painter) -> None:
    measure(model)
    first, second, *_ = [one for one in model.asked if not one.placeholder_tokens]
    assert first.seed != second.seed
    assert first.prompt != second.prompt
    assert {(one.prompt, one.seed) for one in model.asked if one.placeholder_tokens} == {
        (prompt, seed) for prompt in ("a photo of <ada>", "a photo of <ada> on a beach") for seed in (1, 2)
    }


def test_other_checkpoints_and_face_networks_have_scales_of_their_own(model: Painter) -> None:
    measure(model)
    other = Painter()
    other.info = replace(other.info, sha256="1" * 64)
    who = replace(person(model), identity=person(other).identity)
    assert measure(other, who).known_of == 2
    network = Reader()
    network.name = "another:12345678"
    (found,) = follow(measure_people(model, [person(model)], network, NAMES))
    assert found.known_of == 2
    assert measure(model).known_of == 4


def test_the_faces_of_a_prepared_checkpoint_say_what_anybody_is_for_nothing(model: Painter) -> None:
    name = file_name(model, Reader.name, PROMPT, 0)
    stored = CelebrityFile(faces_folder() / name, checkpoint="toy", faces=Reader.name)
    for number in range(20):
        vector = 0.3 * face_of("ada") + 0.95 * face_of(NAMES.names[number])
        stored.vectors[NAMES.names[number]] = torch.from_numpy(vector / np.linalg.norm(vector))
    stored.vectors[NAMES.names[21]] = torch.full((512,), torch.nan)
    stored.save()
    found = measure(model)
    assert found.anybody_of == 24
    assert found.anybody == pytest.approx(0.3 * 20 / 24, abs=0.05)
    assert len(model.asked) == 8


def test_no_face_in_the_pictures_is_said(model: Painter) -> None:
    model.faceless = True
    found = measure(model)
    assert (found.likeness, found.share, found.faces, found.verdict) == (None, None, 0, "low")
    assert "No face was found" in found.sentences[0]
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_checkpoint_whose_celebrities_have_no_face_is_named(model: Painter) -> None:
    model.celebrities_faceless = True
    assert measure(model).verdict == "fair", "the person's own pictures are alike all the same"
    model.person_alike = 0.2
    found = measure(model)
    assert (found.known, found.known_of, found.anybody, found.verdict) == (None, 0, None, "low")
    assert "toy hardly knows celebrities: learn on another checkpoint" in found.sentences[1]


def test_a_checkpoint_whose_celebrities_are_not_alike_is_named(model: Painter) -> None:
    model.celebrities_alike, model.person_alike = 0.1, 0.2
    found = measure(model)
    assert found.share is None
    assert "hardly knows celebrities" in " ".join(found.sentences)


BLURRED = "The face is blurred: a sharper photo gives a better likeness."


@pytest.mark.parametrize(
    ("preset", "warnings", "words"),
    [
        ("best", ("There are 2 faces in the photo and the largest was chosen.", BLURRED), BLURRED),
        ("balanced", (BLURRED,), BLURRED),
        ("balanced", (), "preset Best"),
        ("quick", ("The photo lies on its side.",), "preset Best"),
        ("best", (), "another photo"),
    ],
)
def test_advice_names_the_likeliest_cause(model: Painter, preset: str, warnings: tuple[str, ...], words: str) -> None:
    model.person_alike = 0.1
    found = measure(model, person(model, preset=preset, warnings=warnings))
    assert found.verdict == "low"
    assert words in found.sentences[1]
    model.person_alike = 0.8
    better = measure(model, person(model, preset=preset, warnings=warnings))
    assert words not in " ".join(better.sentences), "there is nothing to mend"


@pytest.mark.parametrize("damage", [b"", b"nothing of use", "shape", "header"])
def test_a_damaged_file_is_made_again(model: Painter, damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    measure(model)
    (path,) = faces_folder().glob("known-*.safetensors")
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        from safetensors.torch import save_file

        header = {"names": ["a", "b"], "faces": Reader.name} if damage == "shape" else {"names": 3}
        save_file({"pairs": torch.zeros(2, 2, 511)}, path, {"known celebrities": json.dumps(header)})
    assert measure(model).known_of == 2
    assert "generated again" in caplog.text
    assert measure(model).known_of == 4


def test_a_full_disk_costs_only_the_scale(model: Painter, caplog: pytest.LogCaptureFixture) -> None:
    who = person(model)
    with full_disk():
        assert measure(model, who).known_of == 2
    assert "are not saved" in caplog.text


def test_a_picture_is_shown_before_it_is_looked_at_so_that_an_unfinished_one_is_never_measured(model: Painter) -> None:
    looked: list[int] = []

    class Watched(Reader):
        def detect(self, picture: Pixels) -> list[DetectedFace]:
            looked.append(1)
            return super().detect(picture)

    work = measure_people(model, [person(model)], Watched(), NAMES)
    next(work)
    next(work)
    assert len(looked) == 1
    work.close()
    assert len(looked) == 1
    assert not list(faces_folder().glob("known-*"))


def test_several_people_share_the_celebrities(model: Painter) -> None:
    first = person(model)
    second = replace(first, identity=replace(first.identity, name="bob"))
    found = follow(measure_people(model, [first, second], Reader(), NAMES))
    assert [one.name for one in found] == ["ada", "bob"]
    assert len(model.asked) == 4 + 4 + 4


class Clip:
    name = "a clip"

    def __init__(self, scores: Sequence[float] | None) -> None:
        self.scores = scores
        self.prompts: list[str] = []

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Any:
        assert len(images) == len(prompts)
        self.prompts = list(prompts)
        if self.scores is None:
            raise EvaluationError("It is broken.")
        return np.asarray(self.scores, np.float32)


def test_a_clip_says_how_prompts_are_followed(model: Painter) -> None:
    clip = Clip([0.2, 0.3, 0.2, 0.3])
    found = measure(model, clip=clip)
    assert found.prompt == pytest.approx(0.25)
    assert found.clip == "a clip"
    assert set(clip.prompts) == {"a photo of person", "a photo of person on a beach"}
    assert measure(model).prompt is None
    broken = measure(model, clip=Clip(None))
    assert broken.prompt is None
    assert broken.likeness is not None, "the likeness does not depend on it"


def test_only_a_clip_on_this_machine_is_used(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"")
    assert is_on_disk(str(tmp_path))
    assert not is_on_disk(str(tmp_path / "gone"))
    assert is_on_disk(f"open_clip:ViT-B-32:{tmp_path / 'w.safetensors'}")
    assert not is_on_disk("open_clip:ViT-B-32:openai"), "it would be downloaded"
    assert not is_on_disk(f"open_clip:ViT-B-32:{tmp_path / 'gone.safetensors'}")


def test_without_portraits_the_thumbnail_is_compared_with(model: Painter) -> None:
    identity = person(model).identity
    assert person_to_measure(identity, Reader()) is None, "there is no picture"
    request = GenerationRequest("a photo of <ada>", placeholder_tokens={"<ada>": identity.token_vectors()})
    buffer = io.BytesIO()
    next(model.generate(request)).save(buffer, "PNG")
    with_picture = replace(identity, metadata=replace(identity.metadata, thumbnail=buffer.getvalue()))
    found = person_to_measure(with_picture, Reader())
    assert found is not None
    assert float(found.photos[0] @ face_of("ada")) == pytest.approx(0.8, abs=0.05)
    portrait = Portrait(
        np.zeros((64, 64, 3), np.uint8), np.zeros((5, 2), np.float32), face_of("b"), "b.png", (BLURRED,)
    )
    of_photos = person_to_measure(with_picture, Reader(), [portrait, portrait])
    assert of_photos is not None
    assert of_photos.photos.shape == (2, 512)
    assert of_photos.warnings == (BLURRED, BLURRED)


def test_a_program_that_generates_nothing_is_an_error(model: Painter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "generate", lambda _request: iter(()))
    with pytest.raises(CelebBasisError, match="no image"):
        measure(model)


def test_whatever_fails_becomes_a_sentence_that_says_that_the_person_is_saved(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert not_measured(MemoryError()).startswith("The person is saved, but the likeness was not measured: Out of")
        assert not caplog.records
        assert "ZeroDivisionError" in not_measured(ZeroDivisionError("x"))
    assert caplog.records


def test_every_kind_of_picture_counts_in_the_key_of_the_file(model: Painter, monkeypatch: pytest.MonkeyPatch) -> None:
    measure(model)
    monkeypatch.setattr(module, "STEPS", 10)
    assert measure(model).known_of == 2
    assert len(list(faces_folder().glob("known-*"))) == 2
