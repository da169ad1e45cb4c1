"""Checks inside a WebUI that has something switched on, or is asked for what it cannot do."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from support.webui_checks_encoding import some_words
from support.webui_checks_learning import gradients, loss_of, refused
from support.webui_state import assert_as_before, fingerprint

from celeb_basis.diffusion_model import GenerationRequest
from celeb_basis.hosts.a1111.host import A1111Host
from celeb_basis.hosts.a1111.model import A1111Checkpoint


def plain_loss(host: A1111Host) -> float:
    with host.prepare_for_training("fp32"), torch.no_grad():
        return float(loss_of(host, some_words(host)))


def loss_as_the_host_is(host: A1111Host) -> float:
    with torch.no_grad():
        return float(loss_of(host, some_words(host)))


def check_a_lora_of_the_last_prompt_is_off_while_learning(data: Path) -> None:
    from modules import extra_networks, processing, script_callbacks

    script_callbacks.before_ui_callback()  # when the host's extension for LoRAs signs itself in
    host, model = A1111Host(), A1111Checkpoint.current().model
    bare = plain_loss(host)
    write_lora(data / "models" / "Lora" / "tiny.safetensors", model)
    p = processing.StableDiffusionProcessingTxt2Img()
    p.all_prompts = [""]
    extra_networks.activate(p, {"lora": [extra_networks.ExtraNetworkParams(["tiny", "1.0"])]})
    try:
        changed = loss_as_the_host_is(host)
        assert changed != bare, "the LoRA does nothing"
        before = fingerprint(model)
        assert plain_loss(host) == bare
        assert_as_before(before, model)
        assert loss_as_the_host_is(host) == changed
        with host.prepare_for_training("fp32"):
            request = GenerationRequest("a <lora:tiny:0.5> hat", steps=1, width=64, height=64)
            assert len(list(host.generate(request))) == 1
            with torch.no_grad():
                assert float(loss_of(host, some_words(host))) == bare
        assert_as_before(before, model)
    finally:
        extra_networks.activate(p, {})
    assert loss_as_the_host_is(host) == bare


def check_hypernetworks_tiling_token_merging_and_hypertile_are_off_while_learning(_data: Path) -> None:
    from modules import sd_hijack, sd_models, shared
    from modules.hypernetworks.hypernetwork import Hypernetwork

    host, model = A1111Host(), A1111Checkpoint.current().model
    bare = plain_loss(host)
    torch.manual_seed(0)
    network = Hypernetwork(name="tiny", enable_sizes=[768], layer_structure=[1, 1], weight_init="Normal")
    for part in network.weights():
        part.data.normal_(std=0.1)
    before_list = shared.loaded_hypernetworks
    for enable, disable in (
        (lambda: before_list.append(network), before_list.clear),
        (lambda: sd_hijack.model_hijack.apply_circular(True), lambda: sd_hijack.model_hijack.apply_circular(False)),
        (lambda: sd_models.apply_token_merging(model, 0.5), lambda: sd_models.apply_token_merging(model, 0)),
        (lambda: hypertile(model, True), lambda: hypertile(model, False)),
    ):
        enable()
        try:
            changed = loss_as_the_host_is(host)
            assert changed != bare
            before = fingerprint(model)
            assert plain_loss(host) == bare
            assert_as_before(before, model)
            assert loss_as_the_host_is(host) == changed
        finally:
            disable()
    assert loss_as_the_host_is(host) == bare


def hypertile(model: Any, enable: bool) -> None:
    """What the host's built-in extension does as a picture of 256 pixels begins; it leaves its marks in the model."""
    from modules import paths

    folder = str(Path(paths.script_path) / "extensions-builtin" / "hypertile")
    if folder not in sys.path:
        sys.path.append(folder)
    importlib.import_module("hypertile").hypertile_hook_model(model.model, 256, 256, enable=enable)


