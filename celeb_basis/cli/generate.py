"""``generate``: generate images with learned people."""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.cli.arguments import path_argument, size_step, text_argument
from celeb_basis.cli.common import (
    Commands,
    UsageError,
    add_command,
    add_library,
    add_model,
    add_names,
    check_folder,
    find_identity,
    fitted_identity,
    open_model,
)
from celeb_basis.cli.face_guidance import add_face_guidance, check_face_guidance, with_face_guidance
from celeb_basis.cli.progress import Console
from celeb_basis.provenance import PARAMETERS, marked, parameters_text, save_generated_image

if TYPE_CHECKING:
    from PIL import Image

    from celeb_basis.cli.prompt_people import PromptPeople
    from celeb_basis.diffusion_model import GenerationRequest, ModelInfo

_DESCRIPTION = """\
Generate images from a prompt that names learned people by placeholder tokens: <NAME> for everyone in the library, and for
each identity file of --identity. Prompts are read as in the WebUI: (word:1.2), (word), [word] and <NAME:0.8> set weights,
BREAK begins a new part, and no prompt is too long. Every image is a PNG file whose text chunk "parameters" says how it was
generated, with the identities and their content hashes, in the WebUI's form; its metadata also say that it is an
AI-generated picture of these people. Image i has the seed SEED + i, and is the same if generated alone. An identity that
was learned on another checkpoint of the same family is re-expanded for this one.

examples:
  celeb-basis generate "an oil painting of <ada>" --model /models/sd15 --output pictures
  celeb-basis generate "<ada:0.8> and <bob> on a beach" --identity bob.safetensors \\
      --model /models/sd15 --count 4 --seed 7 --output pictures
  celeb-basis generate "<ada> and <bob> baking a cake" --place ada=right --place bob=0,0.1,0.5,1 \\
      --model /models/sd15 --output pictures"""


