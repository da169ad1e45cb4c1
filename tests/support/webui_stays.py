"""Run inside a WebUI: what placeholder tokens survive, their messages where they cannot be used, and uninstalling them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.webui_inside import parsed_arguments, start
from support.webui_people import COMPONENTS, add_people

from celeb_basis.basis import BasisOptions, build_bases
from celeb_basis.diffusion_model import ModelInfo, TextEncoder
from celeb_basis.hosts.a1111 import tokens as tokens_host
from celeb_basis.hosts.a1111.tokens import A1111Tokens
from celeb_basis.identities.expand import expand_identity
from celeb_basis.identities.library import Library
from celeb_basis.names.lists import shipped_names
from celeb_basis.prompts.registry import Checkpoint, Registry

PLACES = (
    ("sd_hijack_clip", "TextConditionalModel", "tokenize_line"),
    ("sd_hijack_clip_old", None, "process_text_old"),
    ("extra_networks", None, "parse_prompt"),
    ("prompt_parser", None, "get_learned_conditioning_prompt_schedules"),
    ("processing", "StableDiffusionProcessing", "cached_params"),
)


def main() -> None:
    """Print what each scenario found."""
    options = parsed_arguments()
    start("sd1", options.data)
    folder = options.data / "people"
    checkpoint = tokens_host.CheckpointTracker()()
    assert checkpoint is not None
    add_people(folder, ("person1", "person10"), checkpoint)
    before = functions()
    tokens: A1111Tokens = tokens_host.install(Registry(folder))
    seen: dict[str, Any] = {}
    for scenario in (reload_ui, embeddings, counter, emphasis_settings, drawing, changed_content, checkpoints):
        seen[scenario.__name__] = scenario(tokens, options.data)
    tokens_host.uninstall()
    tokens_host.uninstall()
    seen["host_as_before"] = functions() == before
    sys.stdout.write(json.dumps(seen) + "\n")


def functions() -> list[Any]:
    """The host's functions that are wrapped while placeholder tokens are installed."""
    import modules.sd_hijack_clip_old  # noqa: F401

    found = []
    for module, kind, name in PLACES:
        place = sys.modules[f"modules.{module}"]
        found.append(vars(getattr(place, kind) if kind else place)[name])
    return found


def encoded(text: str) -> Any:
    from modules import prompt_parser, shared

    with torch.no_grad():
        found = shared.sd_model.get_learned_conditioning(prompt_parser.SdConditioning([text]))
    return found["crossattn"] if isinstance(found, dict) else found


def marks(text: str) -> list[tuple[int, str]]:
    """The positions at which the host inserts vectors, with the names."""
    from modules import shared

    encoder = next(part for part in shared.sd_model.modules() if hasattr(part, "tokenize_line"))
    chunks, _ = encoder.tokenize_line(text)
    return [(mark.offset, mark.embedding.name) for chunk in chunks for mark in chunk.fixes]


def reload_ui(tokens: A1111Tokens, data: Path) -> dict[str, Any]:
    """The script runs again while the package stays loaded."""
    wrapped, expected = functions(), encoded("a <person1>")
    again: A1111Tokens = tokens_host.install(Registry(data / "people"))
    return {
        "one_registry": again is tokens and tokens_host.installed() is tokens,
        "wrapped_once": functions() == wrapped,
        "same": torch.equal(encoded("a <person1>"), expected),
    }


def embeddings(_tokens: A1111Tokens, _data: Path) -> dict[str, Any]:
    """The embeddings folder changes, and its refresh button is pressed."""
    from modules import sd_hijack, shared

    database, expected = sd_hijack.model_hijack.embedding_db, encoded("a <person1>")
    os.makedirs(shared.cmd_opts.embeddings_dir, exist_ok=True)
    (Path(shared.cmd_opts.embeddings_dir) / f"{time.time_ns()}.txt").write_text("new")
    database.load_textual_inversion_embeddings()
    touched = torch.equal(encoded("a <person1>"), expected)
    database.load_textual_inversion_embeddings(force_reload=True)
    return {
        "folder_touched": touched,
        "refreshed": torch.equal(encoded("a <person1>"), expected),
        "not_in_the_hosts_lists": not any("person" in name for name in database.word_embeddings),
    }


