"""``evaluate``: measure the paper's metrics on existing or newly generated images."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.cli.arguments import PICTURES, name_argument, path_argument, text_argument
from celeb_basis.cli.common import (
    Commands,
    UsageError,
    add_command,
    add_faces,
    add_model,
    add_names,
    check_folder,
    check_output_file,
    find_identity,
    fitted_identity,
    open_faces,
    open_model,
)
from celeb_basis.cli.generate import (
    add_identities,
    add_sampling,
    check_sampling,
    next_number,
    save_image,
)
from celeb_basis.cli.progress import Console
from celeb_basis.errors import EvaluationError
from celeb_basis.files import explained_os_errors
from celeb_basis.provenance import GenerationParameters, read_parameters
from celeb_basis.settings import EvaluationDefaults

if TYPE_CHECKING:
    from celeb_basis.evaluation import ImageToEvaluate
    from celeb_basis.faces.network import Pixels

_DESCRIPTION = """\
Evaluate generated images by the paper's three metrics: Identity (cosine similarity of face vectors with the reference
photos), Prompt (CLIP's cosine similarity with the prompt; needs --clip) and Detect (share of images with a face). Evaluates
a folder of images, or generates its own from 40 evaluation prompts. Use another face pack than the one that was used for
training: a network rates what was learned with it too well.

examples:
  celeb-basis evaluate pictures/ --reference ada.jpg --faces antelopev2 --clip /models/clip-vit-base-patch32
  celeb-basis evaluate --identity ada --reference ada.jpg --model /models/sd15 --seeds 2 \\
      --output verdict.json --sheet sheet.png"""


def add_parser(commands: Commands) -> None:
    """Add ``evaluate`` to the commands."""
    parser = add_command(commands, "evaluate", "evaluate images by the paper's metrics", _DESCRIPTION)
    parser.set_defaults(run=run)
    parser.add_argument(
        "pictures",
        nargs="?",
        type=path_argument,
        metavar="FOLDER",
        help="images to evaluate; without it, they are generated",
    )
    parser.add_argument(
        "--reference",
        type=path_argument,
        nargs="+",
        metavar="PHOTO",
        help="real photos of the person; without them, the picture in the file of --identity (of an invented person, that of "
        "its sheet)",
    )
    parser.add_argument(
        "--clip", metavar="SPEC", help="folder of a transformers CLIP model, or open_clip:ARCHITECTURE:WEIGHTS"
    )
    parser.add_argument(
        "--judge-face", choices=("largest", "best"), default="largest", help="which face of an image to compare"
    )
    parser.add_argument(
        "--prompt", type=text_argument, metavar="TEXT", help="prompt of the images whose files do not say it"
    )
    parser.add_argument(
        "--output", type=path_argument, metavar="FILE.json", help="write the metrics, with every image's scores"
    )
    parser.add_argument("--sheet", type=path_argument, metavar="FILE.png", help="write a contact sheet")
    add_faces(parser)
    group = parser.add_argument_group("generating the images")
    add_identities(group)
    group.add_argument(
        "--kinds",
        metavar="KIND[,KIND]",
        help="kinds of prompts: plain, action, dress, place, style, company; all by default",
    )
    group.add_argument(
        "--prompts",
        type=int,
        default=EvaluationDefaults.prompts,
        metavar="N",
        help=f"only the first N prompts, by default {EvaluationDefaults.prompts}; 0 takes all",
    )
    group.add_argument("--seeds", type=int, default=EvaluationDefaults.seeds, metavar="N", help="images per prompt")
    group.add_argument("--keep", type=path_argument, metavar="FOLDER", help="save the generated images here")
    add_sampling(group)
    parser.set_defaults(steps=EvaluationDefaults.steps, guidance=EvaluationDefaults.guidance)
    add_model(parser, required=False, why="; needed to generate images")
    add_names(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command; returns the exit code."""
    check_sampling(arguments)
    if arguments.pictures is None and (arguments.model is None or len(arguments.identity) != 1):
        raise UsageError(
            "Give a folder of images, or --model and one --identity to generate them from the evaluation prompts."
        )
    if arguments.seeds < 1 or arguments.prompts < 0:
        raise UsageError("--seeds must be at least 1, and --prompts at least 0, which takes all.")

    import numpy as np

    from celeb_basis.evaluation import contact_sheet, evaluate_images, write_result, write_sheet
    from celeb_basis.evaluation.clip import load_clip
    from celeb_basis.faces.face_search import find_faces
    from celeb_basis.identities.generated_files import GeneratedFiles
    from celeb_basis.photos import open_photo

    begun = time.time()
    check_output_file(arguments.output)
    check_output_file(arguments.sheet)
    if arguments.keep is not None:
        check_folder(arguments.keep)
    photos = {str(path): open_photo(path) for path in arguments.reference or ()} or _picture_of(arguments)
    clip = load_clip(arguments.clip) if arguments.clip else None
    if arguments.pictures is not None:
        items = _from_folder(arguments, with_prompt=clip is not None)
    faces = open_faces(arguments, console)
    vectors = []
    for name, photo in photos.items():
        search = find_faces(photo, faces)
        vectors.append(search.embed(search.choose(None, Path(name).name), faces)[1])
    if arguments.pictures is None:
        items = _generate(arguments, console)
    with console.bar(len(items), "evaluating", unit="image") as bar:
        evaluation = evaluate_images(
            items,
            np.stack(vectors),
            faces,
            clip,
            face=arguments.judge_face,
            progress=lambda done, _total: bar.update(done - bar.n),
        )
    if arguments.output is not None:
        write_result(arguments.output, evaluation)
    if arguments.sheet is not None:
        title = arguments.identity[0] if arguments.identity else str(arguments.pictures)
        write_sheet(
            arguments.sheet, contact_sheet(items, evaluation, reference=next(iter(photos.values())), title=title)
        )
    # Sheet and figures are about the person of the photo: who that is, the images themselves may say.
    if shown := _people_of(arguments, items):
        written = [path for path in (arguments.output, arguments.sheet) if path is not None]
        if arguments.pictures is None and arguments.keep is not None:
            written += [arguments.keep / item.name for item in items]
        GeneratedFiles(arguments.library).note(written, "evaluation", shown, begun=begun)
    console.result(evaluation.as_dict())
    console.say(evaluation.table())
    for note in evaluation.notes:
        console.note(note)
    return 0


def _picture_of(arguments: argparse.Namespace) -> dict[str, Pixels]:
    """The picture in the identity's file, in place of photos.

    Raises:
        UsageError: There is not one identity.
        EvaluationError: Its file has no picture.
    """
    from celeb_basis.photos import open_photo

    if len(arguments.identity) != 1:
        raise UsageError("Give --reference, photos of the person, or one --identity with a picture in its file.")
    identity = find_identity(arguments.identity[0], arguments.library)
    if (picture := identity.metadata.thumbnail) is None:
        raise EvaluationError(
            f"{identity.name!r} holds no picture to compare with: give --reference, a photo of the person."
        )
    return {"the picture in its file": open_photo(picture, name="the picture in its file")}


def _people_of(arguments: argparse.Namespace, items: Sequence[ImageToEvaluate]) -> list[str]:
    """Names of the people whom an evaluation is about: those of ``--identity``, and those in the images' parameters."""
    from celeb_basis.identities.library import Library

    named = [_name_of(text) for text in arguments.identity]
    library = Library(arguments.library)
    for item in items:
        names = [word.strip("<>") for word in ((item.word,) if isinstance(item.word, str) else item.word)]
        if arguments.pictures is not None:
            with contextlib.suppress(OSError):  # the image may be older than the name that the person has now
                when = (arguments.pictures / item.name).stat().st_mtime
                names = [library.name_now(name, when) for name in names]
        named += names
    return list(dict.fromkeys(named))


def _name_of(identity: str) -> str:
    """The name that ``--identity`` refers to; an identity file is named after its identity."""
    path = Path(identity)
    return path.stem if path.suffix.lower() == ".safetensors" else name_argument(identity)


def _from_folder(arguments: argparse.Namespace, *, with_prompt: bool) -> list[ImageToEvaluate]:
    """Load the images of a folder, with the prompts in their files.

    Raises:
        EvaluationError: The folder has no images, or one of them lacks the prompt that CLIP needs.
    """
    from celeb_basis.evaluation import ImageToEvaluate
    from celeb_basis.photos import open_photo

    folder: Path = arguments.pictures
    with explained_os_errors(folder, "list"):
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file())
    if not paths:
        raise EvaluationError(f"There is no picture in {folder}: generate some first.")
    items = []
    for path in paths:
        parameters = read_parameters(path)
        if parameters is None:
            if arguments.prompt is None and with_prompt:
                raise EvaluationError(f"{path.name} does not say its prompt: add --prompt, or leave out --clip.")
            tokens = tuple(f"<{_name_of(text)}>" for text in arguments.identity)
            parameters = GenerationParameters(arguments.prompt or path.name, 0, tokens)
        items.append(ImageToEvaluate(open_photo(path), parameters.prompt, parameters.words, parameters.seed, path.name))
    return items