def check_8_bit_weights_are_learned_through_with_previews(_data: Path) -> None:
    """The host must not find while it draws that its weights are no longer of 8 bits, and load them again."""
    from modules import sd_models, shared

    def hold_in_8_bits(how: str) -> None:
        shared.opts.data["fp8_storage"] = how
        sd_models.reload_model_weights()

    hold_in_8_bits("Enable")
    try:
        host, model = A1111Host(), A1111Checkpoint.current().model
        assert A1111Checkpoint(model).weights_dtype.itemsize == 1
        before = fingerprint(model)
        with host.prepare_for_training("fp32"):
            first = gradients(host, some_words(host))
            assert len(list(host.generate(GenerationRequest("a hat", steps=1, width=64, height=64)))) == 1
            assert A1111Checkpoint.current().model is model
            assert A1111Checkpoint(model).weights_dtype == torch.float32
            assert all(map(torch.equal, first, gradients(host, some_words(host))))
        assert_as_before(before, model)
    finally:
        hold_in_8_bits("Disable")


def check_a_switch_in_the_middle_is_reported(_data: Path) -> None:
    """The host throws the old model away; leaving ``learning`` then still works, and the new one is untouched."""
    from modules import sd_models

    host = A1111Host()
    first = A1111Checkpoint.current().model.sd_checkpoint_info
    other = next(info for info in sd_models.checkpoints_list.values() if info.model_name == "sdxl")
    with host.prepare_for_training("bf16"):
        gradients(host, some_words(host))
        sd_models.reload_model_weights(info=other)
        fresh = fingerprint(A1111Checkpoint.current().model)
        for use in (
            lambda: gradients(host, some_words(host)),
            lambda: list(host.generate(GenerationRequest("a hat", steps=1, width=64, height=64))),
            lambda: host.text_encoders[0].tokenize(["a"]),
        ):
            refused("The WebUI has switched from sd1 to sdxl:", use)
    after = fingerprint(A1111Checkpoint.current().model)
    assert {key: fresh[key] for key in fresh if key.startswith(("parameter", "buffer", "module"))} == {
        key: after[key] for key in after if key.startswith(("parameter", "buffer", "module"))
    }
    assert A1111Host().info.family == "sdxl"
    sd_models.reload_model_weights(info=first)
    assert A1111Host().info.family == "sd1"
    host.text_encoders[0].tokenize(["a"])


def check_no_checkpoint_is_reported(_data: Path) -> None:
    from modules import sd_models

    kept = sd_models.model_data.sd_model
    sd_models.model_data.sd_model = None
    try:
        refused("The WebUI has no checkpoint loaded:", A1111Host)
    finally:
        sd_models.model_data.sd_model = kept


def check_bad_requests_are_refused(_data: Path) -> None:
    host = A1111Host()
    words = some_words(host)
    refused("There are no prompts", lambda: host.encode_prompts([], words))
    refused("A placeholder token is empty", lambda: host.encode_prompts(["a"], {"": words["<v>"]}))
    refused(
        "The placeholder token <v> has vectors for 2", lambda: host.encode_prompts(["a"], {"<v>": words["<v>"] * 2})
    )
    wrong = {"<v>": [torch.zeros(2, 5)]}
    refused("The vectors of the placeholder token <v> have the shape (2, 5)", lambda: host.encode_prompts(["a"], wrong))
    refused("The CPU cannot compute in fp16", lambda: host.prepare_for_training("fp16").__enter__())
    refused("Pictures of the shape (1, 3, 60, 64)", lambda: host.encode_images(torch.zeros(1, 3, 60, 64)))
    refused("There are no pictures", lambda: host.encode_images(torch.zeros(0, 3, 64, 64)))
    for bad in ({"width": 63}, {"steps": 0}, {"steps": 1001}, {"count": -1}):
        given: dict[str, Any] = {"width": 64, "height": 64, "steps": 1, **bad}
        request = GenerationRequest("a", **given)
        refused("", lambda request=request: list(host.generate(request)))


def check_schedule_follows_the_setting(_data: Path) -> None:
    from modules import sd_models, shared

    model = A1111Checkpoint.current().model
    plain = A1111Host().schedule
    assert torch.equal(plain.alphas_cumprod, model.alphas_cumprod_original.float().cpu())
    shared.opts.data["sd_noise_schedule"] = "Zero Terminal SNR"
    try:
        rescaled = A1111Host().schedule
        sd_models.apply_alpha_schedule_override(model)
        torch.testing.assert_close(rescaled.alphas_cumprod, model.alphas_cumprod.float().cpu())
    finally:
        shared.opts.data["sd_noise_schedule"] = "Default"
        sd_models.apply_alpha_schedule_override(model)
    assert float(rescaled.alphas_cumprod[-1]) < 1e-6 < float(plain.alphas_cumprod[-1])


