"""``generate``: generate images with learned people."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from celeb_basis.cli.progress import Console
from celeb_basis.errors import IdentityError
from celeb_basis.provenance import PEOPLE, marked, parse_people, save_generated_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from celeb_basis.diffusion_model import GenerationRequest, ModelInfo
    from celeb_basis.identities.identity import Identity

_DESCRIPTION = """\
Generate images from a prompt that names learned people by placeholder tokens: <NAME> for each --identity. Every image is a
PNG file whose text chunk "parameters" says how it was generated, with the identities and their content hashes; its metadata
also say that it is an AI-generated picture of these people. Image i has the seed SEED + i, and is the same if generated
alone. An identity that was learned on another checkpoint of the same family is re-expanded for this one.

examples:
  celeb-basis generate "an oil painting of <ada>" --identity ada --model /models/sd15 --output pictures
  celeb-basis generate "<ada> and <bob> on a beach" --identity ada --identity bob.safetensors \\
      --model /models/sd15 --count 4 --seed 7 --output pictures"""

_PLACEHOLDER_TOKEN = re.compile(r"<[^<>]+>")


def add_parser(commands: Commands) -> None:
    """Add ``generate`` to the commands."""
    parser = add_command(commands, "generate", "generate images of learned people", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument("prompt", metavar="PROMPT", help='the prompt, such as "a photo of <ada>"')
    add_identities(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder for the images")
    add_sampling(parser)
    parser.add_argument("--count", type=int, default=1, metavar="N", help="number of images")
    parser.add_argument("--negative", default="", metavar="TEXT", help="negative prompt")
    add_model(parser)
    add_names(parser)


def add_identities(parser: argparse._ActionsContainer) -> None:
    """Add ``--identity`` and ``--library``."""
    parser.add_argument(
        "--identity",
        action="append",
        default=[],
        metavar="NAME|FILE",
        help="a person of the library, or an identity file; repeatable",
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
    return width, height


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command; returns the exit code."""
    width, height = check_sampling(arguments)
    if not 1 <= arguments.count <= 10_000:
        raise UsageError("--count must be from 1 to 10000.")

    from celeb_basis.diffusion_model import GenerationRequest
    from celeb_basis.identities.deletion import GeneratedFiles

    check_folder(arguments.output)
    identities = [find_identity(text, arguments.library) for text in arguments.identity]
    check_placeholder_tokens(arguments.prompt + " " + arguments.negative, identities)
    for identity in identities:
        if f"<{identity.name}>" not in arguments.prompt:
            console.note(
                f"warning: <{identity.name}> is not in the prompt, so {identity.name} will not be in the images"
            )
    model = open_model(arguments, console)
    identities = [fitted_identity(one, model, arguments, console) for one in identities]
    request = GenerationRequest(
        prompt=arguments.prompt,
        negative_prompt=arguments.negative,
        placeholder_tokens=placeholder_tokens(identities),
        count=arguments.count,
        seed=arguments.seed,
        steps=arguments.steps,
        guidance=arguments.guidance,
        width=width,
        height=height,
    )
    files: list[dict[str, Any]] = []
    number = next_number(arguments.output)
    try:
        with console.bar(arguments.count, "generating", unit="image") as bar:
            for index, image in enumerate(model.generate(request)):
                seed = arguments.seed + index
                path = arguments.output / f"{number + index:05d}-{seed}.png"
                save_image(path, image, request, seed, model.info, identities)
                files.append({"file": str(path), "seed": seed})
                bar.update()
    finally:
        generated = GeneratedFiles(arguments.library)
        generated.note([Path(entry["file"]) for entry in files], "picture", [one.name for one in identities])
    hashes = {one.name: one.content_hash for one in identities}
    console.result({"prompt": arguments.prompt, "model": model.info.name, "identities": hashes, "pictures": files})
    for entry in files:
        console.say(entry["file"])
    return 0


