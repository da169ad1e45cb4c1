"""Run inside ComfyUI: every check of the host on one checkpoint; prints what failed as JSON, an empty text for none.

``python -m support.comfyui_checks --base DIR --checkpoint NAME CHECK...``
"""

from __future__ import annotations

import argparse
import json
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from support.comfyui_inside import loaded, start
from support.reporting import failures

from celeb_basis.diffusion_model import GenerationRequest, text_encoders_sha256
from celeb_basis.errors import HostError
from celeb_basis.hosts.comfyui import host as host_module
from celeb_basis.hosts.comfyui.host import ComfyHost, encode_scheduled, names_as_vectors
from celeb_basis.hosts.comfyui.model import ComfyClip, ComfyModel
from celeb_basis.hosts.comfyui.modules import UNKNOWN, Source, evictable
from celeb_basis.hosts.diffusers import load_host

PlaceholderTokens = dict[str, list[torch.Tensor]]

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


@dataclass
class Loaded:
    """A checkpoint with the host for it."""

    base: Path
    name: str

    def __post_init__(self) -> None:
        self.model, self.clip, self.vae = loaded(self.name)
        self.file = self.base / "models" / "checkpoints" / f"{self.name}.safetensors"
        self.source = Source(self.name, self.file)
        self.host = self.host_of(self.model)

    def host_of(self, model: Any, clip: Any = None, vae: Any = None) -> ComfyHost:
        return ComfyHost(ComfyModel(model, clip or self.clip, vae or self.vae, self.source, self.source))

    @property
    def modules(self) -> tuple[torch.nn.Module, ...]:
        return self.model.model.diffusion_model, self.clip.cond_stage_model

    def identities(self) -> list[int]:
        return [id(tensor) for part in self.modules for tensor in (*part.parameters(), *part.buffers())]

    def values(self) -> list[bytes]:
        """All weights' bytes: some that are in no file are whatever was in memory, NaN among it."""
        tensors = [tensor for part in (*self.modules, self.vae.first_stage_model) for tensor in part.parameters()]
        return [tensor.detach().clone().contiguous().view(-1).view(torch.uint8).numpy().tobytes() for tensor in tensors]


def some_words(host: ComfyHost, count: int = 2, seed: int = 0) -> PlaceholderTokens:
    """``<v>`` with vectors of about the size that a learned person's have."""
    generator = torch.Generator().manual_seed(seed)
    return {"<v>": [0.04 * torch.randn(count, encoder.width, generator=generator) for encoder in host.text_encoders]}


def noisy(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(seed)), torch.tensor([37, 801])


def gradient(host: ComfyHost, words: PlaceholderTokens) -> torch.Tensor:
    """That of a number that depends on every part of the model, to the vectors of all encoders, in one row."""
    vectors = [one.clone().requires_grad_() for one in words["<v>"]]
    conditioning = host.encode_prompts(["a photo of <v>", "(<v>:1.2) in snow"], {"<v>": vectors})
    found = torch.autograd.grad(host.predict(*noisy(), conditioning).square().sum(), vectors)
    return torch.cat([one.flatten() for one in found])


def plain_prediction(one: Loaded, host: ComfyHost | None = None) -> torch.Tensor:
    host = host or one.host
    return host.predict(*noisy(), host.encode_prompts(["<v>", "a tree"], some_words(host)))


def refused(expected: str, action: Callable[[], Any]) -> None:
    text = ""
    try:
        action()
    except HostError as error:
        text = str(error)
    assert expected in text, text or f"nothing was refused: {expected}"
    assert text.endswith("."), text


