"""Checkpoints from the local disk, and never from anywhere else."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from celeb_basis.errors import HostError, MissingPackageError
from celeb_basis.files import explained_os_errors
from celeb_basis.hosts.diffusers.fingerprint import sha256_of_weights
from celeb_basis.hosts.diffusers.folders import check_complete, variant_of
from celeb_basis.hosts.diffusers.host import DiffusersHost
from celeb_basis.hosts.diffusers.single_file import load_single_file

if TYPE_CHECKING:
    import torch

    from celeb_basis.hosts.base import Prediction

Dtype: TypeAlias = "Literal['auto', 'fp32', 'bf16', 'fp16'] | torch.dtype"

_PIPELINES = {
    "StableDiffusionPipeline": "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline": "StableDiffusionPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline": "StableDiffusionXLPipeline",
}


def load_host(
    path: Path,
    *,
    device: str | torch.device = "auto",
    dtype: Dtype = "auto",
    prediction: Prediction | None = None,
    name: str | None = None,
) -> DiffusersHost:
    """Load Stable Diffusion 1.x, 2.x or XL from a folder of diffusers or one ``.safetensors`` file, offline.

    Parameters:
        device: ``auto`` takes a GPU if there is one.
        dtype: ``auto`` is float32 on the CPU and float16 elsewhere.
        prediction: what a single file's denoiser predicts, where that is not found out rightly by itself.
        name: what people call the checkpoint, if not as its file or folder.

    Raises: :class:`HostError` for what is not such a checkpoint, :class:`celeb_basis.errors.FileError` for a path that
    cannot be read, :class:`MissingPackageError` without diffusers.
    """
    path = Path(path).expanduser()
    with explained_os_errors(path, "read"):
        path.stat()
    try:
        import diffusers  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingPackageError("diffusers is not installed: run pip install celeb-basis[diffusers].") from error
    chosen_device = _device(device)
    chosen_dtype = _dtype(dtype, chosen_device)
    with _quiet():
        is_file = path.is_file()
        pipeline = load_single_file(path, chosen_dtype, prediction) if is_file else _from_folder(path, chosen_dtype)
        pipeline.to(chosen_device)
    return DiffusersHost(pipeline, name=name or path.name, sha256=sha256_of_weights(path))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of the libraries on the user's terminal, nor their notes to programmers."""
    import diffusers
    import transformers

    loggers = (diffusers.utils.logging, transformers.utils.logging)
    before = [(logger, logger.is_progress_bar_enabled(), logger.get_verbosity()) for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for logger in loggers:
            logger.disable_progress_bar()
            logger.set_verbosity_error()
        try:
            yield
        finally:
            for logger, shown, verbosity in before:
                logger.set_verbosity(verbosity)
                if shown:
                    logger.enable_progress_bar()


def _from_folder(path: Path, dtype: torch.dtype) -> Any:
    import diffusers

    index = path / "model_index.json"
    if not index.is_file():
        raise HostError(
            f"{path} is not a diffusers folder, it has no model_index.json: choose the checkpoint's folder."
        )
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HostError(f"{index} cannot be read: copy the checkpoint again.") from error
    if found not in _PIPELINES:
        raise HostError(
            f"{path} is a {found}: use a plain text-to-image checkpoint of Stable Diffusion 1.x, 2.x or XL."
        )
    options: dict[str, Any] = {"variant": variant_of(path)}
    if not found.startswith("StableDiffusionXL"):
        options |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    kind = getattr(diffusers, _PIPELINES[found])
    try:
        pipeline = kind.from_pretrained(
            str(path), torch_dtype=dtype, local_files_only=True, use_safetensors=True, **options
        )
    except Exception as error:  # whatever diffusers, transformers and safetensors raise for broken files
        raise HostError(f"{path} cannot be loaded ({_first_line(error)}): copy the checkpoint again.") from error
    check_complete(pipeline, path, options["variant"])
    return pipeline


def _device(device: str | torch.device) -> torch.device:
    import torch

    if device == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise HostError(f"The device {device} cannot be used ({_first_line(error)}): choose auto or cpu.") from error
    return chosen


def _dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    import torch

    names = {
        "auto": torch.float32 if device.type == "cpu" else torch.float16,
        "fp32": torch.float32,
        "bf16": torch.bfloat16,
        "fp16": torch.float16,
    }
    if isinstance(dtype, torch.dtype):
        chosen = dtype
    elif dtype in names:
        chosen = names[dtype]
    else:
        raise HostError(f"The precision {dtype!r} is unknown: choose one of {', '.join(names)}.")
    if chosen not in names.values():
        raise HostError(f"Weights cannot be held in {chosen}: choose fp32, bf16 or fp16.")
    return chosen


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:200]
