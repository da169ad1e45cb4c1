"""Whatever CLIP the user has, behind one small protocol: transformers' folders and open_clip's checkpoints."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from celeb_basis.errors import EvaluationError, MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from PIL import Image


# FOLDED: CLIP's preparation of a picture, as its authors published it: for where transformers' own processor is
# FOLDED: missing.


@dataclass(frozen=True)
class ClipPixels:
    """Shortest side scaled to ``side`` (bicubic), centre crop, scaled to 0 to 1, normalised."""

    side: int = 224
    crop: tuple[int, int] = (224, 224)
    """Height and width."""
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> ClipPixels:
        """Read a ``preprocessor_config.json``; sizes may be numbers (old files) or mappings (new ones).

        Raises: ``ValueError``, ``TypeError`` or ``KeyError`` for values of another form.
        """
        default = ClipPixels()
        size = config.get("size", default.side)
        crop = config.get("crop_size", default.crop[0])
        return ClipPixels(
            side=int(size["shortest_edge"] if isinstance(size, dict) else size),
            crop=(int(crop["height"]), int(crop["width"])) if isinstance(crop, dict) else (int(crop), int(crop)),
            mean=tuple(float(one) for one in config.get("image_mean", default.mean)),
            std=tuple(float(one) for one in config.get("image_std", default.std)),
        )

    def __call__(self, picture: Image.Image) -> npt.NDArray[np.float32]:
        """``(3, height, width)`` float32 of a picture of any size and mode."""
        from PIL import Image

        rgb = picture.convert("RGB")
        width, height = rgb.size
        # The longer side is rounded down, as in the original; the crop's corner too.
        if width <= height:
            scaled = (self.side, int(self.side * height / width))
        else:
            scaled = (int(self.side * width / height), self.side)
        rgb = rgb.resize(scaled, Image.Resampling.BICUBIC)
        left, top = (scaled[0] - self.crop[1]) // 2, (scaled[1] - self.crop[0]) // 2
        rgb = rgb.crop((left, top, left + self.crop[1], top + self.crop[0]))
        values = np.asarray(rgb, dtype=np.float32) / np.float32(255)
        normalised = (values - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(normalised.transpose(2, 0, 1))


logger = logging.getLogger(__name__)

_OPEN_CLIP = "open_clip:"
_BATCH = 16


class ClipScorer(Protocol):
    """Tells how well pictures and texts go together."""

    @property
    def name(self) -> str:
        """For people to read: figures of different CLIPs cannot be compared."""

    def score(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> npt.NDArray[np.float32]:
        """``(N,)`` cosines, -1 to 1, of picture ``i`` with prompt ``i``; what is too long of a prompt is cut off."""


def load_clip(spec: str, *, device: str = "cpu") -> ClipScorer:
    """Load a CLIP.

    Parameters: ``spec`` is a folder in transformers' layout, or ``open_clip:ARCHITECTURE:WEIGHTS`` where the weights
    are a ``.safetensors`` file or a tag of open_clip's own (``open_clip:ViT-B-32:openai``, which downloads). The paper's
    figure is that of ViT-B/32; OpenAI's own weights, as a file, are open_clip's ``ViT-B-32-quickgelu``.

    Raises: :class:`EvaluationError` for what is no CLIP; :class:`MissingPackageError` if the package to load it with is
    missing.
    """
    if spec.startswith(_OPEN_CLIP):
        architecture, _, weights = spec[len(_OPEN_CLIP) :].partition(":")
        return _load_open_clip(architecture, weights, device)
    return _load_folder(Path(spec).expanduser(), device)


class _TorchClip:
    """A CLIP given as one function from pictures and texts to two ``(N, D)`` tensors of features."""

    def __init__(self, name: str, features: Callable[[Sequence[Image.Image], Sequence[str]], tuple[Any, Any]]) -> None:
        self._name = name
        self._features = features

    @property
    def name(self) -> str:
        return self._name

    def score(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> npt.NDArray[np.float32]:
        import torch

        if len(pictures) != len(prompts):
            raise ValueError(f"{len(pictures)} pictures, but {len(prompts)} prompts")
        scores = [np.zeros(0, dtype=np.float32)]
        with torch.no_grad():
            for start in range(0, len(pictures), _BATCH):
                part = slice(start, start + _BATCH)
                of_pictures, of_texts = self._features(pictures[part], prompts[part])
                cosines = torch.nn.functional.cosine_similarity(of_pictures.float(), of_texts.float(), dim=-1)
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
        prepare = _folder_pixels(folder, transformers)
    except Exception as error:  # of a dozen kinds, safetensors' own among them
        raise EvaluationError(f"{folder} cannot be loaded as a CLIP ({_first_line(error)}): fetch it again.") from error
    # transformers fills missing weights with random numbers and only logs it; the scores would be noise.
    if missing := sorted(key for key in loading["missing_keys"] if not key.endswith("position_ids")):
        raise EvaluationError(
            f"{folder} lacks {len(missing)} of CLIP's weights, {missing[0]} among them: fetch it again."
        )
    model = model.to(device).eval()
    longest = int(model.config.text_config.max_position_embeddings)

    def features(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> tuple[Any, Any]:
        tokens = tokenizer(list(prompts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        output = model(
            input_ids=tokens["input_ids"].to(device),
            attention_mask=tokens["attention_mask"].to(device),
            pixel_values=prepare(pictures).to(device),
        )
        return output.image_embeds, output.text_embeds

    return _TorchClip(folder.resolve().name, features)


def _folder_pixels(folder: Path, transformers: Any) -> Callable[[Sequence[Image.Image]], Any]:
    """Pictures to ``(N, 3, S, S)``, the same on every machine: transformers' processor made of Pillow, or ours.

    transformers 5 has a second one made of torchvision, whose resizing differs slightly; it is never used.
    """
    import torch

    file = folder / "preprocessor_config.json"
    processor: Any = None
    if int(transformers.__version__.split(".")[0]) >= 5:
        processor = getattr(transformers, "CLIPImageProcessorPil", None)
    else:
        processor = transformers.CLIPImageProcessor
    if processor is not None:
        try:
            ready = processor.from_pretrained(folder, local_files_only=True) if file.is_file() else processor()
        except ImportError:
            logger.info("transformers' image processor is not usable here: using our own")
        else:
            return lambda pictures: ready([one.convert("RGB") for one in pictures], return_tensors="pt")["pixel_values"]
    ours = ClipPixels.from_config(_read_json(file, folder)) if file.is_file() else ClipPixels()
    return lambda pictures: torch.from_numpy(np.stack([ours(one) for one in pictures]))


def _load_open_clip(architecture: str, weights: str, device: str) -> ClipScorer:
    if not architecture or not weights:
        raise EvaluationError(
            "An open_clip model is given as open_clip:ARCHITECTURE:WEIGHTS, "
            "for instance open_clip:ViT-B-32:/path/to/weights.safetensors."
        )
    is_file = "/" in weights or "\\" in weights or Path(weights).suffix in (".safetensors", ".pt", ".bin", ".ckpt")
    path = Path(weights).expanduser()
    if is_file and path.suffix != ".safetensors":
        raise EvaluationError(
            f"{weights} is no .safetensors file: convert it first (pickled weights are never opened)."
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

    def features(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> tuple[Any, Any]:
        import torch

        pixels = torch.stack([prepare(one.convert("RGB")) for one in pictures]).to(device)
        return model.encode_image(pixels), model.encode_text(tokenizer(list(prompts)).to(device))

    return _TorchClip(f"{architecture} ({path.stem if is_file else weights})", features)


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
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
