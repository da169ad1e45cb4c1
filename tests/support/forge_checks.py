"""Run inside Forge: every check of the adapter on one checkpoint; prints what failed as JSON, an empty text for none.

``python -m support.forge_checks --data DIR CHECK...``
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from support.celebrity_faces import PixelFaces
from support.forge_inside import start
from support.reporting import failures
from support.webui_checks_encoding import PROMPTS, RARE
from support.webui_checks_learning import refused

from celeb_basis.diffusion_model import GenerationRequest, text_encoders_sha256
from celeb_basis.events import follow
from celeb_basis.hosts.forge.host import ForgeHost
from celeb_basis.hosts.forge.model import ForgeCheckpoint
from celeb_basis.training.celebrity_faces import generate_celebrity_faces

PlaceholderTokens = dict[str, list[torch.Tensor]]


def some_words(host: ForgeHost, count: int = 2, seed: int = 0) -> PlaceholderTokens:
    """``<v>`` with vectors of about the size that a learned person's have."""
    generator = torch.Generator().manual_seed(seed)
    return {"<v>": [0.04 * torch.randn(count, encoder.width, generator=generator) for encoder in host.text_encoders]}


@contextmanager
def registered(words: PlaceholderTokens) -> Iterator[None]:
    """The same vectors in Forge's own database, under a rare word."""
    from backend.text_processing.textual_inversion import Embedding

    engines = ForgeCheckpoint.current().text_encoders
    vec = {engine.embedding_key: one for engine, one in zip(engines, words["<v>"], strict=True)}
    embedding = Embedding(vec if len(vec) > 1 else words["<v>"][0], RARE)
    embedding.vectors, embedding.shape = len(words["<v>"][0]), sum(one.shape[1] for one in words["<v>"])
    for engine in engines:
        engine.embeddings.register_embedding(embedding)
    try:
        yield
    finally:
        for engine in engines:
            engine.embeddings.register_embedding_by_name(None, RARE)


def forge_conditioning(prompts: list[str], side: int) -> dict[str, torch.Tensor]:
    from modules import prompt_parser, shared

    with torch.inference_mode():
        batch = prompt_parser.SdConditioning(prompts, width=side, height=side)
        model = ForgeCheckpoint.current().model
        model.set_clip_skip(int(shared.opts.CLIP_stop_at_last_layers))  # as Forge does before it draws
        found = model.get_learned_conditioning(batch)
    found = found if isinstance(found, dict) else {"crossattn": found}
    return {name: tensor.clone() for name, tensor in found.items()}


def noisy(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(seed)), torch.tensor([37, 801])


def gradient(host: ForgeHost, words: PlaceholderTokens) -> torch.Tensor:
    """That of a number that depends on every part of the model, to the vectors of all encoders, in one row."""
    vectors = [one.clone().requires_grad_() for one in words["<v>"]]
    conditioning = host.encode_prompts(["a photo of <v>", "(<v>:1.2) in snow"], {"<v>": vectors})
    found = torch.autograd.grad(host.predict(*noisy(), conditioning).square().sum(), vectors)
    return torch.cat([one.flatten() for one in found])


def choose_checkpoint(name: str) -> None:
    """As at the top of the page, where Forge Neo remembers one for each of its presets."""
    from modules_forge import main_entry

    preset = {"preset": None} if "preset" in inspect.signature(main_entry.checkpoint_change).parameters else {}
    main_entry.checkpoint_change(name, save=False, **preset)


def identities() -> list[int]:
    checkpoint = ForgeCheckpoint.current()
    modules = (checkpoint.unet, checkpoint.text_model)
    return [id(tensor) for part in modules for tensor in (*part.parameters(), *part.buffers())]


def check_words_are_bit_for_bit_forges_embeddings(_data: Path) -> None:
    host = ForgeHost()
    for count in (1, 2, 5):
        words = some_words(host, count, seed=count)
        side = host.info.resolution
        plain = forge_conditioning([PROMPTS[0].format(RARE)], side)
        with registered(words):
            expected = [forge_conditioning([prompt.format(*[RARE] * 9)], side) for prompt in PROMPTS]
        assert not torch.equal(plain["crossattn"], expected[0]["crossattn"]), "Forge did not find its own embedding"
        for prompt, by_forge in zip(PROMPTS, expected, strict=True):
            ours = host.encode_prompts([prompt.format(*["<v>"] * 9)], words)
            assert torch.equal(ours.crossattn, by_forge["crossattn"]), prompt
            assert ours.vector is None or torch.equal(ours.vector, by_forge["vector"]), prompt
        assert not any(engine.embeddings.word_embeddings for engine in ForgeCheckpoint.current().text_encoders)


