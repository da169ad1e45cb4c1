"""Run inside a WebUI: pictures with people in their parameters, warnings on paste, and the page of cards."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from support.people import PNG, person
from support.webui_inside import parsed_arguments, start
from support.webui_people import add_people

from celeb_basis.identities.identity import load_without_thumbnail
from celeb_basis.identities.library import Library

# Not from support.webui, which asks for pytest: the WebUI's own Python runs this.
ROOT = Path(__file__).resolve().parents[2]

PEOPLE = ("person1", "person10", "Doe, Jane", "Zoë", "a++ & b's")
MANY = 1000
SCRIPT = "<script>alert(1)</script>"


def main() -> None:
    """Print what every scenario saw."""
    options = parsed_arguments()
    extensions = options.data / "extensions"
    extensions.mkdir(parents=True)
    (extensions / "celeb-basis").symlink_to(ROOT, target_is_directory=True)
    start("sd1", options.data)
    from modules import script_callbacks

    from celeb_basis.hosts.a1111.tokens import installed

    seen: dict[str, Any] = {}
    with contextlib.redirect_stdout(sys.stderr):
        script_callbacks.before_ui_callback()
        tokens = installed()
        assert tokens is not None
        library = Library(tokens.registry.folder)
        seen["nobody"] = page().create_html("txt2img")
        checkpoint = tokens.checkpoint()
        for one in add_people(library.folder, PEOPLE, checkpoint):
            if one.name != "person10":
                library.add(replace(one, metadata=replace(one.metadata, thumbnail=PNG)), replace=True)
        library.add(person("larger", "sdxl"))
        library.add(person("other list"))
        (library.folder / "broken.safetensors").write_bytes(b"no identity")
        (library.folder / "<b>bold<b>.safetensors").write_bytes(b"no identity")
        seen["hashes"] = {name: library.load(name).content_hash for name in (*PEOPLE, "larger")}
        seen["pictures"] = pictures()
        seen["pasted"] = pasted(seen["hashes"])
        seen["cards"] = cards(library)
        seen["hostile"] = hostile(library)
        seen["many"] = many(library)
    sys.stdout.write(json.dumps(seen) + "\n")


def service() -> Any:
    from celeb_basis.webui.extension import service

    return service()


def page() -> Any:
    from modules import ui_extra_networks

    return next(one for one in ui_extra_networks.extra_pages if one.title == "Celeb Basis")


def drawn(prompt: Any, **options: Any) -> Any:
    """What the host answers, its scripts those of this extension, and the file that it saved."""
    from modules import processing, scripts, shared

    runner = scripts.ScriptRunner()
    runner.initialize_scripts(False)
    runner.alwayson_scripts = [one for one in runner.alwayson_scripts if one.title() == "Celeb Basis infotext"]
    assert len(runner.alwayson_scripts) == 1
    runner.alwayson_scripts[0].args_from = runner.alwayson_scripts[0].args_to = 0
    p = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model,
        prompt=prompt,
        steps=1,
        width=64,
        height=64,
        sampler_name="Euler",
        outpath_samples=str(Path(shared.cmd_opts.data_dir) / "pictures"),
        outpath_grids=str(Path(shared.cmd_opts.data_dir) / "pictures"),
        **options,
    )
    p.scripts, p.script_args = runner, []
    with contextlib.closing(p):
        return processing.process_images(p)


def of_file(result: Any) -> dict[str, Any]:
    """What the host's own code reads of the picture's file."""
    from modules import images, infotext_utils

    text, _ = images.read_info_from_image(images.read(result.images[0].already_saved_as))
    parsed: dict[str, Any] = infotext_utils.parse_generation_parameters(text)
    return parsed


def pictures() -> dict[str, Any]:
    from modules import shared
    from modules.styles import PromptStyle

    shared.prompt_styles.styles["a person"] = PromptStyle("a person", "{prompt} with <person10>", "<Zoë>", None)
    prompt = "photo of <person1>'s hat, (<Doe, Jane:0.8>:1.2),\n<nobody> and <larger>"
    second: dict[str, Any] = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}
    batch = drawn(["<person1>", "tree", "<Zoë> AND <a++ & b's>"], batch_size=2, n_iter=2, negative_prompt="")
    jpeg = shared.opts.samples_format
    shared.opts.data["samples_format"] = "jpg"
    in_jpeg = of_file(drawn("<Zoë>, <Doe, Jane>"))
    shared.opts.data["samples_format"] = jpeg
    return {
        "typed": [prompt, "<Zoë>"],
        "parsed": of_file(drawn(prompt, negative_prompt="<Zoë>")),
        "styled": of_file(drawn("tree", styles=["a person"])),
        "hires": of_file(drawn("tree", hr_prompt="<person1>, tree", **second)),
        "nobody": of_file(drawn("person1")),
        "batch": batch.infotexts[-3:],
        "jpeg": in_jpeg,
    }


def pasted(hashes: dict[str, str]) -> dict[str, Any]:
    """The host's own way from a text in the prompt to fields and warnings."""
    import gradio
    from modules import infotext_utils, script_callbacks

    said: list[str] = []
    warning, gradio.Warning = gradio.Warning, said.append
    answers: dict[str, Any] = {}
    for case, people in {
        "same": f"person1: {hashes['person1']}, Doe, Jane: {hashes['Doe, Jane']}",
        "another": "person1: 3da88c0dcb81",
        "missing": "ada: 3da88c0dcb81",
    }.items():
        text = (
            "<person1>, (<Doe, Jane>:1.1), <ada:0.8>\nNegative prompt: <Zoë>.\nSteps: 2, Sampler: Euler, Seed: 5, "
            f"Size: 64x64, Celeb Basis: {json.dumps(people)}, Version: 1.10.1"
        )
        parsed = infotext_utils.parse_generation_parameters(text)
        script_callbacks.infotext_pasted_callback(text, parsed)
        answers[case] = {"prompt": parsed["Prompt"], "negative": parsed["Negative prompt"], "said": list(said)}
        said.clear()
    gradio.Warning = warning
    return answers