def add_parser(commands: Commands) -> None:
    """Add ``generate`` to the commands."""
    parser = add_command(commands, "generate", "generate images of learned people", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument("prompt", type=text_argument, metavar="PROMPT", help='the prompt, such as "a photo of <ada>"')
    add_identities(parser)
    parser.add_argument("--output", type=path_argument, required=True, metavar="FOLDER", help="folder for the images")
    add_sampling(parser)
    parser.add_argument(
        "--sampler",
        choices=("ddim", "dpm++", "rbf"),
        default="ddim",
        help="ddim: the paper's; dpm++: DPM-Solver++ (2M); rbf: RBF-Solver; the last two need fewer steps, such as 20",
    )
    parser.add_argument("--count", type=int, default=1, metavar="N", help="number of images")
    parser.add_argument("--negative", type=text_argument, default="", metavar="TEXT", help="negative prompt")
    _add_places(parser)
    add_face_guidance(parser)
    add_model(parser)
    add_names(parser)


def _add_places(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("places of people")
    group.add_argument(
        "--place",
        action="append",
        default=[],
        type=text_argument,
        metavar="NAME=PLACE",
        help="where a person of the prompt is: left, right, middle, top, bottom, or a box X0,Y0,X1,Y1 in shares of the "
        "image; repeatable. Each person costs one more evaluation of the denoiser per step",
    )
    group.add_argument(
        "--places-until",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="share of the steps, from the first on, in which places act",
    )


def add_identities(parser: argparse._ActionsContainer) -> None:
    """Add ``--identity`` and ``--library``."""
    parser.add_argument(
        "--identity",
        action="append",
        default=[],
        metavar="NAME|FILE",
        help="an identity file, or a person of the library; repeatable",
    )
    add_library(parser)


def add_sampling(parser: argparse._ActionsContainer) -> None:
    """Add ``--seed``, ``--steps``, ``--guidance`` and ``--size``."""
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the first image")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="sampling steps")
    parser.add_argument("--guidance", type=float, default=7.5, metavar="X", help="CFG scale; 1 is no guidance")
    parser.add_argument("--size", metavar="N|WxH", help="size in pixels; by default the model's own")


def check_sampling(arguments: argparse.Namespace) -> tuple[int | None, int | None]:
    """Check the sampling options.

    Returns:
        Width and height of ``--size``, or two ``None`` without it.

    Raises:
        UsageError: A value is out of range.
    """
    if not 0 <= arguments.seed < 2**32:
        raise UsageError("--seed must be from 0 to 4294967295.")
    if not 1 <= arguments.steps <= 1000:
        raise UsageError("--steps must be from 1 to 1000.")
    if not 0 <= arguments.guidance <= 100:
        raise UsageError("--guidance must be from 0 to 100.")
    if arguments.size is None:
        return None, None
    found = re.fullmatch(r"(\d{1,4})(?:[xX×](\d{1,4}))?", arguments.size)
    if not found:
        raise UsageError(f"--size {arguments.size!r} is not understood: write 512 or 512x768.")
    width, height = int(found[1]), int(found[2] or found[1])
    if not 16 <= min(width, height) <= max(width, height) <= 4096:
        raise UsageError("--size must be from 16 to 4096 pixels.")
    step = size_step(arguments.model)
    if width % step or height % step:
        nearest = "x".join(str(max(step, round(side / step) * step)) for side in (width, height))
        raise UsageError(
            f"--size {arguments.size} does not fit: the sides of this model's images are multiples of {step}, "
            f"such as {nearest}."
        )
    return width, height


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command; returns the exit code."""
    width, height = check_sampling(arguments)
    if not 1 <= arguments.count <= 10_000:
        raise UsageError("--count must be from 1 to 10000.")
    check_face_guidance(arguments)

    from celeb_basis.cli.prompt_people import find_people
    from celeb_basis.diffusion_model import GenerationRequest
    from celeb_basis.identities.generated_files import GeneratedFiles

    begun = time.time()
    check_folder(arguments.output)
    given = [find_identity(text, arguments.library) for text in arguments.identity]
    people = find_people((arguments.prompt, arguments.negative), given, arguments.library, console)
    in_prompt = [one.name for one in people.named_in(arguments.prompt)]
    for name in dict.fromkeys(one.name for one in (*given, *people.identities)):
        if name not in in_prompt:
            console.note(f"warning: <{name}> is not in the prompt, so {name} will not be in the images")
    model = open_model(arguments, console)
    fitted = people.fitted(lambda identity: fitted_identity(identity, model, arguments, console))
    request = GenerationRequest(
        prompt=arguments.prompt,
        negative_prompt=arguments.negative,
        placeholder_tokens=fitted.placeholder_tokens(),
        count=arguments.count,
        seed=arguments.seed,
        steps=arguments.steps,
        guidance=arguments.guidance,
        sampler=arguments.sampler,
        width=width,
        height=height,
    )
    request, placed = with_places(request, arguments, model.info, console)
    request, guided = with_face_guidance(request, arguments, people.named_in(arguments.prompt), console)
    files: list[dict[str, Any]] = []
    number = next_number(arguments.output)
    try:
        with console.bar(arguments.count, "generating", unit="image") as bar:
            for index, image in enumerate(model.generate(request)):
                seed = arguments.seed + index
                path = arguments.output / f"{number + index:05d}-{seed}.png"
                save_image(path, image, request, seed, model.info, people, placed | guided)
                files.append({"file": str(path), "seed": seed})
                bar.update()
    finally:
        written, shown = [Path(entry["file"]) for entry in files], [one.name for one in people.identities]
        GeneratedFiles(arguments.library).note(written, "picture", shown, begun=begun)
    hashes = {one.name: one.content_hash for one in fitted.identities}
    console.result({"prompt": arguments.prompt, "model": model.info.name, "identities": hashes, "pictures": files})
    for entry in files:
        console.say(entry["file"])
    return 0


def with_places(
    request: GenerationRequest, arguments: argparse.Namespace, info: ModelInfo, console: Console
) -> tuple[GenerationRequest, dict[str, str]]:
    """The request with the regions of ``--place``, and their parameters.

    Where the places cannot be used, the reason is shown and the request stays as it is.
    """
    from celeb_basis.errors import PlacesError
    from celeb_basis.prompts.places import parse_places, regions_of

    try:
        places = parse_places("; ".join(arguments.place), arguments.places_until)
        if places is None:
            return request, {}
        places.check_size(request.width or info.resolution, request.height or info.resolution)
        regions = regions_of(request.prompt, places)
    except PlacesError as error:
        console.note(f"warning: {error} The images are generated without places.")
        return request, {}
    return replace(request, regions=regions, regions_until=places.until), places.parameters()


def next_number(folder: Path) -> int:
    """A number above those of the images in ``folder``."""
    taken = [int(found[1]) for path in folder.glob("*.png") if (found := re.match(r"(\d+)-", path.name))]
    return max(taken, default=0) + 1


def save_image(
    path: Path,
    image: Image.Image,
    request: GenerationRequest,
    seed: int,
    info: ModelInfo,
    people: PromptPeople,
    more: dict[str, str] | None = None,
) -> None:
    """Save an image with its generation parameters and provenance marks, whole or not at all.

    The hashes are those of the identity files, as in the WebUI's images, whatever checkpoint the people are fitted to.
    """
    parameters = parameters_text(
        prompt=request.prompt,
        negative=request.negative_prompt,
        steps=request.steps,
        guidance=request.guidance,
        sampler=request.sampler,
        seed=seed,
        size=image.size,
        model=info.name,
        model_sha256=info.sha256,
        identities={one.name: one.content_hash for one in people.identities},
        more=more,
    )
    tokens = [f"<{one.name}>" for one in people.named_in(request.prompt)]
    save_generated_image(path, marked(image, tokens), texts={PARAMETERS: parameters})