def counter(_tokens: A1111Tokens, _data: Path) -> dict[str, Any]:
    """The page's token counter."""
    from modules import ui

    count: Callable[[str], str] = lambda text: ui.update_token_counter(text, 20, [])  # noqa: E731
    return {
        "plain": count("a hat, smiling"),
        "person": count("a <person1>, smiling"),
        "weighted": count("a <person1:0.8>, smiling"),
        "nobody": count("a <person12>, smiling"),
    }


def emphasis_settings(_tokens: A1111Tokens, _data: Path) -> dict[str, Any]:
    """Emphasis disabled, and its old implementation."""
    from modules import shared

    text = "a <person1>, <person10:0.8>'s hat"
    usual = marks(text)
    shared.opts.data["emphasis"] = "None"
    try:
        none = marks(text)
    finally:
        shared.opts.data["emphasis"] = "Original"
    plain = encoded("a <person1>, <person10>'s hat")
    shared.opts.data["use_old_emphasis_implementation"] = True
    try:
        old = torch.equal(encoded("a <person1>, <person10>'s hat"), plain)
    finally:
        shared.opts.data["use_old_emphasis_implementation"] = False
    return {"usual": usual, "none": none, "old_is_the_same": old}


def generated(prompt: str, **options: Any) -> tuple[bytes, Any]:
    """A tiny image and the host's result."""
    from modules import processing, scripts, shared

    given: dict[str, Any] = {"steps": 2, "width": 64, "height": 64, "seed": 1, "cfg_scale": 4, "sampler_name": "Euler"}
    given |= {"do_not_save_samples": True, "do_not_save_grid": True}
    request = processing.StableDiffusionProcessingTxt2Img(sd_model=shared.sd_model, prompt=prompt, **(given | options))
    request.scripts, request.script_args = scripts.ScriptRunner(), ()
    result = processing.process_images(request)
    return result.images[0].tobytes(), result


def drawing(tokens: A1111Tokens, _data: Path) -> dict[str, Any]:
    """Whole generations: styles, a second pass, a negative prompt, the parameters written into the image."""
    from modules import shared
    from modules.styles import PromptStyle

    shared.prompt_styles.styles["a person"] = PromptStyle("a person", "<person1>, {prompt}", "<person10>", None)
    plain, result = generated("<person1>, tree", negative_prompt="<person10>")
    styled, _ = generated("tree", styles=["a person"])
    weighted, weighted_result = generated("<person1:1.3>, tree")
    bracketed, _ = generated("(<person1>:1.3), tree")
    second: dict[str, Any] = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}
    hires, _ = generated("tree", hr_prompt="<person1:1.3>, tree", **second)
    hires_bracketed, _ = generated("tree", hr_prompt="(<person1>:1.3), tree", **second)
    hires_tree, _ = generated("tree", **second)
    wrong, wrong_result = generated("<person1:much>, tree")
    person, _ = generated("<person1>, tree")
    return {
        "style_is_prompt": styled == plain,
        "weight_is_emphasis": weighted == bracketed and weighted != person,
        "typed_prompt_is_kept": "<person1:1.3>" in weighted_result.info,
        "hires_weight_is_emphasis": hires == hires_bracketed and hires != hires_tree,
        "parameters": result.info,
        "hashes": [one.identity.content_hash for one in tokens.mentioned("<person1> <person10>") if one.identity],
        "misread": wrong_result.comments,
        "misread_is_the_person": wrong == person,
    }


