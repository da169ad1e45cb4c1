"""Where the host's modules lie: text encoders and denoiser together on the device while gradients flow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.webui.model import text_part
from celeb_basis.hosts.webui.shim import host_module, replaced


@contextmanager
def held_on_device(model: Any) -> Iterator[None]:
    """Text encoders and denoiser on the device, whatever ``--medvram`` would move; every tensor back home afterwards.

    ``--medvram`` moves modules by hooks before each forward pass. A backward pass through weights that have left the
    device would fail, so the hooks rest meanwhile.

    Raises: :class:`HostError` under ``--lowvram``, which never has the denoiser as a whole on the device.
    """
    lowvram = host_module("lowvram")
    if getattr(model, "lowvram", False) and host_module("shared").cmd_opts.lowvram:
        raise HostError(
            "The WebUI runs with --lowvram, which keeps the denoiser in pieces: start it with --medvram, or without "
            "either, to learn."
        )
    homes = [(tensor, tensor.device) for tensor in (*model.parameters(), *model.buffers())]
    with ExitStack() as stack:
        stack.callback(_send_home, homes)
        stack.enter_context(replaced(lowvram, module_in_gpu=None))
        for part in model.modules():
            if any(_moves(hook, lowvram) for hook in part._forward_pre_hooks.values()):
                stack.callback(part._forward_pre_hooks.update, dict(part._forward_pre_hooks))
                stack.callback(part._forward_pre_hooks.clear)
                for key in [key for key, hook in part._forward_pre_hooks.items() if _moves(hook, lowvram)]:
                    del part._forward_pre_hooks[key]
        hold_on_device(model)
        if getattr(model, "lowvram", False):
            model.first_stage_model.to(host_module("devices").cpu)
        yield


def hold_on_device(model: Any) -> None:
    """Bring text encoders and denoiser to the device; nothing happens if they are there."""
    device = host_module("devices").device
    model.model.to(device)
    text_part(model).to(device)


def _moves(hook: Any, lowvram: Any) -> bool:
    return bool(str(getattr(hook, "__module__", "")) == lowvram.__name__)


def _send_home(homes: list[tuple[Any, Any]]) -> None:
    for tensor, home in homes:
        # A model that the host threw away meanwhile has no data left to move.
        if tensor.device != home and not tensor.is_meta:
            tensor.data = tensor.data.to(home)
