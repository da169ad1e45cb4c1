"""The gate: does a trained model draw the people and the scenes of its prompts, by judges that had no part in it?

``python -m miniature.training.gate`` draws with the miniature that ships, or with the diffusers folder that it is given, and
prints ``rank1`` by each judge, ``detect`` and ``scene``, each with its limit and ``ok`` or ``short``. The exit code is 1 if one
is short.
With ``--renderer`` in place of a folder the renderer draws people, which is the most that any model can reach; with
``--autoencoder`` beside it, they are encoded and decoded: the most that a denoiser can reach with it. Everybody is drawn, or
with ``--every 3`` every third person, and compared with all. What the judges saw of everybody is kept in the file of
``--references``, which comes with the project: no bank is needed but for the renderer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from celeb_basis.errors import CelebBasisError
from celeb_basis.faces.network import Pixels
from celeb_basis.miniature import shipped_model
from miniature.people3d.casting import Judge
from miniature.training.autoencoder import load_autoencoder
from miniature.training.diffusion import sample
from miniature.training.hardware import half_precision, ready_for_half
from miniature.training.judging import (
    REFERENCES,
    Gallery,
    fill,
    largest_faces,
    read_galleries,
    reference_places,
    references_of,
)
from miniature.training.kept import CLASSIFIER, KEPT, KEPT_REFERENCES
from miniature.training.pictures import decode, encode, save_sheet
from miniature.training.places import face_network
from miniature.training.scene_classifier import PARTS, Part, SceneClassifier, as_input, load_classifier, right
from miniature.world.bank import Bank
from miniature.world.captions import MEDIUM_WORDS, PLACE_WORDS, THING_WORDS
from miniature.world.people import PEOPLE_FILE, read_people
from miniature.world.pool import Sitters
from miniature.world.scenes import MEDIA, PLACES, THINGS, Look, Scene, Shown

RANK1_OF_LEARNING, RANK1, SCENE, DETECT = 0.95, 0.90, 0.95, 0.99
"""Lowest accepted figures: ``rank1`` by the network that learning uses, and by every other."""

STEPS, GUIDANCE, BATCH = 20, 3.0, 16
EVERY, SCENES = 1, 136
"""Which of the people are drawn, and how many scenes: five and a half minutes on two cores that multiply in bfloat16."""
_COLORS = ("white", "grey", "black", "blue", "green", "red", "yellow")
_SHEET_PEOPLE = 24
_SHEET_PROMPTS = ("a photo of {}", "an oil painting of {} on a beach", "a photo of {} wearing a hat")


@dataclass(frozen=True)
class Ask:
    """A prompt, and what its picture must show."""

    prompt: str
    scene: Scene
    part: Part


def asks(names: Sequence[str], count: int) -> list[Ask]:
    """``count`` prompts that go round media, places, things, plain colors and two people."""

    def someone(thing: str = "") -> Shown:
        return Shown(0, 0, 0, Look(0, 0, 0, "neutral", "soft", thing, near=True, seed=0))

    kinds: list[tuple[str, Scene, Part]] = []
    for medium in MEDIA[1:]:
        kinds.append((MEDIUM_WORDS[medium][0], Scene((someone(),), medium=medium), "medium"))
    for place in PLACES:
        kinds.append((f"a photo of {{}} {PLACE_WORDS[place][0]}", Scene((someone(),), backdrop=place), "backdrop"))
    for thing in THINGS:
        kinds.append((f"a photo of {{}} {THING_WORDS[thing][0]}", Scene((someone(thing),)), "thing"))
    for color in _COLORS:
        words = f"a photo of {{}} on a plain {color} background"
        kinds.append((words, Scene((someone(),), backdrop=color), "backdrop"))
    kinds += [("a photo of {} and {}", Scene((someone(), someone())), "people")] * 3
    found = []
    for number in range(count):
        words, scene, part = kinds[number % len(kinds)]
        called = [names[(7 * number + 311 * other) % len(names)] for other in range(words.count("{}"))]
        found.append(Ask(words.format(*called), scene, part))
    return found


class Drawer:
    """Draws with the parts of a pipeline, the same for a seed and a batch; in bfloat16 where that is fast."""

    def __init__(self, pipeline: Any, batch: int = BATCH) -> None:
        self._pipeline, self._batch = pipeline, batch
        for part in (pipeline.unet, pipeline.vae):
            ready_for_half(part, pipeline.unet.device.type).to(memory_format=torch.channels_last)
        self._factor = float(pipeline.vae.config.scaling_factor)
        side = int(pipeline.unet.config.sample_size)
        self._shape = (4, side, side)

    @torch.no_grad()
    def draw(self, prompts: Sequence[str], seed: int, *, steps: int = STEPS, guidance: float = GUIDANCE) -> Pixels:
        """``(N, S, S, 3)`` pictures, one a prompt."""
        unet, device = self._pipeline.unet, self._pipeline.unet.device
        denoise = lambda x, t, c: unet(x.contiguous(memory_format=torch.channels_last), t, c).sample.float()  # noqa: E731
        pictures = []
        for start in range(0, len(prompts), self._batch):
            texts = list(prompts[start : start + self._batch])
            noise = torch.randn(len(texts), *self._shape, generator=torch.Generator().manual_seed(seed + start))
            states, empty = self._encoded(texts), self._encoded([""])
            with half_precision(device.type):
                latents = sample(denoise, states, empty, noise.to(device), steps=steps, guidance=guidance)
                pictures.append(decode(self._pipeline.vae, latents / self._factor))
        return np.concatenate(pictures)

    def _encoded(self, texts: list[str]) -> torch.Tensor:
        ids = self._pipeline.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        hidden: torch.Tensor = self._pipeline.text_encoder(ids.to(self._pipeline.unet.device)).last_hidden_state
        return hidden


def line(name: str, value: float, least: float) -> str:
    """A line in the format of the benchmarks: name, value, limit, and whether it is reached."""
    return f"{name:<100}  {value:>10.3f}  {least:>10.3f}  {'ok' if value >= least else 'short'}"


def people_figures(
    drawer: Drawer | Renderer, galleries: Sequence[Gallery], names: Sequence[str], every: int = 1
) -> Iterator[tuple[str, float, float]]:
    """Names, values and limits of ``rank1`` by each judge and of ``detect``: one plain portrait a name.

    Args:
        drawer: Draws the portraits.
        galleries: Of each judge, with everybody.
        names: Of everybody.
        every: Only every third person is drawn, say, and is compared with all.
    """
    wanted = np.arange(0, len(names), every)
    pictures = list(drawer.draw([f"a photo of {name}" for name in names[::every]], 0))
    found = largest_faces(face_network(), pictures)
    for order, gallery in enumerate(galleries):
        faces = gallery.look(pictures, found)
        yield (
            f"rank1 by {gallery.judge.name}",
            gallery.verdict(faces, wanted).within(1),
            RANK1 if order else RANK1_OF_LEARNING,
        )
    yield "detect", float(np.mean([face is not None for face in found])), DETECT


@torch.no_grad()
def scene_figures(drawer: Drawer, classifier: SceneClassifier, names: Sequence[str], count: int) -> dict[str, float]:
    """Share of pictures that show what was asked for, in all (``scene``) and for each part."""
    asked = asks(names, count)
    logits = classifier(as_input(drawer.draw([ask.prompt for ask in asked], 5000)))
    answers = right(logits, [ask.scene for ask in asked], [ask.part for ask in asked])
    figures = {"scene": float(answers.mean())}
    for part in PARTS:
        rows = [row for row, ask in enumerate(asked) if ask.part == part]
        if rows:
            figures[part] = float(answers[rows].mean())
    return figures


class Renderer:
    """Draws the portraits of a perfect model: those that are not among the references.

    With an ``autoencoder`` they are what is left of them after encoding and decoding, the most that its denoiser can reach.
    """

    def __init__(
        self, sitters: Sitters, names: Sequence[str], numbers: Sequence[int], autoencoder: Any | None = None
    ) -> None:
        self._sitters, self._numbers = sitters, dict(zip(names, numbers, strict=True))
        self._autoencoder = autoencoder

    def draw(self, prompts: Sequence[str], seed: int) -> Pixels:
        """``(N, SIDE, SIDE, 3)`` pictures of the people whom prompts name at their end."""
        rng, pictures = np.random.default_rng(seed), []
        for prompt in prompts:
            number = next(number for name, number in self._numbers.items() if prompt.endswith(name))
            place = reference_places(self._sitters.bank, number)[REFERENCES]
            pictures.append(self._sitters.picture(self._sitters.portrait(number, place), rng)[0])
        drawn = np.stack(pictures)
        if self._autoencoder is None:
            return drawn
        with half_precision():
            return decode(self._autoencoder, encode(self._autoencoder, drawn))


def judges() -> list[Judge]:
    """The network that learning uses, and every other that is installed; what is missing is said."""
    from miniature.face_pack.mobile_face_net import MobileFaceNetJudge
    from miniature.training.dlib_judge import DlibJudge, RecognitionJudge

    found: list[Judge] = [RecognitionJudge(face_network())]
    makers: list[Callable[[], Judge]] = [DlibJudge, MobileFaceNetJudge]
    for make in makers:
        try:
            found.append(make())
        except CelebBasisError as error:
            sys.stderr.write(f"{error}\n")
    return found


def main() -> int:
    """Parse the command line, draw and print; returns 0 if every limit is reached."""
    import diffusers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="diffusers folder; by default the miniature that ships")
    parser.add_argument("--renderer", action="store_true", help="people by the renderer, instead of a folder")
    parser.add_argument("--autoencoder", type=Path, help="with --renderer: encode and decode with this training state")
    parser.add_argument("--bank", type=Path, help="folder of miniature.world.bank")
    parser.add_argument(
        "--references",
        type=Path,
        help="what the judges saw of everybody, written if it is not there; by default what is kept with the project",
    )
    parser.add_argument(
        "--classifier",
        type=Path,
        default=KEPT / CLASSIFIER,
        help="file of miniature.training.scene_classifier; by default the one that is kept with the project",
    )
    parser.add_argument("--people", type=Path, default=PEOPLE_FILE)
    parser.add_argument("--names", type=int, help="so many of the named people; all by default")
    parser.add_argument(
        "--every", type=int, default=EVERY, help="1 to draw all of them, 2 for every second, ... (%(default)s)"
    )
    parser.add_argument("--scenes", type=int, default=SCENES, help="so many prompts of scenes (%(default)s)")
    parser.add_argument("--sheet", type=Path, help="write 24 people by 3 prompts there")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.renderer and arguments.folder:
        parser.error("give a folder, or --renderer")
    people, references = read_people(arguments.people), arguments.references
    names, numbers = people.names[: arguments.names], people.named[: arguments.names]
    galleries = [Gallery(judge, face_network()) for judge in judges()]

    def drawn() -> list[list[Pixels]]:
        if arguments.bank is None:
            parser.error("give --bank, or --references with all of these people in it")
        return references_of(Bank(arguments.bank), numbers)

    if references or not read_galleries(KEPT_REFERENCES, galleries, numbers):
        fill(galleries, numbers, drawn, face_network(), references)
    if arguments.renderer:
        if arguments.bank is None:
            parser.error("give --bank: the renderer draws with it")
        through = ready_for_half(load_autoencoder(arguments.autoencoder)) if arguments.autoencoder else None
        sitters = Sitters(Bank(arguments.bank), numbers)
        return _print_people(Renderer(sitters, names, numbers, through), galleries, names, arguments.every)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        str(arguments.folder or shipped_model()), torch_dtype=torch.float32
    )
    drawer = Drawer(pipeline.to(arguments.device))
    short = _print_people(drawer, galleries, names, arguments.every)
    figures = scene_figures(drawer, load_classifier(arguments.classifier), names, arguments.scenes)
    sys.stdout.write(line("scene", figures["scene"], SCENE) + "\n")
    sys.stdout.writelines(f"  {part}: {figures[part]:.3f}\n" for part in PARTS if part in figures)
    if arguments.sheet:
        prompts = [words.format(name) for name in names[:_SHEET_PEOPLE] for words in _SHEET_PROMPTS]
        save_sheet(arguments.sheet, drawer.draw(prompts, 9), 12)
    return int(bool(short) or figures["scene"] < SCENE)


def _print_people(drawer: Drawer | Renderer, galleries: Sequence[Gallery], names: Sequence[str], every: int) -> int:
    """Print the figures of people; returns 1 if one is short."""
    short = 0
    drawn = len(range(0, len(names), every))
    sys.stdout.write(f"{drawn} people are drawn, and compared with {len(names)}.\n")
    for name, value, least in people_figures(drawer, galleries, names, every):
        sys.stdout.write(line(name, value, least) + "\n")
        sys.stdout.flush()
        short |= value < least
    return int(short)


if __name__ == "__main__":
    raise SystemExit(main())
