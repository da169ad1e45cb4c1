"""Runs in a WebUI's own Python, on the model it has loaded: learning steps, bare steps, its own trainer's, and tokens."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from support.webui_inside import start_with
from support.webui_people import add_people

from benchmarks.figures import peak_bytes
from celeb_basis.basis import build_bases
from celeb_basis.diffusion_model import LatentDistribution
from celeb_basis.identities.identity import Identity, identity_to_bytes
from celeb_basis.method import add_noise, prediction_target
from celeb_basis.names.lists import shipped_names
from celeb_basis.settings import TrainingSettings
from celeb_basis.training.dataset import PersonViews, ViewPool
from celeb_basis.training.trainer import Trainer

_ROUNDS = 2
_TOKEN_ROUNDS, _TOKEN_CALLS = 30, 20
_PROMPT = (
    "a photo of {}, smiling, standing beside {} in a park on a sunny day, tall green trees and a lake in the background, "
    "soft light, sharp focus, highly detailed, 85mm lens, shallow depth of field, warm colors, and {} waving from a boat"
)


def main() -> None:
    """Print one JSON value as the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=("steps", "memory-ours", "memory-host", "tokens"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--file", type=Path, required=True, help="the checkpoint")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--count", type=int, default=100, help="identities")
    options = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        model = start_with(options.file, options.data)
        if options.task == "steps":
            answer: Any = measure_steps(options)
        elif options.task == "tokens":
            answer = measure_tokens(model, options.data, options.count)
        else:
            (learn_ours if options.task == "memory-ours" else learn_as_the_host)(options)
            answer = peak_bytes()
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