def check_placeholder_tokens(prompt: str, identities: Sequence[Identity]) -> None:
    """Check that the identities define every placeholder token of a prompt.

    Raises:
        IdentityError: They do not, or two identities have the same name.
    """
    names = [identity.name for identity in identities]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise IdentityError(f"Two identities are called {twice[0]!r}: import one of them under another name.")
    known = {f"<{name}>" for name in names}
    if unknown := [token for token in _PLACEHOLDER_TOKEN.findall(prompt) if token not in known]:
        raise IdentityError(
            f"The prompt contains {unknown[0]}, but no identity of that name is given: "
            f"add --identity {unknown[0][1:-1]}."
        )


def placeholder_tokens(identities: Sequence[Identity]) -> dict[str, Any]:
    """The identities' token vectors by placeholder token, as a model takes them."""
    return {f"<{identity.name}>": identity.token_vectors() for identity in identities}


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
    identities: Sequence[Identity],
) -> None:
    """Save an image with its generation parameters and provenance marks, whole or not at all."""
    parameters = parameters_text(
        prompt=request.prompt,
        negative=request.negative_prompt,
        steps=request.steps,
        guidance=request.guidance,
        seed=seed,
        size=image.size,
        model=info.name,
        model_sha256=info.sha256,
        identities={one.name: one.content_hash for one in identities},
    )
    tokens = [token for token in (f"<{one.name}>" for one in identities) if token in request.prompt]
    save_generated_image(path, marked(image, tokens), texts={KEY: parameters})


# The text chunk that says how an image was generated, in the WebUI's infotext form, which many tools show

KEY = "parameters"
_NEGATIVE = "Negative prompt: "


@dataclass(frozen=True)
class GenerationParameters:
    """How an image was generated, as far as its file says."""

    prompt: str
    seed: int
    words: tuple[str, ...]
    """Placeholder tokens of the learned people, with their brackets."""


def parameters_text(
    *,
    prompt: str,
    negative: str,
    steps: int,
    guidance: float,
    seed: int,
    size: tuple[int, int],
    model: str,
    model_sha256: str,
    identities: Mapping[str, str],
) -> str:
    """The text for one image. ``identities`` maps names to content hashes."""
    fields: dict[str, Any] = {
        "Steps": steps,
        "CFG scale": f"{guidance:g}",
        "Seed": seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model hash": model_sha256[:10],
        "Model": model,
        PEOPLE: json.dumps(dict(identities), ensure_ascii=False),
    }
    lines = [" ".join(prompt.splitlines())]
    if negative:
        lines.append(_NEGATIVE + " ".join(negative.splitlines()))
    lines.append(", ".join(f"{key}: {_quoted(str(value))}" for key, value in fields.items()))
    return "\n".join(lines)


def read_parameters(path: Path) -> GenerationParameters | None:
    """How the image in the PNG file ``path`` was generated, or ``None`` if the file does not say."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {}).get(KEY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None  # opening it for its pixels raises the error that says what is wrong
    if not isinstance(text, str):
        return None
    *prompt, last = text.split("\n")
    values = _fields(last)
    prompt = prompt[: next((i for i, line in enumerate(prompt) if line.startswith(_NEGATIVE)), len(prompt))]
    try:
        seed = int(values["Seed"])
    except (KeyError, ValueError):
        return None
    return GenerationParameters("\n".join(prompt), seed, tuple(f"<{name}>" for name in _names(values.get(PEOPLE, ""))))


def _names(value: str) -> tuple[str, ...]:
    """Names of the people in an image, as :func:`parameters_text` or the WebUI's extension writes them."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    return tuple(found) if isinstance(found, dict) else tuple(name for name, _ in parse_people(value))


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(char in value for char in ',:"\n') else value


def _fields(line: str) -> dict[str, str]:
    """Parse ``Key: value, Key: "value, with a comma"``."""
    decoder, values, rest = json.JSONDecoder(), {}, line
    while rest:
        key, colon, rest = rest.partition(": ")
        if not colon:
            break
        if rest.startswith('"'):
            try:
                value, end = decoder.raw_decode(rest)
            except ValueError:
                break
            rest = rest[end:].removeprefix(", ")
        else:
            value, _, rest = rest.partition(", ")
        values[key.strip()] = str(value)
    return values