def check_medvram_holds_all_on_the_device(_data: Path) -> None:
    """Run with ``--medvram``: the host's hooks rest while learning, and move modules again afterwards."""
    from modules import lowvram

    host, model = A1111Host(), A1111Checkpoint.current().model
    assert model.lowvram
    moved = watch_moves(model)
    before = fingerprint(model)
    loss_as_the_host_is(host)
    assert moved, "the host moves nothing: no --medvram"
    moved.clear()
    with host.prepare_for_training("fp32"):
        moved.clear()
        gradients(host, some_words(host))
        assert not moved
        list(host.generate(GenerationRequest("a hat", steps=1, width=64, height=64)))
        moved.clear()
        gradients(host, some_words(host))
        assert not moved
        assert lowvram.module_in_gpu is None
    lowvram.module_in_gpu = before["switched on"][4]
    assert_as_before(before, model)
    loss_as_the_host_is(host)
    assert moved


def check_lowvram_is_refused(_data: Path) -> None:
    """Run with ``--lowvram``."""
    host, model = A1111Host(), A1111Checkpoint.current().model
    before = fingerprint(model)
    refused("The WebUI runs with --lowvram", lambda: host.prepare_for_training("fp32").__enter__())
    assert_as_before(before, model)
    assert host.encode_images(torch.zeros(1, 3, 64, 64)).mean.shape == (1, 4, 8, 8)


def check_inpainting_is_learned_on(_data: Path) -> None:
    """On an inpainting checkpoint: with the mask and the masked image that the WebUI gives it for text-to-image."""
    from modules import processing

    host, model = A1111Host(), A1111Checkpoint.current().model
    assert A1111Checkpoint.current().is_inpainting
    latents = torch.zeros(1, 4, 8, 8)
    torch.manual_seed(5)
    by_host = processing.txt2img_image_conditioning(model, latents, 64, 64).float()
    torch.manual_seed(5)
    noise = torch.randn(1, 4, 8, 8)
    ours = host._masked.like(latents)  # type: ignore[union-attr]
    ours[:, 1:] += host.encode_images(torch.zeros(1, 3, 64, 64)).std * noise
    torch.testing.assert_close(ours, by_host, rtol=1e-4, atol=1e-4)
    words = some_words(host)
    before = fingerprint(model)
    request = GenerationRequest("a photo of <v>", placeholder_tokens=words, steps=2, seed=5, width=64, height=64)
    (outside,) = host.generate(request)
    with host.prepare_for_training("fp32"):
        found = gradients(host, words)
        assert all(one.abs().sum() > 0 for one in found)
        (inside,) = host.generate(request)
        assert all(map(torch.equal, gradients(host, words), found))
    assert inside.tobytes() == outside.tobytes()
    assert_as_before(before, model)


def watch_moves(model: Any) -> list[str]:
    """The names of the parts that the host moves, as it moves them."""
    moves: list[str] = []
    for name in ("model", "first_stage_model", "cond_stage_model"):
        part = getattr(model, name)
        original = part.to

        def to(*args: Any, name: str = name, original: Any = original, **kwargs: Any) -> Any:
            moves.append(name)
            return original(*args, **kwargs)

        part.to = to
    return moves


def write_lora(path: Path, model: Any) -> None:
    """A LoRA for every cross-attention key of the denoiser, in the layout that the host's extension reads."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, layer in model.network_layer_mapping.items():
        if name.startswith("diffusion_model") and name.endswith("attn2_to_k"):
            key = name.replace("diffusion_model", "lora_unet")
            out, into = layer.weight.shape
            weights[f"{key}.lora_up.weight"] = torch.randn(out, 4, generator=generator)
            weights[f"{key}.lora_down.weight"] = torch.randn(4, into, generator=generator)
    assert weights
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, str(path))
