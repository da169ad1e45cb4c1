"""Runs inside SD.Next's own Python: its adapter beside diffusers' on the miniature, and names in prompts. Prints JSON."""

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
    """SD.Next's pipeline of the miniature, without its page."""
    folder = Path(os.environ["CELEB_BASIS_WEBUI"])
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    flags = ["--skip-all", "--skip-git", "--no-hashing", "--data-dir", str(data), "--models-dir", str(data / "models")]
    sys.argv = ["launch.py", *flags, "--log", str(data / "sdnext.log")]
    with contextlib.redirect_stdout(sys.stderr):
        import installer
        import launch

        launch.init_args()
        installer.args = launch.args
        installer.setup_logging(filename=launch.args.log)
        launch.init_paths()
        installer.extensions_preload(launch.parser)
        installer.parse_args(launch.parser)
        import webui

        webui.start_common()
        webui.load_model()
        from modules import shared

        return shared.sd_model


def compared(words: Any) -> dict[str, Any]:
    """The answers of SD.Next's adapter and of diffusers' to the same questions, as differences."""
    import torch

    from celeb_basis.hosts.diffusers import load_host
    from celeb_basis.hosts.sdnext.host import SDNextHost
    from celeb_basis.miniature import shipped_model

    ours, other = SDNextHost(), load_host(Path(str(shipped_model())))
    report: dict[str, Any] = {
        "family": ours.info.family,
        "resolution": ours.info.resolution,
        "prediction": ours.schedule.prediction,
        "schedule": _largest(ours.schedule.alphas_cumprod, other.schedule.alphas_cumprod),
        "same_weights": ours.info.sha256 == other.info.sha256,
    }
    slopes = [_slope(host, words) for host in (ours, other)]
    report["slope"] = float((slopes[0] - slopes[1]).norm() / slopes[1].norm())
    before = [one.detach().clone() for one in ours._unet.parameters()]
    _slope(ours, words)
    report["weights_stay"] = all(torch.equal(a, b) for a, b in zip(before, ours._unet.parameters(), strict=True))
    return report


def offloaded(pipeline: Any, words: Any) -> dict[str, Any]:
    """Learning while SD.Next moves modules to the device and away by hooks, as it does where memory is short."""
    from modules import sd_models, shared

    from celeb_basis.hosts.sdnext.host import SDNextHost

    def hooked() -> list[bool]:
        parts = (pipeline.unet, pipeline.text_encoder, pipeline.vae)
        return [pipeline.has_accelerate, *(hasattr(part, "_hf_hook") for part in parts)]

    mode, memory = shared.opts.diffusers_offload_mode, shared.gpu_memory
    shared.opts.data["diffusers_offload_mode"] = "balanced"
    shared.gpu_memory = memory or 1.0
    try:
        sd_models.set_diffuser_offload(pipeline, force=True)
        before = hooked()
        _slope(SDNextHost(), words)
        return {"before": before, "after": hooked()}
    finally:
        sd_models.disable_offload(pipeline)
        shared.opts.data["diffusers_offload_mode"], shared.gpu_memory = mode, memory


def _slope(host: Any, words: Any) -> Any:
    import torch

    noisy = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(4))
    vectors = [one.clone().requires_grad_(True) for one in words["<ada>"]]
    with host.prepare_for_training("fp32"):
        encoded = host.encode_prompts([PROMPT], {"<ada>": vectors})
        host.predict(noisy, torch.tensor([300]), encoded).square().mean().backward()
    return vectors[0].grad


def names(pipeline: Any, identity: Any, folder: Path) -> dict[str, Any]:
    """What prompts with ``<ada>`` become, beside the same person as an ordinary embedding of SD.Next's."""
    import torch
    from modules import processing_args, shared

    from celeb_basis.exports.textual_inversion import export_identity
    from celeb_basis.hosts.sdnext.host import SDNextHost
    from celeb_basis.hosts.sdnext.tokens import SDNextTokens, token_of
    from celeb_basis.prompts.registry import Registry

    rows_before = pipeline.text_encoder.get_input_embeddings().weight.shape[0]
    embeddings = Path(shared.opts.embeddings_dir)
    embeddings.mkdir(parents=True, exist_ok=True)
    export_identity(identity, embeddings / "adaembedding.safetensors", "webui")
    pipeline.embedding_db.load_textual_inversion_embeddings(force_reload=True)
    report: dict[str, Any] = {"embedding_loaded": "adaembedding" in pipeline.embedding_db.word_embeddings}
    tokens = SDNextTokens(Registry(folder))
    tokens.install()

    cases = {
        "plain": (PROMPT, "a photo of adaembedding, smiling"),
        "punctuation": ("(<ada>), <Ada>!", "(adaembedding), adaembedding!"),
        "emphasis": ("<ada:0.8> in a park", "(adaembedding:0.8) in a park"),
    }
    for case, (typed, meant) in cases.items():
        report[case] = _largest(_encoded(pipeline, typed, "native"), _encoded(pipeline, meant, "native"))
    for way in ("a1111", "fixed"):
        report[way] = _largest(_encoded(pipeline, PROMPT, way), _encoded(pipeline, cases["plain"][1], way))
    with torch.no_grad():
        by_hand = SDNextHost().encode_prompts([PROMPT], {"<ada>": identity.token_vectors()}).states
    report["diffusers"] = _largest(_encoded(pipeline, PROMPT, "native"), by_hand)
    table = pipeline.text_encoder.get_input_embeddings().weight
    report["rows"] = int(table.shape[0] - rows_before)
    known = pipeline.tokenizer.added_tokens_encoder
    token = token_of(identity.content_hash)
    vectors = table[[known[token], known[f"{token}_1"]]]
    report["vectors"] = bool(torch.equal(vectors.float(), identity.token_vectors()[0]))
    tokens.uninstall()
    report["uninstalled"] = not hasattr(processing_args.set_prompt, "celeb_basis_patches")
    return report


def _encoded(pipeline: Any, prompt: str, attention: str) -> Any:
    """The positive embeddings that SD.Next would hand to its pipeline for ``prompt``."""
    from modules import extra_networks, processing, processing_args, prompt_parser_diffusers

    p = processing.StableDiffusionProcessingTxt2Img(prompt=prompt, negative_prompt="", steps=4, width=192, height=192)
    p.prompts, p.network_data = extra_networks.parse_prompts([prompt])
    p.negative_prompts, p.task_args = [""], {}
    prompt_parser_diffusers.cache.clear()
    possible = ["prompt", "negative_prompt", "prompt_embeds", "negative_prompt_embeds"]
    kind = type(pipeline).__name__
    _, given = processing_args.set_prompt(p, {}, possible, kind, attention, 4, 1, p.prompts, [""], None, None)
    if "prompt_embeds" in given:
        return given["prompt_embeds"]
    return pipeline.encode_prompt(given["prompt"][0], pipeline.device, 1, False)[0]


def _largest(one: Any, other: Any) -> float:
    return float((one.float() - other.float()).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    pipeline = start(data)
    from support.webui_people import add_people

    from celeb_basis.hosts.detect import adapter
    from celeb_basis.hosts.sdnext.tokens import SDNextTracker

    checkpoint = SDNextTracker()()
    assert checkpoint is not None
    people = data / "celeb-basis" / "people"
    (identity,) = add_people(people, ["ada"], checkpoint)
    report = {
        "adapter": adapter().name,
        "compared": compared({"<ada>": identity.token_vectors()}),
        "offloaded": offloaded(pipeline, {"<ada>": identity.token_vectors()}),
        "names": names(pipeline, identity, people),
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
