"""Everything of a WebUI that learning must leave as it was, in one comparable dictionary."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch


def fingerprint(model: Any) -> dict[str, Any]:
    """Of the model: every tensor's bytes, dtype, device, ``requires_grad`` and gradient, every module's mode, hooks and
    own attributes; of the host: what it remembers of devices, settings and what is switched on; the random states."""
    from modules import devices, lowvram, sd_hijack, sd_unet, shared

    state: dict[str, Any] = {}
    for kind, named in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in named:
            raw = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            state[f"{kind} {name}"] = (
                hashlib.sha256(raw).hexdigest(),
                tensor.dtype,
                tensor.device,
                tensor.requires_grad,
                tensor.grad is None,
                tuple(tensor.shape),
                tensor.stride(),
            )
    for name, part in model.named_modules():
        own = sorted(key for key in vars(part) if not key.startswith("network_") and key != "last_z_shape")
        hooks = [
            [getattr(hook, "__qualname__", str(hook)) for hook in kind.values()]
            for kind in (part._forward_pre_hooks, part._forward_hooks, part._backward_hooks)
        ]
        switches = [vars(part).get(key) for key in ("checkpoint", "use_checkpoint", "is_trainable", "padding_mode")]
        state[f"module {name}"] = (part.training, own, hooks, switches, str(vars(part).get("dtype")))
    names = ("dtype", "dtype_unet", "dtype_vae", "dtype_inference", "unet_needs_upcast", "fp8", "force_fp16", "device")
    state["devices"] = {name: getattr(devices, name) for name in names}
    state["settings"] = dict(shared.opts.data)
    state["flags"] = dict(vars(shared.cmd_opts))
    hijack = sd_hijack.model_hijack
    state["switched on"] = (
        sd_unet.current_unet_option,
        hijack.circular_enabled,
        id(shared.loaded_hypernetworks),
        getattr(model, "applied_token_merged_ratio", 0),
        lowvram.module_in_gpu,
        None if sd_hijack.current_optimizer is None else sd_hijack.current_optimizer.name,
    )
    state["database"] = (sorted(vars(hijack.embedding_db)), sorted(hijack.embedding_db.word_embeddings), hijack.fixes)
    job = ("job", "job_no", "job_count", "sampling_step", "sampling_steps", "textinfo")
    state["job"] = {name: getattr(shared.state, name) for name in job}
    state["random"] = (
        random.getstate(),
        np.random.get_state(legacy=False)["state"]["key"].tobytes(),
        torch.get_rng_state().numpy().tobytes(),
    )
    return state


def assert_as_before(before: dict[str, Any], model: Any) -> None:
    """Fail with the names of what is not as it was."""
    after = fingerprint(model)
    different = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    shown = {key: (before.get(key), after.get(key)) for key in different[:3] if key != "random"}
    assert not different, f"{len(different)} things changed, as {different[:5]}: {shown}"
