"""Bad input, one case per row: exit code 2, a sentence that says what to do, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from celeb_basis.cli.common import check_folder, check_output_file
from celeb_basis.errors import FileError
from celeb_basis.files import cache_folder
from celeb_basis.identities.identity import Identity, IdentityMetadata, save_identity


@dataclass
class Files:
    """The files that the rows of the table use."""

    parts: Any
    folder: Path
    library: Path
    output: Path
    monkeypatch: pytest.MonkeyPatch

    def learn(self, *words: object, name: str = "new") -> list[object]:
        first = words[0] if words else self.parts.photo
        return ["learn", first, "--name", name, *self.parts.learning, *words[1:]]

    def generate(self, *words: object, prompt: str = "a photo of <taken>") -> list[object]:
        return ["generate", prompt, "--model", self.parts.model, "--output", self.output, "--steps", 1, *words]

    def picture(self, name: str, size: tuple[int, int], *, noise: bool = False) -> Path:
        path = self.folder / name
        if noise:
            pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        else:
            Image.new("RGB", size, "white").save(path)
        return path

    def file(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def foreign_identity(self) -> Path:
        """Made for SD2."""
        path = self.folder / "foreign.safetensors"
        save_identity(_identity("taken", "clip_h", 1024, family="sd2", base_model="some-sd2"), path)
        return path

    def failing(self, call: str, number: int) -> None:
        """Let the operating system refuse ``call``."""

        def refuse(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        self.monkeypatch.setattr(call, refuse)

    def nan_model(self) -> Path:
        """The model with a UNet that answers NaN."""
        import shutil

        from safetensors.torch import load_file, save_file

        folder = self.folder / "nan"
        shutil.copytree(self.parts.model, folder)
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(weights)
        tensors["conv_out.bias"].fill_(float("nan"))
        save_file(tensors, weights, metadata={"format": "pt"})
        return folder


def _identity(name: str, encoder: str, width: int, **details: Any) -> Identity:
    random = np.random.default_rng(0)
    return Identity(
        name,
        (encoder,),
        (random.normal(size=(2, 8)).astype(np.float32),),
        (random.normal(size=(2, width)).astype(np.float32),),
        IdentityMetadata(**details),
    )


Row = tuple[Callable[[Files], list[object]], str]

TABLE: Mapping[str, Row] = {
    # photos
    "no face": (lambda w: w.learn(w.picture("noise.png", (256, 256), noise=True)), "No face was found in noise.png"),
    "unreadable picture": (
        lambda w: w.learn(w.file("cut.png", w.parts.photo.read_bytes()[:3000])),
        "cut.png is damaged",
    ),
    "1x1 picture": (lambda w: w.learn(w.picture("dot.png", (1, 1))), "too small"),
    "30,000-pixel picture": (lambda w: w.learn(w.picture("long.png", (30_000, 64))), "too large"),
    "text named .jpg": (lambda w: w.learn(w.file("text.jpg", b"hello, I am a text\n")), "not a picture"),
    "empty photo": (lambda w: w.learn(w.file("empty.jpg", b"")), "empty"),
    "no such photo": (lambda w: w.learn(w.folder / "nothing.jpg"), "does not exist"),
    "no such face": (lambda w: w.learn(w.parts.photo, "--face", 99), "face number 99"),
    "folder without pictures": (lambda w: ["learn", w.output, *w.parts.learning], "no picture"),
    # names lists
    "empty names list": (lambda w: w.learn(w.parts.photo, "--names", w.file("none.txt", b"\n# nobody\n")), "no name"),
    "too short names list": (
        lambda w: w.learn(w.parts.photo, "--names", w.file("few.txt", b"Marie Curie\nAlbert Einstein\n")),
        "give a longer list or fewer components",
    ),
    "binary names list": (lambda w: w.learn(w.parts.photo, "--names", w.parts.photo), "one name per line"),
    "basis of too many components": (
        lambda w: ["basis", "--model", w.parts.model, "--names", w.parts.names, "--components", 500],
        "give a longer list or fewer components",
    ),
    # models
    "wrong base model": (lambda w: w.generate("--identity", w.foreign_identity()), "use a checkpoint of sd2"),
    "no such model": (lambda w: w.learn(w.parts.photo, "--model", w.folder / "none"), "does not exist"),
    "folder that is no model": (lambda w: w.learn(w.parts.photo, "--model", w.output), "model_index.json"),
    "unknown face pack": (lambda w: w.learn(w.parts.photo, "--faces", "no_such_pack"), "no_such_pack"),
    "NaN loss": (lambda w: w.learn(w.parts.photo, "--model", w.nan_model()), "lower --learning-rate"),
    # disks
    "disk full": (
        lambda w: (w.failing("os.fsync", errno.ENOSPC), w.learn(w.parts.photo))[1],
        "the disk is full: free some space",
    ),
    "read-only file system": (
        lambda w: (w.failing("tempfile.mkstemp", errno.EROFS), w.learn(w.parts.photo))[1],
        "read-only: choose another folder",
    ),
    "library is a file": (
        lambda w: w.learn(w.parts.photo, "--library", w.file("lib", b"")),
        "is a file, not a folder",
    ),
    "no permission": (
        lambda w: (w.monkeypatch.setattr("os.access", lambda *_: False), w.learn(w.parts.photo))[1],
        "cannot be written",
    ),
    "report in a file": (
        lambda w: w.learn(w.parts.photo, "--report", w.file("place", b"") / "r.html"),
        "is a file, not a folder",
    ),
    "pictures into a file": (
        lambda w: w.generate("--identity", "taken", "--output", w.file("pictures", b"")),
        "is a file, not a folder",
    ),
    "library of an overlong name": (
        lambda w: w.learn(w.parts.photo, "--library", w.folder / ("a" * 300)),
        "the name is too long",
    ),
    "library below an overlong name": (
        lambda w: ["info", "--library", w.folder / ("a" * 300) / "people"],
        "the name is too long",
    ),
    "report of an overlong name": (
        lambda w: w.learn(w.parts.photo, "--report", w.folder / ("a" * 300 + ".html")),
        "the name is too long",
    ),
    "pictures into an overlong name": (
        lambda w: w.generate("--identity", "taken", "--output", w.folder / ("a" * 300)),
        "the name is too long",
    ),
    "export into an overlong name": (
        lambda w: ["export", "taken", "--output", w.output / ("a" * 300 + ".pt")],
        "the name is too long",
    ),
    "photo of an overlong name": (lambda w: w.learn(w.folder / ("a" * 300)), "the name is too long"),
    "information on an overlong name": (lambda w: ["info", w.folder / ("a" * 300)], "the name is too long"),
    "disk full while drawing": (
        lambda w: (w.failing("os.fsync", errno.ENOSPC), w.generate(prompt="a tree"))[1],
        "the disk is full",
    ),
    "disk full at export": (
        lambda w: (w.failing("os.fsync", errno.ENOSPC), ["export", "taken", "--output", w.output / "a.pt"])[1],
        "the disk is full",
    ),
    # names
    "name with a path": (lambda w: w.learn(name="../evil"), "'/'"),
    "name with a backslash": (lambda w: w.learn(name="a\\b"), "leave it out"),
    "name with a control character": (lambda w: w.learn(name="a\x07b"), "control"),
    "name with a line end": (lambda w: w.learn(name="a\nb"), "control"),
    "name of nothing": (lambda w: w.learn(name="  "), "name is empty"),
    "name that Windows reserves": (lambda w: w.learn(name="con"), "choose another"),
    "name that is too long": (lambda w: w.learn(name="a" * 65), "at most 64"),
    "name that is taken": (lambda w: w.learn(name="taken"), "already an identity 'taken'"),
    "name that is taken but for case": (lambda w: w.learn(name="TAKEN"), "already an identity"),
    "two people of one name": (
        lambda w: [
            "learn", "--person", f"ann={w.parts.photo}", "--person", f"Ann={w.parts.photo}", *w.parts.learning
        ],
        "Two people",
    ),
    "import under a taken name": (
        lambda w: ["import", w.library / "taken.safetensors", "--as", "Taken"],
        "already an identity",
    ),
    "blend under a taken name": (
        lambda w: ["blend", "taken", "--as", "taken", "--model", w.parts.model],
        "already an identity",
    ),
    # settings and usage
    "setting out of range": (lambda w: w.learn(w.parts.photo, "--learning-rate", "1000"), "choose a value from"),
    "setting that is no number": (lambda w: w.learn(w.parts.photo, "--steps", "many"), "give a whole number"),
    "setting of another kind": (lambda w: w.learn(w.parts.photo, "--mode", "magic"), "choose one of"),
    "no name given": (lambda w: ["learn", w.parts.photo, *w.parts.learning], "--name"),
    "nobody given": (lambda w: ["learn", *w.parts.learning], "nobody to learn"),
    "unknown command": (lambda _: ["lern"], "lern"),
    "no command": (lambda _: [], "--help"),
    "unknown option": (lambda w: w.learn(w.parts.photo, "--stepps", 3), "--stepps"),
    "size of nonsense": (lambda w: w.generate("--size", "huge", prompt="a tree"), "write 512 or 512x768"),
    "ray for one photo": (lambda w: w.learn(w.parts.photo, "--executor", "ray"), "give a folder"),
    # identities
    "word without an identity": (lambda w: w.generate(prompt="<nobody> smiles"), "add --identity nobody"),
    "no such identity": (lambda w: w.generate("--identity", "nobody"), "There is no identity 'nobody'"),
    "broken identity": (
        lambda w: w.generate("--identity", w.file("broken.safetensors", b"\x08\0\0\0\0\0\0\0{}      ")),
        "cannot be used",
    ),
    "state that is none": (
        lambda w: ["learn", "--resume", w.library / "taken.safetensors", *w.parts.learning],
        "not a learning state",
    ),
    "export that the tool cannot read": (
        lambda w: ["export", "taken", "--output", w.output / "taken.txt"],
        "name the file with",
    ),
    "import of a text": (
        lambda w: ["import", w.file("text.pt", b"hello"), "--as", "x", "--model", w.parts.model],
        "text.pt",
    ),
    "import without a model": (lambda w: ["import", w.file("text.pt", b"hello"), "--as", "x"], "needs --model"),
    "weight that is none": (
        lambda w: ["blend", "taken=much", "--as", "x", "--model", w.parts.model],
        "write NAME=NUMBER",
    ),
    # judging
    "no pictures to judge": (
        lambda w: ["evaluate", w.output, "--reference", w.parts.photo, "--faces", w.parts.faces],
        "There is no picture",
    ),
    "reference without a face": (
        lambda w: [
            "evaluate", w.parts.photo.parent, "--reference", w.picture("n.png", (256, 256), noise=True),
            "--faces", w.parts.faces,
        ],
        "No face was found in n.png",
    ),
    "no such CLIP": (
        lambda w: ["evaluate", w.parts.photo.parent, "--reference", w.parts.photo, "--clip", w.folder / "clip"],
        "CLIP",
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", TABLE)
def test_bad_input(
    row: str,
    celeb: Callable[..., Any],
    parts: Any,
    tmp_path: Path,
    own_library: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "output"
    output.mkdir()
    own_library.mkdir()
    save_identity(_identity("taken", "clip_l", 64, family="sd1"), own_library / "taken.safetensors")
    make, fragment = TABLE[row]
    files = Files(parts, tmp_path, own_library, output, monkeypatch)
    arguments = make(files)
    before = _snapshot(tmp_path)

    answer = celeb(*arguments, "--quiet", "--json")

    said = answer.err.strip()
    assert answer.code == 2, said
    assert said.startswith("error: ")
    assert "\n" not in said
    assert said.endswith(".")
    assert fragment in said
    assert "Traceback" not in said
    assert answer.json == {"error": said.removeprefix("error: ")}
    assert _snapshot(tmp_path) == before
    assert not list(tmp_path.rglob(".tmp-*"))


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(errno.EACCES, "permission is denied"), (errno.ENOENT, "does not exist: choose another place")],
    ids=["a folder that cannot be looked into", "a drive that is not there"],
)
def test_places_that_cannot_be_reached(
    number: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refuse)
        for check in (check_folder, check_output_file):
            with pytest.raises(FileError, match=sentence):
                check(tmp_path / "somewhere" / "below")


def test_nan_saves_the_last_good_state_and_says_how_to_resume(
    celeb: Callable[..., Any], parts: Any, tmp_path: Path, own_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(parts, tmp_path, own_library, tmp_path, monkeypatch)
    answer = celeb(*files.learn(parts.photo, "--model", files.nan_model()))
    assert answer.code == 2
    (state,) = (cache_folder() / "unfinished").glob("new-*.safetensors")
    assert str(state) in answer.err
    shown = celeb("info", state, "--json").json
    assert (shown["kind"], shown["people"]) == ("learning state", ["new"])
    assert not own_library.exists()


def _snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def test_errors_are_plain_json_too(celeb: Callable[..., Any]) -> None:
    answer = celeb("info", "nobody", "--json")
    assert answer.code == 2
    assert set(json.loads(answer.out)) == {"error"}
