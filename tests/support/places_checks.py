"""Places of people in a real program with a page: what is asked over its API, and what is seen in the images."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from support.webui_browser import opened, tab
from support.webui_server import Server

from celeb_basis.cli.demo import STRANGERS

SIZE: dict[str, Any] = {"steps": 3, "width": 192, "height": 192, "sampler_name": "Euler", "cfg_scale": 4, "seed": 5}
PROMPT = "a photo of <ada> and <ben>"
HALVES = "ada: left; ben: right"
EXCHANGED = "ada: right; ben: left"
SCRIPT = "Celeb Basis places"

WITHOUT = "generated without places"

Pictures = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Drawn:
    """The answer to a request."""

    pictures: Pictures
    """``(N, H, W, 3)`` int16."""
    infotexts: list[str]
    said: str
    """What the program wrote to its log while it generated, which has the comments below the image."""


def draw(server: Server, places: object = None, until: object = 1.0, *, kind: str = "txt2img", **changes: Any) -> Drawn:
    """Generate with places; ``None`` gives the script no values."""
    body = {"prompt": PROMPT, **SIZE, **changes}
    if places is not None:
        body["alwayson_scripts"] = {**body.get("alwayson_scripts", {}), SCRIPT: {"args": [places, until]}}
    heard = server.log.stat().st_size
    status, answer = server.call("POST", f"/sdapi/v1/{kind}", body)
    assert status == 200, answer
    info = json.loads(answer["info"])
    pictures = [Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB") for one in answer["images"]]
    said = server.log.read_bytes()[heard:].decode(errors="replace")
    return Drawn(np.stack([np.asarray(one, np.int16) for one in pictures]), info["infotexts"], said)


def restored(infotext: str) -> dict[str, str]:
    """The places in an image's parameters, as the host's parser has them."""
    found = re.findall(r'(Places(?: until)?): ("(?:\\.|[^\\"])+"|[^,]*)', infotext.split("\n")[-1])
    return {key: json.loads(value) if value.startswith('"') else value for key, value in found}


def without_places(infotext: str) -> str:
    """The parameters without those of the places."""
    return re.sub(r'Places: "[^"]*", Places until: [\d.]+, ', "", infotext)


def distance(one: Pictures, other: Pictures) -> float:
    """Mean absolute difference of pixels."""
    return float(np.abs(one - other).mean())


def sides_follow(both: Pictures, ada: Pictures, ben: Pictures) -> Sequence[bool]:
    """Whether the left edge is nearer to ``ada`` than to ``ben``, and the right edge the other way round."""
    left, right = np.s_[:, :, :24], np.s_[:, :, -24:]
    return (
        distance(both[left], ada[left]) < distance(both[left], ben[left]),
        distance(both[right], ben[right]) < distance(both[right], ada[right]),
    )


BAD = {
    "ada: left; ben: left": "have the same place",
    "ada: 0 0 1.5 1; ben: right": "reaches out of the image",
    "ada: left; cyd: right": "does not name cyd",
    "; ".join(f"{name}: {at / 7} 0 {(at + 1) / 7} 1" for at, name in enumerate("abcdefg")): "7 people have places",
    "ada: 0 0 0.1 1; ben: right": "too small for a face",
    "somewhere": "cannot be read",
}


HIRES: dict[str, Any] = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7}
"""What asks a program for hires fix."""


class PlacesChecks:
    """Every check, for a program whose module of tests has a fixture ``server``."""

    hires: ClassVar[dict[str, Any]] = {}
    """What else this program asks of a request with hires fix."""

    def test_each_side_is_its_persons(self, server: Server) -> None:
        ada, ben = (
            draw(server, prompt=f"a photo of <{name}> and <{name}>", steps=1).pictures for name in ("ada", "ben")
        )
        halves = draw(server, HALVES, steps=1).pictures
        exchanged = draw(server, EXCHANGED, steps=1).pictures
        assert sides_follow(halves, ada, ben) == (True, True)
        assert sides_follow(exchanged, ben, ada) == (True, True)

    def test_without_places_images_are_the_same_bit_for_bit(self, server: Server) -> None:
        # The program writes "TI hashes" only into the first image of a prompt, whose encoding it then remembers.
        draw(server)
        plain = draw(server)
        for text in ("", "  "):
            assert (draw(server, text).pictures == plain.pictures).all()
        placed = draw(server, HALVES)
        assert distance(placed.pictures, plain.pictures) > 0.5
        assert restored(placed.infotexts[0]) == {"Places": HALVES, "Places until": "1"}
        assert without_places(placed.infotexts[0]) == plain.infotexts[0]
        again = draw(server)
        assert (again.pictures == plain.pictures).all()
        assert restored(again.infotexts[0]) == {}
        assert (draw(server, HALVES, 0).pictures == plain.pictures).all()
        alone = draw(server, "ada: 0 0 1 1", prompt="a photo of <ada> and a dog").pictures
        assert distance(alone, draw(server, prompt="a photo of <ada> and a dog").pictures) < 0.5

    def test_places_end_at_the_chosen_step(self, server: Server) -> None:
        whole, half, plain = (draw(server, *given).pictures for given in ((HALVES, 1.0), (HALVES, 0.5), ()))
        assert distance(half, plain) > 0.2
        assert distance(half, whole) > 0

    def test_every_sampler(self, server: Server) -> None:
        names = [str(one["name"]) for one in server.call("GET", "/sdapi/v1/samplers")[1]]
        assert len(names) >= 19
        for name in names:
            plain, placed = (draw(server, *given, sampler_name=name, steps=4) for given in ((), (HALVES,)))
            assert np.isfinite(placed.pictures).all(), name
            assert distance(placed.pictures, plain.pictures) > 0.2, name
            assert restored(placed.infotexts[0])["Places"] == HALVES, name
            assert WITHOUT not in placed.said, (name, placed.said)

    def test_hires_fix(self, server: Server) -> None:
        hires = {**HIRES, **self.hires, "hr_second_pass_steps": 3}
        plain, placed = draw(server, **hires), draw(server, HALVES, **hires)
        assert placed.pictures.shape[1:3] == (288, 288)
        assert distance(placed.pictures, plain.pictures) > 0.2
        assert restored(placed.infotexts[0])["Places"] == HALVES

    def test_img2img(self, server: Server) -> None:
        given: dict[str, Any] = {
            "init_images": [base64.b64encode(STRANGERS[0].read_bytes()).decode()],
            "denoising_strength": 0.9,
            "kind": "img2img",
            "steps": 4,
        }
        plain, placed = draw(server, **given), draw(server, HALVES, **given)
        assert distance(placed.pictures, plain.pictures) > 0.2
        assert restored(placed.infotexts[0])["Places"] == HALVES

    def test_batches(self, server: Server) -> None:
        together = draw(server, HALVES, batch_size=2, n_iter=2)
        assert len(together.pictures) == 4
        assert all(restored(one)["Places"] == HALVES for one in together.infotexts)
        for number in range(4):
            alone = draw(server, HALVES, seed=SIZE["seed"] + number)
            assert distance(alone.pictures[0], together.pictures[number]) < 1.0, number

    def test_composed_edited_and_long_prompts(self, server: Server) -> None:
        """AND, prompt editing, weights and another prompt for the second pass."""
        for prompt in (
            "a photo of <ada> and <ben> AND a painting of <ada> :0.5",
            "a [photo:painting:0.5] of (<ada>:1.1) and <ben:0.9>",
            "a photo of <ada> and <ben>" + ", a very long sentence about nothing at all" * 12,
        ):
            plain, placed = draw(server, prompt=prompt), draw(server, HALVES, prompt=prompt)
            assert distance(placed.pictures, plain.pictures) > 0.2, prompt
            assert WITHOUT not in placed.said, (prompt, placed.said)

    def test_bad_input_is_said(self, server: Server) -> None:
        plain = draw(server)
        for text, said in BAD.items():
            answer = draw(server, text)
            assert said in answer.said, (text, answer.said)
            assert WITHOUT in answer.said
            assert (answer.pictures == plain.pictures).all(), text
            assert restored(answer.infotexts[0]) == {}
        for until in (7, "x", None):
            answer = draw(server, HALVES, until)
            assert "share from 0 to 1" in answer.said, until
            assert (answer.pictures == plain.pictures).all()
        nobody = draw(server, "ada: left; zed: right", prompt="<ada> and <zed>")
        assert "Nobody in your library is called zed" in nobody.said

    def test_on_the_page(self, server: Server, browser: Any) -> None:
        """Two people are put side by side, one box is moved, an image is generated, and its parameters restore the places."""
        page = opened(browser, server)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error.stack)))
        tab(page, re.compile("^\\s*txt2img", re.IGNORECASE))
        page.fill("#txt2img_prompt textarea", PROMPT)
        for side in ("width", "height"):
            page.fill(f"#txt2img_{side} input[type=number]", "192")
        for setting, value in (("steps", "16"), ("cfg_scale", "2"), ("seed", "6")):
            page.fill(f"#txt2img_{setting} input[type=number]", value)
        control = page.locator("#celeb_basis_places_txt2img")
        control.locator(".label-wrap").click()
        control.get_by_text("Side by side").click()
        field = page.locator("#celeb_basis_places_text_txt2img textarea")
        assert field.input_value() == HALVES
        control.get_by_text("Exchange").click()
        assert field.input_value() == "ada: right; ben: left"
        moved(page, control, "ada", -12)
        left = float(field.input_value().split("ada: ")[1].split(" ")[0])
        assert 0.3 < left < 0.5
        placed = field.input_value()
        page.locator("#txt2img_generate").click()
        shown = page.locator("#html_info_txt2img").last
        shown.get_by_text("Places").wait_for()
        assert restored(shown.inner_text()) == {"Places": placed, "Places until": "1"}
        photographed(page, control)

        infotext = shown.inner_text()
        control.get_by_text("Clear").click()
        assert field.input_value() == ""
        assert not control.locator("svg").is_visible()
        pasted(page, infotext)
        page.wait_for_function(
            "value => document.querySelector('#celeb_basis_places_text_txt2img textarea').value === value", arg=placed
        )
        control.locator("svg text", has_text="ben").wait_for()
        # An image without places empties the field.
        pasted(page, re.sub(r', Places: "[^"]*", Places until: 1', "", infotext))
        page.wait_for_function("document.querySelector('#celeb_basis_places_text_txt2img textarea').value === ''")
        assert not [error for error in errors if "celebBasis" in error], errors  # the host's own page may have others
        page.close()


# The page


def moved(page: Any, control: Any, name: str, across: float) -> None:
    """Drag a person's box."""
    label = control.locator("svg text", has_text=name)
    label.scroll_into_view_if_needed()
    box = label.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 - 30)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + across, box["y"] + box["height"] / 2 - 30, steps=4)
    page.mouse.up()


def pasted(page: Any, infotext: str) -> None:
    """Put parameters into the prompt, and have the host read them."""
    page.fill("#txt2img_prompt textarea", infotext)
    page.locator("#txt2img_tools #paste").click()


def photographed(page: Any, control: Any) -> None:
    """A picture of the page for people, where ``CELEB_BASIS_SCREENSHOTS`` names a folder."""
    if folder := os.environ.get("CELEB_BASIS_SCREENSHOTS"):
        control.scroll_into_view_if_needed()
        page.screenshot(path=f"{folder}/places.png")
