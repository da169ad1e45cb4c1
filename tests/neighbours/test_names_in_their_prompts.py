"""Names in the prompts of each neighbour: the person reaches the model, as the picture shows, and the parameters tell."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.neighbours import (
    ADETAILER,
    CONTROLNET,
    DYNAMIC_PROMPTS,
    EMBEDDING_MERGE,
    PEOPLE,
    REGIONAL_PROMPTER,
    World,
    beside,
    told,
)

HIRES = {"enable_hr": True, "hr_upscaler": "Latent", "hr_scale": 1.5, "denoising_strength": 0.7}


def drawing() -> str:
    """A picture to be guided by."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[16:48, 16:48] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def controlled(module: str, model: str) -> dict[str, Any]:
    unit = {"enabled": True, "module": module, "model": model, "image": drawing(), "processor_res": 64}
    return {"controlnet": {"args": [unit]}}


@beside(CONTROLNET)
@pytest.mark.parametrize(("module", "model"), [("canny", "small"), ("reference_only", "None")])
def test_controlnet_guides_the_person(world: World, module: str, model: str) -> None:
    found = world.server.call("GET", "/controlnet/model_list?update=true")[1]["model_list"]
    named = next((one for one in found if one.startswith(model)), model)
    body = {"prompt": "<ada>, smiling", "negative_prompt": "<ben>", "width": 64, "height": 64}
    body["override_settings"] = {"sd_model_checkpoint": "twelve.safetensors"}
    free, _ = world.understood(body)
    guided, info = world.understood(body | {"alwayson_scripts": controlled(module, named)})
    assert not np.array_equal(free[0], guided[0]), "the unit does nothing"
    assert f"Module: {module}, Model: {model}" in info["infotexts"][0]
    assert told(info["infotexts"][0]) == {"ada", "ben"}


def painted(prompt: str, **more: Any) -> dict[str, Any]:
    """Every face anew, from a prompt of its own."""
    unit = {"ad_model": "mediapipe_face_short", "ad_prompt": prompt, "ad_confidence": 0.5, "ad_mask_k": 1}
    unit |= {"ad_denoising_strength": 0.7, "ad_inpaint_only_masked_padding": 16}
    unit |= {"ad_use_inpaint_width_height": True, "ad_inpaint_width": 192, "ad_inpaint_height": 192}
    return {"ADetailer": {"args": [True, False, unit | more]}}


@beside(ADETAILER)
@pytest.mark.parametrize(
    ("prompt", "more"),
    [
        ("<ada>, photo", {}),
        ("[PROMPT], (<ada:0.7>)", {"ad_negative_prompt": "<ben>"}),
        ("<ada> [SEP] <ben>", {"ad_mask_k": 2}),
    ],
)
def test_adetailer_paints_the_person(world: World, prompt: str, more: dict[str, Any]) -> None:
    body = {"prompt": "a photo of Jamie Foxx", "steps": 12}
    before, _ = world.drawn("txt2img", body)
    after, info = world.understood(body | {"alwayson_scripts": painted(prompt, **more)})
    assert not np.array_equal(before[0], after[0]), "no face was found and painted"
    assert told(info["infotexts"][0]) == {name for name in PEOPLE if f"<{name}" in f"{prompt} {more}"}


def expanded(world: World, **settings: bool) -> dict[str, Any]:
    """All settings of dynamic prompts in its order."""
    given: list[Any] = [True, settings.get("combinatorial", False), 1, False, False, False, 1.1, 1.5, 100, 0.7]
    given += [False, False, True, settings.get("jinja", False), False, 0, "", ""]
    return {world.script("dynamic prompts"): {"args": given}}


@beside(DYNAMIC_PROMPTS)
@pytest.mark.parametrize(
    "prompt",
    [
        "a photo of {<ada>|<ben>}, smiling",
        "{2::<ada>|1::<ben>} in {rain|snow}",
        "a photo of {2$$ and $$<ada>|<ben>}",
        "a photo of __who__, smiling",
        "${who={<ada>|<ben>}}a photo of ${who}",
    ],
)
def test_dynamic_prompts_chooses_among_people(world: World, prompt: str) -> None:
    _, info = world.understood({"prompt": prompt, "negative_prompt": "{blurry|rain}", "n_iter": 3})
    assert not any(char in text for text in info["all_prompts"] for char in "{}_$|")
    for text, parameters in zip(info["all_prompts"], info["infotexts"], strict=True):
        assert told(parameters) == {name for name in PEOPLE if f"<{name}>" in text} != set()


