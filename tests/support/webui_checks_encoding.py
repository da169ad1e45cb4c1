"""Checks inside a WebUI: what the adapter encodes, predicts and draws, against the host's own code."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from support.celebrity_faces import PixelFaces
from support.webui_state import assert_as_before, fingerprint

from celeb_basis.diffusion_model import GenerationRequest, text_encoders_sha256
from celeb_basis.events import follow
from celeb_basis.hosts.a1111.host import A1111Host
from celeb_basis.hosts.a1111.model import A1111Checkpoint
from celeb_basis.training.celebrity_faces import generate_celebrity_faces

RARE = "xqzwv"
"""A word that no embedding has; the host tokenizes it the same with spaces around it, wherever it stands."""
PROMPTS = (
    "a photo of {} person",
    "{}",
    "{} {}",
    "{} , smiling",
    "(a {} in a hat:1.3), [dark] forest",
    "((( {} ))) and (crowd of {} :0.7)",
    "a long coat BREAK {} in rain",
    "many words " * 30 + " then {} and more words" * 6,
    "one , two , three , " * 14 + " {} at the end",
    "",
)


def some_words(host: A1111Host, count: int = 2, seed: int = 0) -> dict[str, list[torch.Tensor]]:
    """``<v>`` with vectors of about the size that a learned person's have."""
    generator = torch.Generator().manual_seed(seed)
    return {"<v>": [0.04 * torch.randn(count, encoder.width, generator=generator) for encoder in host.text_encoders]}


class registered:  # noqa: N801 - used as a function
    """The same vectors in the host's own database, under the rare word."""

    def __init__(self, host: A1111Host, vectors: list[torch.Tensor]) -> None:
        from modules import sd_hijack
        from modules.textual_inversion.textual_inversion import Embedding

        self._database = sd_hijack.model_hijack.embedding_db
        vec: Any = vectors[0] if len(vectors) == 1 else {"clip_l": vectors[0], "clip_g": vectors[1]}
        self._embedding = Embedding(vec, RARE)
        self._embedding.vectors = len(vectors[0])
        self._embedding.shape = sum(part.shape[1] for part in vectors)
        del host

    def __enter__(self) -> None:
        self._database.register_embedding(self._embedding, A1111Checkpoint.current().model)

    def __exit__(self, *_: object) -> None:
        self._database.register_embedding_by_name(None, A1111Checkpoint.current().model, RARE)
        self._database.word_embeddings.pop(RARE, None)


def host_conditioning(prompts: list[str], width: int, height: int) -> dict[str, torch.Tensor]:
    from modules import devices, prompt_parser

    with torch.no_grad(), devices.autocast():
        batch = prompt_parser.SdConditioning(prompts, width=width, height=height)
        found = A1111Checkpoint.current().model.get_learned_conditioning(batch)
    return found if isinstance(found, dict) else {"crossattn": found}


def check_words_are_bit_for_bit_the_hosts_embeddings(_data: Path) -> None:
    host = A1111Host()
    side = host.info.resolution
    for count in (1, 2, 5):
        words = some_words(host, count, seed=count)
        plain = host_conditioning([PROMPTS[0].format(RARE)], side, side)
        with registered(host, words["<v>"]):
            expected = [host_conditioning([prompt.format(*[RARE] * 9)], side, side) for prompt in PROMPTS]
            together = host_conditioning([prompt.format(*[RARE] * 9) for prompt in PROMPTS], side, side)
        assert not torch.equal(plain["crossattn"], expected[0]["crossattn"]), "the host did not find its own embedding"
        with torch.no_grad():
            for prompt, by_host in zip(PROMPTS, expected, strict=True):
                ours = host.encode_prompts([prompt.format(*["<v>"] * 9)], words)
                assert torch.equal(ours.crossattn, by_host["crossattn"]), prompt
                assert ours.vector is None or torch.equal(ours.vector, by_host["vector"]), prompt
            ours = host.encode_prompts([prompt.format(*["<v>"] * 9) for prompt in PROMPTS], words)
        assert torch.equal(ours.crossattn, together["crossattn"])