def changed_content(tokens: A1111Tokens, data: Path) -> dict[str, Any]:
    """The same prompt before and after the person is learned again, with the host's cache of conditionings enabled."""
    from modules import processing, shared

    shared.opts.data["persistent_cond_cache"] = True
    checkpoint = tokens.checkpoint()
    assert checkpoint is not None
    first, _ = generated("<person1> in a park")
    kept = processing.StableDiffusionProcessing.cached_c[1]
    again, _ = generated("<person1> in a park")
    cached = processing.StableDiffusionProcessing.cached_c[1] is kept
    add_people(data / "people", ("person1",), checkpoint, seed=50)
    changed, _ = generated("<person1> in a park")
    add_people(data / "people", ("person1",), checkpoint)
    back, _ = generated("<person1> in a park")
    return {"cached": cached and again == first, "changed": changed != first, "back": back == first}


def switch_to(name: str) -> None:
    from modules import sd_models, shared

    info = next(one for one in sd_models.checkpoints_list.values() if one.name_for_extra == name)
    shared.opts.data["sd_model_checkpoint"] = info.title
    sd_models.reload_model_weights(info=info)


def checkpoints(tokens: A1111Tokens, data: Path) -> dict[str, Any]:
    """Switching to other families and back; a person with vectors of another width is expanded again."""
    from modules import shared

    folder = data / "people"
    at_home = encoded("a <person1>")
    switch_to("sdxl")
    elsewhere = tokens.mentioned("<person1>")[0]
    comments = [generated("<person1>, tree")[1].comments for _ in range(2)]
    unknown_marks, on_the_page = marks("<person1>, tree"), dict(tokens.registry._unavailable)
    checkpoint = tokens.checkpoint()
    assert checkpoint is not None
    add_people(folder, ("xl person",), checkpoint)
    xl_marks = marks("<XL person>'s")
    xl = encoded("<xl person>'s")
    switch_to("sd2v")
    checkpoint = tokens.checkpoint()
    assert checkpoint is not None
    add_people(folder, ("wide",), wide(checkpoint), seed=7)
    word = tokens.mentioned("<wide>")[0].identity
    bases = [b.basis for b in build_bases(checkpoint.encoders(), shipped_names(), BasisOptions(components=COMPONENTS))]
    stored = Library(folder).load("wide")
    expanded = expand_identity(stored, bases, checkpoint.info)
    switch_to("sdxl")
    xl_again = torch.equal(encoded("<xl person>'s"), xl)
    switch_to("sd1")
    return {
        "reason": elsewhere.reason or None,
        "page": on_the_page,
        "comments": comments,
        "unavailable_marks": unknown_marks,
        "xl_marks": xl_marks,
        "xl_again": xl_again,
        "stored_width": stored.vectors[0].shape[1],
        "width": int(word.vectors[0].shape[1]) if word is not None else None,
        "table_width": int(checkpoint.info.family == "sd2") and bases[0].width,
        "expanded": word is not None and np.array_equal(word.vectors[0], expanded.vectors[0]),
        "home_again": torch.equal(encoded("a <person1>"), at_home) and shared.sd_model.is_sd1,
    }


@dataclass
class _Wide:
    """A text encoder of another width, with the tokenizer of ``like``."""

    like: TextEncoder
    width: int = 1024

    @property
    def name(self) -> str:
        return self.like.name

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return self.like.tokenize(texts)

    def token_table(self) -> torch.Tensor:
        return 0.01 * torch.randn(49408, self.width, generator=torch.Generator().manual_seed(3))

    def weights(self) -> Iterator[torch.Tensor]:
        yield self.token_table()


def wide(checkpoint: Checkpoint) -> Checkpoint:
    """Another checkpoint of the same family, with vectors of another width."""
    info = ModelInfo("a real one", checkpoint.info.family, "ab" * 32, 768)
    return Checkpoint(info, lambda: [_Wide(encoder) for encoder in checkpoint.encoders()])


if __name__ == "__main__":
    main()
