"""Runs in a WebUI's own Python: ten thousand people as our words, and as embeddings of the host's own database."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from support.webui_inside import parsed_arguments, start_with
from support.webui_people import add_people

from celeb_basis.hosts.a1111 import tokens as tokens_host
from celeb_basis.identities.identity import Identity, identity_to_bytes
from celeb_basis.prompts.registry import Registry

_PROMPT = (
    "a photo of {}, smiling, standing beside {} in a park on a sunny day, tall green trees and a lake in the background, "
    "soft light, sharp focus, highly detailed, 85mm lens, shallow depth of field, warm colors, and {} waving from a boat"
)
_ROUNDS, _CALLS = 30, 20


def main() -> None:
    """Print seconds and milliseconds as one JSON value."""
    options = parsed_arguments()
    model = start_with(Path(options.checkpoint), options.data)
    # As the host itself does where it was not told to leave hashing out.
    model.sd_checkpoint_info.sha256 = "ab" * 32
    encoder = model.cond_stage_model
    names = [f"person{number}" for number in range(options.count)]
    wanted = [names[len(names) // 3], names[7], names[-1]]
    crowd = _PROMPT.format(*(f"<{name}>" for name in wanted))
    prompt = _PROMPT.format(f"<{wanted[0]}>", "dog", "man")
    plain = _PROMPT.format("cat", "dog", "man")
    checkpoint = tokens_host.CheckpointTracker()()
    assert checkpoint is not None
    (person,) = add_people(options.data / "one", ("one",), checkpoint)
    folder = options.data / "people"
    write_people(folder, person, names)

    began = time.perf_counter()
    tokens = tokens_host.install(Registry(folder))
    _, count = encoder.tokenize_line(crowd)
    ready = time.perf_counter() - began

    taken: dict[str, list[float]] = {"prompt": [], "crowd": [], "nameless": [], "bare": []}
    for _ in range(_ROUNDS):
        tokens.install()
        taken["prompt"].append(milliseconds(lambda: encoder.tokenize_line(prompt)))
        taken["crowd"].append(milliseconds(lambda: encoder.tokenize_line(crowd)))
        taken["nameless"].append(milliseconds(lambda: encoder.tokenize_line(plain)))
        tokens.uninstall()
        taken["bare"].append(milliseconds(lambda: encoder.tokenize_line(plain)))
    seen = {f"{kind}_ms": statistics.median(times) for kind, times in taken.items()}
    seen |= {"ready_s": ready, "tokens": count} | stock(model, person, names, prompt)
    sys.stdout.write(f"\n{json.dumps(seen)}\n")


def write_people(folder: Path, person: Identity, names: list[str]) -> None:
    """One file each, in a folder that nobody has touched for a minute."""
    folder.mkdir()
    for name in names:
        (folder / f"{name}.safetensors").write_bytes(identity_to_bytes(replace(person, name=name)))
    then = time.time() - 60
    os.utime(folder, (then, then))


def stock(model: Any, person: Identity, names: list[str], prompt: str) -> dict[str, float]:
    """The same people registered in the host's database under ``<name>``."""
    from modules import sd_hijack  # type: ignore[import-not-found]
    from modules.textual_inversion.textual_inversion import Embedding  # type: ignore[import-not-found]

    database = sd_hijack.model_hijack.embedding_db
    (vectors,) = person.token_vectors()
    began = time.perf_counter()
    for name in names:
        embedding = Embedding(vectors, f"<{name}>")
        embedding.vectors, embedding.shape = len(vectors), int(vectors.shape[-1])
        database.register_embedding(embedding, model)
    registered = time.perf_counter() - began
    taken = statistics.median(milliseconds(lambda: model.cond_stage_model.tokenize_line(prompt)) for _ in range(5))
    return {"stock_ready_s": registered, "stock_ms": taken}


def milliseconds(work: Callable[[], object]) -> float:
    """The median of several calls."""
    times = []
    for _ in range(_CALLS):
        began = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


if __name__ == "__main__":
    main()
