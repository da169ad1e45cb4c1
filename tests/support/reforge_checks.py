"""Runs inside reForge's own Python: its adapter beside diffusers' on the miniature, and names in prompts. Prints JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

PROMPT = "a photo of <ada>, smiling"


def start(data: Path) -> Any:
    """reForge's model of the miniature, with the scripts of the extensions loaded and no page."""
    folder = Path(os.environ["CELEB_BASIS_WEBUI"])
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    flags = ["--skip-prepare-environment", "--skip-install", "--skip-torch-cuda-test", "--always-cpu", "--no-half"]
    flags += ["--no-half-vae", "--no-hashing", "--disable-console-progressbars", "--no-download-sd-model"]
    sys.argv = ["webui.py", *flags, "--data-dir", str(data), "--ckpt", str(_checkpoint(data))]
    with contextlib.redirect_stdout(sys.stderr):
        from modules_forge.initialization import initialize_forge

        initialize_forge()
        from modules import initialize

        initialize.imports()
        initialize.check_versions()
        initialize.initialize()
        from modules import shared

        shared.opts.data["show_progress_type"] = "Approx cheap"
        return shared.sd_model


def _checkpoint(data: Path) -> Path:
    return data / "models" / "Stable-diffusion" / "miniature.safetensors"


def compared(words: Any, checkpoint: Path) -> dict[str, Any]:
    """Both adapters' answers to the same questions, as differences."""
    import torch

    from celeb_basis.diffusion_model import text_encoders_sha256
    from celeb_basis.hosts.diffusers import load_host
    from celeb_basis.hosts.reforge.host import ReForgeHost

    ours, other = ReForgeHost(), load_host(checkpoint)
    picture = torch.rand(1, 3, 192, 192, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noisy = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    times = torch.tensor([20, 700])
    report: dict[str, Any] = {
        "family": ours.info.family,
        "resolution": ours.info.resolution,
        "prediction": ours.schedule.prediction,
        "schedule": _largest(ours.schedule.alphas_cumprod, other.schedule.alphas_cumprod),
        "table": _largest(ours.text_encoders[0].token_table(), other.text_encoders[0].token_table()),
        "latents": _largest(ours.encode_images(picture).mean, other.encode_images(picture).mean),
        "decoded": _largest(ours.decode_latents(noisy), other.decode_latents(noisy)),
        "same_text_encoder": text_encoders_sha256(ours) == text_encoders_sha256(other),
    }
    with torch.no_grad():
        mine, theirs = (host.encode_prompts([PROMPT, "a dog"], words) for host in (ours, other))
        report["conditioning"] = _largest(mine.crossattn, theirs.states)
        report["prediction_of_noise"] = _largest(ours.predict(noisy, times, mine), other.predict(noisy, times, theirs))
    for checkpointing in (False, True):
        slopes = [_slope(host, words, noisy, times, checkpointing) for host in (ours, other)]
        report[f"slope_checkpointing_{checkpointing}"] = float((slopes[0] - slopes[1]).norm() / slopes[1].norm())
    return report


def _slope(host: Any, words: Any, noisy: Any, times: Any, checkpointing: bool) -> Any:
    vectors = [one.clone().requires_grad_(True) for one in words["<ada>"]]
    with host.prepare_for_training("fp32", checkpointing=checkpointing):
        encoded = host.encode_prompts([PROMPT, PROMPT], {"<ada>": vectors})
        host.predict(noisy, times, encoded).square().mean().backward()
    return vectors[0].grad


def left_as_it_was(model: Any, words: Any) -> dict[str, Any]:
    """The model before and after learning with a picture drawn in between."""
    import torch

    from celeb_basis.diffusion_model import GenerationRequest
    from celeb_basis.hosts.reforge.host import ReForgeHost

    def state() -> tuple[Any, ...]:
        weights = [one.detach().clone() for one in model.parameters()]
        return weights, [one.requires_grad for one in model.parameters()], model.forge_objects

    host = ReForgeHost()
    before = state()
    request = GenerationRequest(
        prompt=PROMPT, placeholder_tokens=words, seed=3, steps=3, guidance=3.0, width=192, height=192
    )
    with host.prepare_for_training("fp32"):
        first = _slope_inside(host, words)
        pictures = list(host.generate(request))
        second = _slope_inside(host, words)
    after = state()
    return {
        "weights": all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True)),
        "flags": before[1] == after[1],
        "patches": before[2] is after[2],
        "pictures": [picture.size for picture in pictures],
        "slopes_differ": _largest(first, second),
    }


