"""The whole way from people to a diffusers folder, in a few steps each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from miniature.compiled import compiler
from miniature.training.checkpoints import read_facts

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, module: str, *words: object) -> str:
    environment = {**os.environ, "CELEB_BASIS_TRAINING": str(folder / "training"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"miniature.{module}", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_from_people_to_a_folder_for_diffusers(tmp_path: Path) -> None:
    if compiler() is None:
        pytest.skip("needs a C compiler")
    import diffusers
    import torch

    (tmp_path / "training").mkdir()
    people, bank, pool = tmp_path / "people.json", tmp_path / "bank", tmp_path / "pictures"
    casting = {"spread": 1.4, "next": 6, "numbers": [1, 4, 9, 12, 15, 20]}
    (tmp_path / "casting.json").write_text(json.dumps(casting), encoding="utf-8")
    run(tmp_path, "world.people", tmp_path / "casting.json", "--named", 4, "--strangers", 2, "--output", people)
    run(tmp_path, "world.bank", bank, "--people", people, "--looks", 8, "--unnamed", 1, "--extras", 0)
    run(tmp_path, "world.pool", pool, "--bank", bank, "--people", people, "--shards", 1)
    run(
        tmp_path, "trainer.text_pretraining", "--pairs", pool / "pairs", "--people", people, "--steps", 4, "--batch", 16
    )
    run(tmp_path, "trainer.autoencoder", pool, "--steps", 4, "--finish")
    run(tmp_path, "trainer.latents", pool, "--side", 64)
    run(tmp_path, "trainer.denoiser", "--people", people, "--bank", bank, "--steps", 3, "--batch", 4)
    run(tmp_path, "trainer.denoiser", "--people", people, "--bank", bank, "--steps", 5, "--batch", 4)
    folder = tmp_path / "model"
    run(tmp_path, "trainer.export", folder, "--people", people, "--side", 64)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)
    image = pipeline("a photo of a person", num_inference_steps=2, height=64, width=64, output_type="np").images[0]
    assert image.shape == (64, 64, 3)
    assert image.std() > 0.01
    assert len((folder / "names.txt").read_text(encoding="utf-8").split("\n")) == 5


@pytest.mark.slow
def test_one_command_does_all_of_it_and_goes_on(tmp_path: Path) -> None:
    if compiler() is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "casting.json").write_text(json.dumps({"spread": 1.4, "next": 3, "numbers": [1, 2]}), encoding="utf-8")
    people = tmp_path / "people.json"
    run(tmp_path, "world.people", tmp_path / "casting.json", "--named", 1, "--strangers", 1, "--output", people)
    little = ["--people", people, "--shards", 1, "--holding", 1, "--portraits", 1, "--looks", 8, "--unnamed", 1]
    little += ["--extras", 2, "--extra-shards", 1, "--side", 64, "--batch", 4]
    brief = ["--minutes", 0.02, "--text-minutes", 0.02, "--autoencoder-minutes", 0.02, "--processes", 1]
    run(tmp_path, "trainer.whole", tmp_path / "model", *little, *brief)
    assert (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size > 1_000_000
    training = tmp_path / "training"
    drawn = (training / "bank" / "000001.safetensors").stat().st_mtime_ns
    text = (training / "text.safetensors").stat().st_mtime_ns
    assert len(list((training / "pool").glob("shard-*.safetensors"))) == 4
    step = read_facts(training / "denoiser-state.safetensors")["step"]
    run(tmp_path, "trainer.whole", tmp_path / "model", *little, *brief)
    assert (training / "bank" / "000001.safetensors").stat().st_mtime_ns == drawn
    assert (training / "text.safetensors").stat().st_mtime_ns == text
    assert read_facts(training / "denoiser-state.safetensors")["step"] > step
