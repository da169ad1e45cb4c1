"""``evaluate``: the paper's three figures, for pictures that are there or drawn for it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celeb_basis.cli.common import Commands, UsageError, add_command, add_faces, add_model, add_names
from celeb_basis.cli.generate import add_identities, add_sampling, check_sampling
from celeb_basis.cli.progress import Console
from celeb_basis.errors import EvaluationError

if TYPE_CHECKING:
    from celeb_basis.evaluation import ImageToEvaluate
    from celeb_basis.faces.types import Pixels

_ABOUT = """\
Judge generated pictures by the paper's three figures: Identity (cosine of face vectors with the reference photos), Prompt
(CLIP's cosine with the prompt; needs --clip) and Detect (share of pictures with a face). Judges a folder of pictures, or
draws its own from 40 evaluation prompts. Judge with another face pack than the one that was learned with: a network
flatters its own pupils.

examples:
  celeb-basis evaluate pictures/ --reference ada.jpg --faces antelopev2 --clip /models/clip-vit-base-patch32
  celeb-basis evaluate --identity ada --reference ada.jpg --model /models/sd15 --seeds 2 \\
      --output verdict.json --sheet sheet.png"""


def add_parser(commands: Commands) -> None:
    """Add ``evaluate`` to the commands."""
    parser = add_command(commands, "evaluate", "judge pictures by the paper's figures", _ABOUT)
    parser.set_defaults(run=run)
    parser.add_argument("pictures", nargs="?", type=Path, metavar="FOLDER", help="pictures to judge; drawn if left out")
    parser.add_argument(
        "--reference", type=Path, nargs="+", required=True, metavar="PHOTO", help="real photos of the person"
    )
    parser.add_argument(
        "--clip", metavar="SPEC", help="folder of a CLIP of transformers, or open_clip:ARCHITECTURE:WEIGHTS"
    )
    parser.add_argument("--judge-face", choices=("largest", "best"), default="largest", help="face that is compared")
    parser.add_argument("--prompt", metavar="TEXT", help="prompt of pictures whose files do not say it")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the figures, with every picture's")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="write a contact sheet")
    add_faces(parser)
    group = parser.add_argument_group("drawing anew")
    add_identities(group)
    group.add_argument(
        "--kinds", metavar="KIND[,KIND]", help="plain, action, dress, place, style, company; all if left out"
    )
    group.add_argument("--prompts", type=int, metavar="N", help="only the first N prompts")
    group.add_argument("--seeds", type=int, default=1, metavar="N", help="pictures of each prompt")
    group.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the drawn pictures here")
    add_sampling(group)
    add_model(parser, required=False, why="; to draw anew")
    add_names(parser)


def run(arguments: argparse.Namespace, screen: Console) -> int:
    """Do it; answers the exit code."""
    check_sampling(arguments)
    if arguments.pictures is None and (arguments.model is None or len(arguments.identity) != 1):
        raise UsageError(
            "Give a folder of pictures, or --model and one --identity to draw from the evaluation prompts."
        )
    if arguments.seeds < 1 or (arguments.prompts is not None and arguments.prompts < 1):
        raise UsageError("--seeds and --prompts must be at least 1.")

    import numpy as np

    from celeb_basis.cli.common import check_output_file, open_faces
    from celeb_basis.evaluation import contact_sheet, evaluate_images, load_clip, write_result, write_sheet
    from celeb_basis.faces.portraits import choose_face
    from celeb_basis.identities.deletion import GeneratedFiles
    from celeb_basis.photos import open_photo

    check_output_file(arguments.output)
    check_output_file(arguments.sheet)
    photos = {path: open_photo(path) for path in arguments.reference}
    clip = load_clip(arguments.clip) if arguments.clip else None
    if arguments.pictures is not None:
        items = _from_folder(arguments, with_prompt=clip is not None)
    faces = open_faces(arguments, screen)
    vectors = []
    for path, photo in photos.items():
        face = choose_face(faces.detect(photo), None, path.name)
        vectors.append(faces.embed([faces.align(photo, face.landmarks)])[0])
    if arguments.pictures is None:
        items = _drawn(arguments, screen)
    with screen.bar(len(items), "judging", unit="picture") as bar:
        verdict = evaluate_images(
            items,
            np.stack(vectors),
            faces,
            clip,
            face=arguments.judge_face,
            progress=lambda done, _total: bar.update(done - bar.n),
        )
    if arguments.output is not None:
        write_result(arguments.output, verdict)
    if arguments.sheet is not None:
        title = arguments.identity[0] if arguments.identity else str(arguments.pictures)
        write_sheet(arguments.sheet, contact_sheet(items, verdict, reference=next(iter(photos.values())), title=title))
    if arguments.identity:
        written = [path for path in (arguments.output, arguments.sheet) if path is not None]
        if arguments.pictures is None and arguments.keep is not None:
            written += [arguments.keep / item.name for item in items]
        GeneratedFiles(arguments.library).note(written, "evaluation", [_name_of(text) for text in arguments.identity])
    screen.result(verdict.as_dict())
    screen.say(verdict.table())
    for note in verdict.notes:
        screen.note(note)
    return 0


def _name_of(identity: str) -> str:
    """The name that ``--identity`` means; of a file, its stem is the library's name for it."""
    path = Path(identity)
    return path.stem if path.suffix.lower() == ".safetensors" else identity


def _from_folder(arguments: argparse.Namespace, *, with_prompt: bool) -> list[ImageToEvaluate]:
    """The pictures of a folder, with the prompts that their files tell.

    Raises: :class:`EvaluationError` for a folder without pictures, or without the prompts that a CLIP needs.
    """
    from celeb_basis.cli.generate import Drawn, read_parameters
    from celeb_basis.cli.learn import PICTURES
    from celeb_basis.evaluation import ImageToEvaluate
    from celeb_basis.files import explained_os_errors
    from celeb_basis.photos import open_photo

    folder: Path = arguments.pictures
    with explained_os_errors(folder, "list"):
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file())
    if not paths:
        raise EvaluationError(f"There is no picture in {folder}: generate some first.")
    items = []
    for path in paths:
        drawn = read_parameters(path)
        if drawn is None:
            if arguments.prompt is None and with_prompt:
                raise EvaluationError(f"{path.name} does not say its prompt: add --prompt, or leave out --clip.")
            words = tuple(f"<{_name_of(text)}>" for text in arguments.identity)
            drawn = Drawn(arguments.prompt or path.name, 0, words)
        items.append(ImageToEvaluate(open_photo(path), drawn.prompt, drawn.words, drawn.seed, path.name))
    return items


