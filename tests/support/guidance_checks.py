"""Face guidance in a real program with a page: what is asked over its API, and what is seen in the images."""

from __future__ import annotations

import base64
import io
import itertools
import os
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from support import places_checks
from support.neighbours import make_people
from support.places_checks import Drawn, Pictures, distance, pasted
from support.webui_browser import opened, tab
from support.webui_server import Server

from celeb_basis.cli.demo import STRANGERS
from celeb_basis.faces.guidance import portrait_vector
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.network import DetectedFace
from celeb_basis.faces.packs import MINIATURE, SHIPPED_PACKS
from celeb_basis.identities.identity import load_identity, save_identity

SCRIPT = "Celeb Basis face guidance"
WITHOUT = "generated without face guidance"
STEPS = 8
ONE = "a photo of <ada>"
PHOTOS = {"ada": STRANGERS[0], "ben": STRANGERS[1]}


def make_guided_people(folder: Path) -> None:
    """Two people who keep photos of strangers, one who was invented, and one without a photo."""
    make_people(folder)
    learned = {name: load_identity(folder / f"{name}.safetensors") for name in PHOTOS}
    for name, one in learned.items():
        photo = replace(one.metadata, thumbnail=PHOTOS[name].read_bytes())
        save_identity(replace(one, metadata=photo), folder / f"{name}.safetensors")
    others: dict[str, dict[str, Any]] = {"eve": {"source": "invented"}, "sam": {"thumbnail": None}}
    for name, changes in others.items():
        other = replace(learned["ada"], name=name, metadata=replace(learned["ada"].metadata, **changes))
        save_identity(other, folder / f"{name}.safetensors")


def draw(server: Server, strength: object = None, *, kind: str = "txt2img", **changes: Any) -> Drawn:
    """Generate with face guidance; ``None`` gives the script no values."""
    scripts = dict(changes.pop("alwayson_scripts", {}))
    if strength is not None:
        scripts[SCRIPT] = {"args": [strength]}
    asked = {"prompt": ONE, "steps": STEPS, "cfg_scale": 3, "alwayson_scripts": scripts, **changes}
    return places_checks.draw(server, kind=kind, **asked)


def strength_in(infotext: str) -> str | None:
    """The parameter of an image."""
    found = re.search(r"Face guidance: ([^,\n]*)", infotext)
    return found[1] if found else None


def without_strength(infotext: str) -> str:
    """The parameters without it."""
    return re.sub(r"Face guidance: [\d.]+, ", "", infotext)


@cache
def faces() -> InsightFaceNetwork:
    """The face models that the program uses as well."""
    return InsightFaceNetwork(SHIPPED_PACKS / MINIATURE, name=MINIATURE)


def found_in(picture: Pictures) -> list[DetectedFace]:
    """The faces of a picture from left to right."""
    return sorted(faces().detect(picture.astype(np.uint8)), key=lambda face: face.box[0])


def likeness(picture: Pictures, name: str, place: int = 0) -> float:
    """Cosine similarity of a face to a person's photo: of the face at ``place`` from the left."""
    found = found_in(picture)
    with Image.open(PHOTOS[name]) as photo:
        wanted = portrait_vector(np.asarray(photo.convert("RGB")), faces())
    assert wanted is not None
    aligned = faces().align(picture.astype(np.uint8), found[place].landmarks)
    return float(faces().embed([aligned])[0] @ wanted)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "invented": ({"prompt": "a photo of <eve>"}, "eve was invented, so there is no photo"),
    "no photo": ({"prompt": "a photo of <sam>"}, "sam keeps no photo for face guidance"),
    "nobody": ({"prompt": "a photo of a man"}, "names nobody from your library"),
    "too much": ({"strength": 3}, "Face guidance of '3' is not possible: choose 0 to 1"),
    "no number": ({"strength": "much"}, "Face guidance of 'much' is not possible"),
}