def check_a_word_goes_with_its_sentence_into_the_next_chunk(_data: Path) -> None:
    """Forge moves what follows the last comma of a full chunk, which is as if BREAK stood there."""
    host = ForgeHost()
    words = some_words(host)
    beginning = "red hat , " * 23 + "blue , "
    for ending in ("a <v> person in rain", "<v> <v> in rain and snow", "in <v> rain"):
        moved = host.encode_prompts([beginning + ending + " and much more snow"], words).crossattn
        broken = host.encode_prompts([f"{beginning}BREAK {ending} and much more snow"], words).crossattn
        assert moved.shape[1] == 2 * 77
        assert torch.equal(moved, broken), ending


def check_learning_computes_what_drawing_computes(_data: Path) -> None:
    host = ForgeHost()
    words = some_words(host)
    prompts = ["a photo of <v>", "(<v>:1.2) in snow"]
    outside = host.encode_prompts(prompts, words)
    predicted = host.predict(*noisy(), outside)
    with host.prepare_for_training("fp32"):
        inside = host.encode_prompts(prompts, words)
        assert torch.equal(inside.crossattn, outside.crossattn)
        assert torch.equal(host.predict(*noisy(), inside), predicted)
    latents, timesteps = noisy()
    rates = host.schedule.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
    sigmas = ((1 - rates) / rates).sqrt()
    given = {}
    if host._masked is not None:
        given["c_concat"] = host._masked.like(latents)
    if outside.vector is not None:
        pooled = outside.vector.shape[1] - 6 * 256
        sizes = forge_conditioning(["one", "two"], 8 * latents.shape[-1])["vector"][:, pooled:]
        given["y"] = torch.cat([outside.vector[:, :pooled], sizes], dim=1)
    with torch.inference_mode(), ExitStack() as stack:
        # Forge's own way: noise levels instead of timesteps, and what is predicted turned into the picture that it means.
        model = ForgeCheckpoint.current().model
        unet = model.forge_objects.unet.model
        if getattr(model.model_config, "ztsnr", False):  # what Forge does for as long as it draws
            rescale = importlib.import_module("backend.modules.k_prediction").rescale_zero_terminal_snr_sigmas
            before = unet.predictor.sigmas
            unet.predictor.set_sigmas(rescale(before.clone()))
            stack.callback(unet.predictor.set_sigmas, before)
        denoised = unet.apply_model(latents / rates.sqrt(), sigmas.flatten(), c_crossattn=outside.crossattn, **given)
    if host.schedule.prediction == "epsilon":
        ours = latents / rates.sqrt() - sigmas * predicted
    else:
        ours = rates.sqrt() * latents - (1 - rates).sqrt() * predicted
    torch.testing.assert_close(denoised.clone(), ours, rtol=1e-3, atol=1e-3)


def check_gradients_are_right(_data: Path) -> None:
    host = ForgeHost()
    words = some_words(host)
    with host.prepare_for_training("fp32"):
        found = gradient(host, words)
    direction = found / found.norm()
    steps = [
        one.reshape_as(vectors)
        for one, vectors in zip(
            direction.split([vectors.numel() for vectors in words["<v>"]]), words["<v>"], strict=True
        )
    ]

    def at(distance: float) -> torch.Tensor:
        moved = {"<v>": [vectors + distance * step for vectors, step in zip(words["<v>"], steps, strict=True)]}
        conditioning = host.encode_prompts(["a photo of <v>", "(<v>:1.2) in snow"], moved)
        return host.predict(*noisy(), conditioning).double().square().sum()

    by_differences = float((at(1e-3) - at(-1e-3)) / 2e-3)
    assert abs(by_differences - float(found.norm())) < 0.02 * abs(by_differences), (by_differences, found.norm())


