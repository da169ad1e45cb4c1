"""Checks inside ComfyUI: what users connect besides, and what is refused."""

from __future__ import annotations

import types
from functools import partial
from typing import Any

import torch
from support.comfyui_inside import loaded
from support.comfyui_loaded import (
    Loaded,
    gradient,
    plain_prediction,
    refused,
    some_words,
    with_lora,
)

from celeb_basis.hosts.comfyui.model import ComfyClip, ComfyModel
from celeb_basis.hosts.comfyui.modules import UNKNOWN, evictable


def check_loras_are_learned_with(one: Loaded) -> None:
    plain, values = plain_prediction(one), one.values()
    model, clip = with_lora(one)
    host = one.host_of(model, clip)
    patched = plain_prediction(one, host)
    assert not torch.equal(patched, plain)
    with host.prepare_for_training("fp32"):
        torch.testing.assert_close(plain_prediction(one, host), patched, rtol=1e-3, atol=1e-4)
        gradient(host, some_words(host))
    assert torch.equal(plain_prediction(one, host), patched)
    # The same weights without them, as another branch of the workflow has them.
    assert torch.equal(plain_prediction(one), plain)
    assert one.values() == values


def check_patches_of_attention_are_left_out(one: Loaded) -> None:
    plain, model = plain_prediction(one), one.model.clone()
    model.set_model_attn1_patch(lambda n, context, value, _extra: (n * 0, context, value))
    model.set_model_unet_function_wrapper(lambda *_: 1 / 0)
    host = one.host_of(model)
    assert torch.equal(plain_prediction(one, host), plain)
    assert model.model_options["transformer_options"]["patches"], "the user's own MODEL keeps them"


def check_latents_are_comfyuis(one: Loaded) -> None:
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    ours = one.host.encode_images(pictures * 2 - 1)
    with torch.inference_mode():
        theirs = one.model.model.process_latent_in(one.vae.encode(pictures.movedim(1, -1)))
    torch.testing.assert_close(ours.mean, theirs.clone(), rtol=1e-4, atol=1e-5)
    assert ours.mean.shape == ours.std.shape == (2, 4, 8, 8)
    assert bool((ours.std > 0).all())
    with torch.inference_mode():
        decoded = one.vae.decode(one.model.model.process_latent_out(ours.mean)).movedim(-1, 1)
    pictures = one.host.decode_latents(ours.mean)
    torch.testing.assert_close((pictures / 2 + 0.5).clamp(0, 1), decoded.clone(), rtol=1e-4, atol=1e-4)
    assert not pictures.is_inference()
    refused("cannot be decoded", lambda: one.host.decode_latents(torch.zeros(4, 8, 8)))
    refused("multiple of 8", lambda: one.host.encode_images(torch.zeros(1, 3, 60, 64)))


def check_the_users_noise_schedule_counts(one: Loaded) -> None:
    import comfy.model_sampling as sampling

    class ZeroTerminal(sampling.ModelSamplingDiscrete, sampling.V_PREDICTION):
        pass

    model = one.model.clone()
    model.add_object_patch("model_sampling", ZeroTerminal(one.model.model.model_config, zsnr=True))
    schedule = one.host_of(model).schedule
    assert schedule.prediction == "v_prediction"
    assert 0 < float(schedule.alphas_cumprod[-1]) < 1e-6

    class Distilled(sampling.ModelSamplingDiscrete, sampling.X0):
        pass

    class Continuous(sampling.ModelSamplingContinuousEDM, sampling.EDM):
        pass

    for kind in (Distilled, Continuous):
        model = one.model.clone()
        model.add_object_patch("model_sampling", kind(one.model.model.model_config))
        refused("a noise schedule of another kind", partial(one.host_of, model))