class FaceGuidanceChecks:
    """Every check, for a program whose module of tests has a fixture ``server``."""

    hires: ClassVar[dict[str, Any]] = {}
    """What else this program asks of a request with hires fix."""

    def test_faces_become_more_like_the_photo(self, server: Server) -> None:
        for name in PHOTOS:
            prompt = f"a photo of <{name}>"
            plain, half, full = (draw(server, strength, prompt=prompt) for strength in (None, 0.5, 1.0))
            alike = [likeness(one.pictures[0], name) for one in (plain, half, full)]
            assert alike[2] > alike[0] + 0.02, alike
            assert alike[1] > alike[0], alike
            assert WITHOUT not in full.said

    def test_without_guidance_images_are_the_same_bit_for_bit(self, server: Server) -> None:
        draw(server)
        plain = draw(server)
        assert (draw(server, 0).pictures == plain.pictures).all()
        guided = draw(server, 0.6)
        assert (guided.pictures != plain.pictures).any()
        assert strength_in(guided.infotexts[0]) == "0.6"
        assert without_strength(guided.infotexts[0]) == plain.infotexts[0]
        assert (draw(server, 0.6).pictures == guided.pictures).all()
        again = draw(server, 0)
        assert (again.pictures == plain.pictures).all()
        assert again.infotexts == plain.infotexts

    def test_every_sampler(self, server: Server) -> None:
        names = [str(one["name"]) for one in server.call("GET", "/sdapi/v1/samplers")[1]]
        assert len(names) >= 19
        drawn = []
        for name in names:
            plain, guided = (draw(server, *given, sampler_name=name, steps=6) for given in ((), (1.0,)))
            assert strength_in(guided.infotexts[0]) == "1", name
            assert WITHOUT not in guided.said, (name, guided.said)
            if not found_in(plain.pictures[0]):  # LCM needs a checkpoint of its own
                continue
            drawn.append(name)
            assert distance(guided.pictures, plain.pictures) > 0.05, name
            assert found_in(guided.pictures[0]), name
            if not name.startswith("DPM adaptive"):  # which chooses its steps by what the model predicts
                assert distance(guided.pictures, plain.pictures) < 12, name
        assert len(drawn) >= 16, drawn

    def test_hires_fix(self, server: Server) -> None:
        hires = {**places_checks.HIRES, **self.hires}
        plain, guided = draw(server, **hires), draw(server, 1.0, **hires)
        assert guided.pictures.shape[1:3] == (288, 288)
        assert distance(guided.pictures, plain.pictures) > 0.05
        assert strength_in(guided.infotexts[0]) == "1"

    def test_img2img_and_inpainting(self, server: Server) -> None:
        given: dict[str, Any] = {
            "kind": "img2img",
            "init_images": [base64.b64encode(STRANGERS[1].read_bytes()).decode()],
            "denoising_strength": 0.7,
        }
        for sampler in ("Euler", "DDIM"):
            plain, guided = (draw(server, *one, **given, sampler_name=sampler) for one in ((), (1.0,)))
            assert distance(guided.pictures, plain.pictures) > 0.05, sampler
            # The right half is kept.
            masked = {**given, "mask": left_half(), "inpainting_fill": 1, "mask_blur": 0, "sampler_name": sampler}
            plain, guided = (draw(server, *one, **masked) for one in ((), (1.0,)))
            assert distance(guided.pictures[:, :, :56], plain.pictures[:, :, :56]) > 0.01, sampler
            assert distance(guided.pictures[:, :, 96:], plain.pictures[:, :, 96:]) < 0.01, sampler

    def test_batches(self, server: Server) -> None:
        together = draw(server, 1.0, batch_size=2, n_iter=2)
        assert [strength_in(one) for one in together.infotexts] == ["1"] * 4
        for number in range(4):
            plain, alone = (draw(server, *one, seed=places_checks.SIZE["seed"] + number) for one in ((), (1.0,)))
            # Guidance enlarges the rounding of a batch.
            other = distance(alone.pictures[0], together.pictures[number])
            assert other < 0.6 * distance(alone.pictures, plain.pictures), number

    def test_two_people_in_their_places(self, server: Server) -> None:
        gains: list[float] = []
        ways = ((places_checks.HALVES, ("ada", "ben")), (places_checks.EXCHANGED, ("ben", "ada")))
        for seed, (text, order) in itertools.product(range(5, 17), ways):
            places = {places_checks.SCRIPT: {"args": [text, 1.0]}}
            given: dict[str, Any] = {
                "prompt": "a photo of <ada> and <ben>",
                "alwayson_scripts": places,
                "steps": 12,
                "seed": seed,
            }
            plain = draw(server, **given).pictures[0]
            if len(found_in(plain)) < 2:
                continue  # this checkpoint draws two faces in some of the images
            guided = draw(server, 1.0, **given).pictures[0]
            assert (guided != plain).any()
            if len(found_in(guided)) == 2:
                gains += [
                    likeness(guided, name, place) - likeness(plain, name, place) for place, name in enumerate(order)
                ]
            if len(gains) >= 4:
                break
        assert len(gains) >= 2
        assert np.mean(gains) > 0.05, gains

    def test_bad_input_is_said(self, server: Server) -> None:
        for given, said in BAD.values():
            given = {"strength": 1.0, **given}
            answer = draw(server, **given)
            assert said in answer.said, (said, answer.said)
            assert WITHOUT in answer.said
            assert strength_in(answer.infotexts[0]) is None
            assert (answer.pictures == draw(server, prompt=given.get("prompt", ONE)).pictures).all(), said

    def test_on_the_page(self, server: Server, browser: Any) -> None:
        """The slider says what it costs; an image is guided by it, and its parameters restore the strength."""
        page = opened(browser, server)
        tab(page, re.compile("^\\s*txt2img", re.IGNORECASE))
        control = page.locator("#celeb_basis_face_guidance_txt2img")
        number = control.locator("input[type=number]")
        assert number.input_value() == "0"
        assert "several times as long" in control.inner_text()
        page.fill("#txt2img_prompt textarea", ONE)
        for setting, value in (("width", "192"), ("height", "192"), ("steps", "12"), ("cfg_scale", "2"), ("seed", "6")):
            page.fill(f"#txt2img_{setting} input[type=number]", value)
        number.fill("0.65")
        number.blur()
        page.locator("#txt2img_generate").click()
        shown = page.locator("#html_info_txt2img").last
        shown.get_by_text("Face guidance: 0.65").wait_for()
        if folder := os.environ.get("CELEB_BASIS_SCREENSHOTS"):
            control.scroll_into_view_if_needed()
            page.screenshot(path=f"{folder}/face-guidance.png")
        infotext = shown.inner_text()
        field = "#celeb_basis_face_guidance_txt2img input[type=number]"
        for text, strength in (
            (infotext.replace("Face guidance: 0.65, ", ""), "0"),
            (infotext, "0.65"),
        ):
            pasted(page, text)
            page.wait_for_function(
                "([field, value]) => document.querySelector(field).value === value", arg=[field, strength]
            )
        page.close()


def left_half() -> str:
    """A mask of the left half, which is painted again."""
    mask = np.zeros((192, 192), np.uint8)
    mask[:, :96] = 255
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