def with_lora(one: Loaded) -> tuple[Any, Any]:
    """MODEL and CLIP with a patch on a weight of each, as *Load LoRA* makes them."""
    model, clip = one.model.clone(), one.clip.clone()
    for patcher, module in ((model, one.model.model), (clip.patcher, one.clip.cond_stage_model)):
        attention = ("to_k.weight", "self_attn.k_proj.weight")
        key, weight = next((name, w) for name, w in module.named_parameters() if name.endswith(attention))
        generator = torch.Generator().manual_seed(3)
        assert patcher.add_patches({key: ("diff", (0.2 * torch.randn(weight.shape, generator=generator),))})
    return model, clip


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
    mine, other = ours.encode_images(pictures), theirs.encode_images(pictures)
    torch.testing.assert_close(mine.mean, other.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(mine.std, other.std, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours.decode_latents(mine.mean), theirs.decode_latents(mine.mean), rtol=1e-2, atol=2e-3)
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
    import comfy.sd  # type: ignore[import-not-found]

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
    from comfy.ldm.modules import attention  # type: ignore[import-not-found]

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

    @contextmanager
    def failing(*_: Any, **__: Any) -> Iterator[None]:
        raise RuntimeError("in the middle")
        yield

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
    import comfy.model_sampling as sampling  # type: ignore[import-not-found]

    class ZeroTerminal(sampling.ModelSamplingDiscrete, sampling.V_PREDICTION):  # type: ignore[misc]
        pass

    model = one.model.clone()
    model.add_object_patch("model_sampling", ZeroTerminal(one.model.model.model_config, zsnr=True))
    schedule = one.host_of(model).schedule
    assert schedule.prediction == "v_prediction"
    assert 0 < float(schedule.alphas_cumprod[-1]) < 1e-6

    class Distilled(sampling.ModelSamplingDiscrete, sampling.X0):  # type: ignore[misc]
        pass

    class Continuous(sampling.ModelSamplingContinuousEDM, sampling.EDM):  # type: ignore[misc]
        pass

    for kind in (Distilled, Continuous):
        model = one.model.clone()
        model.add_object_patch("model_sampling", kind(one.model.model.model_config))
        refused("a noise schedule of another kind", lambda model=model: one.host_of(model))


def check_other_families_are_refused_by_name(one: Loaded) -> None:
    import comfy.model_base
    from comfy import sdxl_clip
    from comfy.text_encoders import flux, sd3_clip  # type: ignore[import-not-found]

    def model_of(kind: type, config: str, denoiser: torch.nn.Module | None = None) -> Any:
        base = kind.__new__(kind)
        torch.nn.Module.__init__(base)
        base.diffusion_model = denoiser or torch.nn.Linear(1, 1)
        base.model_config = type(config, (), {})()
        base.latent_format = one.model.model.latent_format
        return types.SimpleNamespace(model=base)

    for kind, config in (("Flux", "FluxSchnell"), ("SD3", "SD3"), ("WAN21", "WAN21_T2V")):
        model = model_of(getattr(comfy.model_base, kind), config)
        refused(f"is a model of the family {config}", lambda model=model: one.host_of(model))
    refiner = model_of(comfy.model_base.SDXLRefiner, "SDXLRefiner", one.model.model.diffusion_model)
    refused("is a model of the kind SDXLRefiner", lambda: one.host_of(refiner))
    for kind in (flux.FluxClipModel, sd3_clip.SD3ClipModel):
        module = kind.__new__(kind)
        torch.nn.Module.__init__(module)
        module.clip_l = one.clip.cond_stage_model
        clip = types.SimpleNamespace(cond_stage_model=module)
        refused(f"The clip is {kind.__name__.removesuffix('ClipModel')}'s", lambda clip=clip: ComfyClip(clip))
    assert sdxl_clip.SDXLClipModel
    refused("no text encoder of its own", lambda: ComfyClip(None))


def check_parts_that_do_not_belong_together_are_refused(one: Loaded) -> None:
    import comfy.taesd.taesd  # type: ignore[import-not-found]

    other = next(path.stem for path in one.file.parent.glob("*.safetensors") if path.stem != one.name)
    _, clip, _ = loaded(other)
    refused("connect the model and the clip of one checkpoint", lambda: one.host_of(one.model, clip))
    vae = types.SimpleNamespace(first_stage_model=comfy.taesd.taesd.TAESD(), latent_channels=4)
    refused("The VAE is of the kind TAESD", lambda: one.host_of(one.model, vae=vae))
    channels = one.model.model.diffusion_model.in_channels
    try:
        for other, called in ((5, "a depth model"), (8, "an InstructPix2Pix model"), (7, "a model of 7 channels")):
            one.model.model.diffusion_model.in_channels = other
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
    from comfy import model_management  # type: ignore[import-not-found]

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


CHECKS: dict[str, Callable[[Loaded], None]] = {
    name[6:]: function for name, function in list(globals().items()) if name.startswith("check_")
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("checks", nargs="+")
    options = parser.parse_args()
    start(options.base)
    one = Loaded(options.base, options.checkpoint)
    print(json.dumps(failures({name: CHECKS[name] for name in options.checks}, one)), flush=True)


if __name__ == "__main__":
    main()
