"""Loading a checkpoint from the local disk, as a folder of diffusers or as one file; nothing is ever downloaded."""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors import safe_open

from celeb_basis.diffusion_model import Prediction
from celeb_basis.errors import FileError, HostError
from celeb_basis.files import expanded, explained_os_errors, open_regular
from celeb_basis.hosts.diffusers.configs import missing_package
from celeb_basis.hosts.diffusers.digests import sha256_of_weights
from celeb_basis.hosts.diffusers.host import DiffusersHost
from celeb_basis.hosts.diffusers.single_file import load_single_file
from celeb_basis.reading import MAX_HEADER, MAX_LARGE_HEADER, read_json

Dtype: TypeAlias = "Literal['auto', 'fp32', 'bf16', 'fp16'] | torch.dtype"

_PIPELINES = {
    "StableDiffusionPipeline": "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline": "StableDiffusionPipeline",
    "StableDiffusionInpaintPipeline": "StableDiffusionPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLPipeline",
    "StableDiffusionXLInpaintPipeline": "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline": "StableDiffusionXLPipeline",
}
_WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?\.safetensors")


def load_host(
    path: Path,
    *,
    device: str | torch.device = "auto",
    dtype: Dtype = "auto",
    prediction: Prediction | None = None,
    name: str | None = None,
) -> DiffusersHost:
    """Load Stable Diffusion 1.x, 2.x or XL from a folder of diffusers or one ``.safetensors`` file, offline.

    Args:
        path: The folder or file.
        device: ``auto`` takes a GPU if there is one.
        dtype: What the weights are held in. ``auto`` is float32 on the CPU and float16 elsewhere.
        prediction: What the denoiser of a single file predicts, for files where the detection is wrong.
        name: The checkpoint's name, for people to read; that of its file or folder if ``None``.

    Raises:
        HostError: It is not such a checkpoint, or it is incomplete; or the device or the dtype cannot be used.
        FileError: The path cannot be read.
        MissingPackageError: diffusers is not installed.
    """
    path = expanded(path)
    with explained_os_errors(path, "read"):
        path.stat()
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise missing_package("transformers", "4.44") from error
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        raise missing_package("diffusers", "0.32") from error
    chosen_device = _device(device)
    chosen_dtype = _dtype(dtype, chosen_device)
    with _quiet():
        is_file = path.is_file()
        pipeline = load_single_file(path, chosen_dtype, prediction) if is_file else _from_folder(path, chosen_dtype)
        pipeline.to(chosen_device)
    return DiffusersHost(pipeline, name=name or path.name, sha256=sha256_of_weights(path))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars and the developers' warnings of the libraries."""
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
        found = read_json(index, most_bytes=MAX_HEADER)["_class_name"]
    except (FileError, ValueError, KeyError, TypeError) as error:
        raise HostError(f"{index} cannot be read: copy the checkpoint again.") from error
    if found not in _PIPELINES:
        raise HostError(
            f"{path} is a {found}: use a text-to-image or inpainting checkpoint of Stable Diffusion 1.x, 2.x or XL."
        )
    _check_files(path)
    options: dict[str, Any] = {"variant": variant_of(path)}
    if not found.startswith("StableDiffusionXL"):
        options |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    kind = getattr(diffusers, _PIPELINES[found])
    try:
        pipeline = kind.from_pretrained(
            str(path), torch_dtype=dtype, local_files_only=True, use_safetensors=True, **options
        )
    except Exception as error:  # diffusers, transformers and safetensors raise many kinds for broken files
        raise HostError(f"{path} cannot be loaded ({_first_line(error)}): copy the checkpoint again.") from error
    check_complete(pipeline, path, options["variant"])
    return pipeline


_FOLDERS = ("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae")


def _check_files(path: Path) -> None:
    """Check the files of a diffusers folder before the libraries read them, which bound nothing.

    Raises:
        FileError: One is not an ordinary file.
        HostError: One is too large.
    """
    for file in (file for folder in _FOLDERS for file in sorted((path / folder).glob("*")) if not file.is_dir()):
        with open_regular(file) as opened:
            size = opened.seek(0, 2)
        if file.suffix != ".safetensors" and size > MAX_LARGE_HEADER:
            raise HostError(f"{file} has {size >> 20:,} MB, which no such file has: copy the checkpoint again.")


def variant_of(path: Path) -> str | None:
    """The variant of the weights to load: ``None`` for the plain ones, else ``"fp16"`` or another that exists.

    Raises:
        HostError: The UNet has no weights.
    """
    variants = {match["variant"] for file in (path / "unet").glob("*") if (match := _WEIGHTS.fullmatch(file.name))}
    if not variants:
        raise HostError(f"{path} holds no .safetensors weights of a UNet: convert its weights to safetensors.")
    return next((name for name in (None, "fp16", "bf16") if name in variants), None) or min(
        variants - {None}, default=None
    )


def check_complete(pipeline: Any, path: Path, variant: str | None) -> None:
    """Check that no component has more numbers in memory than in its files.

    transformers fills weights that a file lacks with random numbers and goes on, so a checkpoint that was copied only in
    part would load.

    Raises:
        HostError: A component is incomplete.
    """
    for component in ("unet", "vae", "text_encoder", "text_encoder_2"):
        module = getattr(pipeline, component, None)
        if module is None:
            continue
        files = [
            file
            for file in (path / component).glob("*")
            if (match := _WEIGHTS.fullmatch(file.name)) and match["variant"] in (variant, None)
        ]
        stored = max(
            (_numbers([f for f in files if _variant(f) == kind]) for kind in {_variant(f) for f in files}), default=0
        )
        if stored < sum(parameter.numel() for parameter in module.parameters()):
            raise HostError(f"The {component} in {path} is incomplete: copy the checkpoint again.")


def _variant(file: Path) -> str | None:
    match = _WEIGHTS.fullmatch(file.name)
    return match["variant"] if match else None


def _numbers(files: list[Path]) -> int:
    total = 0
    for file in files:
        with safe_open(str(file), framework="pt") as opened:
            total += sum(math.prod(opened.get_slice(key).get_shape()) for key in opened.keys())  # noqa: SIM118
    return total


def _device(device: str | torch.device) -> torch.device:
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
