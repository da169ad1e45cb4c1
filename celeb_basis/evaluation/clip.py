"""CLIP for the Prompt figure: a folder of transformers, or a checkpoint of open_clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from celeb_basis.errors import EvaluationError, FileError, MissingPackageError
from celeb_basis.files import expanded
from celeb_basis.reading import read_json

_Features = Callable[[Sequence[Image.Image], Sequence[str]], "tuple[torch.Tensor, torch.Tensor]"]

_OPEN_CLIP = "open_clip:"
_BATCH = 16


class ClipScorer(Protocol):
    """A CLIP that scores how well an image matches a prompt."""

    @property
    def name(self) -> str:
        """Name for people to read. Scores of different CLIPs cannot be compared."""

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> npt.NDArray[np.float32]:
        """``(N,)`` cosines, -1 to 1, of image ``i`` with prompt ``i``. A prompt that is too long is truncated."""


def load_clip(spec: str, *, device: str = "cpu") -> ClipScorer:
    """Load a CLIP.

    Args:
        spec: A folder in the layout of transformers, or ``open_clip:ARCHITECTURE:WEIGHTS``, where the weights are a
            ``.safetensors`` file or a tag that open_clip knows (``open_clip:ViT-B-32:openai``, which downloads). The
            paper's figure is that of ViT-B/32. OpenAI's own weights, as a file, are open_clip's ``ViT-B-32-quickgelu``.
        device: Where it computes.

    Raises:
        EvaluationError: It is not a CLIP, or it is incomplete.
        MissingPackageError: The package that loads it is missing.
    """
    if spec.startswith(_OPEN_CLIP):
        architecture, _, weights = spec[len(_OPEN_CLIP) :].partition(":")
        return _load_open_clip(architecture, weights, device)
    return _load_folder(expanded(spec), device)


def is_on_disk(spec: str) -> bool:
    """Whether :func:`load_clip` finds the weights on this machine: nothing would be downloaded.

    Args:
        spec: As for :func:`load_clip`.
    """
    if not spec.startswith(_OPEN_CLIP):
        return expanded(spec).is_dir()
    weights = expanded(spec[len(_OPEN_CLIP) :].partition(":")[2])
    return weights.suffix == ".safetensors" and weights.is_file()


class _TorchClip(ClipScorer):
    """A CLIP given as one function from images and texts to two ``(N, D)`` tensors of features."""

    def __init__(self, name: str, features: _Features) -> None:
        self._name = name
        self._features = features

    @property
    def name(self) -> str:
        """Name of the folder, or architecture and weights."""
        return self._name

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Cosines of images and prompts, computed in batches."""
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images, but {len(prompts)} prompts")
        scores = [np.zeros(0, dtype=np.float32)]
        with torch.no_grad():
            for start in range(0, len(images), _BATCH):
                part = slice(start, start + _BATCH)
                of_images, of_texts = self._features(images[part], prompts[part])
                cosines = torch.nn.functional.cosine_similarity(of_images.float(), of_texts.float(), dim=-1)
                scores.append(cosines.cpu().numpy())
        return np.concatenate(scores)