def check_punctuation_glued_to_a_word_changes_nothing(_data: Path) -> None:
    host = A1111Host()
    words = some_words(host)
    glued = ("<v>, smiling", "a <v>.", "<v>'s hat", ",<v>", "(<v>:1.2)", "two <v><v>!", "x<v>x")
    apart = (
        f"{RARE} , smiling",
        f"a {RARE} .",
        f"{RARE} 's hat",
        f", {RARE}",
        f"( {RARE} :1.2)",
        f"two {RARE} {RARE} !",
        f"x {RARE} x",
    )
    with registered(host, words["<v>"]):
        expected = [host_conditioning([prompt], 64, 64)["crossattn"] for prompt in apart]
    with torch.no_grad():
        for prompt, by_host in zip(glued, expected, strict=True):
            assert torch.equal(host.encode_prompts([prompt], words).crossattn, by_host), prompt


def check_a_word_goes_with_its_sentence_into_the_next_chunk(_data: Path) -> None:
    """The host moves what follows the last comma of a full chunk, which is as if BREAK stood there."""
    host = A1111Host()
    words = some_words(host)
    beginning = "red hat , " * 23 + "blue , "
    for ending in ("a <v> person in rain", "<v> <v> in rain and snow", "in <v> rain"):
        with torch.no_grad():
            moved = host.encode_prompts([beginning + ending + " and much more snow"], words).crossattn
            broken = host.encode_prompts([f"{beginning}BREAK {ending} and much more snow"], words).crossattn
            alone = host.encode_prompts([beginning], words).crossattn
        assert moved.shape[1] == 2 * alone.shape[1], "all of it went into one chunk"
        assert torch.equal(moved, broken), ending


def check_nothing_stays_of_a_word(_data: Path) -> None:
    host = A1111Host()
    before = fingerprint(A1111Checkpoint.current().model)
    alone = host_conditioning(["a <v> person"], 64, 64)["crossattn"]
    with torch.no_grad():
        host.encode_prompts(["a <v> person"], some_words(host))
    assert torch.equal(host_conditioning(["a <v> person"], 64, 64)["crossattn"], alone)
    assert_as_before(before, A1111Checkpoint.current().model)


def check_the_text_encoders_are_the_hosts(_data: Path) -> None:
    host = A1111Host()
    model = A1111Checkpoint.current().model
    text = "Ada Lovelace, a photo"
    names = {"sd1": ["clip_l"], "sd2": ["clip_h"], "sdxl": ["clip_l", "clip_g"]}[host.info.family]
    assert [encoder.name for encoder in host.text_encoders] == names
    ids = [encoder.tokenize([text])[0] for encoder in host.text_encoders]
    rows = [
        encoder.token_table()[torch.tensor(of_text)].float()
        for encoder, of_text in zip(host.text_encoders, ids, strict=True)
    ]
    by_host = model.cond_stage_model.encode_embedding_init_text(text, len(ids[0])).float()
    assert torch.equal(torch.cat(rows, dim=1), by_host)
    assert not any(encoder.token_table().requires_grad for encoder in host.text_encoders)


def check_the_loss_is_the_hosts(_data: Path) -> None:
    """SD1 and SD2: the host's own ``p_losses``. SDXL has none: sgm's denoiser, which works with sigmas."""
    from celeb_basis.method import diffusion_loss

    host, model = A1111Host(), A1111Checkpoint.current().model
    generator = torch.Generator().manual_seed(3)
    clean, noise = torch.randn(2, 2, 4, 16, 16, generator=generator)
    timesteps = torch.tensor([37, 801])
    with torch.no_grad():
        conditioning = host.encode_prompts(["a photo of <v>", "<v> in snow"], some_words(host))
        ours = diffusion_loss(host, clean, noise, timesteps, conditioning)
        if hasattr(model, "p_losses"):
            _, parts = model.p_losses(clean, {"c_crossattn": [conditioning.crossattn]}, timesteps, noise)
            expected = next(value for key, value in parts.items() if key.endswith("loss_simple"))
        else:
            rates = host.schedule.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
            sigmas = ((1 - rates) / rates).sqrt()
            size = host_conditioning(["a photo", "snow"], 128, 128)["vector"]
            pooled = conditioning.vector.shape[1] - 6 * 256
            vector = torch.cat([conditioning.vector[:, :pooled], size[:, pooled:]], dim=1)
            given = {"crossattn": conditioning.crossattn, "vector": vector}
            noisy = clean + sigmas * noise
            denoised = model.denoiser(model.model, noisy, sigmas.flatten(), given)
            expected = torch.nn.functional.mse_loss((noisy - denoised) / sigmas, noise)
    assert math.isclose(float(ours), float(expected), rel_tol=2e-4), (ours, expected)


