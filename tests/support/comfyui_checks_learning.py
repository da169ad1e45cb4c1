"""Checks inside ComfyUI: prompts, learning and images with a checkpoint as it is loaded."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from support.comfyui_inside import loaded
from support.comfyui_loaded import (
    Loaded,
    gradient,
    noisy,
    some_words,
)

from celeb_basis.diffusion_model import GenerationRequest, text_encoders_sha256
from celeb_basis.hosts.comfyui import host as host_module
from celeb_basis.hosts.comfyui.host import encode_scheduled, names_as_vectors
from celeb_basis.hosts.comfyui.model import ComfyClip
from celeb_basis.hosts.diffusers import load_host

PROMPTS = (
    ("{}", "{}"),
    ("a photo of {}, smiling", "a photo of {}, smiling"),
    ("{}'s hat on a table. It rains", "{} 's hat on a table. It rains"),
    ("a photo of ({}:1.3) in a forest", "a photo of ({}:1.3) in a forest"),
    ("a photo of <v:1.3> in a forest", "a photo of ({}:1.3) in a forest"),
    ("({} and {}:1.2), [detailed] \\(sharp\\)", "({} and {}:1.2), [detailed] \\(sharp\\)"),
    ("old,{}{}!", "old, {} {} !"),
    ("a very detailed photo of a quiet street in the rain with many people and lamps " * 6 + "{} in a red coat",
     "a very detailed photo of a quiet street in the rain with many people and lamps " * 6 + "{} in a red coat"),
)  # fmt: skip
"""Prompts with ``<v>``, and the same as users of an embedding write them."""


def check_names_are_bit_for_bit_comfyuis_embeddings(one: Loaded) -> None:
    from safetensors.torch import save_file

    folder = one.base / "models" / "embeddings"
    for count in (1, 2, 5, 9):
        words = some_words(one.host, count, seed=count)
        vectors = {encoder.name: rows for encoder, rows in zip(one.host.text_encoders, words["<v>"], strict=True)}
        content = vectors if len(vectors) > 1 else {"emb_params": words["<v>"][0]}
        save_file(content, str(folder / f"zzz{count}.safetensors"))
        clip = ComfyClip(one.clip)
        for ours, theirs in PROMPTS:
            with torch.inference_mode():
                tokens = one.clip.tokenize(theirs.format(*[f"embedding:zzz{count}"] * 9))
                ((expected, more),) = one.clip.encode_from_tokens_scheduled(tokens)
                with names_as_vectors(clip, words) as rewrite:
                    ((states, about),) = encode_scheduled(clip, rewrite(ours.format(*["<v>"] * 9)))
            assert torch.equal(states, expected), (count, ours)
            assert torch.equal(about["pooled_output"], more["pooled_output"]), (count, ours)
    for encoder in ComfyClip(one.clip).encoders:
        assert "_try_get_embedding" not in vars(encoder.tokenizer), "nothing of ours stays"


def check_a_name_is_not_plain_text(one: Loaded) -> None:
    words = some_words(one.host)
    states = one.host.encode_prompts(["a photo of <v>", "a photo of <v>"], words).states
    assert not torch.equal(states, one.host.encode_prompts(["a photo of <v>"] * 2, {}).states)
    other = one.host.encode_prompts(["a photo of <v>"] * 2, some_words(one.host, seed=1)).states
    assert not torch.equal(states, other)


def check_learning_computes_what_sampling_computes(one: Loaded) -> None:
    host, words = one.host, some_words(one.host)
    prompts = ["a photo of <v>", "(<v>:1.2) in snow"]
    outside = host.encode_prompts(prompts, words)
    predicted = host.predict(*noisy(), outside)
    with host.prepare_for_training("fp32"):
        inside = host.encode_prompts(prompts, words)
        assert torch.equal(inside.states, outside.states)
        # Another attention function of ComfyUI's: the same but for rounding.
        torch.testing.assert_close(host.predict(*noisy(), inside), predicted, rtol=1e-3, atol=1e-4)
    latents, timesteps = noisy()
    rates = host.schedule.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
    sigmas = ((1 - rates) / rates).sqrt()
    given = {}
    if outside.pooled is not None:
        side = 8 * latents.shape[-1]
        given["y"] = one.model.model.encode_adm(pooled_output=outside.pooled, width=side, height=side)
    if inpainting(one):
        given["c_concat"] = what_sampling_gives(one, latents)
    with torch.inference_mode():
        # ComfyUI's own way: noise levels instead of timesteps, and what is predicted turned into the picture that it means.
        denoised = one.model.model.apply_model(
            latents / rates.sqrt(), sigmas.flatten(), c_crossattn=outside.states, **given
        )
    if host.schedule.prediction == "epsilon":
        ours = latents / rates.sqrt() - sigmas * predicted
    else:
        ours = rates.sqrt() * latents - (1 - rates).sqrt() * predicted
    torch.testing.assert_close(denoised.clone(), ours, rtol=1e-3, atol=1e-3)


def inpainting(one: Loaded) -> bool:
    return one.name.endswith("_inpaint")


def what_sampling_gives(one: Loaded, latents: torch.Tensor) -> torch.Tensor:
    """What the denoiser takes beside the noisy latents when ComfyUI's own sampler draws an empty latent of that size."""
    from comfy import sample

    given: list[torch.Tensor] = []
    hook = one.model.model.diffusion_model.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].clone()))
    empty = torch.zeros_like(latents)
    with torch.inference_mode():
        states, pooled = one.clip.encode_from_tokens(one.clip.tokenize("a tree"), return_pooled=True)
        condition = [[states, {"pooled_output": pooled}]]
        noise = sample.prepare_noise(empty, 3)
        sample.sample(
            one.model, noise, 1, 1.0, "euler", "normal", condition, condition, empty, disable_pbar=True, seed=3
        )
    hook.remove()
    return given[0][:, latents.shape[1] :].clone()