def _load_folder(folder: Path, device: str) -> ClipScorer:
    config = _read_json(folder / "config.json", folder)
    if config.get("model_type") != "clip":
        raise EvaluationError(
            f"{folder} holds a model of type {config.get('model_type')!r}, not a whole CLIP: "
            "give a folder such as a copy of openai/clip-vit-base-patch32."
        )
    if not any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        raise EvaluationError(
            f"{folder} holds no model.safetensors: fetch the model's safetensors version (no other is ever opened)."
        )
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise EvaluationError(f"{folder} holds no tokenizer: put CLIP's vocab.json and merges.txt beside the model.")
    try:
        import transformers
    except ImportError as error:
        raise MissingPackageError(
            "Scoring prompts with this CLIP needs transformers: run 'pip install transformers'."
        ) from error
    try:
        model, loading = transformers.CLIPModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        prepare = _image_processor(folder, transformers)
    except Exception as error:  # of many kinds, including those of safetensors
        raise EvaluationError(f"{folder} cannot be loaded as a CLIP ({_first_line(error)}): fetch it again.") from error
    # transformers fills missing weights with random numbers and only logs it. The scores would be noise.
    if missing := sorted(key for key in loading["missing_keys"] if not key.endswith("position_ids")):
        raise EvaluationError(
            f"{folder} lacks {len(missing)} of CLIP's weights, {missing[0]} among them: fetch it again."
        )
    model = model.to(device).eval()
    longest = int(model.config.text_config.max_position_embeddings)

    def features(images: Sequence[Image.Image], prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = tokenizer(list(prompts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        output = model(
            input_ids=tokens["input_ids"].to(device),
            attention_mask=tokens["attention_mask"].to(device),
            pixel_values=prepare([one.convert("RGB") for one in images], return_tensors="pt")["pixel_values"].to(
                device
            ),
        )
        return output.image_embeds, output.text_embeds

    return _TorchClip(folder.resolve().name, features)


def _image_processor(folder: Path, transformers: Any) -> Any:
    """The image processor of transformers that computes with Pillow, so that scores are the same on every machine.

    The newer transformers have a second one that computes with torchvision, whose resizing differs slightly.
    """
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    known = (folder / "preprocessor_config.json").is_file()
    return kind.from_pretrained(folder, local_files_only=True) if known else kind()


def _load_open_clip(architecture: str, weights: str, device: str) -> ClipScorer:
    if not architecture or not weights:
        raise EvaluationError(
            "An open_clip model is given as open_clip:ARCHITECTURE:WEIGHTS, "
            "for instance open_clip:ViT-B-32:/path/to/weights.safetensors."
        )
    is_file = "/" in weights or "\\" in weights or Path(weights).suffix in (".safetensors", ".pt", ".bin", ".ckpt")
    path = expanded(weights)
    if is_file and path.suffix != ".safetensors":
        raise EvaluationError(
            f"{weights} is not a .safetensors file: convert it first (pickled weights are never opened)."
        )
    if is_file and not path.is_file():
        raise EvaluationError(f"There is no file {path}: check the path after open_clip:{architecture}:.")
    try:
        import open_clip
    except Exception as error:  # a torchvision made for another torch fails with RuntimeError or OSError
        raise MissingPackageError(
            f"open_clip cannot be imported ({_first_line(error)}): "
            "run 'pip install --upgrade open_clip_torch torchvision', with a torchvision made for your torch."
        ) from error
    if architecture not in open_clip.list_models():
        raise EvaluationError(
            f"open_clip knows no architecture {architecture!r}: use a name of open_clip.list_models()."
        )
    if not is_file and weights not in open_clip.list_pretrained_tags_by_model(architecture):
        raise EvaluationError(
            f"open_clip knows no weights {weights!r} for {architecture}: give a .safetensors file or a known tag."
        )
    try:
        model, _, prepare = open_clip.create_model_and_transforms(
            architecture, pretrained=str(path) if is_file else weights, precision="fp32", device=device
        )
        tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as error:  # wrong shapes, missing keys, a broken file, no network
        raise EvaluationError(
            f"{weights} cannot be loaded as {architecture} ({_first_line(error)}): check that they belong together."
        ) from error
    model.eval()

    def features(images: Sequence[Image.Image], prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = torch.stack([prepare(one.convert("RGB")) for one in images]).to(device)
        return model.encode_image(pixels), model.encode_text(tokenizer(list(prompts)).to(device))

    return _TorchClip(f"{architecture} ({path.stem if is_file else weights})", features)


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except (FileError, ValueError) as error:
        raise EvaluationError(
            f"{folder} is no CLIP folder: its {path.name} is missing or unreadable; "
            "give a folder such as a copy of openai/clip-vit-base-patch32."
        ) from error
    if not isinstance(value, dict):
        raise EvaluationError(f"{path} does not hold a JSON object: fetch the CLIP folder again.")
    return value


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:160].rstrip(".:; ")
