"""Other people's extensions beside this one in a real WebUI, and pictures that show whether a name meant somebody.

``CELEB_BASIS_NEIGHBOURS`` is a folder with checkouts of the extensions, each under its repository's name. What they need
is installed in the Python that ``CELEB_BASIS_WEBUI_PYTHON`` names.

The people here have two celebrities' coefficients in the miniature's basis. Beside each request stands the same one with
their vectors placed by hand, as ordinary embeddings in the host's folder: where a name is understood, the pictures are equal.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.webui import need_webui
from support.webui_server import Server, serving

CONTROLNET = "sd-webui-controlnet"
ADETAILER = "adetailer"
DYNAMIC_PROMPTS = "sd-dynamic-prompts"
TAG_COMPLETE = "a1111-sd-webui-tagcomplete"
REGIONAL_PROMPTER = "sd-webui-regional-prompter"
EMBEDDING_MERGE = "stable-diffusion-webui-embedding-merge"
NEIGHBOURS = (CONTROLNET, ADETAILER, DYNAMIC_PROMPTS, TAG_COMPLETE, REGIONAL_PROMPTER, EMBEDDING_MERGE)
TOGETHER = "all together"

PEOPLE = {"ada": "Ryan Gosling", "ben": "Lindsay Davenport"}
BY_HAND = {"ada": "qqada", "ben": "qqben"}
SIZE = {"steps": 4, "width": 192, "height": 192, "sampler_name": "Euler", "cfg_scale": 4, "seed": 5}

_CHANNELS = 32
_SMALL_CONTROLNET = f"""
from modules import script_callbacks

def tell():
    from scripts import controlnet_model_guess
    controlnet_model_guess.controlnet_default_config["model_channels"] = {_CHANNELS}

script_callbacks.on_before_ui(tell)
"""
"""ControlNet knows Stable Diffusion's own size only, and builds every model with the sizes of this table."""


def beside(*names: str) -> pytest.MarkDecorator:
    """Run a test beside each of these extensions, and beside all together."""
    return pytest.mark.parametrize("world", [*names, TOGETHER], indirect=True, scope="session")


@dataclass
class World:
    """A running WebUI with this extension, some neighbours, and two people."""

    server: Server
    neighbours: tuple[str, ...]
    heard: int = field(default=0)

    def complaints(self) -> list[str]:
        """Errors on the console since the last call."""
        text = self.server.log.read_text(errors="replace")
        said, self.heard = text[self.heard :], len(text)
        # The host's list of extensions reads where this checkout was cloned from, which need not be anywhere.
        found = re.split(r"\n(?=\*\*\* |Traceback|ERROR)", said)[1:]
        return [text for text in found if not text.startswith("*** Failed reading extension data from Git repository")]

    def drawn(self, kind: str, body: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """All pictures of a request, and what the host says about them."""
        status, answer = self.server.call("POST", f"/sdapi/v1/{kind}", {**SIZE, **body})
        assert status == 200, answer
        decoded = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in answer["images"]]
        return decoded, json.loads(answer["info"])

    def understood(self, body: dict[str, Any], kind: str = "txt2img") -> tuple[list[Any], dict[str, Any]]:
        """The pictures of ``body`` and what is said of them.

        They are those of the vectors placed by hand, and each is another than with the names as mere text.
        """
        named, info = self.drawn(kind, body)
        by_hand, _ = self.drawn(kind, _everywhere(body, _by_hand))
        text, _ = self.drawn(kind, _everywhere(body, _text))
        # ControlNet adds the drawings that guided it, at the end.
        count = len(info["all_prompts"])
        assert len(named) == len(by_hand) == len(text) >= count > 0
        for number, (one, placed, mere) in enumerate(zip(named, by_hand, text, strict=True)):
            assert np.array_equal(one, placed), f"picture {number} of {body} is not that of the vectors"
            if number < count:
                assert not np.array_equal(one, mere), f"picture {number} of {body} is that of the mere text"
        return named, info

    def script(self, beginning: str) -> str:
        """The name of an extension's script, which may hold its version."""
        scripts = self.server.call("GET", "/sdapi/v1/script-info")[1]
        return next(str(one["name"]) for one in scripts if one["name"].startswith(beginning))


def _everywhere(value: Any, change: Any) -> Any:
    if isinstance(value, dict):
        return {key: _everywhere(one, change) for key, one in value.items()}
    if isinstance(value, list):
        return [_everywhere(one, change) for one in value]
    return change(value) if isinstance(value, str) else value


def _by_hand(text: str) -> str:
    for name, word in BY_HAND.items():
        text = re.sub(rf"<{name}(:[\d.]+)>", rf"( {word} \1)", text).replace(f"<{name}>", f" {word} ")
    return text.replace("__who__", "__by_hand__")


def _text(text: str) -> str:
    return re.sub(r"<(ada|ben)(:[\d.]+)?>", r"\1", text).replace("__who__", "__text__")


def told(infotext: str) -> set[str]:
    """Who the parameters say is in the picture."""
    match = re.search(r'Celeb Basis: "([^"\n]*)"', infotext)
    return set(re.findall(r"(\w+): [0-9a-f]{12}", match.group(1))) if match else set()


