"""Parts of the training of the small Stable Diffusion: pictures to crops, the loss, latents, judging."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from celeb_basis.faces.network import DetectedFace, FaceNetwork, Floats, Pixels
from miniature.training import autoencoder
from miniature.training.autoencoder import (
    HEADS,
    Pictures,
    Run,
    edges_apart,
    finish,
    load_autoencoder,
    losses,
    new_autoencoder,
    through,
    train,
)
from miniature.training.checkpoints import read_facts
from miniature.training.discriminator import WEIGHT, Adversary
from miniature.training.judging import REFERENCES, Gallery, fill, read_galleries, write_galleries
from miniature.training.latent_scale import LatentScale
from miniature.training.latents import encode_pool, face_masks
from miniature.training.shards import read_shard as read_latents
from miniature.world.pool import Shard, write_shard
from miniature.world.scenes import SIDE


def some_shard(count: int = 6) -> Shard:
    """Plain pictures with a brighter head."""
    rng = np.random.default_rng(0)
    pictures = np.broadcast_to(rng.integers(40, 200, (count, 1, 1, 3)).astype(np.uint8), (count, SIDE, SIDE, 3)).copy()
    boxes = np.zeros((count, 2, 3), np.float32)
    boxes[:, 0] = 60, 40, 80
    pictures[:, 40:120, 60:140] += 40
    return Shard(pictures, np.zeros((count, 8, 77), np.int32), boxes, np.full(count, -1, np.int32))


def test_crops_show_the_picture_and_weigh_heads(tmp_path: Path) -> None:
    shard = some_shard()
    write_shard(tmp_path, 0, shard)
    data = Pictures(tmp_path, 100)
    whole, weights = data.crops(np.random.default_rng(0), SIDE, 4)
    assert whole.shape == (4, 3, SIDE, SIDE)
    assert float(whole.abs().max()) <= 1
    head, behind = weights[:, :, 45:115, 65:135], weights[:, :, 125:, :50]
    assert torch.allclose(head, behind.mean() * (1 + HEADS))
    crops, _ = data.crops(np.random.default_rng(1), 64, 32)
    bright = (crops.amax((1, 2, 3)) - crops.amin((1, 2, 3))) > 0.2
    assert bright.float().mean() > 0.6  # most of them hold a part of the head's edge


def test_reduced_pictures_have_their_heads_where_they_are_seen(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, some_shard())
    whole, weights = Pictures(tmp_path, 100, 96).crops(np.random.default_rng(0), 96, 2)
    assert whole.shape == (2, 3, 96, 96)
    head = weights > 1
    assert torch.equal(head[:, :, 21:59, 31:69], torch.ones(2, 1, 38, 38, dtype=torch.bool))
    assert not head[:, :, 61:].any()
    assert not head[..., 71:].any()
    inside, outside = whole[:, :, 25:55, 35:65], whole[:, :, 65:, :25]
    assert torch.allclose(inside.mean((2, 3)) - outside.mean((2, 3)), torch.tensor(40 / 127.5), atol=0.02)


def test_the_loss_sees_blur_and_shifts_of_color() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(2, 3, 32, 32, generator=generator)
    weights = torch.ones(2, 1, 32, 32)
    blurred = torch.nn.functional.avg_pool2d(picture, 5, 1, 2)
    assert float(edges_apart(picture, picture, weights)) == 0
    assert float(edges_apart(picture + 0.3, picture, weights)) < 1e-5
    assert float(edges_apart(blurred, picture, weights)) > 0.1


def test_the_autoencoder_learns_goes_on_and_is_finished(tmp_path: Path) -> None:
    pool = tmp_path / "pictures"
    write_shard(pool, 0, some_shard())
    before = new_autoencoder()
    crops, weights = Pictures(pool, 10).crops(np.random.default_rng(5), 64, 2)
    first = float(losses(through(before, crops, 0)[0], crops, weights)["l1"].detach())
    train(tmp_path, pool, Run(minutes=5, steps=3), 10)
    train(tmp_path, pool, Run(minutes=5, steps=6), 10)
    finish(tmp_path)
    model = load_autoencoder(tmp_path / "encoder.safetensors")
    assert float(losses(through(model, crops, 0)[0], crops, weights)["l1"]) < first
    encoder = [value.clone() for value in model.encoder.parameters()]
    train(tmp_path, pool, Run(minutes=5, steps=2, decoder=True), 10)
    later = load_autoencoder(tmp_path / "decoder.safetensors")
    assert all(torch.equal(one, other) for one, other in zip(encoder, later.encoder.parameters(), strict=True))
    assert any(
        not torch.equal(one, other)
        for one, other in zip(model.decoder.parameters(), later.decoder.parameters(), strict=True)
    )

    for steps, seen in ((4, 2), (6, 4)):
        train(tmp_path, pool, Run(minutes=5, steps=steps, decoder=True, sharper=True), 10)
        assert read_facts(tmp_path / "discriminator.safetensors")["step"] == seen
    sharper = load_autoencoder(tmp_path / "decoder.safetensors")
    assert all(torch.equal(one, other) for one, other in zip(encoder, sharper.encoder.parameters(), strict=True))

    assert encode_pool(pool, tmp_path) == 1
    assert encode_pool(pool, tmp_path) == 0
    shard = read_latents(tmp_path / "pool" / "shard-00000.safetensors")
    assert shard.latents.shape == (6, 4, SIDE // 8, SIDE // 8)
    assert shard.faces is not None
    assert shard.faces.shape == (6, SIDE // 8, SIDE // 8)
    scaled = LatentScale.read(tmp_path / "latent-scale.json").standardized(shard.latents)
    assert abs(float(scaled.mean())) < 0.01
    assert abs(float(scaled.std()) - 1) < 0.05
    with pytest.raises(ValueError, match="another folder"):
        encode_pool(tmp_path / "pool", tmp_path)
    for number in (1, 2):
        write_shard(pool, number, some_shard())
    assert encode_pool(pool, tmp_path, processes=2) == 2
    beside = read_latents(tmp_path / "pool" / "shard-00002.safetensors")
    assert torch.equal(beside.latents, shard.latents)


def test_a_discriminator_of_patches_learns_what_is_blurred_and_asks_for_as_much_as_all_other_losses(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    adversary, last = Adversary(tmp_path, "cpu"), torch.nn.Conv2d(3, 3, 1)
    for _ in range(60):
        sharp = torch.rand(4, 3, 32, 32) * 2 - 1
        unlike = adversary.learn(torch.nn.functional.avg_pool2d(sharp, 3, 1, 1), sharp)
    assert float(unlike) < 0.3
    made = last(torch.nn.functional.avg_pool2d(sharp, 3, 1, 1))
    others = (made - sharp).abs().mean()
    term = adversary.term(made, sharp, others, last.weight)
    wanted, asked = (torch.autograd.grad(loss, last.weight, retain_graph=True)[0].norm() for loss in (others, term))
    torch.testing.assert_close(asked, WEIGHT * wanted, rtol=1e-3, atol=1e-6)
    adversary.save()
    again = Adversary(tmp_path, "cpu")
    torch.testing.assert_close(again.term(made, sharp, others, last.weight), term)


def test_a_discriminator_of_patches_asks_for_the_right_picture_not_only_for_a_sharp_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    adversary, last = Adversary(tmp_path, "cpu"), torch.nn.Conv2d(3, 3, 1)
    wanted, other = (torch.rand(4, 3, 32, 32) * 2 - 1 for _ in range(2))
    made = last(other)
    (slope,) = torch.autograd.grad(adversary.term(made, wanted, (made - other).abs().mean(), last.weight), made)
    nearer = torch.nn.functional.cosine_similarity(-slope.flatten(), (wanted - made).detach().flatten(), 0)
    assert float(nearer) > 0.1


def test_latents_know_where_faces_are() -> None:
    boxes = np.zeros((2, 2, 3), np.float32)
    boxes[0] = (0.0, 0.25, 0.5), (0.75, 0.75, 0.25)
    masks = face_masks(boxes, 32)
    wanted = torch.zeros(32, 32, dtype=torch.bool)
    wanted[14:24, 4:12] = True  # a face of half the head's width, from the brows to the chin
    wanted[27:32, 26:30] = True
    assert torch.equal(masks[0], wanted)
    assert not masks[1].any()


class Colors:
    """A judge who knows people by their color."""

    name = "colors"

    def embed(self, picture: Pixels, face: DetectedFace) -> Floats:
        assert face.score == 1
        return picture.mean((0, 1)).astype(np.float32)

    def likeness(self, vectors: Floats, references: Floats) -> Floats:
        return np.asarray(-np.abs(vectors[:, None] - references[None]).sum(-1), np.float32)


class Finder(FaceNetwork):
    """Finds one face in everything that is not black."""

    name = "finder"

    def detect(self, picture: Pixels) -> list[DetectedFace]:
        face = DetectedFace(box=(0.0, 0.0, 0.0, 0.0), score=1.0, landmarks=np.zeros((5, 2), np.float32))
        return [face] if picture.any() else []

    def align(self, picture: Pixels, landmarks: Floats) -> Pixels:
        raise NotImplementedError

    def embed(self, aligned: Sequence[Pixels]) -> Floats:
        raise NotImplementedError


def plain(*color: int) -> Pixels:
    return np.full((8, 8, 3), color, np.uint8)


def test_the_gallery_ranks_people_by_their_other_pictures() -> None:
    people = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    gallery = Gallery(Colors(), Finder())
    gallery.hang([[plain(*color)] * REFERENCES for color in people])
    faces = gallery.look([plain(190, 5, 0), plain(0, 150, 160), plain(0, 0, 0)])
    verdict = gallery.verdict(faces, np.array([0, 1, 2]))
    assert verdict.ranks.tolist() == [0, 1, 3]
    assert verdict.within(1) == 1 / 3
    assert np.isnan(verdict.likeness[2])


def test_what_judges_saw_is_kept_for_any_of_the_people(tmp_path: Path) -> None:
    path, seen = tmp_path / "references.safetensors", Gallery(Colors(), Finder())
    seen.hang([[plain(40 * place, 20, 8)] * REFERENCES for place in range(3)])
    other = Gallery(Colors(), Finder())
    assert not read_galleries(path, [other], [7])
    write_galleries(path, [seen], [5, 7, 9])
    assert read_galleries(path, [other], [9, 5])
    assert (other.faces == seen.faces[[2, 0]]).all()
    assert not read_galleries(path, [other], [5, 6])
    stranger = Colors()
    stranger.name = "another judge"
    assert not read_galleries(path, [Gallery(stranger, Finder())], [5])


def test_pictures_of_people_are_drawn_only_where_they_are_not_kept(tmp_path: Path) -> None:
    path, drawn = tmp_path / "faces.safetensors", []

    def pictures(numbers: list[int]) -> list[list[Pixels]]:
        drawn.append(numbers)
        return [[plain(number, 20, 8)] * REFERENCES for number in numbers]

    def filled(numbers: list[int], store: Path | None) -> Gallery:
        gallery = Gallery(Colors(), Finder())
        fill([gallery], numbers, lambda: pictures(numbers), Finder(), store)
        return gallery

    first = filled([40, 80, 120], path)
    assert (filled([120, 40], path).faces == first.faces[[2, 0]].astype(np.float16)).all()
    assert drawn == [[40, 80, 120]]
    assert filled([40, 160], path).faces.shape == first.faces[:2].shape
    filled([40], None)
    assert drawn == [[40, 80, 120], [40, 160], [40]]


def test_no_face_network_has_a_part_in_the_training() -> None:
    folder = Path(autoencoder.__file__).parent
    for module in ("autoencoder.py", "latents.py", "pairs.py", "text_model.py", "text_pretraining.py"):
        path = folder / module
        if path.exists():
            assert not re.search(r"recogni|face_network|FaceNetwork|dlib", path.read_text().split('"""', 2)[2])
