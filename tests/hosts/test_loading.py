from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]
from safetensors.torch import load_file, save_file
from support.full_disk import full_disk

from celeb_basis.errors import FileError, HostError
from celeb_basis.hosts.diffusers import DiffusersHost, load_host
from celeb_basis.hosts.diffusers.digests import sha256_of_weights
from celeb_basis.hosts.diffusers.single_file import probe_prediction
from miniature.small_models.ldm_layout import ldm_weights, save_single_file
from miniature.small_models.pipelines import make_pipeline, save_pipeline, small_configs

if TYPE_CHECKING:
    from pathlib import Path

SIZES: dict[str, Any] = {"width": 64, "second_width": 128}
KINDS = ["sd1", "sd2", "sdxl"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        pytest.fail("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[DiffusersHost, Path]]:
    """Of each family the host in memory, and a folder that holds it as ``folder`` and as ``single.safetensors``."""
    found = {}
    for kind in KINDS:
        place = tmp_path_factory.mktemp(kind)
        pipeline = make_pipeline(kind, **SIZES, resolution=32)  # type: ignore[arg-type]
        save_pipeline(pipeline, place / "folder")
        save_single_file(pipeline, place / "single.safetensors")
        found[kind] = (DiffusersHost(pipeline), place)
    return found


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    pipeline = make_pipeline("sd1", **SIZES, resolution=32)
    with full_disk(5000), pytest.raises(FileError, match=r"Could not write .*single\.safetensors"):
        save_single_file(pipeline, tmp_path / "single.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["single.yaml"]


def assert_same(one: DiffusersHost, other: DiffusersHost) -> None:
    words = {"<p>": [torch.full((2, encoder.width), 0.01) for encoder in one.text_encoders]}
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    pictures = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        first, second = (model.encode_prompts(["a photo of <p>!", ""], words) for model in (one, other))
        assert torch.equal(first.states, second.states)
        assert (first.pooled is None) == (second.pooled is None)
        assert first.pooled is None or torch.equal(first.pooled, second.pooled)
        steps = torch.tensor([3, 700])
        assert torch.equal(one.predict(latents, steps, first), other.predict(latents, steps, second))
    assert torch.equal(one.encode_images(pictures).mean, other.encode_images(pictures).mean)
    assert torch.equal(one.schedule.alphas_cumprod, other.schedule.alphas_cumprod)
    assert one.schedule.prediction == other.schedule.prediction
    assert [encoder.name for encoder in one.text_encoders] == [encoder.name for encoder in other.text_encoders]
    for name in ("family", "resolution", "size_multiple"):
        assert getattr(one.info, name) == getattr(other.info, name)


@pytest.mark.parametrize("form", ["folder", "single.safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_model_is_the_saved_one(saved: Any, kind: str, form: str, capfd: pytest.CaptureFixture[str]) -> None:
    original, place = saved[kind]
    loaded = load_host(place / form, device="cpu")
    assert_same(original, loaded)
    assert loaded.info.name == form
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file_gives_the_same_weights_as_the_folder(saved: Any, kind: str) -> None:
    _, place = saved[kind]
    folder, single = (load_host(place / form, device="cpu")._pipeline for form in ("folder", "single.safetensors"))
    for name, module in folder.components.items():
        if isinstance(module, torch.nn.Module):
            expected, found = module.state_dict(), getattr(single, name).state_dict()
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[key], expected[key]) for key in expected)
            buffers = dict(getattr(single, name).named_buffers())
            assert all(torch.equal(buffers[key], value) for key, value in module.named_buffers())


@pytest.mark.parametrize("kind", KINDS)
def test_the_single_files_layout_is_the_one_diffusers_reads(saved: Any, kind: str) -> None:
    """The writer against diffusers' own reader of such files, which knows nothing of ours."""
    import diffusers
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint

    original, place = saved[kind]
    pipeline, weights = original._pipeline, load_file(place / "single.safetensors")
    for name, reader in (("unet", diffusers.UNet2DConditionModel), ("vae", diffusers.AutoencoderKL)):
        read = reader.from_single_file(dict(weights), config=str(place / "folder"), subfolder=name).state_dict()
        expected = getattr(pipeline, name).state_dict()
        assert read.keys() == expected.keys()
        assert all(torch.equal(read[key], expected[key]) for key in expected)
    if kind != "sd2":
        first = {key: value for key, value in weights.items() if "transformer.text_model" in key}
        read = {key.removeprefix("text_model."): v for key, v in convert_ldm_clip_checkpoint(first).items()}
        expected = {key.removeprefix("text_model."): v for key, v in pipeline.text_encoder.state_dict().items()}
        assert read.keys() == expected.keys()
        assert all(torch.equal(read[key], expected[key]) for key in expected)
    if kind != "sd1":
        model = pipeline.text_encoder if kind == "sd2" else pipeline.text_encoder_2
        prefix = "cond_stage_model.model." if kind == "sd2" else "conditioner.embedders.1.model."
        read = convert_open_clip_checkpoint(model, weights, prefix)
        read = {key.removeprefix("text_model."): value for key, value in read.items()}
        for key, value in model.state_dict().items():
            assert torch.equal(read[key.removeprefix("text_model.")], value), key


def test_half_precision_weights(saved: Any) -> None:
    _, place = saved["sd1"]
    for form in ("folder", "single.safetensors"):
        model = load_host(place / form, device="cpu", dtype="bf16")
        assert model.dtype == torch.bfloat16
        assert {module.dtype for module in model._text_models} == {torch.bfloat16}
    assert load_host(place / "folder", device="cpu", dtype=torch.float16).dtype == torch.float16


def test_a_folder_with_only_a_variant(saved: Any, tmp_path: Path) -> None:
    original, _ = saved["sd1"]
    original._pipeline.save_pretrained(str(tmp_path), variant="fp16")
    assert_same(original, load_host(tmp_path, device="cpu", dtype="fp32"))


def test_unusable_devices_and_precisions(saved: Any) -> None:
    place = saved["sd1"][1] / "folder"
    with pytest.raises(HostError, match="device tpu"):
        load_host(place, device="tpu")
    with pytest.raises(HostError, match="precision 'fp8'"):
        load_host(place, dtype="fp8")  # type: ignore[arg-type]
    with pytest.raises(HostError, match="fp32, bf16 or fp16"):
        load_host(place, dtype=torch.float64)


def test_the_fingerprint_covers_every_weight_and_is_remembered(saved: Any, tmp_path: Path, private_cache: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(saved["sd1"][1] / "folder", folder)
    single = saved["sd1"][1] / "single.safetensors"
    assert sha256_of_weights(single) == hashlib.sha256(single.read_bytes()).hexdigest()
    before = sha256_of_weights(folder)
    assert sha256_of_weights(saved["sd1"][1] / "folder") == before
    notes = list((private_cache / "weights").iterdir())
    for note in notes:
        note.write_text(json.dumps({"sha256": "0" * 64}), encoding="utf-8")
    assert sha256_of_weights(single) == "0" * 64
    for note in notes:
        note.write_text("damaged", encoding="utf-8")
    assert sha256_of_weights(folder) == before
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    os.utime(weights, ns=(1, 1))
    assert sha256_of_weights(folder) != before


def test_paths_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="does not exist"):
        load_host(tmp_path / "none")
    with pytest.raises(HostError, match=r"model_index\.json"):
        load_host(tmp_path)
    (tmp_path / "model_index.json").write_text("{", encoding="utf-8")
    with pytest.raises(HostError, match="cannot be read"):
        load_host(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}', encoding="utf-8")
    with pytest.raises(HostError, match="is a FluxPipeline"):
        load_host(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}', encoding="utf-8")
    with pytest.raises(HostError, match="convert its weights to safetensors"):
        load_host(tmp_path)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("damage", ["missing", "cut", "half"])
def test_half_copied_folders_are_refused(saved: Any, tmp_path: Path, component: str, damage: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(saved["sd1"][1] / "folder", folder)
    weights = next((folder / component).glob("*.safetensors"))
    if damage == "missing":
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1000])
    else:
        held = load_file(weights)
        held.pop(max(held))
        save_file(held, weights, metadata={"format": "pt"})
    with pytest.raises(HostError, match=r"incomplete|cannot be loaded|convert its weights"):
        load_host(folder, device="cpu")


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_pickles_are_refused_unread(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"model{suffix}").write_bytes(b"\x80\x04.")
    with pytest.raises(HostError, match=r"convert it to \.safetensors"):
        load_host(tmp_path / f"model{suffix}")


def test_a_file_that_diffusers_would_open_as_a_pickle_is_refused(saved: Any, tmp_path: Path) -> None:
    shutil.copy(saved["sd1"][1] / "single.safetensors", tmp_path / "x.SAFETENSORS")
    with pytest.raises(HostError, match="rename it"):
        load_host(tmp_path / "x.SAFETENSORS", device="cpu")


@pytest.mark.parametrize("content", [b"", b"hello, I am text", b"\xff" * 100, b"\x10\x00\x00\x00\x00\x00\x00\x00{}"])
def test_files_that_are_not_safetensors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(HostError, match="damaged"):
        load_host(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"lora_unet_down.weight": (2, 2)}, "a LoRA"),
        ({"emb_params": (2, 768)}, "an embedding"),
        ({f"double_blocks.{number}.weight": (2, 2) for number in range(20)}, "no Stable Diffusion checkpoint"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (32, 9, 3, 3)}, "no VAE"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (32, 8, 3, 3)}, "an InstructPix2Pix model"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (32, 4, 3, 3)}, "no VAE"),
    ],
)
def test_other_files_are_named(tmp_path: Path, held: dict[str, tuple[int, ...]], message: str) -> None:
    save_file({key: torch.zeros(shape) for key, shape in held.items()}, tmp_path / "x.safetensors")
    with pytest.raises(HostError, match=message):
        load_host(tmp_path / "x.safetensors")