def checkouts(wanted: str) -> tuple[Path, ...]:
    """The folders of one extension, or of all that there are; the test is skipped where they are missing."""
    named = os.environ.get("CELEB_BASIS_NEIGHBOURS")
    if not named:
        pytest.skip("needs other extensions: set CELEB_BASIS_NEIGHBOURS to a folder with their checkouts")
    folder = Path(named).expanduser()
    found = tuple(folder / name for name in NEIGHBOURS if (folder / name).is_dir() and wanted in (name, TOGETHER))
    if len(found) < (2 if wanted == TOGETHER else 1):
        pytest.skip(f"needs {wanted} in {folder}")
    return found


def make_checkpoints(folder: Path) -> None:
    """Write the miniature, another with an untrained denoiser of Stable Diffusion's own twelve blocks, and a ControlNet
    for that one."""
    import diffusers
    from safetensors.torch import save_file

    from celeb_basis.hosts.diffusers.configs import component_configs
    from celeb_basis.miniature import shipped_model
    from miniature.small_models.for_webui import put_miniature, save_for_webui
    from miniature.small_models.weights import fill

    put_miniature(folder)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(shipped_model(), local_files_only=True)
    channels = [_CHANNELS, 2 * _CHANNELS, 4 * _CHANNELS, 4 * _CHANNELS]
    sizes = {"block_out_channels": channels, "cross_attention_dim": 192, "sample_size": 24}
    pipeline.register_modules(unet=diffusers.UNet2DConditionModel(**component_configs("sd1")["unet"] | sizes))
    fill(pipeline.unet, 0, "unet")
    save_for_webui(pipeline.to("cpu"), folder / "twelve.safetensors")
    control = diffusers.ControlNetModel.from_unet(pipeline.unet)
    fill(control, 1, "controlnet")
    (folder / "ControlNet").mkdir()
    weights = {key: tensor.contiguous() for key, tensor in control.state_dict().items()}
    save_file(weights, str(folder / "ControlNet" / "small.safetensors"))


def make_people(folder: Path) -> None:
    """Write identities of two celebrities."""
    from celeb_basis.basis import BasisOptions, build_bases
    from celeb_basis.hosts.diffusers import load_host
    from celeb_basis.identities.expand import new_identity
    from celeb_basis.identities.library import Library
    from celeb_basis.miniature import shipped_model, shipped_model_names

    model = load_host(shipped_model())
    built = build_bases(model.text_encoders, shipped_model_names(), BasisOptions(components=128))
    bases = [one.basis for one in built]
    for name, celebrity in PEOPLE.items():
        coefficients = [basis.name_coefficients[basis.names.index(celebrity)] for basis in bases]
        Library(folder).add(new_identity(name, coefficients, bases, model.info))


@contextmanager
def living_beside(wanted: str, data: Path, checkpoints: Path, faces: Path) -> Iterator[World]:
    """The WebUI with the neighbours that are ``wanted``, copied: some write into their own folders."""
    folders, webui = checkouts(wanted), need_webui()
    extensions = data / "extensions"
    for folder in folders:
        shutil.copytree(folder, extensions / folder.name, ignore=shutil.ignore_patterns(".git"))
    names = tuple(folder.name for folder in folders)
    if CONTROLNET in names:
        (extensions / "small-controlnet" / "scripts").mkdir(parents=True)
        (extensions / "small-controlnet" / "scripts" / "small_controlnet.py").write_text(_SMALL_CONTROLNET)
        shutil.copytree(checkpoints / "ControlNet", data / "models" / "ControlNet")
    if DYNAMIC_PROMPTS in names:
        lists = {
            "who": [f"<{name}>" for name in PEOPLE],
            "by_hand": [f" {word} " for word in BY_HAND.values()],
            "text": PEOPLE,
        }
        wildcards = extensions / DYNAMIC_PROMPTS / "wildcards"
        wildcards.mkdir(exist_ok=True)
        for name, lines in lists.items():
            (wildcards / f"{name}.txt").write_text("\n".join(lines))
    first = checkpoints / "miniature.safetensors"
    flags = ["--ckpt-dir", str(checkpoints), "--ckpt", str(first)]
    flags += ["--celeb-basis-names", str(checkpoints / "miniature-names.txt")]
    make_people(data / "celeb-basis" / "people")
    with serving(webui, data, faces, page=True, more=flags) as server:
        _wait_for_people(server)
        for name, word in BY_HAND.items():
            server.ours("POST", f"/people/{name}/embedding")
            embeddings = data / "embeddings"
            (embeddings / f"{name}.safetensors").rename(embeddings / f"{word}.safetensors")
        server.call("POST", "/sdapi/v1/refresh-embeddings")
        loaded = server.call("GET", "/sdapi/v1/embeddings")[1]["loaded"]  # which lists people as well
        assert {name for name in loaded if not name.startswith("<")} == {*BY_HAND.values()}
        yield World(server, names)


def _wait_for_people(server: Server) -> None:
    """The host answers before its checkpoint is loaded, and until then nobody is available."""
    end = time.monotonic() + 120
    while True:
        found = server.ours("GET", "/people")["people"]
        if found and all(one["available"] for one in found):
            return
        assert time.monotonic() < end, found
        time.sleep(0.5)
