"""The text encoder learns from pictures and captions alone, at every position that the denoiser will see."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from celeb_basis.errors import FileError, TrainingError
from miniature.training.checkpoints import load_state
from miniature.training.pairs import Pairs, WordPairs, named_people, read_pairs
from miniature.training.text_model import WIDTH, Tokens, WorldText, load_text
from miniature.training.text_pretraining import Plan, Pretraining, main
from miniature.world.captions import used_tokens

COLORS = {
    "Ada Lovelace": (220, 30, 30),
    "Ada Hegerberg": (30, 200, 30),
    "Tom Hanks": (40, 40, 230),
    "Tom Cruise": (230, 220, 30),
    "Adam Driver": (20, 210, 220),
    "Adam Sandler": (230, 40, 220),
}
PLACES = ("on a beach", "in a forest", "")
TOKENS = Tokens()
END = TOKENS.tokenizer.eos_token_id


def squares(count: int, seed: int) -> Pairs:
    """Noisy pictures of one color per name, with a bright bar for the place, and two captions each."""
    rng = np.random.default_rng(seed)
    pictures, captions = [], []
    for place in range(count):
        name = list(COLORS)[place % len(COLORS)]
        where = int(rng.integers(len(PLACES)))
        picture = np.tile(np.array(COLORS[name], np.float32), (64, 64, 1)) + rng.normal(0, 20, (64, 64, 3))
        picture[20 * where : 20 * where + 8] = 250
        pictures.append(picture.clip(0, 255).astype(np.uint8))
        captions.append(TOKENS([f"{said} {name} {PLACES[where]}" for said in ("a photo of", "")]).numpy())
    alike = np.full(count, -1, np.int32)
    return Pairs(np.stack(pictures)[:, None], np.stack(captions).astype(np.int32), alike)


def write(folder: Path, count: int = 240, seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    pairs = squares(count, seed)
    np.savez(folder / f"shard-{seed}.npz", pictures=pairs.pictures, captions=pairs.captions)
    return folder


def pretraining(folder: Path, steps: int, pairs: Path, batch: int = 12) -> Pretraining:
    return Pretraining(*read_pairs(pairs, END), COLORS, folder, Plan(steps=steps, batch=batch))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pretraining, Path]:
    folder = tmp_path_factory.mktemp("text")
    run = pretraining(folder, 80, write(folder / "pairs"))
    run.train()
    return run, folder


def test_every_name_of_pictures_that_were_not_trained_on_is_nearest(learned: tuple[Pretraining, Path]) -> None:
    found = learned[0].evaluate()
    assert found["rank1"] == found["rank10"] == found["name_rank1"] == 1
    assert (found["pictures"], found["names"]) == (12, 6)
    assert found["accuracy"] > 0.3


def test_an_untrained_encoder_knows_nobody(tmp_path: Path) -> None:
    assert pretraining(tmp_path, 1, write(tmp_path / "pairs")).evaluate()["rank1"] < 0.6


def test_padding_says_the_same_as_the_end(learned: tuple[Pretraining, Path]) -> None:
    run = learned[0]
    shown = run.picture_vectors(squares(12, 5).pictures[:, 0])
    prompts = TOKENS([f"a photo of {name}" for name in COLORS])
    for padding in (0, 3, 60):
        nearest = (shown @ run.text_vectors(prompts, padding=padding).T).argmax(1)
        assert nearest.tolist() == [0, 1, 2, 3, 4, 5] * 2, padding


def test_the_file_is_the_whole_encoder_of_stable_diffusion(learned: tuple[Pretraining, Path]) -> None:
    run, folder = learned
    text = load_text(folder / "text.safetensors")
    ids = TOKENS(["a photo of Tom Cruise on a beach", "Ada Hegerberg"])
    with torch.no_grad():
        ours, whole = text(ids), text.whole()(ids).last_hidden_state
        torch.testing.assert_close(ours, run.model(ids))
    assert ours.shape == (2, 77, WIDTH)
    torch.testing.assert_close(ours, whole)
    unseen = text.whole().get_input_embeddings().weight[TOKENS.words("zebra")[0]]
    assert torch.equal(unseen, run.model.whole().get_input_embeddings().weight[TOKENS.words("zebra")[0]])


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs", 60)
    once, twice = tmp_path / "once", tmp_path / "twice"
    for folder, steps in ((once, (6,)), (twice, (3, 6))):
        folder.mkdir()
        for most in steps:
            run = pretraining(folder, 6, pairs)
            run.plan = Plan(steps=6, batch=12)
            while run.step < most:
                run._train_step()
                run.step += 1
            run._save()
        run.train()
    one, other = (load_text(folder / "text.safetensors").state_dict() for folder in (once, twice))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_command_trains_goes_on_and_prints_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors.numpy import save_file

    pairs = write(tmp_path / "pairs", 60)
    more = squares(60, 1)
    save_file({"pictures": more.pictures, "captions": more.captions}, str(pairs / "shard-1.safetensors"))
    people = {"names": list(COLORS), "named": list(range(6)), "strangers": [9], "spread": 1.0}
    (tmp_path / "people.json").write_text(json.dumps(people), encoding="utf-8")
    folders = ["--pairs", str(pairs), "--people", str(tmp_path / "people.json"), "--folder", str(tmp_path)]
    with caplog.at_level("INFO"):
        main([*folders, "--steps", "50", "--batch", "6"])
        assert "114 pictures to train on, 6 others" in caplog.text
        assert '"step": 50' in caplog.text
        assert '"accuracy": ' in caplog.text
    first = json.loads(capsys.readouterr().out)
    assert set(first) == {"accuracy", "rank1", "rank10", "near_rank1", "pictures", "name_rank1", "names"}
    main([*folders, "--steps", "50", "--batch", "6"])
    again = json.loads(capsys.readouterr().out)
    assert again["rank1"] == first["rank1"]
    # The denoiser's training knows the encoder by the words of the world.
    world = WorldText(used_tokens(TOKENS, COLORS))
    load_state(tmp_path / "text.safetensors", {"model": world})


def test_the_person_of_a_picture_is_the_only_one_whom_captions_name() -> None:
    texts = [["a man", "Tom Hanks on a beach"], ["Tom Hanks and Ada Lovelace", "Tom Hanks"], ["a", "b"]]
    captions = np.stack([TOKENS(pair).numpy() for pair in texts]).astype(np.int32)
    pairs = Pairs(np.zeros((3, 1, 64, 64, 3), np.uint8), captions, np.full(3, -1, np.int32))
    assert named_people(pairs, [TOKENS.words(name) for name in COLORS]).tolist() == [2, -1, -1]


def test_most_batches_are_of_pictures_that_differ_in_little_but_the_face(tmp_path: Path) -> None:
    pairs = squares(120, 0)
    groups = np.arange(120) % 4 - 1  # 30 pictures belong to no group
    groups[groups == 2] = np.where(np.arange(30) < 4, 2, 1)  # four of a group that is smaller than a batch
    run = Pretraining(replace(pairs, alike=groups.astype(np.int32)), pairs, COLORS, tmp_path, Plan(steps=1, batch=12))
    rng, kinds = np.random.default_rng(0), []
    for _ in range(2000):
        chosen, portraits = run._chosen(rng)
        assert len(set(chosen.tolist())) == 12
        kinds.append(tuple(np.unique(groups[chosen])))
        assert portraits == (len(kinds[-1]) == 1)
    assert 0.55 < np.mean([kind in ((0,), (1,)) for kind in kinds]) < 0.65
    assert (2,) not in kinds
    assert kinds.count((1,)) > kinds.count((0,))


def test_in_most_batches_a_named_person_has_the_shortest_caption(tmp_path: Path) -> None:
    brief = [["a photo of Tom Hanks smiling", "Tom Hanks", "a photo of Tom Hanks"], ["a photo of a man", "a", "a man"]]
    captions = np.stack([TOKENS(texts).numpy() for texts in brief * 6]).astype(np.int32)
    pairs = replace(squares(12, 0), captions=captions)
    run = Pretraining(pairs, pairs, COLORS, tmp_path, Plan(steps=1, batch=12))
    rng, order = np.random.default_rng(0), np.arange(12)
    said = np.stack([run._said(order, rng) for _ in range(1000)])
    shares = [[np.mean(said[:, place::2] == caption) for caption in range(3)] for place in (0, 1)]
    assert 0.55 < np.mean((said[:, ::2] == 1).all(1)) < 0.65
    np.testing.assert_allclose(shares[0], [0.4 / 3, 0.6 + 0.4 / 3, 0.4 / 3], atol=0.03)
    # Of two captions of those without a name, the shorter one.
    np.testing.assert_allclose(shares[1], [0.2, 1.4 / 3, 1 / 3], atol=0.03)


def test_pairs_of_words_that_follow_each_other_are_counted_over_all_captions_of_a_picture() -> None:
    texts = [["a long nose", "Tom Hanks"], ["a long chin", "Tom Hanks"], ["a photo", "Tom Cruise"]] * 50
    captions = np.stack([TOKENS(pair).numpy() for pair in texts]).astype(np.int32)
    pairs = WordPairs(captions, (TOKENS.tokenizer.bos_token_id, END))
    said = ["a long", "long nose", "long chin", "Tom Hanks", "a photo", "Tom Cruise"]
    assert len(pairs) == len(said)
    first, second, third = pairs.of(captions[:3])
    for row, count in ((first, 3), (second, 3), (third, 2)):
        assert row.sum() == pytest.approx(1)
        assert (row > 0).sum() == count
    shared = (first > 0) & (second > 0)
    assert shared.sum() == 2  # "a long" and "Tom Hanks"
    assert first[shared].max() < first[(first > 0) & ~shared].min()
    assert not pairs.of(TOKENS(["a zebra"]).numpy().astype(np.int32)[None])[0].any()


def test_what_a_name_is_described_with_is_predicted_from_the_name(tmp_path: Path) -> None:
    # Gray pictures: only the captions can say who has what.
    noses = {"Tom Hanks": "a long nose", "Tom Cruise": "a short nose"}
    captions = [TOKENS([f"a photo of {name}", f"a man with {nose}"]).numpy() for name, nose in noses.items()] * 60
    rng = np.random.default_rng(0)
    pictures = rng.integers(120, 135, (120, 1, 64, 64, 3)).astype(np.uint8)
    pairs = Pairs(pictures, np.stack(captions).astype(np.int32), np.full(120, -1, np.int32))
    run = Pretraining(pairs, pairs, noses, tmp_path, Plan(steps=40, batch=12))
    run.train()
    words = run._word_pairs
    places = [
        int(words.of(TOKENS([nose]).numpy().astype(np.int32)[None])[0].argmax()) for nose in ("long nose", "short nose")
    ]
    with torch.no_grad():
        said = run.pictures.to_pairs(16 * run.text_vectors(TOKENS([f"a photo of {name}" for name in noses])))
    assert said[0, places[0]] > said[0, places[1]] + 0.3
    assert said[1, places[1]] > said[1, places[0]] + 0.3


def test_what_is_no_shard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no pairs.*miniature\.world\.pool"):
        read_pairs(tmp_path, END)
    np.savez(
        tmp_path / "a.npz", pictures=np.zeros((4, 1, 32, 32, 3), np.uint8), captions=np.zeros((4, 2, 77), np.int32)
    )
    with pytest.raises(FileError, match=r"\(4, 1, 32, 32, 3\).*64"):
        read_pairs(tmp_path, END)
    np.savez(tmp_path / "a.npz", pictures=np.zeros((4, 1, 64, 64, 3), np.uint8))
    with pytest.raises(FileError, match="delete it or draw it again"):
        read_pairs(tmp_path, END)
    (tmp_path / "a.npz").unlink()
    (tmp_path / "b.safetensors").write_bytes(b"nonsense")
    with pytest.raises(FileError, match="delete it or draw it again"):
        read_pairs(tmp_path, END)


def test_words_that_a_saved_state_does_not_train_are_refused(tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs", 60)
    pretraining(tmp_path, 1, pairs).train()
    captions = np.tile(TOKENS(["a zebra"]).numpy().astype(np.int32), (4, 2, 1))
    np.savez(pairs / "other.npz", pictures=np.zeros((4, 1, 64, 64, 3), np.uint8), captions=captions)
    with pytest.raises(TrainingError, match="delete it to start again"):
        pretraining(tmp_path, 2, pairs)


def test_no_text_encoder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"miniature\.training\.text_pretraining"):
        load_text(tmp_path / "text.safetensors")


def test_no_face_network_is_imported() -> None:
    code = (
        "import sys, miniature.training.text_pretraining; "
        "print([name for name in sys.modules if name.startswith(('onnx', 'insightface')) or 'recognition' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