def check_latents_are_the_hosts(_data: Path) -> None:
    host, model = A1111Host(), A1111Checkpoint.current().model
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    before = fingerprint(model)
    ours = host.encode_images(pictures)
    assert_as_before(before, model)
    with torch.no_grad():
        torch.manual_seed(5)
        by_host = torch.cat([model.get_first_stage_encoding(model.encode_first_stage(p[None])) for p in pictures])
    torch.manual_seed(5)
    noise = torch.cat([torch.randn(1, *ours.mean.shape[1:]) for _ in pictures])
    torch.testing.assert_close(ours.mean + ours.std * noise, by_host, rtol=1e-4, atol=1e-5)
    assert ours.mean.shape == (2, 4, 8, 8)


def check_decoded_pictures_are_the_hosts(_data: Path) -> None:
    host, model = A1111Host(), A1111Checkpoint.current().model
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    before = fingerprint(model)
    ours = host.decode_latents(latents)
    host.release_vae()
    assert_as_before(before, model)
    with torch.no_grad():
        by_host = model.decode_first_stage(latents)
    torch.testing.assert_close(ours, by_host.float().cpu(), rtol=1e-4, atol=1e-4)
    assert ours.shape == (2, 3, 64, 64)
    digest = text_encoders_sha256(host)
    with host.prepare_for_training("fp32"):
        assert text_encoders_sha256(host) == digest


def check_celebrities_are_generated(data: Path) -> None:
    host, model = A1111Host(), A1111Checkpoint.current().model
    before = fingerprint(model)
    names = ("ann lee", "bob marsh", "cleo novak")
    with host:
        faces = follow(generate_celebrity_faces(host, names, PixelFaces(), data / "faces", size=64))
    assert_as_before(before, model)
    assert faces.names == names
    again = follow(generate_celebrity_faces(host, names, PixelFaces(), data / "faces", size=64))
    assert torch.equal(again.vectors.nan_to_num(9), faces.vectors.nan_to_num(9))


def check_pictures_are_the_hosts(data: Path) -> None:
    from modules import processing, shared

    host = A1111Host()
    words = some_words(host)
    before = fingerprint(A1111Checkpoint.current().model)
    request = GenerationRequest(
        "a <v>, (in a hat:1.2)", "<v> blurred", placeholder_tokens=words, count=2, seed=7, steps=3, width=64, height=64
    )
    first, second = host.generate(request)
    assert_as_before(before, A1111Checkpoint.current().model)
    again = next(iter(host.generate(request)))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != second.tobytes()
    # the same prompts to the letter: the host remembers conditionings by their text
    other = replace(request, placeholder_tokens=some_words(host, seed=9))
    assert next(iter(host.generate(other))).tobytes() != first.tobytes()
    with registered(host, words["<v>"]):
        p = processing.StableDiffusionProcessingTxt2Img(
            prompt=f"a {RARE} , (in a hat:1.2)",
            negative_prompt=f"{RARE} blurred",
            seed=8,
            steps=3,
            cfg_scale=7.5,
            width=64,
            height=64,
            sampler_name="DDIM",
            scheduler="Automatic",
            do_not_save_samples=True,
            do_not_reload_embeddings=True,
        )
        shared.opts.data["live_previews_enable"] = False
        by_host = processing.process_images(p).images[0]
    assert by_host.convert("RGB").tobytes() == second.tobytes()
    assert not list(data.rglob("outputs/**/*.png"))
