"""The WebUI's loaded checkpoint as tokens see it. Asking never makes the host load one."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.base import ModelInfo, TextEncoder
from celeb_basis.hosts.webui.model import checkpoint_name, family_of, resolution_of, text_embedders, token_embedding
from celeb_basis.hosts.webui.shim import host_module
from celeb_basis.hosts.webui.text import WebUITextEncoder
from celeb_basis.webui.tokens.fitting import Checkpoint


class LoadedCheckpoint:
    """Tells whether the host's checkpoint is still the same, whichever way it was switched.

    The host keeps several models, reuses one model's object for another file's weights, and calls nobody back for it.
    A fork's is a subclass, which says with :meth:`model`, :meth:`info` and :meth:`encoders` what is another there.
    """

    def __init__(self) -> None:
        self._known: tuple[weakref.ref[Any], Any, str | None, Checkpoint] | None = None

    def __call__(self) -> Checkpoint | None:
        """The checkpoint that is loaded now, the same object as long as it is; ``None`` if there is none."""
        model = self.model()
        described = getattr(model, "sd_checkpoint_info", None)
        if described is None:
            return None
        sha256 = getattr(described, "sha256", None)
        if (known := self._known) is not None and known[0]() is model and known[1] is described and known[2] == sha256:
            return known[3]
        reference = weakref.ref(model)
        info = self.info(model, sha256 or "")
        checkpoint = Checkpoint(info, lambda: self.encoders(reference, info))
        self._known = (reference, described, sha256, checkpoint)
        return checkpoint

    def model(self) -> Any | None:
        """The host's model as it is now, or ``None``; what has no ``sd_checkpoint_info`` counts as none."""
        return host_module("sd_models").model_data.sd_model

    def info(self, model: Any, sha256: str) -> ModelInfo:
        """What is known of ``model``, whose file has this digest; empty if the host does not know it yet."""
        family = "sd3" if getattr(model, "is_sd3", False) else str(family_of(model))
        return ModelInfo(checkpoint_name(model), family, sha256, resolution_of(model))

    def encoders(self, reference: weakref.ref[Any], info: ModelInfo) -> Sequence[TextEncoder]:
        """The text encoders of the model that ``reference`` is to.

        Raises: :class:`HostError` if it is gone, or has none of CLIP's.
        """
        model = reference()
        if model is None:
            raise HostError(f"{info.name} is no longer loaded: try again.")
        try:
            embedders = text_embedders(model)
            keys = [token_embedding(embedder).textual_inversion_key for embedder in embedders]
        except AttributeError:  # none of CLIP's: AltDiffusion, Stable Diffusion 3
            raise HostError(
                f"{info.name} has no text encoder of CLIP's: choose a Stable Diffusion 1, 2 or XL."
            ) from None
        # The host itself calls the one encoder of any SD1 or SD2 clip_l.
        names = ["clip_h"] if info.family == "sd2" else keys
        return [WebUITextEncoder(name, _embedder(reference, i)) for i, name in enumerate(names)]


def _embedder(reference: weakref.ref[Any], index: int) -> Callable[[], Any]:
    return lambda: text_embedders(reference())[index]