def test_the_refiner_and_a_file_without_text_encoder(saved: Any, tmp_path: Path) -> None:
    weights = load_file(saved["sd1"][1] / "single.safetensors")
    bare = {key: value for key, value in weights.items() if not key.startswith("cond_stage_model.")}
    save_file(bare, tmp_path / "bare.safetensors")
    with pytest.raises(HostError, match="no text encoder"):
        load_host(tmp_path / "bare.safetensors")
    save_file({**bare, "conditioner.embedders.0.model.ln_final.bias": torch.zeros(1)}, tmp_path / "refiner.safetensors")
    with pytest.raises(HostError, match="refiner"):
        load_host(tmp_path / "refiner.safetensors")


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("sd1", "model.diffusion_model."),
        ("sd1", "first_stage_model."),
        ("sd1", "cond_stage_model."),
        ("sd2", "cond_stage_model.model.ln_final."),
        ("sdxl", "conditioner.embedders.0."),
        ("sdxl", "conditioner.embedders.1.model.ln_final."),
    ],
)
def test_single_files_that_lack_a_weight_are_refused(saved: Any, tmp_path: Path, kind: str, part: str) -> None:
    place = saved[kind][1]
    weights = load_file(place / "single.safetensors")
    weights.pop(next(key for key in sorted(weights, reverse=True) if key.startswith(part) and key.endswith("weight")))
    save_file(weights, tmp_path / "x.safetensors")
    shutil.copy(place / "single.yaml", tmp_path / "x.yaml")
    with pytest.raises(HostError, match="incomplete"):
        load_host(tmp_path / "x.safetensors", device="cpu")


