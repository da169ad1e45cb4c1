from __future__ import annotations

import hashlib
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from support.models import make_host

from celeb_basis.diffusion_model import GenerationRequest, text_encoders_sha256
from celeb_basis.errors import HostError
from celeb_basis.hosts.diffusers import DiffusersHost
from celeb_basis.hosts.diffusers.pipelines import noise_schedule, sampler

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel

KINDS = ["sd1", "sd2", "sdxl"]
SMALL: dict[str, Any] = {"width": 64, "second_width": 64}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> DiffusersHost:
    found: DiffusersHost = request.getfixturevalue(f"{request.param}_host")
    return found


def words_for(model: DiffusersHost, seed: int = 1) -> dict[str, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {"<p>": [torch.randn(2, e.width, generator=generator) * 0.05 for e in model.text_encoders]}


def noise(count: int = 1, seed: int = 0, side: int = 8) -> torch.Tensor:
    return torch.randn(count, 4, side, side, generator=torch.Generator().manual_seed(seed))


def test_it_is_a_host_for_the_type_checker(sd1_host: DiffusersHost) -> None:
    as_host: DiffusionModel = sd1_host
    assert as_host.device == torch.device("cpu")
    assert as_host.dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "names", "widths", "prediction"),
    [
        ("sd1", ["clip_l"], [768], "epsilon"),
        ("sd2", ["clip_h"], [1024], "v_prediction"),
        ("sdxl", ["clip_l", "clip_g"], [768, 1280], "epsilon"),
    ],
)
def test_what_is_known_of_a_model(
    kind: str, names: list[str], widths: list[int], prediction: str, request: pytest.FixtureRequest
) -> None:
    model: DiffusersHost = request.getfixturevalue(f"{kind}_host")
    assert model.info.family == kind
    assert [encoder.name for encoder in model.text_encoders] == names
    assert [encoder.width for encoder in model.text_encoders] == widths
    assert model.schedule.prediction == prediction
    assert (model.info.resolution, model.info.size_multiple) == (64, 16)
    assert len(model.info.sha256) == 64


def test_the_schedule_is_the_published_one(model: DiffusersHost) -> None:
    # "scaled linear" of the original code: square roots of the betas run evenly
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
    np.testing.assert_allclose(model.schedule.alphas_cumprod.numpy(), np.cumprod(1 - betas), rtol=2e-5)
    assert model.schedule.timesteps == 1000


def test_zero_terminal_signal_is_respected() -> None:
    import diffusers

    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True
    )
    assert float(noise_schedule(scheduler).alphas_cumprod[-1]) < 1e-6
    assert sampler(scheduler).config.timestep_spacing == "trailing"
    plain = diffusers.PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert not sampler(plain).config.clip_sample


@pytest.mark.parametrize("kind", ["euler", "flow"])
def test_schedules_of_other_samplers(kind: str) -> None:
    import diffusers

    if kind == "flow":
        with pytest.raises(HostError, match="discrete steps"):
            noise_schedule(diffusers.FlowMatchEulerDiscreteScheduler())
        return
    euler = diffusers.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    torch.testing.assert_close(noise_schedule(euler).alphas_cumprod, euler.alphas_cumprod)


def test_prediction_is_the_unets_own_output(model: DiffusersHost) -> None:
    latents, steps = noise(2), torch.tensor([20, 900])
    with torch.no_grad():
        conditioning = model.encode_prompts(["a cat", "<p>"], words_for(model))
        added = None
        if model.info.family == "sdxl":
            ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)
            added = {"text_embeds": conditioning.pooled, "time_ids": ids}
        reference = model._pipeline.unet(latents, steps, conditioning.states, added_cond_kwargs=added).sample
        found = model.predict(latents, steps, conditioning)
    assert torch.equal(found, reference)


def test_prompt_words_picture_and_timestep_all_matter(model: DiffusersHost) -> None:
    def out(prompt: str = "a <p>", seed: int = 1, latents: int = 0, step: int = 500) -> torch.Tensor:
        with torch.no_grad():
            conditioning = model.encode_prompts([prompt], words_for(model, seed))
            return model.predict(noise(1, latents), torch.tensor([step]), conditioning)

    plain = out()
    assert plain.isfinite().all()
    assert plain.std() > 0.2
    for other in (out(prompt="two <p> dogs"), out(seed=2), out(latents=1), out(step=20)):
        assert (other - plain).std() > 0.02 * plain.std()


def test_counts_that_differ_are_refused(sd1_host: DiffusersHost) -> None:
    conditioning = sd1_host.encode_prompts(["a", "b"], {})
    with pytest.raises(HostError, match="as many timesteps and prompts"):
        sd1_host.predict(noise(1), torch.tensor([5]), conditioning)
    with pytest.raises(HostError, match="no prompts"):
        sd1_host.encode_prompts([], {})