def check_the_denoiser_is_given_what_comfyuis_sampler_gives_it(one: Loaded) -> None:
    """An inpainting checkpoint takes a mask of everything and a gray image beside the latents; others take nothing."""
    latents, timesteps = noisy()
    sampled = what_sampling_gives(one, latents)
    given: list[torch.Tensor] = []
    hook = one.model.model.diffusion_model.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].clone()))
    conditioning = one.host.encode_prompts(["a", "b"], {})
    one.host.predict(latents, timesteps, conditioning)
    with one.host.prepare_for_training("fp32"):
        one.host.predict(latents, timesteps, conditioning)
    hook.remove()
    assert len(given) == 2
    for joined in given:
        assert torch.equal(joined[:, :4], latents)
        assert torch.equal(joined[:, 4:], sampled)
    assert sampled.shape[1] == (5 if inpainting(one) else 0)
    assert torch.equal(sampled[:, :1], torch.ones_like(sampled[:, :1]))
    assert one.host.info.latent_channels == 4


class GivenByComfyUI:
    """In place of diffusers' gray image, which is of the checkpoint's own VAE: that of ComfyUI."""

    def __init__(self, one: Loaded, encode: Any) -> None:
        self._one, self.encode_too = one, encode

    def like(self, latents: torch.Tensor) -> torch.Tensor:
        return what_sampling_gives(self._one, latents)