def with_a_lora(model: Any, words: Any) -> dict[str, Any]:
    """Learning after a picture with a LoRA, which reForge merges into the weights in torch's inference mode."""
    import torch
    from ldm_patched.modules import model_management

    from celeb_basis.hosts.reforge.host import ReForgeHost

    host, name = ReForgeHost(), "diffusion_model.middle_block.1.proj_out.weight"
    with host.prepare_for_training("fp32"):
        clean = _slope_inside(host, words)
    before = model.state_dict()[f"model.{name}"].clone()
    patched = model.forge_objects_original.unet.clone()
    patched.add_patches({name: ("diff", (torch.ones_like(before),))})
    with torch.inference_mode():
        model_management.load_models_gpu([patched])
    weight = model.model.diffusion_model.middle_block[1].proj_out.weight
    report = {"merged": _largest(weight.detach(), before), "in_inference_mode": weight.is_inference()}
    with host.prepare_for_training("fp32"):
        report["slopes_differ"] = _largest(_slope_inside(host, words), clean)
    report["left"] = _largest(model.state_dict()[f"model.{name}"], before)
    return report


def _slope_inside(host: Any, words: Any) -> Any:
    import torch

    vectors = [one.clone().requires_grad_(True) for one in words["<ada>"]]
    encoded = host.encode_prompts([PROMPT], {"<ada>": vectors})
    noisy = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(4))
    host.predict(noisy, torch.tensor([300]), encoded).square().mean().backward()
    return vectors[0].grad


def names(model: Any, identity: Any, folder: Path) -> dict[str, Any]:
    """What prompts with ``<ada>`` become, beside prompts with the vectors put in by hand."""
    import torch
    from support.installed_tokens import installed_for

    from celeb_basis.hosts.reforge.host import ReForgeHost
    from celeb_basis.hosts.reforge.tokens import ReForgeTokens

    host, words = ReForgeHost(), {"<ada>": identity.token_vectors()}
    cases = {
        "plain": (PROMPT, PROMPT),
        "punctuation": ("(<ada>), <Ada>!", "(<ada>), <ada>!"),
        "emphasis": ("<ada:0.8> in a park", "(<ada>:0.8) in a park"),
        "brackets": ("a (<ada>:1.2) [<ada>]", "a (<ada>:1.2) [<ada>]"),
    }
    report: dict[str, Any] = {}
    with torch.no_grad(), installed_for(folder, ReForgeTokens) as tokens:
        person = tokens.mentioned(PROMPT)[0].identity
        assert person is not None
        report["vectors"] = all(
            torch.equal(a, b) for a, b in zip(person.token_vectors(), identity.token_vectors(), strict=True)
        )
        for case, (typed, meant) in cases.items():
            with torch.inference_mode():  # as reForge draws
                typed_states = model.get_learned_conditioning([typed])
            report[case] = _largest(typed_states, host.encode_prompts([meant], words).crossattn)
        person = tokens.mentioned(PROMPT)[0].identity
        assert person is not None
        vectors = person.token_vectors()
        report["kept_for_gradients"] = not any(one.is_inference() for one in vectors)
        report["unknown"] = _largest(
            model.get_learned_conditioning(["<nobody>"]), host.encode_prompts(["<nobody>"], {}).crossattn
        )
    return report


def _largest(one: Any, other: Any) -> float:
    return float((one.float() - other.float()).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    model = start(data)
    import torch
    from support.webui_people import add_people

    from celeb_basis.hosts.detect import adapter
    from celeb_basis.hosts.reforge.tokens import ReForgeTracker

    checkpoint = ReForgeTracker()()
    assert checkpoint is not None
    people = data / "celeb-basis" / "people"
    (identity,) = add_people(people, ["ada"], checkpoint)
    words = {"<ada>": identity.token_vectors()}
    torch.set_num_threads(1)
    report = {
        "adapter": adapter().name,
        "compared": compared(words, _checkpoint(data)),
        "left": left_as_it_was(model, words),
        "lora": with_a_lora(model, words),
        "names": names(model, identity, people),
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
