"""``generate``: pictures of learned people, by prompt."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.cli.common import Commands, UsageError, add_command, add_library, add_model, add_names
from celeb_basis.cli.progress import Console
from celeb_basis.errors import IdentityError
from celeb_basis.provenance import PEOPLE, people_read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from celeb_basis.diffusion_model import GenerationRequest, ModelInfo
    from celeb_basis.identities.identity import Identity


_ABOUT = """\
Draw pictures by prompt, with learned people as words: <NAME> for each --identity. Every picture is a PNG file that says
in its text chunk "parameters" how it was drawn, identities and their content hashes included, and that it is an
AI-generated picture of these people. Picture i is drawn with SEED + i, alone. An identity that was learned on another
checkpoint of the same family is expanded anew for this one.

examples:
  celeb-basis generate "an oil painting of <ada>" --identity ada --model /models/sd15 --output pictures
  celeb-basis generate "<ada> and <bob> on a beach" --identity ada --identity bob.safetensors \\
      --model /models/sd15 --count 4 --seed 7 --output pictures"""

_WORD = re.compile(r"<[^<>]+>")


def add_parser(commands: Commands) -> None:
    """Add ``generate`` to the commands."""
    parser = add_command(commands, "generate", "draw pictures of learned people", _ABOUT)
    parser.set_defaults(run=run)
    parser.add_argument("prompt", metavar="PROMPT", help='what to draw, such as "a photo of <ada>"')
    add_identities(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the pictures go")
    add_sampling(parser)
    parser.add_argument("--count", type=int, default=1, metavar="N", help="pictures to draw")
    parser.add_argument("--negative", default="", metavar="TEXT", help="what the pictures should not show")
    add_model(parser)
    add_names(parser)


def add_identities(parser: argparse._ActionsContainer) -> None:
    """``--identity`` and ``--library``."""
    parser.add_argument(
        "--identity", action="append", default=[], metavar="NAME|FILE", help="of the library, or a file; repeatable"
    )
    add_library(parser)


def add_sampling(parser: argparse._ActionsContainer) -> None:
    """``--seed``, ``--steps``, ``--guidance`` and ``--size``."""
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the first picture")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="sampling steps")
    parser.add_argument("--guidance", type=float, default=7.5, metavar="X", help="classifier-free guidance; 1 is none")
    parser.add_argument("--size", metavar="N|WxH", help="in pixels; the model's own if left out")


def check_sampling(arguments: argparse.Namespace) -> tuple[int | None, int | None]:
    """Width and height of ``--size``.

    Raises: :class:`UsageError` for numbers of no use.
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


def run(arguments: argparse.Namespace, screen: Console) -> int:
    """Do it; answers the exit code."""
    width, height = check_sampling(arguments)
    if not 1 <= arguments.count <= 10_000:
        raise UsageError("--count must be from 1 to 10000.")

    from celeb_basis.cli.common import check_folder, find_identity, fitted_identity, open_model
    from celeb_basis.diffusion_model import GenerationRequest
    from celeb_basis.identities.deletion import GeneratedFiles

    check_folder(arguments.output)
    identities = [find_identity(text, arguments.library) for text in arguments.identity]
    check_words(arguments.prompt + " " + arguments.negative, identities)
    for identity in identities:
        if f"<{identity.name}>" not in arguments.prompt:
            screen.note(f"warning: <{identity.name}> is not in the prompt, so {identity.name} will not be drawn")
    model = open_model(arguments, screen)
    identities = [fitted_identity(one, model, arguments, screen) for one in identities]
    request = GenerationRequest(
        prompt=arguments.prompt,
        negative_prompt=arguments.negative,
        placeholder_tokens=words_of(identities),
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
        with screen.bar(arguments.count, "drawing", unit="picture") as bar:
            for index, image in enumerate(model.generate(request)):
                seed = arguments.seed + index
                path = arguments.output / f"{number + index:05d}-{seed}.png"
                save_picture(path, image, request, seed, model.info, identities)
                files.append({"file": str(path), "seed": seed})
                bar.update()
    finally:
        derived = GeneratedFiles(arguments.library)
        derived.note([Path(entry["file"]) for entry in files], "picture", [one.name for one in identities])
    hashes = {one.name: one.content_hash for one in identities}
    screen.result({"prompt": arguments.prompt, "model": model.info.name, "identities": hashes, "pictures": files})
    for entry in files:
        screen.say(entry["file"])
    return 0


def check_words(prompt: str, identities: Sequence[Identity]) -> None:
    """Raises: :class:`IdentityError` for a ``<word>`` that is nobody's, or two identities of one name."""
    names = [identity.name for identity in identities]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise IdentityError(f"Two identities are called {twice[0]!r}: import one of them under another name.")
    known = {f"<{name}>" for name in names}
    if unknown := [word for word in _WORD.findall(prompt) if word not in known]:
        raise IdentityError(
            f"The prompt says {unknown[0]}, but no identity of that name is given: add --identity {unknown[0][1:-1]}."
        )


def words_of(identities: Sequence[Identity]) -> dict[str, Any]:
    """The identities as a host takes them."""
    return {f"<{identity.name}>": identity.token_vectors() for identity in identities}


def next_number(folder: Path) -> int:
    """A number above those of the pictures that are in ``folder``."""
    taken = [int(found[1]) for path in folder.glob("*.png") if (found := re.match(r"(\d+)-", path.name))]
    return max(taken, default=0) + 1


def save_picture(
    path: Path,
    image: Image.Image,
    request: GenerationRequest,
    seed: int,
    info: ModelInfo,
    identities: Sequence[Identity],
) -> None:
    """Write a picture with the text that says how it was drawn and whom it shows, whole or not at all."""
    from celeb_basis.provenance import marked, save_generated_image

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
    words = [word for word in (f"<{one.name}>" for one in identities) if word in request.prompt]
    save_generated_image(path, marked(image, words), texts={KEY: parameters})


# FOLDED: The text in a generated PNG file that says how it was drawn: the WebUI's form, which many tools show.

KEY = "parameters"
_NEGATIVE = "Negative prompt: "


@dataclass(frozen=True)
class Drawn:
    """How a picture was drawn, as far as its file says."""

    prompt: str
    seed: int
    words: tuple[str, ...]
    """The learned words in the prompt, brackets and all."""


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
    """The text for one picture. ``identities`` maps names to content hashes."""
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


def read_parameters(path: Path) -> Drawn | None:
    """How the PNG file ``path`` was drawn, or ``None`` if it does not say."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {}).get(KEY)
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ):  # whoever opens it for its pixels says what is wrong
        return None
    if not isinstance(text, str):
        return None
    *prompt, last = text.split("\n")
    values = _fields(last)
    prompt = prompt[: next((i for i, line in enumerate(prompt) if line.startswith(_NEGATIVE)), len(prompt))]
    try:
        seed = int(values["Seed"])
    except (KeyError, ValueError):
        return None
    return Drawn("\n".join(prompt), seed, tuple(f"<{name}>" for name in _names(values.get(PEOPLE, ""))))


def _names(value: str) -> tuple[str, ...]:
    """The people of a picture: as :func:`parameters_text` writes them, or as the WebUI's extension does."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    return tuple(found) if isinstance(found, dict) else tuple(name for name, _ in people_read(value))


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(char in value for char in ',:"\n') else value


def _fields(line: str) -> dict[str, str]:
    """``Key: value, Key: "value, with a comma"`` as a table."""
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