def state_of(model: DiffusersHost) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, module in model._pipeline.components.items():
        if not isinstance(module, torch.nn.Module):
            continue
        for key, tensor in (*module.named_parameters(), *module.named_buffers()):
            digest = hashlib.sha256(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data).hexdigest()
            state[f"{name}.{key}"] = (digest, tensor.dtype, tensor.device, tensor.requires_grad, tensor.grad is None)
        for key, part in module.named_modules():
            kept = {k: v for k, v in vars(part).items() if "checkpointing" in k}
            state[f"{name}.{key}!"] = (part.training, kept, len(part._forward_hooks))
    return state


@pytest.mark.parametrize(
    ("weights", "precision", "fails"),
    [
        (torch.float32, "fp32", False),
        (torch.float32, "bf16", False),
        (torch.float32, "fp16", True),
        (torch.bfloat16, "bf16", False),
        (torch.bfloat16, "fp16", True),
        (torch.float16, "fp32", True),
        (torch.float16, "fp16", False),
    ],
)
def test_learning_leaves_everything_as_it_was(weights: torch.dtype, precision: Any, fails: bool) -> None:
    pipeline = make_host("sd1", width=64)._pipeline.to(weights)
    pipeline.unet.train()
    pipeline.vae.decoder.mid_block.train()
    pipeline.text_encoder.encoder.layers[0].mlp.fc1.bias.requires_grad_(False)
    model = DiffusersHost(pipeline)
    before = state_of(model)
    words = {"<p>": [torch.randn(2, 64, requires_grad=True)]}

    def learn() -> None:
        with model.prepare_for_training(precision, checkpointing=True):
            for module in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
                assert not any(parameter.requires_grad for parameter in module.parameters())
                assert not any(part.training for part in module.modules())
            assert pipeline.unet.is_gradient_checkpointing
            output = model.predict(noise(), torch.tensor([300]), model.encode_prompts(["a <p>"], words))
            assert output.dtype == torch.float32
            assert output.isfinite().all()
            output.square().mean().backward()
            if fails:
                raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt):
            learn()
    else:
        learn()
    gradient = words["<p>"][0].grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
    assert state_of(model) == before


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_stays_near_full_and_checkpointing_changes_nothing(kind: str) -> None:
    model = make_host(kind, **SMALL)

    def run(precision: Any, checkpointing: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        words = {key: [vector.requires_grad_() for vector in of] for key, of in words_for(model).items()}
        with model.prepare_for_training(precision, checkpointing=checkpointing):
            output = model.predict(noise(), torch.tensor([300]), model.encode_prompts(["a <p>"], words))
            output.square().mean().backward()
        gradients = [vector.grad for vector in words["<p>"]]
        return output.detach(), torch.cat([g.flatten() for g in gradients if g is not None])

    output, gradient = run("fp32")
    same_output, same_gradient = run("fp32", True)
    assert torch.equal(output, same_output)
    torch.testing.assert_close(gradient, same_gradient, rtol=1e-5, atol=1e-9)
    for precision, tolerance in (("bf16", 0.05), ("fp16", 0.02)):
        half, half_gradient = run(precision)
        assert (half - output).norm() < tolerance * output.norm()
        assert (half_gradient - gradient).norm() < 4 * tolerance * gradient.norm()
        assert not torch.equal(half, output)


def test_pictures_are_encoded_as_diffusers_does_each_for_itself(model: DiffusersHost) -> None:
    pictures = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = model.encode_images(pictures)
    vae = model._pipeline.vae
    with torch.no_grad():
        reference = vae.encode(pictures[1:2]).latent_dist
    assert torch.equal(found.mean[1:2], reference.mean * vae.config.scaling_factor)
    torch.testing.assert_close(found.std[1:2], reference.std * vae.config.scaling_factor)
    assert found.mean.shape == (3, 4, 8, 8)
    assert not found.mean.requires_grad
    model.release_vae()
    assert torch.equal(model.encode_images(pictures).mean, found.mean)


def test_latents_are_decoded_as_diffusers_does_each_for_itself(model: DiffusersHost) -> None:
    latents = noise(3)
    found = model.decode_latents(latents)
    vae = model._pipeline.vae
    with torch.no_grad():
        reference = vae.decode(latents[1:2] / vae.config.scaling_factor).sample
    assert torch.equal(found[1:2], reference)
    assert found.shape == (3, 3, 64, 64)
    assert not found.requires_grad
    model.release_vae()
    assert torch.equal(model.decode_latents(latents), found)
    with pytest.raises(HostError, match="cannot be decoded"):
        model.decode_latents(latents[0])


def test_text_encoders_are_known_by_their_weights(sd1_host: DiffusersHost) -> None:
    digest = text_encoders_sha256(sd1_host)
    pipeline = make_host("sd1")._pipeline
    other = DiffusersHost(pipeline, name="another denoiser")
    with torch.no_grad():
        next(pipeline.unet.parameters()).add_(1.0)
    assert text_encoders_sha256(other) == digest
    pipeline.text_encoder.to(torch.float16)  # as most checkpoints are held
    assert text_encoders_sha256(other) == digest
    with torch.no_grad():
        list(pipeline.text_encoder.parameters())[-1][0] += 1.0
    assert text_encoders_sha256(other) != digest


def picture_of(model: DiffusersHost, **change: Any) -> Any:
    request = GenerationRequest("a photo of a cat", **{"seed": 7, "steps": 30, "guidance": 3.0} | change)
    return np.asarray(next(iter(model.generate(request))), np.float32)


@pytest.mark.parametrize(
    "model", [kind if kind == "sd1" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS], indirect=True
)
def test_samplers_agree_where_there_are_many_steps(model: DiffusersHost) -> None:
    dpm, rbf = (picture_of(model, sampler=sampler, steps=60) for sampler in ("dpm++", "rbf"))
    assert np.abs(dpm - rbf).mean() < 2
    assert np.abs(dpm - picture_of(model, steps=100)).mean() < 4
    assert np.abs(dpm - picture_of(model, sampler="dpm++", steps=60, seed=8)).mean() > 4


@pytest.mark.parametrize("sampler", ["dpm++", "rbf"])
def test_other_samplers_take_all_of_a_request(model: DiffusersHost, sampler: str) -> None:
    plain = picture_of(model, sampler=sampler, steps=4)
    assert plain.shape == (64, 64, 3)
    assert np.array_equal(picture_of(model, sampler=sampler, steps=4), plain)
    assert picture_of(model, sampler=sampler, steps=4, width=32, height=96).shape == (96, 32, 3)
    for change in ({"guidance": 1.0}, {"negative_prompt": "a dog"}, {"steps": 5}, {"seed": 3}):
        assert not np.array_equal(picture_of(model, sampler=sampler, **{"steps": 4} | change), plain), change


def test_latents_of_pictures_have_about_unit_deviation(model: DiffusersHost) -> None:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randn(16, 3, 6, 6, generator=generator)
    pictures = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(-1, 1)
    latents = model.encode_images(pictures)
    assert 0.6 < float(latents.mean.std()) < 1.6
    assert abs(float(latents.mean.mean())) < 0.5
    assert float(latents.std.mean()) < 0.1


def test_an_overflowing_vae_is_encoded_in_float32() -> None:
    pipeline = make_host("sdxl", **SMALL)._pipeline
    full = DiffusersHost(pipeline).encode_images(torch.zeros(1, 3, 32, 32)).mean
    pipeline.to(torch.float16)
    pipeline.vae.decoder.conv_in.weight.data[0, 0] += 1e-3
    model = DiffusersHost(pipeline)
    half = model.encode_images(torch.zeros(1, 3, 32, 32)).mean
    torch.testing.assert_close(half, full, rtol=0.01, atol=0.01)
    assert pipeline.vae.dtype == torch.float16


@pytest.mark.parametrize("shape", [(0, 3, 64, 64), (1, 1, 64, 64), (1, 3, 60, 64), (3, 64, 64)])
def test_pictures_of_wrong_shape_are_refused(sd1_host: DiffusersHost, shape: tuple[int, ...]) -> None:
    with pytest.raises(HostError, match=r"cannot be encoded|no pictures"):
        sd1_host.encode_images(torch.zeros(shape))


def test_drawing_equals_diffusers_own_and_does_not_depend_on_the_count(model: DiffusersHost) -> None:
    import diffusers

    pipeline = model._pipeline
    request = GenerationRequest("a photo of a cat", "a dog", count=2, seed=7, steps=4, guidance=5.0)
    drawn = list(model.generate(request))
    assert [(picture.mode, picture.size) for picture in drawn] == [("RGB", (64, 64))] * 2
    alone = next(model.generate(GenerationRequest("a photo of a cat", "a dog", seed=8, steps=4, guidance=5.0)))
    assert drawn[1].tobytes() == alone.tobytes() != drawn[0].tobytes()
    parts = {**pipeline.components, "scheduler": diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)}
    if model.info.family != "sdxl":
        parts["requires_safety_checker"] = False
    theirs = type(pipeline)(**parts)
    theirs.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    options = {"negative_prompt": "a dog", "num_inference_steps": 4, "guidance_scale": 5.0, "generator": generator}
    assert theirs("a photo of a cat", **options).images[0].tobytes() == drawn[0].tobytes()


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
@pytest.mark.parametrize("half", ["vae", "all, learning in float32", "all but the vae"])
def test_a_vae_in_another_precision_than_the_denoiser_draws_the_same(kind: str, half: str) -> None:
    """As SD.Next holds it with such a setting, and as half-precision weights are while they are upcast for learning."""
    pipeline = make_host(kind, **SMALL)._pipeline
    request = GenerationRequest("a cat", seed=1, steps=2)

    model = DiffusersHost(pipeline)

    def drawn() -> Any:
        return np.asarray(next(model.generate(request)), dtype=np.float32)

    expected = drawn()
    held = torch.bfloat16 if half.startswith("all") else torch.float32
    (pipeline.vae if half == "vae" else pipeline).to(torch.bfloat16)
    if half == "all but the vae":
        pipeline.vae.to(torch.float32)
    of_vae = pipeline.vae.dtype
    model = DiffusersHost(pipeline)
    with model.prepare_for_training("fp32") if "learning" in half else nullcontext():
        found = drawn()
    assert abs(found - expected).mean() < 0.06 * expected.std()
    assert (pipeline.vae.dtype, pipeline.unet.dtype) == (of_vae, held)