def check_it_computes_what_diffusers_computes(one: Loaded) -> None:
    ours, theirs = one.host, load_host(one.file, device="cpu", dtype="fp32")
    assert (theirs._masked is not None) == inpainting(one)
    if inpainting(one):
        theirs._masked = GivenByComfyUI(one, theirs._encoded)  # type: ignore[assignment]
    assert ours.info.sha256 == theirs.info.sha256
    assert (ours.info.family, ours.info.resolution) == (theirs.info.family, theirs.info.resolution)
    for about in ("size_multiple", "vae_scale_factor", "latent_channels"):
        assert getattr(ours.info, about) == getattr(theirs.info, about)
    assert ours.schedule.prediction == theirs.schedule.prediction
    torch.testing.assert_close(ours.schedule.alphas_cumprod, theirs.schedule.alphas_cumprod, rtol=1e-4, atol=1e-6)
    texts = ["a photo of", "<v>, Tom Hanks's hat"]
    for mine, other in zip(ours.text_encoders, theirs.text_encoders, strict=True):
        assert (mine.name, mine.width) == (other.name, other.width)
        assert mine.tokenize(texts) == other.tokenize(texts)
        assert torch.equal(mine.token_table().float(), other.token_table().float())
    words = some_words(ours)
    found = [host.predict(*noisy(), host.encode_prompts(["<v>", "a <v>"], words)) for host in (ours, theirs)]
    torch.testing.assert_close(*found, rtol=1e-2, atol=2e-3)
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    one_way, other_way = ours.encode_images(pictures), theirs.encode_images(pictures)
    mean = one_way.mean
    torch.testing.assert_close(mean, other_way.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(one_way.std, other_way.std, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours.decode_latents(mean), theirs.decode_latents(mean), rtol=1e-2, atol=2e-3)
    again = ComfyClip(loaded(one.name)[1])
    digests = {text_encoders_sha256(host) for host in (ours, types.SimpleNamespace(text_encoders=again.encoders))}
    assert len(digests) == 1, "the same whenever the checkpoint is loaded"


def check_gradients_are_right(one: Loaded) -> None:
    host, words = one.host, some_words(one.host)
    with host.prepare_for_training("fp32"):
        found = gradient(host, words)
        direction = found / found.norm()
        lengths = [vectors.numel() for vectors in words["<v>"]]
        steps = [s.reshape_as(v) for s, v in zip(direction.split(lengths), words["<v>"], strict=True)]

        def at(distance: float) -> torch.Tensor:
            moved = {"<v>": [v + distance * step for v, step in zip(words["<v>"], steps, strict=True)]}
            conditioning = host.encode_prompts(["a photo of <v>", "(<v>:1.2) in snow"], moved)
            return host.predict(*noisy(), conditioning).double().square().sum()

        with torch.no_grad():
            by_differences = float((at(1e-3) - at(-1e-3)) / 2e-3)
    assert abs(by_differences - float(found.norm())) < 0.02 * abs(by_differences), (by_differences, found.norm())


def check_gradients_inside_a_nodes_inference_mode(one: Loaded) -> None:
    """ComfyUI runs nodes in inference mode, from which a node has to step out."""
    with one.host.prepare_for_training("fp32"):
        plain = gradient(one.host, some_words(one.host))
    with (
        torch.inference_mode(),
        torch.inference_mode(False),
        torch.enable_grad(),
        one.host.prepare_for_training("fp32"),
    ):
        assert torch.equal(gradient(one.host, some_words(one.host)), plain)


def check_checkpointing_changes_no_gradient(one: Loaded) -> None:
    words = some_words(one.host)
    with one.host.prepare_for_training("fp32"):
        plain = gradient(one.host, words)
    with one.host.prepare_for_training("fp32", checkpointing=True):
        torch.testing.assert_close(gradient(one.host, words), plain, rtol=1e-5, atol=1e-5)


def check_bf16_is_near(one: Loaded) -> None:
    words = some_words(one.host)
    with one.host.prepare_for_training("fp32"):
        plain = gradient(one.host, words)
    with one.host.prepare_for_training("bf16"):
        coarse = gradient(one.host, words)
    assert not torch.equal(coarse, plain)
    assert torch.nn.functional.cosine_similarity(coarse, plain, dim=0) > 0.98


def check_weights_of_8_bits_let_gradients_through(one: Loaded) -> None:
    import comfy.sd

    words = some_words(one.host)
    with one.host.prepare_for_training("fp32"):
        plain = gradient(one.host, words)
    with torch.inference_mode():
        model, *_ = comfy.sd.load_checkpoint_guess_config(
            str(one.file), output_vae=False, output_clip=False, model_options={"dtype": torch.float8_e4m3fn}
        )
    host = one.host_of(model)
    assert host.dtype == torch.float32, "what is computed in"
    with host.prepare_for_training("fp32"):
        coarse = gradient(host, words)
    assert not torch.equal(coarse, plain)
    assert torch.nn.functional.cosine_similarity(coarse, plain, dim=0) > 0.8


def check_every_weight_is_comfyuis_own_again(one: Loaded) -> None:
    one.host.encode_prompts(["a"], {})
    before = _state(one)
    with one.host.prepare_for_training("bf16", checkpointing=True):
        gradient(one.host, some_words(one.host))
        assert not any(weight.is_inference() for module in one.modules for weight in module.parameters())
    _as_before(one, before)


def _state(one: Loaded) -> dict[str, Any]:
    """What training must leave alone. ComfyUI itself marks the layers of text encoders, to compute in float32."""
    parts = [part for module in one.modules for part in module.modules()]
    set_on_layers = ("forward", "comfy_cast_weights")
    return {
        "identities": one.identities(),
        "values": one.values(),
        "flags": [[weight.requires_grad for weight in module.parameters()] for module in one.modules],
        "marks": [{key: value for key, value in vars(part).items() if key in set_on_layers} for part in parts],
    }


def _as_before(one: Loaded, before: dict[str, Any]) -> None:
    from comfy.ldm.modules import attention

    now = _state(one)
    for name, value in before.items():
        assert now[name] == value, name
    assert not any("forward" in mark for mark in now["marks"])
    assert attention.optimized_attention is not attention.attention_pytorch
    assert all(weight.is_inference() for weight in one.modules[0].parameters())


def check_a_failure_leaves_nothing_behind(one: Loaded) -> None:
    """Whether it happens while the model is prepared or while it is trained."""
    one.host.encode_prompts(["a"], {})
    before = _state(one)

    def fail() -> None:
        raise RuntimeError("in the middle")

    @contextmanager
    def failing(*_: Any, **__: Any) -> Iterator[None]:
        yield fail()

    ordinary = host_module.gradients_through
    for place in ("prepared", "trained"):
        try:
            if place == "prepared":
                host_module.gradients_through = failing
            with one.host.prepare_for_training("bf16", checkpointing=True):
                raise RuntimeError("in the middle")
        except RuntimeError as error:
            raised = str(error)
        finally:
            host_module.gradients_through = ordinary
        assert raised == "in the middle"
        _as_before(one, before)
    with one.host.prepare_for_training("fp32"):
        gradient(one.host, some_words(one.host))


def check_an_image_while_learning(one: Loaded) -> None:
    """It is the image generated outside, and learning goes on as if nothing had been generated."""
    host, words = one.host, some_words(one.host)
    request = GenerationRequest(
        "a photo of <v>", placeholder_tokens=words, steps=3, guidance=3.0, seed=5, width=64, height=64
    )
    (outside,) = host.generate(request)
    with host.prepare_for_training("fp32"):
        before = gradient(host, words)
        (inside,) = host.generate(request)
        assert torch.equal(gradient(host, words), before)
    assert inside.tobytes() == outside.tobytes()
    assert inside.size == (64, 64)