def measure_steps(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each step: ours and bare ones in turns, then the host's own; all of it twice."""
    trainer = make_learner(options)
    taken: dict[str, list[float]] = {"ours": [], "bare": [], "host": []}
    processor: list[float] = []
    losses: tuple[float, float] = (0.0, 0.0)
    for _ in range(_ROUNDS):
        events = trainer.run()
        next(events)  # warms up, and freezes the model as learning does, for the bare steps as well
        for _ in range(options.steps):
            bare = BareStep.like_the_next(trainer)
            bare_times, loss = timed(bare)
            our_times, event = timed(lambda events=events: next(events))  # type: ignore[misc]
            losses = (event.loss, loss)
            taken["ours"].append(our_times[0])
            taken["bare"].append(bare_times[0])
            processor.append(our_times[1] / bare_times[1])
        events.close()
        taken["host"] += learn_as_the_host(options)
    return {**taken, "processor": statistics.median(processor), "losses": losses}


def timed(call: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """Wall-clock and processor seconds of a call, and its result."""
    wall, processor = time.perf_counter(), time.process_time()
    result = call()
    return (time.perf_counter() - wall, time.process_time() - processor), result


def make_learner(options: argparse.Namespace) -> Trainer:
    """A learner that is ready to step, with two views encoded by the host's VAE.

    No face network is used: learning needs none once the views are encoded.
    """
    from celeb_basis.hosts.a1111.host import A1111Host

    host = A1111Host()
    bases = [built.basis for built in build_bases(host.text_encoders, shipped_names())]
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, options.side, options.side, generator=generator) * 2 - 1
    encoded = [host.encode_images(image[None]) for image in images]
    host.release_vae()
    latents = LatentDistribution(torch.cat([one.mean for one in encoded]), torch.cat([one.std for one in encoded]))
    vectors = torch.nn.functional.normalize(torch.randn(2, 512, generator=generator), dim=-1)
    pool = ViewPool((PersonViews("ann", b"", latents, vectors, ("", "small")),), "none")
    return Trainer(host, bases, pool, TrainingSettings(batch_size=1, early_stop=False))


def learn_ours(options: argparse.Namespace) -> None:
    """Run a few of our steps from the beginning."""
    trainer = make_learner(options)
    for number, _ in enumerate(trainer.run(), start=1):
        if number == options.steps:
            break


def learn_as_the_host(options: argparse.Namespace) -> list[float]:
    """Seconds of each step of the host's own trainer, as its page would run it; its first step warms up."""
    from modules import shared
    from modules.textual_inversion import textual_inversion, ui
    from PIL import Image

    images = options.data / "pictures"
    images.mkdir(exist_ok=True)
    Image.effect_noise((options.side, options.side), 60).convert("RGB").save(images / "one.png")
    name = f"trial{len(list(options.data.glob('trial*')))}"
    (options.data / name).touch()
    Path(shared.cmd_opts.embeddings_dir).mkdir(parents=True, exist_ok=True)
    textual_inversion.create_embedding(name, 2, True, init_text="person")
    database = textual_inversion.sd_hijack.model_hijack.embedding_db
    database.load_textual_inversion_embeddings(force_reload=True)
    textual_inversion.list_textual_inversion_templates()
    moments: list[float] = []
    before = textual_inversion.write_loss
    textual_inversion.write_loss = lambda *_: moments.append(time.perf_counter())
    shared.state.interrupted = False
    shared.opts.save_training_settings_to_txt = False
    preview = ("", "", 1, "DDIM", 7.0, 0, options.side, options.side)
    try:
        ui.train_embedding(
            "", name, "0.005", 1, 1, str(images), str(options.data), options.side, options.side, False,
            options.steps + 1, "disabled", "0.1", False, 0, "random", False, 0, 0, "none.txt", False, False, *preview,
        )  # fmt: skip
    finally:
        textual_inversion.write_loss = before
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


@dataclass
class BareStep:
    """Text encoder and UNet of the loaded model, called directly, forward and backward."""

    ids: torch.Tensor
    positions: list[int]
    vectors: torch.Tensor
    noisy: torch.Tensor
    timesteps: torch.Tensor
    target: torch.Tensor

    @staticmethod
    def like_the_next(trainer: Trainer) -> BareStep:
        """A step with the batch of the learner's next one. The learner's state is unchanged."""
        state = trainer.generator.get_state()
        draw = trainer.sample_batch()
        trainer.generator.set_state(state)
        with torch.no_grad():
            vectors = trainer.bases[0].expand(trainer.coefficients(draw)[0, 0])
        before, _, after = draw.prompts[0].partition("<view0>")
        first, second = trainer.model.text_encoders[0].tokenize([before, after])
        ids = [49406, *first, 0, 0, *second, 49407]
        schedule = trainer.model.schedule
        return BareStep(
            ids=torch.tensor([ids + [49407] * (77 - len(ids))]),
            positions=[1 + len(first), 2 + len(first)],
            vectors=vectors.clone().requires_grad_(),
            noisy=add_noise(schedule, draw.clean, draw.noise, draw.timesteps),
            timesteps=draw.timesteps,
            target=prediction_target(schedule, draw.clean, draw.noise, draw.timesteps),
        )

    def __call__(self) -> float:
        """Run the step and return its loss."""
        from modules import shared

        model = shared.sd_model
        text = model.cond_stage_model.wrapped.transformer
        table = text.text_model.embeddings.token_embedding
        positions = torch.tensor(self.positions)

        def insert(_module: Any, _inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
            return embedded.index_put((torch.zeros_like(positions), positions), self.vectors)

        hook = getattr(table, "wrapped", table).register_forward_hook(insert)
        try:
            states = text(input_ids=self.ids).last_hidden_state
        finally:
            hook.remove()
        predicted = model.model.diffusion_model(self.noisy, self.timesteps, context=states)
        loss = torch.nn.functional.mse_loss(predicted.float(), self.target)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())


def measure_tokens(model: Any, data: Path, count: int) -> dict[str, float]:
    """Seconds and milliseconds of ``count`` identities as our tokens, and as embeddings of the host's own database."""
    from celeb_basis.hosts.a1111 import tokens as tokens_host
    from celeb_basis.prompts.registry import Registry

    # As the host itself does where hashing is not disabled.
    model.sd_checkpoint_info.sha256 = "ab" * 32
    encoder = model.cond_stage_model
    names = [f"person{number}" for number in range(count)]
    wanted = [names[len(names) // 3], names[7], names[-1]]
    three_names = _PROMPT.format(*(f"<{name}>" for name in wanted))
    prompt = _PROMPT.format(f"<{wanted[0]}>", "dog", "man")
    no_names = _PROMPT.format("cat", "dog", "man")
    checkpoint = tokens_host.CheckpointTracker()()
    assert checkpoint is not None
    (person,) = add_people(data / "one", ("one",), checkpoint)
    folder = data / "people"
    write_people(folder, person, names)

    began = time.perf_counter()
    tokens: Any = tokens_host.install(Registry(folder))
    _, length = encoder.tokenize_line(three_names)
    ready = time.perf_counter() - began

    taken: dict[str, list[float]] = {"prompt": [], "three_names": [], "no_names": [], "bare": []}
    for _ in range(_TOKEN_ROUNDS):
        tokens.install()
        taken["prompt"].append(milliseconds(lambda: encoder.tokenize_line(prompt)))
        taken["three_names"].append(milliseconds(lambda: encoder.tokenize_line(three_names)))
        taken["no_names"].append(milliseconds(lambda: encoder.tokenize_line(no_names)))
        tokens.uninstall()
        taken["bare"].append(milliseconds(lambda: encoder.tokenize_line(no_names)))
    measured = {f"{kind}_ms": statistics.median(times) for kind, times in taken.items()}
    return measured | {"ready_s": ready, "tokens": length} | measure_stock(model, person, names, prompt)


def write_people(folder: Path, person: Identity, names: list[str]) -> None:
    """Write one file per name, into a folder that was last changed a minute ago."""
    folder.mkdir()
    for name in names:
        (folder / f"{name}.safetensors").write_bytes(identity_to_bytes(replace(person, name=name)))
    then = time.time() - 60
    os.utime(folder, (then, then))


def measure_stock(model: Any, person: Identity, names: list[str], prompt: str) -> dict[str, float]:
    """The same for the same people, registered in the host's database as ``<name>``."""
    from modules import sd_hijack
    from modules.textual_inversion.textual_inversion import Embedding

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


def milliseconds(call: Callable[[], object]) -> float:
    """The median of several calls."""
    times = []
    for _ in range(_TOKEN_CALLS):
        began = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


if __name__ == "__main__":
    main()
