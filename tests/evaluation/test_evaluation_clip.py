"""Both ways to load a CLIP, against transformers and open_clip themselves."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from celeb_basis.errors import EvaluationError, MissingPackageError
from celeb_basis.evaluation.clip import load_clip

if TYPE_CHECKING:
    from pathlib import Path

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

PROMPTS = ["a dog", "a photo of person riding a bicycle", "zoë, " * 60, ""]


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(3)
    smooth = [Image.fromarray(random.integers(0, 256, (7, 9, 3), dtype=np.uint8)) for _ in range(4)]
    sizes = [(224, 224), (301, 225), (97, 410), (640, 333)]
    made = [one.resize(size, Image.Resampling.BICUBIC) for one, size in zip(smooth, sizes, strict=True)]
    return [*made[:3], made[3].convert("L")]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CLIP, small and random, with CLIP's own vocabulary, as transformers saves it."""
    vocabulary = pytest.importorskip("celeb_basis.hosts.diffusers.configs")
    folder = tmp_path_factory.mktemp("clip") / "small-clip"
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={**small, "eos_token_id": 49407, "bos_token_id": 49406, "vocab_size": 49408},
        vision_config={**small, "image_size": 224, "patch_size": 32},
        projection_dim=24,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    vocabulary.clip_tokenizer().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": 224, "crop_size": 224, "do_resize": True, "resample": 3}), encoding="utf-8"
    )
    return folder


def direct_scores(folder: Path) -> np.ndarray:
    """Cosines computed with transformers one pair at a time, unpadded, from the towers themselves."""
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    processor = kind()
    scores = []
    with torch.no_grad():
        for picture, prompt in zip(pictures(), PROMPTS, strict=True):
            pixels = processor(picture.convert("RGB"), return_tensors="pt")["pixel_values"]
            ids = tokenizer(prompt, truncation=True, max_length=77, return_tensors="pt")["input_ids"]
            seen = model.visual_projection(model.vision_model(pixels).pooler_output)[0]
            # The text's feature stands at its last token, the end-of-text mark.
            read = model.text_projection(model.text_model(ids).last_hidden_state[0, -1])
            scores.append(float(seen @ read / (seen.norm() * read.norm())))
    return np.array(scores)


def test_folder_equals_transformers(clip_folder: Path) -> None:
    scorer = load_clip(str(clip_folder))
    scores = scorer.score(pictures(), PROMPTS)
    expected = direct_scores(clip_folder)
    assert scorer.name == "small-clip"
    assert scores.shape == (4,)
    np.testing.assert_allclose(scores, expected, atol=2e-6)
    assert np.ptp(expected) > 1e-3  # else anything would pass
    many = scorer.score(pictures() * 5, PROMPTS * 5)
    np.testing.assert_allclose(many, np.tile(expected, 5), atol=2e-6)
    assert scorer.score([], []).shape == (0,)


def copy_of(folder: Path, to: Path, *without: str) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        if file.name not in without:
            (to / file.name).write_bytes(file.read_bytes())
    return to


def test_what_is_no_clip(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no CLIP folder"):
        load_clip(str(tmp_path / "missing"))
    with pytest.raises(EvaluationError, match=r"model\.safetensors"):
        load_clip(str(copy_of(clip_folder, tmp_path / "no-weights", "model.safetensors")))
    with pytest.raises(EvaluationError, match="tokenizer"):
        load_clip(str(copy_of(clip_folder, tmp_path / "no-tokens", "tokenizer.json", "vocab.json", "merges.txt")))
    other = copy_of(clip_folder, tmp_path / "bert")
    (other / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(EvaluationError, match="'bert'"):
        load_clip(str(other))
    (other / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(EvaluationError, match="JSON object"):
        load_clip(str(other))
    broken = copy_of(clip_folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(EvaluationError, match="fetch it again"):
        load_clip(str(broken))


def test_missing_weights_are_not_made_up(clip_folder: Path, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    partial = copy_of(clip_folder, tmp_path / "partial")
    weights = safetensors.load_file(partial / "model.safetensors")
    del weights["visual_projection.weight"]
    safetensors.save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EvaluationError, match=r"lacks 1 of CLIP's weights, visual_projection\.weight"):
        load_clip(str(partial))


def test_open_clip_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EvaluationError, match="open_clip:ARCHITECTURE:WEIGHTS"):
        load_clip("open_clip:ViT-B-32")
    with pytest.raises(EvaluationError, match="pickled"):
        load_clip(f"open_clip:ViT-B-32:{tmp_path / 'weights.pt'}")
    with pytest.raises(EvaluationError, match="There is no file"):
        load_clip(f"open_clip:ViT-B-32:{tmp_path / 'weights.safetensors'}")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingPackageError, match="pip install"):
        load_clip("open_clip:ViT-B-32:openai")


@pytest.mark.slow
def test_open_clip_equals_itself(tmp_path: Path) -> None:
    try:
        import open_clip
    except Exception as error:
        pytest.skip(f"open_clip cannot be imported: {error}")
    safetensors = pytest.importorskip("safetensors.torch")
    torch.manual_seed(0)
    model, _, prepare = open_clip.create_model_and_transforms("ViT-B-32", pretrained=None)
    path = tmp_path / "weights.safetensors"
    safetensors.save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    model.eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    with torch.no_grad():
        seen = model.encode_image(torch.stack([prepare(one.convert("RGB")) for one in pictures()]), normalize=True)
        read = model.encode_text(tokenizer(PROMPTS), normalize=True)
    scorer = load_clip(f"open_clip:ViT-B-32:{path}")
    np.testing.assert_allclose(scorer.score(pictures(), PROMPTS), (seen * read).sum(-1).numpy(), atol=2e-6)
    with pytest.raises(EvaluationError, match="belong together"):
        load_clip(f"open_clip:RN50:{path}")
    with pytest.raises(EvaluationError, match="no architecture"):
        load_clip(f"open_clip:nonsense:{path}")