def check_checkpointing_changes_no_gradient(_data: Path) -> None:
    host = ForgeHost()
    words = some_words(host)
    with host.prepare_for_training("fp32"):
        plain = gradient(host, words)
    with host.prepare_for_training("fp32", checkpointing=True):
        torch.testing.assert_close(gradient(host, words), plain, rtol=1e-5, atol=1e-6)


def check_bf16_is_near(_data: Path) -> None:
    host = ForgeHost()
    words = some_words(host)
    with host.prepare_for_training("fp32"):
        plain = gradient(host, words)
    with host.prepare_for_training("bf16"):
        coarse = gradient(host, words)
    assert not torch.equal(coarse, plain)
    assert torch.nn.functional.cosine_similarity(coarse, plain, dim=0) > 0.98


def check_every_weight_is_forges_own_again(_data: Path) -> None:
    host = ForgeHost()
    before = identities()
    with host.prepare_for_training("bf16", checkpointing=True):
        gradient(host, some_words(host))
        assert not any(weight.is_inference() for weight in ForgeCheckpoint.current().unet.parameters())
    assert identities() == before
    assert all(weight.is_inference() for weight in ForgeCheckpoint.current().unet.parameters())
    assert not any("forward" in vars(part) for part in ForgeCheckpoint.current().unet.modules())


def check_a_preview_while_learning(_data: Path) -> None:
    """It is the picture drawn outside, and learning goes on as if nothing had been drawn."""
    host = ForgeHost()
    words = some_words(host)
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


def check_a_preview_takes_no_other_checkpoint(data: Path) -> None:
    """The user may choose another one while an identity is learned: it is loaded with the user's next picture."""
    from modules import processing, sd_models, shared

    host, model = ForgeHost(), ForgeCheckpoint.current().model
    first = data / "models" / "Stable-diffusion" / f"{host.info.name}.safetensors"
    for suffix in (".safetensors", ".yaml"):
        first.with_name(f"other{suffix}").write_bytes(first.with_suffix(suffix).read_bytes())
    sd_models.list_models()
    request = GenerationRequest(
        "a photo of <v>", placeholder_tokens=some_words(host), steps=2, seed=5, width=64, height=64
    )
    try:
        with host.prepare_for_training("fp32"):
            choose_checkpoint("other.safetensors")
            assert len(list(host.generate(request))) == 1
            assert ForgeCheckpoint.current().model is model
        p = processing.StableDiffusionProcessingTxt2Img(
            prompt="a tree", steps=1, width=64, height=64, do_not_save_samples=True, sampler_name="Euler"
        )
        processing.process_images(p)
        assert ForgeCheckpoint.current().model.sd_checkpoint_info.name_for_extra == "other"
        refused(f"Forge has switched from {host.info.name} to other", lambda: host.encode_prompts(["a"], {}))
    finally:
        choose_checkpoint(first.name)
        sd_models.forge_model_reload()
        assert shared.sd_model.sd_checkpoint_info.name_for_extra == host.info.name


def check_a_lora_of_the_last_prompt_is_not_learned_with(_data: Path) -> None:
    from backend import memory_management

    host, model = ForgeHost(), ForgeCheckpoint.current().model
    words = some_words(host)
    plain = host.predict(*noisy(), host.encode_prompts(["<v>", "a"], words))
    key = next(name for name, weight in model.forge_objects.unet.model.named_parameters() if weight.ndim == 4)
    weight = dict(model.forge_objects.unet.model.named_parameters())[key]
    patched = model.forge_objects.unet.clone()
    patched.add_patches(filename="a lora", patches={key: ("diff", (torch.ones_like(weight),))})
    with torch.inference_mode():
        memory_management.load_models_gpu([patched])
    assert not torch.equal(dict(model.forge_objects.unet.model.named_parameters())[key], weight), "nothing was merged"
    with host.prepare_for_training("fp32"):
        assert torch.equal(host.predict(*noisy(), host.encode_prompts(["<v>", "a"], words)), plain)


