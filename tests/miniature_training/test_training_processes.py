"""A batch whose parts several processes compute trains as one that a single process computes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import torch

from miniature.training.denoiser import Plan, Trainer
from miniature.training.latent_scale import LatentScale
from miniature.training.shards import Shard, write_shard
from miniature.training.text_model import Tokens, WorldText, save_text
from miniature.training.unet import CONFIG

SMALL = {**CONFIG, "sample_size": 8, "block_out_channels": [32, 32, 32]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokens = Tokens()
    ids = tokens(["a photo of a cat", "a dog in the snow"] * 4)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(8, 4, 8, 8, generator=generator) * 3 + 1
    write_shard(
        tmp_path / "pool", 0, Shard(latents, ids[:, None].int(), torch.rand(8, 8, 8, generator=generator) > 0.8)
    )
    LatentScale.measured(latents).write(tmp_path / "latent-scale.json")
    save_text(tmp_path / "text.safetensors", WorldText(tokens.used(["a photo of a cat", "a dog in the snow"])), {})
    return tmp_path


def trainer(folder: Path, processes: int) -> Trainer:
    used = Tokens().used(["a photo of a cat", "a dog in the snow"])
    return Trainer(folder, Plan(steps=3, batch=5, processes=processes, faces=2.0), WorldText(used), SMALL)


def gradient(one: Trainer) -> torch.Tensor:
    return torch.cat([weight.grad.flatten() for weight in one.unet.parameters()])


def test_two_processes_train_as_one(folder: Path) -> None:
    torch.set_num_threads(1)
    alone, together = trainer(folder, 1), trainer(folder, 2)
    try:
        for tolerance in (1e-4, 0.02):
            assert float(together.one_step()) == pytest.approx(float(alone.one_step()), rel=tolerance)
            wanted = gradient(alone)
            assert float((gradient(together) - wanted).norm() / wanted.norm()) < tolerance
            # The other process has to see what is changed in this one.
            with torch.no_grad():
                for weight in [*together.unet.parameters(), *alone.unet.parameters()]:
                    weight.mul_(1.5)
        together.save()
        assert trainer(folder, 1).step == 2
    finally:
        together.close()


def test_a_process_that_has_ended_is_named(folder: Path) -> None:
    together = trainer(folder, 2)
    together.one_step()
    together._beside[0]._process.kill()
    together._beside[0]._process.join()
    with pytest.raises(RuntimeError, match="start again"):
        together.one_step()


def test_a_compiler_that_loses_a_gradient_is_found_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(steps=3, batch=5, compiled=True)
    used = WorldText(Tokens().used(["a photo of a cat", "a dog in the snow"]))

    def cut(network: Any) -> Any:
        if isinstance(network, WorldText):
            return network
        return lambda noisy, times, states: network(noisy, times, states.detach() * 0 + 1)

    def silent(network: Any) -> Any:
        return (lambda ids: network(ids) * 0 + 1) if isinstance(network, WorldText) else network

    for compile_, right in ((lambda network: network, True), (cut, False), (silent, False)):
        monkeypatch.setattr(torch, "compile", compile_)
        one = Trainer(folder, plan, used, SMALL)
        if right:
            one.one_step()
        else:
            with pytest.raises(RuntimeError, match="without --compiled"):
                one.one_step()


def test_processes_that_draw_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(
        "import os, time\n"
        "from miniature.training.hardware import drawing_processes\n"
        "if __name__ == '__main__':\n"
        "    with drawing_processes(1) as pool:\n"
        "        print(pool.submit(os.getpid).result(), flush=True)\n"
        "        time.sleep(600)\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        drawing = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    try:
        drawing.wait(timeout=60)
    except psutil.TimeoutExpired:
        drawing.kill()
        raise