def check_other_families_are_refused_by_name(one: Loaded) -> None:
    import comfy.model_base
    from comfy import sdxl_clip
    from comfy.text_encoders import flux, sd3_clip

    def model_of(kind: Any, config: str, denoiser: torch.nn.Module | None = None) -> Any:
        base = kind.__new__(kind)
        torch.nn.Module.__init__(base)
        base.diffusion_model = denoiser or torch.nn.Linear(1, 1)
        base.model_config = type(config, (), {})()
        base.latent_format = one.model.model.latent_format
        return types.SimpleNamespace(model=base)

    for kind, config in (("Flux", "FluxSchnell"), ("SD3", "SD3"), ("WAN21", "WAN21_T2V")):
        model = model_of(getattr(comfy.model_base, kind), config)
        refused(f"is a model of the family {config}", partial(one.host_of, model))
    refiner = model_of(comfy.model_base.SDXLRefiner, "SDXLRefiner", one.model.model.diffusion_model)
    refused("is a model of the kind SDXLRefiner", lambda: one.host_of(refiner))
    for kind in (flux.FluxClipModel, sd3_clip.SD3ClipModel):
        module = kind.__new__(kind)
        torch.nn.Module.__init__(module)
        module.clip_l = one.clip.cond_stage_model
        clip = types.SimpleNamespace(cond_stage_model=module)
        refused(f"The clip is {kind.__name__.removesuffix('ClipModel')}'s", partial(ComfyClip, clip))
    assert sdxl_clip.SDXLClipModel
    refused("no text encoder of its own", lambda: ComfyClip(None))


def check_parts_that_do_not_belong_together_are_refused(one: Loaded) -> None:
    import comfy.taesd.taesd

    other = next(path.stem for path in one.file.parent.glob("*.safetensors") if path.stem != one.name)
    _, clip, _ = loaded(other)
    refused("connect the model and the clip of one checkpoint", lambda: one.host_of(one.model, clip))
    vae = types.SimpleNamespace(first_stage_model=comfy.taesd.taesd.TAESD(), latent_channels=4)
    refused("The VAE is of the kind TAESD", lambda: one.host_of(one.model, vae=vae))
    channels = one.model.model.diffusion_model.in_channels
    try:
        for count, called in ((5, "a depth model"), (8, "an InstructPix2Pix model"), (7, "a model of 7 channels")):
            one.model.model.diffusion_model.in_channels = count
            refused(f"is {called}: connect a text-to-image or inpainting", lambda: one.host_of(one.model))
    finally:
        one.model.model.diffusion_model.in_channels = channels


def check_vectors_that_do_not_fit_are_refused(one: Loaded) -> None:
    refused("takes rows of", lambda: one.host.encode_prompts(["<v>"], {"<v>": [torch.zeros(2, 7)] * 2}))
    refused("has no vectors for the text encoder", lambda: one.host.encode_prompts(["<v>"], {"<v>": []}))


def check_an_unknown_comfyui_is_named(one: Loaded) -> None:
    import comfy.ldm.modules.attention as attention

    ordinary = attention.BasicTransformerBlock
    try:
        del attention.BasicTransformerBlock
        refused(
            "The class comfy.ldm.modules.attention.BasicTransformerBlock was not found in this ComfyUI (0.",
            lambda: one.host.prepare_for_training("fp32").__enter__(),
        )
    finally:
        attention.BasicTransformerBlock = ordinary
    with one.host.prepare_for_training("fp32"):
        gradient(one.host, some_words(one.host))


def check_models_that_would_be_unloaded_count_as_free(one: Loaded) -> None:
    from comfy import model_management

    with torch.inference_mode():
        model_management.load_models_gpu([one.model, one.clip.patcher, one.vae.patcher])
    size = sum(weight.numel() * weight.element_size() for weight in one.vae.first_stage_model.parameters())
    kept = [one.model.clone(), one.clip.patcher]
    before = evictable(torch.device("cpu"), [*kept, one.vae.patcher])
    assert evictable(torch.device("cpu"), kept) - before == size
    assert evictable(torch.device("meta"), kept) == 0
    assert one.host.memory().weights > 0


def check_a_model_of_unknown_origin_has_a_digest(one: Loaded) -> None:
    model, clip = with_lora(one)
    plain = ComfyModel(one.model, one.clip, one.vae, UNKNOWN, UNKNOWN)
    assert plain.name == "the connected model"
    assert plain.sha256 == ComfyModel(one.model, one.clip, one.vae).sha256
    assert len({plain.sha256, ComfyModel(model, clip, one.vae).sha256, one.host.info.sha256}) == 3