def _generate(arguments: argparse.Namespace, console: Console) -> list[ImageToEvaluate]:
    """Generate images of the identity from the evaluation prompts."""
    import numpy as np

    from celeb_basis.cli.prompt_people import PromptPeople
    from celeb_basis.diffusion_model import GenerationRequest
    from celeb_basis.evaluation import ImageToEvaluate

    identity = find_identity(arguments.identity[0], arguments.library)
    token = f"<{identity.name}>"
    prompts = _prompts(arguments, token)
    width, height = check_sampling(arguments)
    model = open_model(arguments, console)
    people = PromptPeople(((identity.name, identity),))
    fitted = people.fitted(lambda one: fitted_identity(one, model, arguments, console))
    items: list[Any] = []
    number = next_number(arguments.keep) if arguments.keep is not None else 1
    with console.bar(len(prompts) * arguments.seeds, "generating", unit="image") as bar:
        for prompt in prompts:
            request = GenerationRequest(
                prompt=prompt,
                placeholder_tokens=fitted.placeholder_tokens(),
                count=arguments.seeds,
                seed=arguments.seed,
                steps=arguments.steps,
                guidance=arguments.guidance,
                width=width,
                height=height,
            )
            for index, image in enumerate(model.generate(request)):
                seed = arguments.seed + index
                name = f"{number + len(items):05d}-{seed}.png"
                if arguments.keep is not None:
                    save_image(arguments.keep / name, image, request, seed, model.info, people)
                pixels: Pixels = np.array(image.convert("RGB"), dtype=np.uint8)
                items.append(ImageToEvaluate(pixels, prompt, token, seed, name))
                bar.update()
    return items


def _prompts(arguments: argparse.Namespace, token: str) -> Sequence[str]:
    from celeb_basis.evaluation import EVALUATION_PROMPTS, evaluation_prompts

    kinds = None if arguments.kinds is None else [kind.strip() for kind in arguments.kinds.split(",")]
    if unknown := [kind for kind in kinds or () if kind not in EVALUATION_PROMPTS]:
        raise UsageError(f"--kinds does not know {unknown[0]!r}: choose from {', '.join(EVALUATION_PROMPTS)}.")
    return evaluation_prompts(token, kinds)[: arguments.prompts or None]
