"""Run inside a WebUI: whole pictures from prompts with ``<name>``, and from the same vectors placed by hand.

For each case of prompt and settings both the conditionings that the sampler is given and the picture are compared, bit for
bit. By hand: the host's own embedding database holds each person's vectors under a rare word, and no token is installed.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from support.installed_tokens import installed_for
from support.webui_inside import parsed_arguments, start
from support.webui_networks import HYPERNETWORK, LORA, loaded_layers, write_hypernetwork, write_lora
from support.webui_people import add_people
from support.webui_prompts import fingerprint, forget_by_hand, rare_words, register_by_hand

from celeb_basis.hosts.a1111.tokens import CheckpointTracker

NAMES = ("person1", "person10")
PERSON = re.compile(r"@(\d)(?:\{([^}]*)\})?")
"""``@0`` is the first of :data:`NAMES`, ``@1{0.8}`` the second with a weight in the brackets."""

HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}
_LORA, _NET = f"<lora:{LORA}:0.7>", f"<hypernet:{HYPERNETWORK}:0.8>"


@dataclass(frozen=True)
class Case:
    """A prompt with ``@`` in place of people, and what is set besides."""

    prompt: str
    negative: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


SYNTAX = {
    "plain": Case("photo of @0, smiling", "@1."),
    "punctuation": Case("@0's hat,@1!(@0:1.2)...@1-@0"),
    "weights": Case("@0{0.8} and @1{ 1.3 }", "@1{.5}, (@0{2}:1.1)"),
    "joined": Case("@0 in rain AND @1's cat :0.7 AND a tree:-0.4", "@1"),
    "joined with weights": Case("@0{0.8} :1.2 AND @1{1.2}:0.5 AND @0"),
    "negative joined": Case("a tree", "@0 AND @1 :1.2 AND rain"),
    "break": Case("@0 BREAK @1, hat\nBREAK", "@1 BREAK @0"),
    "editing": Case("[@0:@1:0.5] [@0::3] [@1:2] of [@0:0.25]", "[@0:tree:0.5], [@1::2]"),
    "alternation": Case("[a|@0|@1], [@0|]", "[@0|@1]"),
    "nested": Case("[[@0|b]:(@1:1.3):0.5] ((@0)) [@1] \\(@0\\)", "[(@0:1.2):[@1|a]:2]"),
    "weights in editing": Case("[@0{0.8}:@1{1.2}:0.5]", "[@0{0.8}:@1{1.2}:0.5]"),
    "long": Case("word " * 74 + "@0 " + "tree " * 80 + "@1", "blue " * 73 + "@1@0"),
    "second pass": Case("tree", "rain", {**HIRES, "hr_prompt": "@0{1.2}, [@1:tree:0.5]", "hr_negative_prompt": "@1."}),
    "second pass, same": Case("[@0:@1:1.5]", "@1", HIRES),
    "old scheduling": Case("[@0:@1:0.5] [@0|@1]", settings={"use_old_scheduling": True}),
    "no norm": Case("(@0:1.4), @1{0.6}", settings={"emphasis": "No norm"}),
    "no emphasis": Case("a @0, tree", settings={"emphasis": "None"}),
    "ignored": Case("(@0:1.4), @1", settings={"emphasis": "Ignore"}),
    "no moving behind commas": Case("word " * 72 + ", @0 @1 tree", settings={"comma_padding_backtrack": 0}),
}
NETWORKS = {
    "LoRA": Case(f"{_LORA} photo of @0", "@1"),
    "LoRA glued": Case(f"photo of @0{_LORA}, (@1:1.2)"),
    "LoRA, two multipliers": Case(f"@0,<lora:{LORA}:0.9:0.2> hat"),
    "LoRA twice": Case(f"{_LORA} @0 <lora:{LORA}:0.3> @1{{0.8}}"),
    "LoRA joined": Case(f"@0 {_LORA} AND @1 :0.6"),
    "LoRA in the negative prompt": Case("@0", f"@1 {_LORA}, <lora:nobody:1>"),
    "LoRA in editing": Case(f"[@0{_LORA}:@1:0.5]"),
    "LoRA in both passes": Case(f"@0 {_LORA}", "", {**HIRES, "hr_prompt": f"@1 <lora:{LORA}:0.2>"}),
    "hypernetwork": Case(f"@0 {_NET}", "@1"),
    "hypernetwork twice, with LoRA": Case(f"{_NET}@0{_LORA}, @1 {_NET}"),
}
TWINS = {
    "LoRA": Case(" photo of @0", "@1"),
    "LoRA glued": Case("photo of @0, (@1:1.2)"),
    "hypernetwork": Case("@0 ", "@1"),
}
"""The same without the network, which has to draw another picture."""


def main() -> None:
    """Print which cases came out otherwise, and what shows that the comparison means something."""
    options = parsed_arguments()
    model = start(options.checkpoint, options.data)
    from modules import script_callbacks

    with contextlib.redirect_stdout(sys.stderr):
        script_callbacks.before_ui_callback()  # the built-in extension registers LoRA there
        layers = write_lora(options.data / "models" / "Lora")
        width = model.get_learned_conditioning([""])
        width = width["crossattn"] if isinstance(width, dict) else width
        write_hypernetwork(int(width.shape[-1]))
        checkpoint = CheckpointTracker()()
        assert checkpoint is not None
        library = options.data / "people"
        people = add_people(library, NAMES, checkpoint)
        encoders = [part for part in model.modules() if hasattr(part, "tokenize_line")]
        words = dict(zip(NAMES, rare_words(encoders, len(NAMES)), strict=True))
        cases = all_cases()
        register_by_hand(model, people, words)
        by_hand = {name: drawn(case, [f" {words[one]} " for one in NAMES]) for name, case in cases.items()}
        twins = {name: drawn(case, [f" {words[one]} " for one in NAMES]) for name, case in TWINS.items()}
        applied = drawn(NETWORKS["LoRA"], ["a", "b"]) and loaded_layers()
        forget_by_hand(model, words)
        typed = [f"<{name}>" for name in NAMES]
        with installed_for(library):
            by_name = {name: drawn(case, typed) for name, case in cases.items()}
        as_text = {name: drawn(case, typed) for name, case in SYNTAX.items()}
    report = {
        "cases": len(cases),
        "other_conditionings": [name for name in cases if by_name[name][0] != by_hand[name][0]],
        "other_pictures": [name for name in cases if by_name[name][1] != by_hand[name][1]],
        "same_as_text": [name for name in SYNTAX if as_text[name][0] == by_hand[name][0]],
        "layers": layers,
        "applied": applied,
        "without_effect": [name for name in TWINS if by_hand[name][1] == twins[name][1]],
        "clip_skip_matters": len({json.dumps(by_hand[f"plain, clip skip {skip}"][0]) for skip in (1, 2, 3)}),
    }
    sys.stdout.write(json.dumps(report) + "\n")


def all_cases() -> dict[str, Case]:
    cases = {**SYNTAX, **NETWORKS}
    for skip in (1, 2, 3):
        settings = {"CLIP_stop_at_last_layers": skip, "sdxl_clip_l_skip": True}
        for name in ("plain", "joined", "nested", "long"):
            cases[f"{name}, clip skip {skip}"] = Case(SYNTAX[name].prompt, SYNTAX[name].negative, {}, settings)
        cases[f"LoRA, clip skip {skip}"] = Case(NETWORKS["LoRA"].prompt, "@1", {}, settings)
    return cases


def spelled(text: str, people: list[str]) -> str:
    """``text`` with people written as ``people`` are: a weight goes into the brackets of a name, else around."""

    def written(match: re.Match[str]) -> str:
        person, weight = people[int(match.group(1))], match.group(2)
        if weight is None:
            return person
        return f"{person[:-1]}:{weight}>" if person.endswith(">") else f"({person}:{weight.strip()})"

    return PERSON.sub(written, text)


def drawn(case: Case, people: list[str]) -> tuple[Any, str, str]:
    """Fingerprints of a picture's conditionings, of both passes, and of the picture; and the host's comments."""
    from modules import processing, scripts, shared

    options = {
        key: spelled(value, people) if isinstance(value, str) and key.endswith("prompt") else value
        for key, value in case.options.items()
    }
    p = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model,
        prompt=spelled(case.prompt, people),
        negative_prompt=spelled(case.negative, people),
        steps=4,
        width=64,
        height=64,
        seed=1,
        cfg_scale=4,
        sampler_name="Euler",
        do_not_save_samples=True,
        do_not_save_grid=True,
        **options,
    )
    p.scripts, p.script_args = scripts.ScriptRunner(), ()
    with settings(case.settings), contextlib.closing(p):
        result = processing.process_images(p)
        picture = result.images[0].tobytes()
        found = [p.c, p.uc, getattr(p, "hr_c", None), getattr(p, "hr_uc", None)]
        conditionings = [fingerprint(unfolded(one)) for one in found]
    return conditionings, fingerprint(torch.frombuffer(bytearray(picture), dtype=torch.uint8))[-1], result.comments


def unfolded(found: Any) -> Any:
    """The host's conditionings as lists."""
    if hasattr(found, "batch"):
        return [[(part.weight, unfolded([part.schedules])) for part in whole] for whole in found.batch]
    return [[(step.end_at_step, step.cond) for step in schedule] for schedule in found or ()]


@contextlib.contextmanager
def settings(wanted: dict[str, Any]) -> Iterator[None]:
    """The host's settings otherwise for a while."""
    from modules import shared

    before = {key: getattr(shared.opts, key) for key in wanted}
    shared.opts.data.update(wanted)
    try:
        yield
    finally:
        shared.opts.data.update(before)


if __name__ == "__main__":
    main()