def test_drawing_puts_words_into_both_prompts_and_leaves_no_graph(sd1_host: DiffusersHost) -> None:
    def draw(prompt: str, negative: str, seed: int, guidance: float = 5.0) -> bytes:
        words = {key: [vector.requires_grad_() for vector in of] for key, of in words_for(sd1_host, seed).items()}
        request = GenerationRequest(prompt, negative, words, steps=2, guidance=guidance, width=32, height=48)
        picture = next(sd1_host.generate(request))
        assert picture.size == (32, 48)
        return picture.tobytes()

    assert draw("<p>", "", 1) != draw("<p>", "", 2)
    assert draw("a", "<p>", 1) != draw("a", "<p>", 2)
    assert draw("a", "<p>", 1, guidance=1.0) == draw("a", "<p>", 2, guidance=1.0)


def test_without_guidance_the_denoiser_runs_once_a_step(sd1_host: DiffusersHost) -> None:
    rows: list[int] = []
    hook = sd1_host._pipeline.unet.register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0])))
    try:
        list(sd1_host.generate(GenerationRequest("a", steps=3, guidance=1.0)))
        assert rows == [1, 1, 1]
        rows.clear()
        list(sd1_host.generate(GenerationRequest("a", steps=3, guidance=3.0)))
        assert rows == [2, 2, 2]
    finally:
        hook.remove()


