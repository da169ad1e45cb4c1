"""Runs in a WebUI's own Python, on the model it has loaded: our steps, bare ones, and those of its own trainer."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.webui_inside import start_with

from benchmarks.memory import peak_bytes

if TYPE_CHECKING:
    import torch

    from celeb_basis.training.trainer import Trainer

_ROUNDS = 2


def main() -> None:
    """Print one JSON value as the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("steps", "memory-ours", "memory-host"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--side", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    options = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        start_with(options.file, options.data)
        if options.what == "steps":
            answer: Any = measure_steps(options)
        else:
            (learn_ours if options.what == "memory-ours" else learn_as_the_host)(options)
            answer = peak_bytes()
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


def measure_steps(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each step: ours and bare ones in turns, then the host's own, and all of it again."""
    trainer = make_learner(options)
    taken: dict[str, list[float]] = {"ours": [], "bare": [], "host": []}
    processor: list[float] = []
    losses: tuple[float, float] = (0.0, 0.0)
    for _ in range(_ROUNDS):
        events = trainer.run()
        next(events)  # warms up, and holds the model as learning does for the bare steps too
        for _ in range(options.steps):
            bare = BareStep.like_the_next(trainer)
            theirs, loss = timed(bare)
            ours, event = timed(lambda events=events: next(events))
            losses = (event.loss, loss)
            taken["ours"].append(ours[0])
            taken["bare"].append(theirs[0])
            processor.append(ours[1] / theirs[1])
        events.close()
        taken["host"] += learn_as_the_host(options)
    return {**taken, "processor": statistics.median(processor), "losses": losses}


def timed(call: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """Wall and processor seconds of a call, and its answer."""
    wall, processor = time.perf_counter(), time.process_time()
    answer = call()
    return (time.perf_counter() - wall, time.process_time() - processor), answer


def make_learner(options: argparse.Namespace) -> Trainer:
    """Ready to step, with two views encoded by the host's VAE. No face network: learning needs none once views stand."""
    import torch

    from celeb_basis.basis import build_bases
    from celeb_basis.diffusion_model import LatentDistribution
    from celeb_basis.hosts.a1111.host import A1111Host
    from celeb_basis.names.lists import shipped_names
    from celeb_basis.settings import TrainingSettings
    from celeb_basis.training.dataset import PersonViews, ViewPool
    from celeb_basis.training.trainer import Trainer

    host = A1111Host()
    bases = [built.basis for built in build_bases(host.text_encoders, shipped_names())]
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(2, 3, options.side, options.side, generator=generator) * 2 - 1
    encoded = [host.encode_images(picture[None]) for picture in pictures]
    host.release_vae()
    latents = LatentDistribution(torch.cat([one.mean for one in encoded]), torch.cat([one.std for one in encoded]))
    vectors = torch.nn.functional.normalize(torch.randn(2, 512, generator=generator), dim=-1)
    pool = ViewPool((PersonViews("ann", b"", latents, vectors, ("", "small")),), "none")
    return Trainer(host, bases, pool, TrainingSettings(batch_size=1, early_stop=False))


def learn_ours(options: argparse.Namespace) -> None:
    """A few of our steps, from nothing."""
    trainer = make_learner(options)
    for number, _ in enumerate(trainer.run(), start=1):
        if number == options.steps:
            break


def learn_as_the_host(options: argparse.Namespace) -> list[float]:
    """Seconds of each step of the host's own trainer, as its page would run it; its first step warms up."""
    from modules import shared
    from modules.textual_inversion import textual_inversion, ui
    from PIL import Image

    pictures = options.data / "pictures"
    pictures.mkdir(exist_ok=True)
    Image.effect_noise((options.side, options.side), 60).convert("RGB").save(pictures / "one.png")
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
            "", name, "0.005", 1, 1, str(pictures), str(options.data), options.side, options.side, False,
            options.steps + 1, "disabled", "0.1", False, 0, "random", False, 0, 0, "none.txt", False, False, *preview,
        )  # fmt: skip
    finally:
        textual_inversion.write_loss = before
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


@dataclass
class BareStep:
    """Text encoder and UNet of the loaded model, called directly, forward and backward."""

    ids: torch.Tensor
    places: list[int]
    vectors: torch.Tensor
    noisy: torch.Tensor
    timesteps: torch.Tensor
    target: torch.Tensor

    @staticmethod
    def like_the_next(trainer: Trainer) -> BareStep:
        """With what ``learner`` will draw next. The learner is left as it was."""
        import torch

        from celeb_basis.method import add_noise, prediction_target

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
            places=[1 + len(first), 2 + len(first)],
            vectors=vectors.clone().requires_grad_(),
            noisy=add_noise(schedule, draw.clean, draw.noise, draw.timesteps),
            timesteps=draw.timesteps,
            target=prediction_target(schedule, draw.clean, draw.noise, draw.timesteps),
        )

    def __call__(self) -> float:
        import torch
        from modules import shared

        model = shared.sd_model
        text = model.cond_stage_model.wrapped.transformer
        table = text.text_model.embeddings.token_embedding
        places = torch.tensor(self.places)

        def replace(_module: Any, _inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
            return embedded.index_put((torch.zeros_like(places), places), self.vectors)

        hook = getattr(table, "wrapped", table).register_forward_hook(replace)
        try:
            states = text(input_ids=self.ids).last_hidden_state
        finally:
            hook.remove()
        predicted = model.model.diffusion_model(self.noisy, self.timesteps, context=states)
        loss = torch.nn.functional.mse_loss(predicted.float(), self.target)
        loss.backward()
        return float(loss.detach())


if __name__ == "__main__":
    main()
