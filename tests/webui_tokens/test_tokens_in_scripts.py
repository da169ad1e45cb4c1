"""In a real WebUI, over its API: names in the host's scripts, in batches, styles and passes, and after a restart.

Beside every request stands the same one with the vectors placed by hand: as ordinary embeddings of other names, in the
host's embeddings folder.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save
from support.webui import need_webui
from support.webui_server import Server, serving

BY_HAND = {"person1": "qqone", "person10": "qqtwo"}
WILDCARDS = """
from modules import scripts

class Wildcards(scripts.Script):
    def title(self):
        return "Wildcards"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def process(self, p, *args):
        lists = [p.all_prompts, p.all_negative_prompts, getattr(p, "all_hr_prompts", None) or []]
        for prompts in lists:
            prompts[:] = [
                one.replace("__who__", "<person1>" if i % 2 else "<person10>")
                .replace("__word__", " qqone " if i % 2 else " qqtwo ")
                for i, one in enumerate(prompts)
            ]
"""
STYLES = (
    'name,prompt,negative_prompt\nnamed,"<person1>, {prompt}","<person10>."\nspelled," qqone , {prompt}"," qqtwo ."\n'
)
SIZE = {"steps": 2, "width": 64, "height": 64, "sampler_name": "Euler", "cfg_scale": 4}
SEED, REPLACE = 1, 7
"""Places of two kinds among the axes of X/Y/Z plots."""


@dataclass
class Started:
    """The server, and everything needed to start it again."""

    server: Server
    options: dict[str, Any]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path) -> Iterator[Started]:
    options: dict[str, Any] = {
        "webui": need_webui("sd1"),
        "data": tmp_path_factory.mktemp("data"),
        "faces": miniature_folder,
    }
    data = options["data"]
    (data / "extensions" / "wildcards" / "scripts").mkdir(parents=True)
    (data / "extensions" / "wildcards" / "scripts" / "wildcards.py").write_text(WILDCARDS)
    (data / "styles.csv").write_text(STYLES)
    with serving(**options) as server:
        for seed, (name, word) in enumerate(BY_HAND.items()):
            vectors = 0.02 * np.random.default_rng(seed).standard_normal((2, 768), np.float32)
            body = {
                "data": base64.b64encode(save({"emb_params": vectors})).decode(),
                "file_name": f"{name}.safetensors",
            }
            server.ours("POST", "/people/import", body)
            server.ours("POST", f"/people/{name}/embedding")
            folder = data / "embeddings"
            (folder / f"{name}.safetensors").rename(folder / f"{word}.safetensors")
        server.call("POST", "/sdapi/v1/refresh-embeddings")
        loaded = server.call("GET", "/sdapi/v1/embeddings")[1]["loaded"]
        assert sorted(loaded) == sorted(BY_HAND.values())
        yield Started(server, options)


@pytest.fixture
def server(started: Started) -> Server:
    return started.server


def pictures(server: Server, kind: str, body: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """All pictures of a request, and what the host says about them."""
    if kind == "img2img":
        # The host encodes the given picture with random numbers of a state that the last picture left behind.
        answered(server, "txt2img", {**SIZE, "prompt": "", "seed": 1})
    return answered(server, kind, {"seed": 5, **SIZE, **body})


def answered(server: Server, kind: str, body: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    status, answer = server.call("POST", f"/sdapi/v1/{kind}", body)
    assert status == 200, answer
    return [pixels(one) for one in answer["images"]], json.loads(answer["info"])


def pixels(encoded: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


def by_hand(value: Any) -> Any:
    """``value`` with the ordinary embeddings' words in place of ``<name>``, wherever it stands."""
    if isinstance(value, dict):
        return {key: by_hand(one) for key, one in value.items()}
    if isinstance(value, list):
        return [by_hand(one) for one in value]
    if not isinstance(value, str):
        return value
    spelled = re.sub(r"<(person10?):([\d.]+)>", r"(<\1>:\2)", value.replace("__who__", "__word__"))
    for name, word in BY_HAND.items():
        spelled = spelled.replace(f"<{name}>", f" {word} ")
    return {"named": "spelled"}.get(spelled, spelled)