def test_drawing_leaves_the_pipeline_as_it_was() -> None:
    model = make_host("sd1", width=64)
    before, scheduler = state_of(model), model._pipeline.scheduler
    list(model.generate(GenerationRequest("a", steps=2)))
    assert state_of(model) == before
    assert model._pipeline.scheduler is scheduler


@pytest.mark.parametrize("change", [{"width": 30}, {"height": -8}, {"steps": 0}, {"steps": 1001}, {"count": -1}])
def test_impossible_pictures_are_refused(sd1_host: DiffusersHost, change: dict[str, int]) -> None:
    with pytest.raises(HostError, match="cannot be generated"):
        list(sd1_host.generate(GenerationRequest("a", **change)))  # type: ignore[arg-type]


def test_a_model_is_the_same_for_a_seed_and_another_for_another() -> None:
    first, again, other = (make_host("sd1", width=64, seed=seed).info.sha256 for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 5}, "depth"),
        ({"class_embed_type": "projection"}, "more than a prompt"),
        ({"time_cond_proj_dim": 256}, "more than a prompt"),
        ({"encoder_hid_dim_type": "image_proj"}, "not text"),
    ],
)
def test_other_pipelines_are_refused(change: dict[str, Any], message: str) -> None:
    pipeline = make_host("sd1", width=64)._pipeline
    pipeline.unet.register_to_config(**change)
    with pytest.raises(HostError, match=message):
        DiffusersHost(pipeline)


def test_the_refiner_is_refused() -> None:
    pipeline = make_host("sdxl", **SMALL)._pipeline
    pipeline.text_encoder = None
    with pytest.raises(HostError, match="refiner"):
        DiffusersHost(pipeline)


def test_sizes_that_cannot_be_built_are_refused() -> None:
    for wrong in ({"resolution": 40}, {"width": 100}, {"text_layers": 1}):
        with pytest.raises(HostError, match="multiple"):
            make_host("sd1", **wrong)
