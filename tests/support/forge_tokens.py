"""Run inside Forge: ``<ada>`` in prompts against the same vectors placed by hand; what came out goes to ``--data``.

``ada.safetensors`` lies in ``--data``'s folder ``people``. Prints what failed as JSON; ``encoded.safetensors`` holds the
conditioning of :data:`PLAIN`, to be compared with another host's, and ``drawn.png`` a picture.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from support.forge_inside import start
from support.installed_tokens import installed_for
from support.reporting import failures

from celeb_basis.diffusion_model import GenerationRequest
from celeb_basis.hosts.detect import adapter
from celeb_basis.hosts.forge.app import Forge
from celeb_basis.hosts.forge.host import ForgeHost
from celeb_basis.hosts.forge.model import ForgeCheckpoint
from celeb_basis.hosts.forge.tokens import ForgeTokens
from celeb_basis.identities.identity import load_identity
from celeb_basis.prompts.registry import Registry

RARE = "sks"
PLAIN = ("<ada>", "a photo of <ada> in a hat", "<ada>, smiling", "two people: <ada>!", "a photo of a tree")
"""Prompts that every host reads alike."""
REQUEST = {"prompt": "a photo of <ada>", "negative_prompt": "blurred", "steps": 12, "guidance": 3.0, "seed": 3}
TYPED = {
    "a photo of <ada> in a hat": "a photo of sks in a hat",
    "<ada>, smiling": "sks , smiling",
    "<ADA>'s hat.": "sks 's hat.",
    "two <ada><ada>!": "two sks sks !",
    "a (<ada>:1.2) and [<ada>]": "a ( sks :1.2) and [ sks ]",
    "a <ada:0.8>, <ada:1.5>": "a ( sks :0.8), ( sks :1.5)",
    "[a tree:<ada>:0.5]": "[a tree: sks :0.5]",
    "[<ada>|a tree]": "[ sks |a tree]",
    "<ada> AND a tree :0.5": "sks AND a tree :0.5",
    "a long coat BREAK <ada> in rain": "a long coat BREAK sks in rain",
    "<lora:nothing:1> <ada:0.8>": " ( sks :0.8)",
}
"""Prompts as they are typed, and as they would be written for an ordinary embedding called ``sks``."""
STEPS = 6


def conditioning(text: str, negative: bool) -> list[Any]:
    """What Forge makes of a prompt, of all its steps and parts."""
    from modules import extra_networks, prompt_parser

    model = ForgeCheckpoint.current().model
    if negative:
        batch = prompt_parser.SdConditioning([text], is_negative_prompt=True)
        return [
            (step.end_at_step, step.cond)
            for schedule in prompt_parser.get_learned_conditioning(model, batch, STEPS)
            for step in schedule
        ]
    texts, _ = extra_networks.parse_prompts([text])
    found = prompt_parser.get_multicond_learned_conditioning(model, prompt_parser.SdConditioning(texts), STEPS)
    return [
        (part.weight, step.end_at_step, step.cond) for whole in found.batch for part in whole for step in part.schedules
    ]


def alike(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        a[:-1] == b[:-1] and torch.equal(a[-1], b[-1]) for a, b in zip(one, other, strict=True)
    )


def check_every_syntax(data: Path) -> None:
    """Positive and negative prompts are bit for bit those with the same vectors in Forge's own database."""
    from backend.text_processing.textual_inversion import Embedding

    (vectors,) = load_identity(data / "people" / "ada.safetensors").token_vectors()
    by_hand = Embedding(vectors, RARE)
    by_hand.vectors, by_hand.shape = vectors.shape
    (engine,) = ForgeCheckpoint.current().text_encoders
    engine.embeddings.register_embedding(by_hand)
    expected = {
        (typed, negative): conditioning(written, negative)
        for typed, written in TYPED.items()
        for negative in (False, True)
        # The negative prompt is not searched for networks: there, Forge takes a LoRA's tag for text.
        if not (negative and "lora" in typed)
    }
    engine.embeddings.register_embedding_by_name(None, RARE)
    for (typed, negative), found in expected.items():
        assert not alike(conditioning(typed, negative), found), f"{typed!r} is the same without tokens"
    with installed_for(data / "people", ForgeTokens):
        for (typed, negative), found in expected.items():
            assert alike(conditioning(typed, negative), found), (typed, negative)
        nobody = conditioning("a <bob>, <unknown:1>", True)
    assert alike(conditioning("a <bob>, <unknown:1>", True), nobody), "an unknown name is text as before"