def same(server: Server, kind: str, body: dict[str, Any], *, drawn_text: int = 0) -> tuple[list[Any], dict[str, Any]]:
    """The pictures of ``body`` and what is said of them, after comparing them with those of the vectors placed by hand.

    The first ``drawn_text`` pictures are grids with the prompts written on them, which are not compared.
    """
    named, info = pictures(server, kind, body)
    spelled, _ = pictures(server, kind, by_hand(body))
    assert len(named) == len(spelled) > drawn_text
    for number, (one, other) in enumerate(zip(named[drawn_text:], spelled[drawn_text:], strict=True)):
        assert np.array_equal(one, other), f"picture {number} of {body} is another"
    assert "was read as plain text" not in json.dumps(info)
    return named[drawn_text:], info


def different(drawn: list[Any]) -> int:
    return len({one.tobytes() for one in drawn})


def reported(infotext: str) -> set[str]:
    """Who the parameters say is in the picture."""
    match = re.search(r'Celeb Basis: "([^"\n]*)"', infotext)
    return set(re.findall(r"(\w+): [0-9a-f]{12}", match.group(1))) if match else set()


def named(text: str) -> set[str]:
    return set(re.findall(r"<(person10?)[:>]", text))


def test_plain_pictures_differ_from_the_text(server: Server) -> None:
    drawn, _ = same(server, "txt2img", {"prompt": "<person1>, smiling", "negative_prompt": "<person10>."})
    text, _ = pictures(server, "txt2img", {"prompt": "person1, smiling", "negative_prompt": "person10."})
    assert not np.array_equal(drawn[0], text[0])


def test_batches(server: Server) -> None:
    body = {"prompt": "[<person1>:<person10>:1], tree", "batch_size": 2, "n_iter": 2}
    drawn, info = same(server, "txt2img", body)
    assert different(drawn) == 4
    assert [reported(text) for text in info["infotexts"]] == [{"person1", "person10"}] * 4


def test_styles(server: Server) -> None:
    drawn, info = same(server, "txt2img", {"prompt": "tree", "styles": ["named"]})
    written, _ = pictures(server, "txt2img", {"prompt": "<person1>, tree", "negative_prompt": "<person10>."})
    assert np.array_equal(drawn[0], written[0])
    assert reported(info["infotexts"][0]) == {"person1", "person10"}


def test_second_pass_with_its_own_prompts(server: Server) -> None:
    second = {"enable_hr": True, "hr_upscaler": "Latent", "hr_scale": 2, "denoising_strength": 0.7}
    body = {"prompt": "tree", **second, "hr_prompt": "<person1:1.2>, tree", "hr_negative_prompt": "<person10>"}
    drawn, info = same(server, "txt2img", body)
    assert drawn[0].shape == (128, 128, 3)
    assert reported(info["infotexts"][0]) == {"person1", "person10"}
    plain, _ = pictures(server, "txt2img", {"prompt": "tree", **second})
    assert not np.array_equal(drawn[0], plain[0])


def plot(**axes: Any) -> dict[str, Any]:
    """The X/Y/Z plot with axes of kinds and values, its cells among the answer's pictures."""
    arguments = [part for axis in "xyz" for part in (*axes.get(axis, (0, "")), [])]
    arguments += [True, True, False, False, False, False, False, 0, False]
    return {"script_name": "x/y/z plot", "script_args": arguments}


def test_xyz_plot_searches_and_replaces_names(server: Server) -> None:
    search = plot(x=(REPLACE, "<person1>, <person10>, a cat"), y=(SEED, "5,6"))
    drawn, info = same(server, "txt2img", {"prompt": "<person1> in rain", **search}, drawn_text=1)
    assert different(drawn) == len(drawn) == 6
    for text in info["infotexts"][1:]:
        assert reported(text) == named(text.split("\nNegative prompt")[0].split("\nSteps")[0]), text
    alone, _ = pictures(server, "txt2img", {"prompt": "<person10> in rain", "seed": 6})
    assert sum(np.array_equal(one, alone[0]) for one in drawn) == 1