def check_weights_of_8_bits_let_gradients_through(_data: Path) -> None:
    from modules import sd_models, shared
    from modules_forge import main_entry

    host = ForgeHost()
    words = some_words(host)
    with host.prepare_for_training("fp32"):
        plain = gradient(host, words)
    try:
        shared.opts.set("forge_unet_storage_dtype", "float8-e4m3fn")
        main_entry.refresh_model_loading_parameters()
        sd_models.forge_model_reload()
        assert ForgeCheckpoint.current().unet.storage_dtype == torch.float8_e4m3fn
        host = ForgeHost()
        assert host.dtype == torch.float32, "what is computed in"
        with host.prepare_for_training("fp32"):
            coarse = gradient(host, words)
    finally:
        shared.opts.set("forge_unet_storage_dtype", "Automatic")
        main_entry.refresh_model_loading_parameters()
        sd_models.forge_model_reload()
    assert not torch.equal(coarse, plain)
    assert torch.nn.functional.cosine_similarity(coarse, plain, dim=0) > 0.8


def check_quantized_weights_are_refused(_data: Path) -> None:
    unet = ForgeCheckpoint.current().unet
    before, unet.storage_dtype = unet.storage_dtype, "nf4"
    try:
        refused(f"{ForgeCheckpoint.current().model.sd_checkpoint_info.name_for_extra} is held in nf4", ForgeHost)
    finally:
        unet.storage_dtype = before


def check_latents_are_forges(_data: Path) -> None:
    host, model = ForgeHost(), ForgeCheckpoint.current().model
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    ours = host.encode_images(pictures)
    torch.manual_seed(5)
    by_forge = model.encode_first_stage(pictures[:1]).clone()
    torch.manual_seed(5)
    noise = torch.randn(1, *ours.mean.shape[1:])
    torch.testing.assert_close(ours.mean[:1] + ours.std[:1] * noise, by_forge, rtol=1e-4, atol=1e-5)
    assert ours.mean.shape == (2, 4, 8, 8)


def check_decoded_pictures_are_forges(_data: Path) -> None:
    host, model = ForgeHost(), ForgeCheckpoint.current().model
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    ours = host.decode_latents(latents)
    host.release_vae()
    by_forge = model.decode_first_stage(latents).clone()
    # Forge cuts off what is brighter than white and darker than black.
    torch.testing.assert_close(ours.clamp(-1, 1), by_forge.float().cpu(), rtol=1e-4, atol=1e-4)
    assert ours.shape == (2, 3, 64, 64)
    digests = set()
    for _ in range(2):  # as the celebrities' faces are shared by it: while Forge holds the weights as it computes
        with host.prepare_for_training("fp32"):
            digests.add(text_encoders_sha256(host))
    assert len(digests) == 1


def check_an_inpainting_checkpoint_is_given_what_forge_gives_it(_data: Path) -> None:
    """For text-to-image: a mask of everything, and the latents of a gray image. Others are given nothing."""
    from modules import processing

    host, checkpoint = ForgeHost(), ForgeCheckpoint.current()
    if not checkpoint.is_inpainting:
        assert host._masked is None
        return
    p = processing.StableDiffusionProcessingTxt2Img(prompt="a", width=64, height=64)
    p.sd_model = checkpoint.model
    torch.manual_seed(5)
    with torch.inference_mode():
        by_forge = p.txt2img_image_conditioning(torch.zeros(1, 4, 8, 8), 64, 64).float().clone()
    torch.manual_seed(5)
    noise = torch.randn(1, 4, 8, 8)
    assert host._masked is not None
    ours = host._masked.like(torch.zeros(1, 4, 8, 8)).clone()
    ours[:, 1:] += host.encode_images(torch.zeros(1, 3, 64, 64)).std * noise
    torch.testing.assert_close(ours, by_forge, rtol=1e-4, atol=1e-4)


def check_celebrities_are_generated(data: Path) -> None:
    host, names = ForgeHost(), ("ann lee", "bob marsh", "cleo novak")
    faces = follow(generate_celebrity_faces(host, names, PixelFaces(), data / "faces", size=64))
    assert faces.names == names
    again = follow(generate_celebrity_faces(host, names, PixelFaces(), data / "faces", size=64))
    assert torch.equal(again.vectors.nan_to_num(9), faces.vectors.nan_to_num(9))


CHECKS: dict[str, Callable[[Path], None]] = {
    name[6:]: function for name, function in list(globals().items()) if name.startswith("check_")
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("checks", nargs="+")
    options = parser.parse_args()
    start(options.data)
    print(json.dumps(failures({name: CHECKS[name] for name in options.checks}, options.data)))


if __name__ == "__main__":
    main()