def _drawn(arguments: argparse.Namespace, screen: Console) -> list[ImageToEvaluate]:
    """Pictures of the identity, drawn from the evaluation prompts."""
    import numpy as np

    from celeb_basis.cli.common import check_folder, find_identity, fitted_identity, open_model
    from celeb_basis.cli.generate import next_number, save_picture, words_of
    from celeb_basis.diffusion_model import GenerationRequest
    from celeb_basis.evaluation import ImageToEvaluate

    identity = find_identity(arguments.identity[0], arguments.library)
    word = f"<{identity.name}>"
    prompts = _prompts(arguments, word)
    if arguments.keep is not None:
        check_folder(arguments.keep)
    width, height = check_sampling(arguments)
    model = open_model(arguments, screen)
    identity = fitted_identity(identity, model, arguments, screen)
    items: list[Any] = []
    number = next_number(arguments.keep) if arguments.keep is not None else 1
    with screen.bar(len(prompts) * arguments.seeds, "drawing", unit="picture") as bar:
        for prompt in prompts:
            request = GenerationRequest(
                prompt=prompt,
                placeholder_tokens=words_of([identity]),
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
                    save_picture(arguments.keep / name, image, request, seed, model.info, [identity])
                pixels: Pixels = np.array(image.convert("RGB"), dtype=np.uint8)
                items.append(ImageToEvaluate(pixels, prompt, word, seed, name))
                bar.update()
    return items


def _prompts(arguments: argparse.Namespace, word: str) -> Sequence[str]:
    from celeb_basis.evaluation import EVALUATION_PROMPTS, evaluation_prompts

    kinds = None if arguments.kinds is None else [kind.strip() for kind in arguments.kinds.split(",")]
    if unknown := [kind for kind in kinds or () if kind not in EVALUATION_PROMPTS]:
        raise UsageError(f"--kinds knows no {unknown[0]!r}: choose from {', '.join(EVALUATION_PROMPTS)}.")
    return evaluation_prompts(word, kinds)[: arguments.prompts]