def test_prompt_matrix(server: Server) -> None:
    body = {"prompt": "a photo|<person1>|<person10> smiling", "script_name": "prompt matrix"}
    drawn, info = same(server, "txt2img", {**body, "script_args": [False, False, "positive", "comma", 0]}, drawn_text=1)
    assert different(drawn) == 4
    assert [reported(text) for text in info["infotexts"][1:]] == [
        set(),
        {"person1"},
        {"person10"},
        {"person1", "person10"},
    ]
    negative = {"prompt": "tree", "negative_prompt": "rain|<person1>", "script_name": "prompt matrix"}
    same(server, "txt2img", {**negative, "script_args": [True, True, "negative", "space", 0]}, drawn_text=1)


def test_prompts_from_file(server: Server) -> None:
    lines = (
        "<person1>, in rain\n"
        '--prompt "a [<person1>:<person10>:1]" --negative_prompt "<person10>" --steps 3\n'
        '--prompt "<person10:0.7> AND a tree :0.5" --seed 9\nnobody'
    )
    body = {"prompt": "", "script_name": "prompts from file or textbox", "script_args": [False, False, "start", lines]}
    drawn, info = same(server, "txt2img", body)
    assert different(drawn) == 4
    assert [reported(text) for text in info["infotexts"]] == [{"person1"}, {"person1", "person10"}, {"person10"}, set()]


def test_prompts_that_another_extension_writes(server: Server) -> None:
    second = {"enable_hr": True, "hr_upscaler": "Latent", "hr_scale": 1.5, "denoising_strength": 0.7}
    body = {"prompt": "__who__, tree", "n_iter": 2, "batch_size": 2, **second, "hr_prompt": "[__who__:cat:0.5]"}
    drawn, info = same(server, "txt2img", body)
    assert different(drawn) == 4
    assert [reported(text) for text in info["infotexts"]] == [{"person10"}, {"person1"}] * 2


@pytest.fixture(scope="module")
def photo() -> str:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def masked() -> str:
    file = io.BytesIO()
    Image.fromarray(np.pad(np.full((32, 32), 255, np.uint8), 16)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_img2img_and_inpaint(server: Server, photo: str) -> None:
    body = {"init_images": [photo], "prompt": "<person1>'s hat", "negative_prompt": "(<person10>:1.2)", "steps": 4}
    over, info = same(server, "img2img", {**body, "n_iter": 2, "denoising_strength": 0.8})
    assert different(over) == 2
    assert reported(info["infotexts"][0]) == {"person1", "person10"}
    painted, _ = same(server, "img2img", {**body, "mask": masked(), "inpainting_fill": 1, "denoising_strength": 0.8})
    assert not np.array_equal(painted[0], over[0])


def test_loopback(server: Server, photo: str) -> None:
    body = {"init_images": [photo], "prompt": "[<person1>|<person10>]", "steps": 4, "denoising_strength": 0.6}
    drawn, _ = same(
        server, "img2img", {**body, "script_name": "loopback", "script_args": [2, 0.5, "Linear", "None"]}, drawn_text=1
    )
    assert drawn


def test_after_a_restart_people_are_there_and_a_pasted_picture_is_drawn_again(started: Started) -> None:
    server = started.server
    body = {"prompt": "hat of <person1>, [<person10:0.9>:cat:0.5]", "negative_prompt": "rain, <person10>.", "seed": 11}
    status, answer = server.call("POST", "/sdapi/v1/txt2img", body | SIZE)
    assert status == 200
    picture, people = answer["images"][0], server.ours("GET", "/people")
    status, read = server.call("POST", "/sdapi/v1/png-info", {"image": "data:image/png;base64," + picture})
    assert status == 200
    assert reported(read["info"]) == {"person1", "person10"}
    server.process.terminate()
    server.process.wait(20)
    shutil.rmtree(started.options["data"] / "embeddings")
    with serving(**started.options) as again:
        # The host answers before its checkpoint is loaded, and until then no identity is available.
        deadline = time.monotonic() + 120
        while (found := again.ours("GET", "/people")) != people and time.monotonic() < deadline:
            time.sleep(0.5)
        assert found == people
        # The parameters alone, as "PNG Info" reads them and the arrow below the prompt fills them in.
        pasted, info = answered(again, "txt2img", {"infotext": read["info"]})
        assert np.array_equal(pasted[0], pixels(picture))
        assert reported(info["infotexts"][0]) == {"person1", "person10"}
