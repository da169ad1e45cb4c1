"""Prompts on the command line as users of the WebUI write them: weights, names, long prompts, and their parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command_line import OTHER_PHOTO, Said, learn, own_folders, run

from celeb_basis.identities.identity import load_identity
from celeb_basis.provenance import KEY, PEOPLE, parameters_text, parse_people, read_parameters


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the library of ``ada`` and ``ben``."""
    place = tmp_path_factory.mktemp("prompts")
    with own_folders(place):
        assert learn("ada").code == 0
        assert learn("Ben", OTHER_PHOTO).code == 0
        yield place


def generate(folder: Path, prompt: str, *options: object) -> Said:
    return run("generate", prompt, "--model", "miniature", "--output", folder / "out", "--steps", 1, *options)


def image_of(said: Said) -> tuple[Any, str]:
    with Image.open(said.json["pictures"][0]["file"]) as image:
        return np.asarray(image), image.text["parameters"]


def hash_of(folder: Path, name: str) -> str:
    return load_identity(folder / "library" / f"{name}.safetensors").content_hash


def test_weights_change_the_image_and_spellings_of_one_weight_do_not(folder: Path) -> None:
    plain, inside, outside = (
        image_of(generate(folder, prompt, "--json"))[0]
        for prompt in ("a photo of <ada>", "a photo of <ada:0.5>", "a photo of (<ada>:0.5)")
    )
    assert not np.array_equal(plain, inside)
    np.testing.assert_array_equal(inside, outside)


@pytest.mark.parametrize("prompt", ["<ada>", "<ADA:0.8>", "[< ada >]", "(<ada>:1.2)", "<ada>, ((<ada:1.1>))"])
def test_everyone_in_the_library_is_found_as_in_the_webui(folder: Path, prompt: str) -> None:
    said = generate(folder, prompt, "--json")
    assert said.code == 0, said.err
    assert said.json["identities"] == {"ada": hash_of(folder, "ada")}
    assert "warning" not in said.err


def test_an_identity_file_comes_before_the_library(folder: Path) -> None:
    copy = folder / "ada.safetensors"
    copy.write_bytes((folder / "library" / "ada.safetensors").read_bytes())
    assert generate(folder, "<ada> and <ben>", "--identity", copy).code == 0


def test_weights_are_named(folder: Path) -> None:
    said = generate(folder, "a photo of (<ada>:1.2) BREAK [hat]")
    assert "weights: 1.2 for '<ada>', 0.909 for 'hat'." in said.err
    assert "weights" not in generate(folder, "a photo of <ada> BREAK hat").err


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("<nobody>", "<nobody>, but nobody of that name is in"),
        ("<nobody:0.8>", "<nobody:0.8>, but nobody of that name is in"),
        ("<nobody>", "ada, Ben"),
        ("<lora:style:1>", "loads no LoRA"),
        ("<hypernet:style:1>", "loads no LoRA"),
        ("(<ada>:1.2.3)", "The weight 1.2.3"),
    ],
)
def test_what_cannot_be_generated_is_said_before_the_model_is_loaded(folder: Path, prompt: str, said: str) -> None:
    answer = generate(folder, prompt, "--model", folder / "no-model")
    assert answer.code == 2
    assert said in answer.err
    assert "--identity nobody:0.8" not in answer.err


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("<ada> [hat:coat:0.5]", "[hat:coat:0.5]"),
        ("<ada> AND <ben>", "AND"),
        ("<ada:very>", "<ada:very> is read as <ada>"),
        ("<ada> # red", "# red"),
    ],
)
def test_what_is_read_otherwise_than_in_the_webui_is_said(folder: Path, prompt: str, said: str) -> None:
    answer = generate(folder, prompt)
    assert answer.code == 0
    assert "warning" in answer.err
    assert said in answer.err


def test_nobody_is_cut_off_behind_the_75th_token(folder: Path) -> None:
    said = generate(folder, "very " * 80 + "<ada>", "--json")
    other = generate(folder, "very " * 80 + "<ben>", "--json")
    assert not np.array_equal(image_of(said)[0], image_of(other)[0])
    assert "cut" not in said.err
    assert f"ada: {hash_of(folder, 'ada')}" in image_of(said)[1]


