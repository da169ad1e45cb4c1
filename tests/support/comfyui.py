"""A real ComfyUI for tests: named by ``CELEB_BASIS_COMFYUI``, run with its own Python; without it, such tests are skipped.

``CELEB_BASIS_COMFYUI`` is ComfyUI's folder, ``CELEB_BASIS_COMFYUI_PYTHON`` its interpreter (else that of its ``venv``).
Nothing in that folder is changed: every test has a base folder of its own, with small checkpoints in it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from celeb_basis.hosts.diffusers.configs import Family
from celeb_basis.miniature import shipped_model
from miniature.small_models.for_webui import put_miniature
from miniature.small_models.ldm_layout import ldm_yaml, save_single_file
from miniature.small_models.pipelines import build_pipeline, make_pipeline, small_configs

ROOT = Path(__file__).resolve().parents[2]
KNOWS_SMALL = ROOT / "tests" / "support" / "comfyui_small"
"""The custom node with which ComfyUI's loader knows small models."""

_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "hidden_act")
_KINDS = {"sd1": "SD15", "sd2": "SD20", "sdxl": "SDXL"}


@dataclass(frozen=True)
class ComfyUI:
    """Where ComfyUI is, and what runs it."""

    folder: Path
    python: Path

    def answer_of(self, module: str, *arguments: str, base: Path, timeout: float = 600) -> Any:
        """What ``python -m module arguments`` prints as its last line, as JSON, run with ComfyUI's Python."""
        command = [str(self.python), "-m", module, "--base", str(base), *arguments]
        environment = self.environment(base) | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, cwd=base)
        if done.returncode:
            raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def environment(self, base: Path) -> dict[str, str]:
        """What ComfyUI runs in: offline, on the CPU, with a cache of its own."""
        environment = dict(os.environ)
        environment.pop("PYTHONPATH", None)
        return environment | {
            "CELEB_BASIS_COMFYUI": str(self.folder),
            "CELEB_BASIS_CACHE": str(base / "cache"),
            "CELEB_BASIS_SMALL_MODELS": str(base / "small-models.json"),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def need_comfyui() -> ComfyUI:
    """The ComfyUI that the environment names; the test is skipped where there is none."""
    named = os.environ.get("CELEB_BASIS_COMFYUI")
    if not named:
        pytest.skip("needs a ComfyUI: set CELEB_BASIS_COMFYUI to its folder")
    folder = Path(named).expanduser()
    python = Path(os.environ.get("CELEB_BASIS_COMFYUI_PYTHON") or folder / "venv" / "bin" / "python")
    assert python.is_file(), f"{python} is not there: set CELEB_BASIS_COMFYUI_PYTHON"
    return ComfyUI(folder, python)


def with_models(base: Path, *families: str) -> Path:
    """``base`` as a base folder of ComfyUI's, with small checkpoints.

    Args:
        base: The folder.
        families: ``"miniature"``, or ``"sd2"``, ``"sdxl"`` and ``"sd1_inpaint"`` with random weights; the files have these
            names.
    """
    models = base / "models" / "checkpoints"
    models.mkdir(parents=True, exist_ok=True)
    for name in ("custom_nodes", "input", "output", "temp", "user", "models/loras", "models/embeddings"):
        (base / name).mkdir(parents=True, exist_ok=True)
    (base / "custom_nodes" / KNOWS_SMALL.name).symlink_to(KNOWS_SMALL, target_is_directory=True)
    described = []
    for name in families:
        if name == "miniature":
            import diffusers

            put_miniature(models)
            pipeline = diffusers.StableDiffusionPipeline.from_pretrained(str(shipped_model()), local_files_only=True)
            described.append(_described("sd1", pipeline))
        else:
            kind: Family = next(one for one in ("sdxl", "sd2", "sd1") if name.startswith(one))
            pipeline = _small_pipeline(kind, channels=9 if name.endswith("_inpaint") else 4)
            save_single_file(pipeline, models / f"{name}.safetensors")
            described.append(_described(kind, pipeline))
    (base / "small-models.json").write_text(json.dumps(described), "utf-8")
    return base


def _small_pipeline(kind: Family, channels: int = 4) -> Any:
    """As small as ComfyUI's own code allows: it embeds SDXL's sizes in 256 numbers each."""
    if kind == "sd2":
        return make_pipeline(kind, width=128)
    if kind == "sd1":
        configs = small_configs(kind, width=64)
        configs["unet"]["in_channels"] = channels
        return build_pipeline(kind, configs, seed=0)
    configs = small_configs(kind, width=128, second_width=192, text_layers=3)  # ComfyUI asks for three
    configs["unet"] |= {"addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 192 + 6 * 256}
    return build_pipeline(kind, configs, seed=0)


def _described(kind: Family, pipeline: Any) -> dict[str, Any]:
    """What ``tests/support/comfyui_small`` has to know of a checkpoint: sizes that ComfyUI does not read off its weights."""
    unet, vae = pipeline.unet.config, ldm_yaml(pipeline)["model"]["params"]["first_stage_config"]["params"]
    encoders: dict[str, Any] = {{"sd1": "clip_l", "sd2": "clip_h", "sdxl": "clip_l"}[kind]: pipeline.text_encoder}
    if kind == "sdxl":
        encoders["clip_g"] = pipeline.text_encoder_2
    heads = unet.attention_head_dim
    return {
        "base": _KINDS[kind],
        "channels": unet.block_out_channels[0],
        "context": unet.cross_attention_dim,
        "heads": {"num_heads": heads, "num_head_channels": -1}
        if isinstance(heads, int)
        else {"num_heads": -1, "num_head_channels": unet.block_out_channels[0] // heads[0]},
        "velocity": pipeline.scheduler.config["prediction_type"] == "v_prediction",
        "text": {name: _text_sizes(encoder.config, kind) for name, encoder in encoders.items()},
        "vae": vae,
    }


def _text_sizes(config: Mapping[str, Any] | Any, kind: Family) -> dict[str, Any]:
    sizes = {key: getattr(config, key) for key in _SIZES}
    if kind == "sd2":
        # ComfyUI takes the states before the last layer, of which diffusers' files of this family have none.
        sizes["num_hidden_layers"] += 1
    return sizes


def flags(port: int, base: Path, more: Sequence[str] = ()) -> list[str]:
    """ComfyUI's arguments on the CPU."""
    places = ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    return ["--cpu", "--port", str(port), "--disable-auto-launch", "--disable-api-nodes", *places, *more]