@beside(DYNAMIC_PROMPTS)
def test_dynamic_prompts_draws_all_combinations(world: World) -> None:
    body = {"prompt": "{<ada>|<ben>} in {rain|snow}", "alwayson_scripts": expanded(world, combinatorial=True)}
    drawn, info = world.understood(body)
    assert len({one.tobytes() for one in drawn}) == 4
    assert [told(text) for text in info["infotexts"]] == [{"ada"}, {"ada"}, {"ben"}, {"ben"}]


@beside(DYNAMIC_PROMPTS)
def test_dynamic_prompts_fills_a_template(world: World) -> None:
    template = '{% set who = "<ada>" %}{{ who }}, {% for word in ["rain", "snow"] %}{{ word }} {% endfor %}'
    _, info = world.understood({"prompt": template, "alwayson_scripts": expanded(world, jinja=True)})
    assert info["all_prompts"] == ["<ada>, rain snow "]


@beside(DYNAMIC_PROMPTS)
def test_dynamic_prompts_and_a_second_pass(world: World) -> None:
    _, info = world.understood({"prompt": "a photo of {<ada>|<ben>}", "n_iter": 2, **HIRES})
    assert all(told(text) in ({"ada"}, {"ben"}) for text in info["infotexts"])


def divided(calculation: str, **use: bool) -> dict[str, Any]:
    """Two columns, with all settings of the regional prompter in its order."""
    given = [True, False, "Matrix", "Columns", "Mask", "Prompt", "1,1", "0.2", use.get("base", False)]
    given += [use.get("common", False), False, calculation, False, "0", "0", "0.4", "", "0", "0", False]
    return {"Regional Prompter": {"args": given}}


@beside(REGIONAL_PROMPTER)
@pytest.mark.parametrize(
    ("prompt", "division"),
    [
        ("a photo of <ada> BREAK a photo of <ben>", divided("Attention")),
        ("a photo of <ada> BREAK a photo of <ben>", divided("Latent")),
        ("a photo ADDCOMM <ada:1.1>, smiling ADDCOL (<ben>:1.1)", divided("Attention", common=True)),
        ("two people ADDBASE <ada> ADDCOL <ben>", divided("Attention", base=True)),
    ],
)
def test_regional_prompter_puts_each_person_into_a_region(world: World, prompt: str, division: dict[str, Any]) -> None:
    body = {"prompt": prompt, "width": 384, "steps": 8, "alwayson_scripts": division}
    drawn, info = world.understood(body)
    assert told(info["infotexts"][0]) == {"ada", "ben"}
    # With somebody else in the right region, the right half changes most.
    other, _ = world.drawn("txt2img", body | {"prompt": prompt.replace("<ben>", "Jamie Foxx")})
    change = np.abs(drawn[0].astype(int) - other[0].astype(int))
    assert change[:, 192:].mean() > 2 * change[:, :192].mean()


@beside(EMBEDDING_MERGE)
@pytest.mark.parametrize(
    ("prompt", "people"),
    [
        ("<ada>, wearing a <'red'+'blue'> hat", {"ada"}),
        ("a photo of <'<ada>'*0.5+'<ben>'*0.5>, smiling", {"ada", "ben"}),
        ("<ada> and <'<ben> smiling'+'cat'>, rain", {"ada", "ben"}),
    ],
)
def test_embedding_merge_leaves_names_alone_and_merges_people(world: World, prompt: str, people: set[str]) -> None:
    drawn, info = world.understood({"prompt": prompt})
    unmerged, _ = world.drawn("txt2img", {"prompt": prompt.replace("<'", "< '")})
    assert not np.array_equal(drawn[0], unmerged[0])
    assert "EmbeddingMerge: <'EM_1'>=" in info["infotexts"][0].replace('"', "")
    assert told(info["infotexts"][0]) == people