def test_who_is_given_but_not_in_the_prompt_is_named_and_not_claimed(folder: Path) -> None:
    said = generate(folder, "<ada>", "--identity", "Ben", "--json")
    assert "warning: <Ben> is not in the prompt" in said.err
    assert parse_people(fields(image_of(said)[1])[PEOPLE]) == (("ada", hash_of(folder, "ada")),)
    with Image.open(said.json["pictures"][0]["file"]) as image:
        assert "of <ada>" in image.text[KEY]
        assert "Ben" not in image.text[KEY]
    nobody = generate(folder, "a hat", "--json")
    assert PEOPLE not in image_of(nobody)[1]


# The parameters, in the WebUI's own form. Its parser, from modules/infotext_utils.py:

PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def fields(text: str) -> dict[str, str]:
    """The last line of parameters as the WebUI reads it."""
    found = PARAMETER.findall(text.strip().split("\n")[-1])
    return {key: json.loads(value) if value[:1] == value[-1:] == '"' else value for key, value in found}


def test_the_webui_reads_an_image_of_the_command_line(folder: Path) -> None:
    prompt = "a photo of (<ADA>:1.2), [<ben>]"
    said = generate(folder, prompt, "--negative", "<ada:0.5>, ugly", "--json")
    text = image_of(said)[1]
    lines = text.split("\n")
    assert lines[0] == prompt
    assert lines[1] == "Negative prompt: <ada:0.5>, ugly"
    assert fields(text)[PEOPLE] == f"ADA: {hash_of(folder, 'ada')}, Ben: {hash_of(folder, 'Ben')}".replace("ADA", "ada")
    assert {key: fields(text)[key] for key in ("Steps", "Sampler", "Seed", "Size")} == {
        "Steps": "1",
        "Sampler": "DDIM",
        "Seed": "0",
        "Size": "192x192",
    }


@pytest.mark.parametrize("model", ["plain", 'a, "b": c', '"quoted"', "back\\slash, and: colon", "日本, é"])
def test_both_read_what_is_written_whatever_the_models_name(model: str, tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    people = {"ada": "3da88c0dcb81", "Zoë, B.": "0123456789ab"}
    text = parameters_text(
        prompt="<ada>\n(<Zoë, B.>:1.2)",
        negative="a\nb",
        steps=3,
        guidance=7.5,
        seed=9,
        size=(64, 64),
        model=model,
        model_sha256="0" * 64,
        identities=people,
    )
    assert fields(text)["Model"] == model
    assert parse_people(fields(text)[PEOPLE]) == tuple(people.items())
    remarks = PngInfo()
    remarks.add_itxt("parameters", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=remarks)
    found = read_parameters(tmp_path / "a.png")
    assert found is not None
    assert found.prompt == "<ada> (<Zoë, B.>:1.2)"
    assert found.words == ("<ada>", "<Zoë, B.>")


def test_people_in_images_of_version_0_1_0_are_read() -> None:
    value = json.dumps({"ada": "3da88c0dcb81", "Zoë, B.": "0123456789ab"}, ensure_ascii=False)
    assert parse_people(value) == (("ada", "3da88c0dcb81"), ("Zoë, B.", "0123456789ab"))


@pytest.mark.parametrize("value", ["{", "{}", '{"a": 1}', '{"a": {"b": "3da88c0dcb81"}}', '{"<b>": "3da88c0dcb81"}'])
def test_people_of_nonsense_are_nobody(value: str) -> None:
    assert parse_people(value) == ()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_the_webuis_jpeg_and_webp_are_read(kind: str, tmp_path: Path) -> None:
    text = 'a photo of <ada>\nNegative prompt: x\nSteps: 2, Seed: 7, Celeb Basis: "ada: 3da88c0dcb81"'
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf-16-be")  # as piexif writes it
    Image.new("RGB", (16, 16)).save(tmp_path / "a", kind, exif=exif)
    found = read_parameters(tmp_path / "a")
    assert found is not None
    assert (found.prompt, found.seed, found.words) == ("a photo of <ada>", 7, ("<ada>",))


def test_lines_that_extensions_add_behind_the_parameters_do_no_harm(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    remarks = PngInfo()
    remarks.add_text("parameters", 'a <ada>\nSteps: 2, Seed: 7, Celeb Basis: "ada: 3da88c0dcb81"\nTemplate: {a|b}')
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=remarks)
    found = read_parameters(tmp_path / "a.png")
    assert found is not None
    assert (found.prompt, found.seed, found.words) == ("a <ada>", 7, ("<ada>",))