def cards(library: Library) -> dict[str, Any]:
    from modules import ui_extra_networks

    one = page()
    shown = one.create_html("txt2img")
    answers: dict[str, Any] = {"html": shown, "items": {name: card(item) for name, item in one.items.items()}}
    covers = {name: ui_extra_networks.fetch_cover_images(one.name, name, 0) for name in ("person1", "Zoë")}
    answers["covers"] = {name: [cover.media_type, len(cover.body)] for name, cover in covers.items()}
    answers["metadata"] = json.loads(ui_extra_networks.get_metadata(one.name, "person1").body)["metadata"]
    answers["people"] = {entry.name: entry.reason for entry in service().people.entries()}
    answers["unavailable"] = sorted(service().workspace.registry._unavailable)
    answers["single"] = json.loads(ui_extra_networks.get_single_card(one.name, "txt2img", "person1").body)["html"]
    answers["no_cover"] = refused(lambda: ui_extra_networks.fetch_cover_images(one.name, "person10", 0))
    outside = library.folder.parent / "outside.png"
    outside.write_bytes(PNG)
    answers["outside"] = refused(lambda: ui_extra_networks.fetch_file(str(outside)))
    library.rename("person10", "grandma")
    library.delete("Zoë")
    one.refresh()
    one.create_html("img2img")
    answers["refreshed"] = list(one.items)
    return answers


def hostile(library: Library) -> dict[str, str]:
    """The page in both of its styles, with a person from a stranger's file, and with descriptions that are HTML."""
    from modules import shared

    library.add(person("stranger", "sd2"))
    stranger = library.load("stranger")
    about = replace(stranger.metadata, base_model=f"{SCRIPT} '\"", learned_on=SCRIPT, notes=SCRIPT)
    library.add(replace(stranger, metadata=about), replace=True)
    (library.folder / "stranger.json").write_text("[]")  # not what the host expects there
    options, pages = shared.opts.data, {}
    for style in ("Dirs", "Tree"):
        for is_html in (False, True):
            options["extra_networks_tree_view_style"] = style
            options["extra_networks_card_description_is_html"] = is_html
            pages[f"{style} {is_html}"] = page().create_html("txt2img")
    options["extra_networks_tree_view_style"], options["extra_networks_card_description_is_html"] = "Dirs", False
    return pages


def card(item: dict[str, Any]) -> dict[str, Any]:
    return {key: item[key] for key in ("description", "preview", "search_terms", "unavailable", "filename")}


def refused(call: Any) -> str:
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return ""


def many(library: Library) -> dict[str, Any]:
    """How many identity files a page of a thousand people reads, at first and again."""
    data = library.path_of("person1").read_bytes()
    for number in range(MANY):
        (library.folder / f"many{number}.safetensors").write_bytes(data)
    from celeb_basis.webui import cards

    read: list[Path] = []
    with mock.patch.object(
        cards, "load_without_thumbnail", lambda path: (read.append(path), load_without_thumbnail(path))[1]
    ):
        one = page()
        one.create_html("txt2img")
        first = len(read)
        one.create_html("txt2img")
        return {"cards": len(one.items), "first": first, "again": len(read) - first}


if __name__ == "__main__":
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    main()