def check_the_files_vectors_reach_the_text_encoder(data: Path) -> None:
    (vectors,) = load_identity(data / "people" / "ada.safetensors").token_vectors()
    (engine,) = ForgeCheckpoint.current().text_encoders
    seen: list[torch.Tensor] = []
    hook = (
        ForgeCheckpoint.current()
        .token_embedding(engine)
        .register_forward_hook(lambda _part, _given, made: seen.append(made.clone()))
    )
    try:
        with installed_for(data / "people", ForgeTokens), torch.inference_mode():
            engine(["a photo of <ada>, smiling"])
    finally:
        hook.remove()
    assert torch.equal(seen[-1][0, 4 : 4 + len(vectors)], vectors), "bit for bit"


def check_a_person_learned_again_is_not_taken_from_the_cache(data: Path) -> None:
    from modules import processing, shared

    p = processing.StableDiffusionProcessingTxt2Img(prompt="<ada>", steps=STEPS)
    people = data / "others"
    shutil.copytree(data / "people", people)

    def remembered() -> Any:
        return p.cached_params(["a <ada> and <bob>"], STEPS, {}, None, shared.opts.use_old_scheduling)

    with installed_for(people, ForgeTokens):
        first = remembered()
        assert remembered() == first
        shutil.copy(data / "eve.safetensors", people / "ada.safetensors")
        assert remembered() != first
        (people / "ada.safetensors").write_bytes(b"nothing")
        assert remembered() != first
    assert any("<ada> was read as plain text" in comment for comment in p.comments)


def check_what_is_read_while_drawing_is_ordinary(data: Path) -> None:
    with torch.inference_mode(), installed_for(data / "people", ForgeTokens) as tokens:
        (person,) = tokens.mentioned("<ada>")
    assert person.identity is not None
    assert not any(vectors.is_inference() for vectors in person.identity.token_vectors())


def check_installed_once_and_taken_out(data: Path) -> None:
    from modules import extra_networks, processing

    places = (
        (ForgeTokens.tokenizing_class(), "tokenize_line"),
        (extra_networks, "parse_prompt"),
        (processing.StableDiffusionProcessing, "cached_params"),
    )
    before = [vars(place)[name] for place, name in places]
    program = adapter()
    assert isinstance(program, Forge)
    program.install_tokens(Registry(data / "people"))
    found = program.installed_tokens()
    assert found is not None
    assert program.install_tokens(Registry(data / "elsewhere")) is found
    assert found.registry.folder == data / "elsewhere"
    found.uninstall()
    assert program.installed_tokens() is None
    assert [vars(place)[name] for place, name in places] == before


def write_for_others(data: Path) -> None:
    """Conditioning and a picture as :class:`ForgeHost` and the tokens make them, which are the same."""
    from modules import prompt_parser, shared

    # Forge Neo's own default is another one; so that all tell of the same layer.
    shared.opts.data["CLIP_stop_at_last_layers"] = 1
    ForgeCheckpoint.current().model.set_clip_skip(1)
    model = ForgeHost()
    words = {"<ada>": list(load_identity(data / "people" / "ada.safetensors").token_vectors())}
    encoded = {str(number): model.encode_prompts([prompt], words).crossattn for number, prompt in enumerate(PLAIN)}
    with installed_for(data / "people", ForgeTokens):
        for number, prompt in enumerate(PLAIN):
            typed = ForgeCheckpoint.current().model.get_learned_conditioning(prompt_parser.SdConditioning([prompt]))
            assert torch.equal(typed, encoded[str(number)]), prompt
    save_file({name: tensor.contiguous() for name, tensor in encoded.items()}, data / "encoded.safetensors")
    (picture,) = model.generate(GenerationRequest(placeholder_tokens=words, **REQUEST))  # type: ignore[arg-type]
    picture.save(data / "drawn.png")


CHECKS = {name[6:]: function for name, function in list(globals().items()) if name.startswith("check_")} | {
    "what_is_written_for_others": write_for_others
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    start(options.data)
    print(json.dumps(failures(CHECKS, options.data)))


if __name__ == "__main__":
    main()
