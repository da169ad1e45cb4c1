"""What has been trained so far, kept with the project in float16, so that training goes on on any machine.

``python -m miniature.training.kept`` puts it into the folder of the training, where nothing is overwritten;
``--keep`` writes it from there. Optimizers start again, and the denoiser goes on from its moving average.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from celeb_basis.errors import FileError
from celeb_basis.files import atomic_path
from miniature.training.checkpoints import read_facts
from miniature.training.latent_scale import LatentScale
from miniature.training.places import work_folder

_log = logging.getLogger(__name__)

KEPT = Path(__file__).with_name("kept")
_SCALE = "latent-scale.json"
_DENOISER = "denoiser-state.safetensors"
CLASSIFIER = "classifier.safetensors"
"""The scene classifier, with which the gate judges."""
KEPT_REFERENCES = KEPT / "references.safetensors"
"""What the gate's judges saw of everybody (:func:`miniature.training.judging.write_galleries`)."""
_TO_KEEP = {"model": ("model",), "unet_ema": ("unet_ema",)}
"""Modules that are kept of a training state; of the denoiser the moving average alone."""
_TO_BRING = {"model": ("model",), "unet_ema": ("unet_ema", "unet")}


def keep(folder: Path, kept: Path = KEPT) -> list[str]:
    """Keep what a folder of the training has: text encoder, autoencoder, latents' scale, denoiser, scene classifier.

    Returns:
        The names of the files written.

    Raises:
        FileError: There is neither a text encoder nor an autoencoder.
    """
    autoencoder = next(
        (name for name in ("decoder", "encoder") if (folder / f"{name}.safetensors").exists()), "encoder"
    )
    sources = {name: name for name in ("text.safetensors", _DENOISER, CLASSIFIER)}
    sources["encoder.safetensors"] = f"{autoencoder}.safetensors"
    written = []
    kept.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        if (folder / source).exists():
            _convert(folder / source, kept / name, _TO_KEEP, torch.float16)
            written.append(name)
    if not written:
        raise FileError(
            f"There is nothing trained in {folder}: set CELEB_BASIS_TRAINING to the folder of the training."
        )
    if (folder / _SCALE).exists():
        LatentScale.read(folder / _SCALE).write(kept / _SCALE)
        written.append(_SCALE)
    return written


def bring(folder: Path, kept: Path = KEPT, *, denoiser: bool = True) -> list[str]:
    """Put what is kept into a folder of the training, except files that it has, and the ``denoiser`` if it is not wanted.

    Returns:
        The names of the files written.

    Raises:
        FileError: Nothing is kept.
    """
    files = (path.name for path in kept.glob("*") if path.suffix in (".safetensors", ".json"))
    names = sorted(name for name in files if name != KEPT_REFERENCES.name)
    if not names:
        raise FileError(f"{kept} has no weights: train them first, as miniature/training/README.md says.")
    folder.mkdir(parents=True, exist_ok=True)
    written = [name for name in names if not (folder / name).exists() and (denoiser or name != _DENOISER)]
    for name in written:
        if name == _SCALE:
            LatentScale.read(kept / name).write(folder / name)
        else:
            _convert(kept / name, folder / name, _TO_BRING, torch.float32)
    return written


def _convert(source: Path, target: Path, modules: Mapping[str, tuple[str, ...]], kind: torch.dtype) -> None:
    """Write the weights of some modules of a training state as others, in another precision."""
    tensors: dict[str, torch.Tensor] = {}
    with safe_open(str(source), "pt") as stored:
        for key in list(stored.keys()):
            module, _, rest = key.partition("/")
            for name in modules.get(module, ()):
                value = stored.get_tensor(key)
                tensors[f"{name}/{rest}"] = value.to(kind) if value.is_floating_point() else value
    with atomic_path(target) as temporary:
        save_file(tensors, str(temporary), metadata={"facts": json.dumps(read_facts(source))})


def main() -> None:
    """Parse the command line, and bring or keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="write what has been trained into the project")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    written = keep(work_folder()) if arguments.keep else bring(work_folder())
    _log.info("%s", ", ".join(written) or "Nothing is missing there.")


if __name__ == "__main__":
    main()
