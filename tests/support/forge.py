"""A real Forge or Forge Neo for tests, run with its own Python; without it, such tests are skipped.

``CELEB_BASIS_FORGE`` is Forge's folder, ``CELEB_BASIS_FORGE_PYTHON`` its interpreter (else that of its ``venv``), and
``CELEB_BASIS_FORGE_NEO`` and ``CELEB_BASIS_FORGE_NEO_PYTHON`` are Forge Neo's. Nothing in those folders is changed: every test
has a data folder of its own, with the miniature in it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from celeb_basis.hosts.diffusers.configs import END, MAX_TOKENS, START, Family, clip_vocabulary
from celeb_basis.miniature import MODEL
from miniature.small_models.for_webui import put_miniature
from miniature.small_models.ldm_layout import save_single_file
from miniature.small_models.pipelines import build_pipeline, make_pipeline, small_configs

ROOT = Path(__file__).resolve().parents[2]
KNOWS_SMALL = ROOT / "tests" / "support" / "forge_small"
"""The extension with which Forge's loader knows small models."""


@dataclass(frozen=True)
class Forge:
    """Where Forge is, and what runs it."""

    folder: Path
    python: Path

    def answer_of(self, module: str, *arguments: str, data: Path, timeout: float = 600) -> Any:
        """What ``python -m module arguments`` prints as its last line, as JSON, run with Forge's Python."""
        command = [str(self.python), "-m", module, "--data", str(data), *arguments]
        environment = self.environment(data) | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def environment(self, data: Path) -> dict[str, str]:
        """What Forge runs in: offline, on the CPU, with a cache of its own."""
        environment = dict(os.environ)
        environment.pop("PYTHONPATH", None)
        return environment | {
            "CELEB_BASIS_FORGE": str(self.folder),
            "CELEB_BASIS_CACHE": str(data / "cache"),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def need_forge() -> Forge:
    """The Forge that the environment names; the test is skipped where there is none."""
    return _needed("a Forge", "CELEB_BASIS_FORGE")


def need_forge_neo() -> Forge:
    """The Forge Neo that the environment names; the test is skipped where there is none."""
    return _needed("a Forge Neo", "CELEB_BASIS_FORGE_NEO")


def _needed(what: str, variable: str) -> Forge:
    named = os.environ.get(variable)
    if not named:
        pytest.skip(f"needs {what}: set {variable} to its folder")
    folder = Path(named).expanduser()
    python = Path(os.environ.get(f"{variable}_PYTHON") or folder / "venv" / "bin" / "python")
    assert python.is_file(), f"{python} is not there: set {variable}_PYTHON"
    return Forge(folder, python)


def with_miniature(data: Path) -> Path:
    """``data`` as a data folder of Forge's, in which the miniature is the one checkpoint."""
    models = _folders(data)
    put_miniature(models)
    configs = data / "small-configs"
    shutil.copytree(MODEL, configs, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer"), dirs_exist_ok=True)
    _write_vocabulary(configs / "tokenizer", END)
    heads = json.loads((MODEL / "unet" / "config.json").read_text("utf-8"))["attention_head_dim"]
    _tell(data, "SD15", configs, {"context_dim": 192, "model_channels": 64}, {"num_heads": heads})
    return data


def with_small(data: Path, family: str) -> Path:
    """``data`` as a data folder of Forge's, with one small checkpoint with random weights.

    Args:
        data: The folder.
        family: ``sd2``, ``sdxl``, ``sdxl_inpaint``, or ``sdxl_v``: an SDXL that predicts velocity, with a schedule of zero
            terminal SNR, as its file says by two entries without content.
    """
    models = _folders(data)
    kind: Family = "sd2" if family == "sd2" else "sdxl"
    widths: tuple[int, ...] = (128, 192) if kind == "sdxl" else (128,)
    pipeline = _small_pipeline(kind, widths, channels=9 if family == "sdxl_inpaint" else 4)
    file = models / f"{family}.safetensors"
    save_single_file(pipeline, file)
    if family == "sdxl_v":
        save_file(load_file(file) | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, file)
    configs = data / "small-configs"
    pipeline.save_pretrained(configs)
    for weights in configs.rglob("*.safetensors"):
        weights.unlink()
    for number, folder in enumerate(sorted(configs.glob("tokenizer*"))):
        shutil.rmtree(folder)
        _write_vocabulary(folder, END if kind == "sdxl" and number == 0 else "!")
    sizes: dict[str, Any] = {"context_dim": sum(widths), "model_channels": 32}
    if kind == "sdxl":
        sizes |= {"adm_in_channels": widths[1] + 6 * 256, "transformer_depth": [0, 2]}
    _tell(data, {"sd2": "SD20", "sdxl": "SDXL"}[kind], configs, sizes, {"num_head_channels": 16})
    return data


def _small_pipeline(kind: Family, widths: Sequence[int], channels: int) -> Any:
    """As small as Forge's own code allows: it embeds SDXL's sizes in 256 numbers each."""
    if kind == "sd2":
        return make_pipeline(kind, width=widths[0])
    configs = small_configs(kind, width=widths[0], second_width=widths[1])
    configs["unet"] |= {
        "in_channels": channels,
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": widths[1] + 6 * 256,
    }
    return build_pipeline(kind, configs, seed=0)


def _folders(data: Path) -> Path:
    models = data / "models" / "Stable-diffusion"
    models.mkdir(parents=True, exist_ok=True)
    (data / "extensions").mkdir(exist_ok=True)
    (data / "extensions" / KNOWS_SMALL.name).symlink_to(KNOWS_SMALL, target_is_directory=True)
    return models


def _write_vocabulary(folder: Path, padding: str) -> None:
    """CLIP's tokenizer as the two files that Forge's older transformers wants."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = clip_vocabulary()
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": padding}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS, "do_lower_case": True, **special}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")


def _tell(data: Path, base: str, configs: Path, sizes: dict[str, Any], heads: dict[str, int]) -> None:
    described = {"base": base, "configs": str(configs.absolute()), "sizes": sizes, "heads": heads}
    (data / "small-model.json").write_text(json.dumps(described), "utf-8")