def test_unusual_sizes_ask_for_their_yaml(saved: Any, tmp_path: Path) -> None:
    shutil.copy(saved["sd1"][1] / "single.safetensors", tmp_path / "x.safetensors")
    with pytest.raises(HostError, match=r"x\.yaml"):
        load_host(tmp_path / "x.safetensors", device="cpu")
    for text, message in [("a: [", "YAML"), ("a: 1", "not the config"), ("model: {params: {}}", "does not describe")]:
        (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(HostError, match=message):
            load_host(tmp_path / "x.safetensors", device="cpu")


def test_early_files_without_one_level_of_names(saved: Any, tmp_path: Path) -> None:
    original, place = saved["sd1"]
    weights = {
        key.replace("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."): value
        for key, value in load_file(place / "single.safetensors").items()
    }
    weights["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(77)[None]
    weights["model_ema.decay"] = torch.zeros(())
    save_file(weights, tmp_path / "x.safetensors")
    shutil.copy(place / "single.yaml", tmp_path / "x.yaml")
    assert_same(original, load_host(tmp_path / "x.safetensors", device="cpu"))


def test_marks_and_the_callers_word_decide_the_prediction(saved: Any, tmp_path: Path) -> None:
    _, place = saved["sdxl"]
    weights = ldm_weights(saved["sdxl"][0]._pipeline)
    weights = {key: value.contiguous() for key, value in weights.items()}
    save_file({**weights, "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, tmp_path / "x.safetensors")
    shutil.copy(place / "single.yaml", tmp_path / "x.yaml")
    model = load_host(tmp_path / "x.safetensors", device="cpu")
    assert model.schedule.prediction == "v_prediction"
    assert float(model.schedule.alphas_cumprod[-1]) < 1e-6
    other = load_host(tmp_path / "x.safetensors", device="cpu", prediction="epsilon")
    assert other.schedule.prediction == "epsilon"


class Denoiser(torch.nn.Module):
    """Computes in float32 only, as the CPU does in torch 2.1."""

    device = torch.device("cpu")
    config = type("Config", (), {"cross_attention_dim": 16, "in_channels": 4})

    def __init__(self, sign: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.sign = torch.nn.Parameter(torch.tensor(sign, dtype=dtype))

    @property
    def dtype(self) -> torch.dtype:
        return self.sign.dtype

    def forward(self, sample: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor]:
        assert sample.dtype == self.dtype == torch.float32
        return (self.sign * sample,)


@pytest.mark.parametrize("held", [torch.float32, torch.float16])
@pytest.mark.parametrize(("sign", "expected"), [(1.0, "epsilon"), (-3.0, "v_prediction")])
def test_probing_distinguishes_noise_and_velocity(sign: float, expected: str, held: torch.dtype) -> None:
    denoiser = Denoiser(sign, held)
    assert probe_prediction(denoiser) == expected
    assert denoiser.dtype == held


@pytest.mark.parametrize(
    ("parameterization", "extra", "prediction", "side"),
    [
        ("v", {}, None, 768),
        (None, {}, None, 512),
        ("v", {}, "epsilon", 512),
        (None, {}, "v_prediction", 768),
        ("v", {"resolution": 64}, None, 64),
        ("v", "nonsense", None, 768),
    ],
)
def test_the_side_of_sd2s_pictures_is_not_the_configs(
    parameterization: str | None, extra: Any, prediction: Any, side: int, saved: Any, tmp_path: Path
) -> None:
    """Stability's own config of the model for 768 pixels says 64 of the latents, as that for 512 does."""
    place = saved["sd2"][1]
    shutil.copy(place / "single.safetensors", tmp_path / "x.safetensors")
    config = yaml.safe_load((place / "single.yaml").read_text(encoding="utf-8"))
    config["model"]["params"] |= {"image_size": 64, "parameterization": parameterization}
    config["celeb_basis"] = extra
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    model = load_host(tmp_path / "x.safetensors", device="cpu", prediction=prediction)
    assert model.info.resolution == side


@pytest.mark.parametrize(("probed", "side"), [("epsilon", 512), ("v_prediction", 768)])
def test_the_side_of_sd2s_pictures_without_a_config_follows_what_is_predicted(
    probed: str, side: int, saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(saved["sd2"][1] / "single.safetensors", tmp_path / "x.safetensors")
    loader = "celeb_basis.hosts.diffusers.single_file"
    monkeypatch.setattr(f"{loader}.component_configs", lambda family: small_configs(family, width=64))
    monkeypatch.setattr(f"{loader}.probe_prediction", lambda _unet: probed)
    model = load_host(tmp_path / "x.safetensors", device="cpu")
    assert (model.info.resolution, model.schedule.prediction) == (side, probed)
