"""SD.Next's loaded checkpoint as tokens see it. Asking never makes SD.Next load one."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from celeb_basis.errors import HostError
from celeb_basis.hosts.base import ModelInfo, TextEncoder
from celeb_basis.hosts.diffusers.checks import family_of
from celeb_basis.hosts.diffusers.text import DiffusersTextEncoder
from celeb_basis.hosts.requests import ENCODER_NAMES
from celeb_basis.hosts.sdnext.model import (
    checkpoint_name,
    is_stable_diffusion,
    loaded_pipeline_or_none,
    sha256_of,
    text_parts,
)
from celeb_basis.webui.tokens.fitting import Checkpoint


class LoadedInSDNext:
    """Tells whether the checkpoint is still the same, by its text encoder: pipelines come and go around one."""

    def __init__(self) -> None:
        self._known: tuple[weakref.ref[Any], Checkpoint] | None = None

    def __call__(self) -> Checkpoint | None:
        """The checkpoint that is loaded now, the same object as long as it is; ``None`` if there is none."""
        pipeline = loaded_pipeline_or_none()
        if pipeline is None:
            return None
        mark = getattr(pipeline, "text_encoder", None)
        mark = pipeline if mark is None else mark
        if (known := self._known) is not None and known[0]() is mark:
            return known[1]
        plain = is_stable_diffusion(pipeline)
        family = family_of(pipeline) if plain else type(pipeline).__name__.lower()
        # A folder's digest is that of its weights, which is what learning notes down as well.
        sha256 = (sha256_of(pipeline) or "") if plain else ""
        info = ModelInfo(checkpoint_name(pipeline), family, sha256, 0)
        reference = weakref.ref(mark)
        checkpoint = Checkpoint(info, lambda: _encoders(info, reference))
        self._known = (reference, checkpoint)
        return checkpoint


def _encoders(info: ModelInfo, reference: weakref.ref[Any]) -> Sequence[TextEncoder]:
    pipeline, mark = loaded_pipeline_or_none(), reference()
    if (
        pipeline is None
        or mark is None
        or all(mark is not one for one in (pipeline, getattr(pipeline, "text_encoder", None)))
    ):
        raise HostError(f"{info.name} is no longer loaded: try again.")
    if not is_stable_diffusion(pipeline):
        raise HostError(f"{info.name} has no text encoder of CLIP's: choose a Stable Diffusion 1, 2 or XL.")
    tokenizers = [pipeline.tokenizer, getattr(pipeline, "tokenizer_2", None)]
    names = ENCODER_NAMES[family_of(pipeline)]
    return [
        DiffusersTextEncoder(name, part, tokenizer)
        for name, part, tokenizer in zip(names, text_parts(pipeline), tokenizers, strict=False)
    ]
