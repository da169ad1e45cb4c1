"""What a newcomer stumbles over on the command line, each at the command line itself."""

from __future__ import annotations

import re
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.command_line import MOMENT, PHOTO, learn, own_folders, run

from celeb_basis.cli.arguments import with_flags
from celeb_basis.cli.main import build_parser
from celeb_basis.miniature import MODEL


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a library of ``ada``."""
    place = tmp_path_factory.mktemp("newcomer")
    with own_folders(place):
        assert learn("ada").code == 0
        yield place


def library(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "library").glob("*.safetensors")}


# The first commands of README and docs, as they stand there


@pytest.mark.usefixtures("folder")
def test_the_basis_of_the_miniature() -> None:
    said = run("basis", "--model", "miniature")
    assert said.code == 0, said.err
    assert "128 components of 192 numbers" in said.out
    few = run("basis", "--model", "miniature", "--components", 20, "--json")
    assert few.json["bases"][0]["components"] == 20


def test_learning_on_the_miniature_needs_no_licence_and_no_download(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> Any:
        raise AssertionError("a name was looked up")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    said = run("learn", PHOTO, "--name", "grace", "--model", "miniature", *MOMENT)
    assert said.code == 0, said.err
    assert "license" not in said.err.casefold()
    # The last line is the next command, to be pasted.
    (line,) = [line for line in said.err.splitlines() if "celeb-basis generate" in line]
    words = shlex.split(line.partition("celeb-basis ")[2])
    assert "<grace>" in words[1]
    again = run(*words, "--steps", 1)
    assert again.code == 0, again.err
    assert list((folder / "pictures").glob("*.png"))


def test_another_model_still_asks_for_its_own_face_models(tmp_path: Path) -> None:
    from celeb_basis.cli.common import face_pack

    for words, pack in (
        (["--model", "miniature"], "miniature"),
        (["--model", str(MODEL)], "miniature"),
        (["--model", str(tmp_path)], "buffalo_l"),
        (["--model", "miniature", "--faces", "antelopev2"], "antelopev2"),
    ):
        assert face_pack(build_parser().parse_args(["learn", "a.jpg", "--name", "a", *words])) == pack


@pytest.mark.usefixtures("folder")
def test_generating_needs_no_option_for_who_is_in_the_prompt() -> None:
    said = run("generate", "a photo of <ada>", "--model", "miniature", "--output", "out", "--steps", 1)
    assert said.code == 0, said.err


def test_the_demo_says_the_truth_about_downloads(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["demo", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "This command downloads nothing" in text
    assert "PyPI" in text


# Errors in the words that were typed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch-size", 0], "--batch-size is 0"),
        (["--learning-rate", "fast"], "--learning-rate is 'fast'"),
        (["--steps", "many"], "--steps is 'many'"),
        (["--start", "middle"], "--start is 'middle'"),
        (["--start", "guess", "--mode", "head"], "--start guess needs coefficients that are optimized themselves"),
        (["--start", "guess", "--mode", "head"], "use --mode direct, or --start random."),
        (["--preset", "paper", "--start", "mean"], "--start mean needs"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_errors_name_options(options: list[Any], said: str) -> None:
    answer = run("learn", PHOTO, "--name", "x", "--model", "miniature", *options)
    assert answer.code == 2
    assert said in answer.err
    assert not re.search(r"\b[a-z]+_[a-z]+\b", answer.err)


@pytest.mark.parametrize(
    ("sentence", "typed"),
    [
        ("use batch_size 1 and gradient checkpointing", "use --batch-size 1 and gradient checkpointing"),
        ("size = 0 is fine", "--size 0 is fine"),
        (
            "Out of steps, views and size: nothing is typed here.",
            "Out of steps, views and size: nothing is typed here.",
        ),
        ("the file a_batch_size = b.png", "the file a_batch_size = b.png"),
        ("--batch-size is 0", "--batch-size is 0"),
    ],
)
def test_only_settings_become_options(sentence: str, typed: str) -> None:
    assert with_flags(sentence) == typed


# Answers to the point


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "x", "--model", "", "--output", "o"],
        ["generate", "x", "--model", "miniature", "--output", ""],
        ["generate", "x", "--model", "miniature", "--output", "o", "--library", ""],
        ["learn", "", "--name", "x", "--model", "miniature"],
        ["learn", "a.jpg", "--name", "x", "--model", "miniature", "--report", " "],
        ["basis", "--model", "miniature", "--names", ""],
        ["export", "ada", "--output", ""],
        ["import", ""],
        ["info", ""],
        ["demo", "--output", ""],
        ["evaluate", "", "--reference", "a.jpg"],
    ],
)
def test_an_empty_path_is_named(folder: Path, words: list[str]) -> None:
    answer = run(*words)
    assert answer.code == 2
    assert "empty" in answer.err
    assert not (folder / "o").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["info"],
        ["export", "--output", "x.pt"],
        ["generate", "<x>", "--model", "miniature", "--output", "o", "--identity"],
        ["blend", "--as", "y", "--model", "miniature"],
    ],
)
@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("photo.jpg", "celeb-basis learn"),
        ("my photo.png", "celeb-basis learn 'my photo.png' --name NAME"),
        ("embedding.pt", "celeb-basis import"),
        ("notes.txt", "not an identity file"),
        ("missing.jpg", "There is no file missing.jpg"),
    ],
)
def test_a_file_of_another_kind_is_named_with_what_to_do(
    folder: Path, command: list[str], file: str, said: str
) -> None:
    if file.endswith((".jpg", ".png")) and file != "missing.jpg":
        Image.new("RGB", (8, 8)).save(folder / file)
    elif file != "missing.jpg":
        (folder / file).write_bytes(b"something")
    words = [*command, file] if command[-1] == "--identity" else [command[0], file, *command[1:]]
    answer = run(*words)
    assert answer.code == 2
    assert said in answer.err
    assert "holds ada" not in answer.err


@pytest.mark.usefixtures("folder")
def test_info_describes_a_generated_image() -> None:
    made = run("generate", "(<ada>:1.1) smiles", "--model", "miniature", "--output", "out", "--steps", 1, "--json")
    said = run("info", made.json["pictures"][0]["file"], "--json").json
    assert (said["kind"], said["prompt"], said["people"]) == ("generated image", "(<ada>:1.1) smiles", ["<ada>"])


def test_names_may_be_given_as_they_stand_in_prompts(folder: Path) -> None:
    assert run("learn", PHOTO, "--name", "<eve>", "--model", "miniature", *MOMENT).code == 0
    assert "eve" in library(folder)
    assert run("info", "<eve>").code == 0
    assert run("blend", "<eve>=0.5", "<ada>", "--as", "<mix>", "--model", "miniature").code == 0
    assert run("export", "<mix>", "--output", "mix.pt").code == 0
    assert run("delete", "<mix>", "--yes").code == 0
    assert run("delete", "<eve>", "--yes").code == 0
    assert library(folder).isdisjoint({"eve", "mix"})


def test_name_and_as_are_one_option_everywhere(folder: Path) -> None:
    ada = folder / "library" / "ada.safetensors"
    for words in (
        ["learn", PHOTO, "--as", "one", "--model", "miniature", *MOMENT],
        ["blend", "ada", "--name", "two", "--model", "miniature"],
        ["import", ada, "--name", "three"],
    ):
        assert run(*words).code == 0
    assert {"one", "two", "three"} <= library(folder)
    for name in ("one", "two", "three"):
        assert run("delete", name, "--yes").code == 0


@pytest.mark.parametrize("output", ["new/", "new/deeper/", "plain"])
def test_exporting_creates_a_folder(folder: Path, output: str) -> None:
    said = run("export", "ada", "--layout", "webui", "--output", output)
    assert said.code == 0, said.err
    assert (folder / output / "ada.safetensors").is_file()


# Reported before the run


@pytest.mark.parametrize("place", ["/proc/celeb-basis", "file.txt/inside", "file.txt"])
@pytest.mark.parametrize(
    "command",
    [
        ["generate", "<ada>", "--model", "missing", "--output", "HERE"],
        ["learn", PHOTO, "--name", "x", "--model", "missing", "--report", "HERE/a.html"],
        ["learn", PHOTO, "--name", "x", "--model", "missing", "--state", "HERE/a.safetensors"],
        ["learn", PHOTO, "--name", "x", "--model", "miniature", "--library", "HERE"],
        ["basis", "--model", "missing", "--plot", "HERE/a.svg"],
        ["evaluate", "--identity", "ada", "--model", "missing", "--reference", PHOTO, "--output", "HERE/a.json"],
        ["evaluate", "--identity", "ada", "--model", "missing", "--reference", PHOTO, "--sheet", "HERE/a.png"],
        ["evaluate", "--identity", "ada", "--model", "missing", "--reference", PHOTO, "--keep", "HERE"],
        ["export", "ada", "--output", "HERE/a.pt"],
        ["demo", "--output", "HERE"],
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_the_model_is_loaded(
    folder: Path, command: list[Any], place: str
) -> None:
    if place.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no file system that refuses even root")
    (folder / "file.txt").write_text("x")
    answer = run(*(str(word).replace("HERE", place) for word in command))
    assert answer.code == 2
    assert ("/proc cannot be written" if place.startswith("/proc") else "file.txt is a file") in answer.err
    assert not list(folder.glob(".tmp-*"))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("size", ["500", "128x130", "130x128"])
@pytest.mark.parametrize("command", [["generate", "<ada>"], ["evaluate", "--identity", "ada", "--reference", PHOTO]])
def test_a_size_that_does_not_fit_is_told_before_the_model_is_loaded(
    command: list[Any], size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from celeb_basis.cli import common

    monkeypatch.setattr(common, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    options = ["--model", "miniature", "--size", size, *(["--output", "o"] if command[0] == "generate" else [])]
    answer = run(*command, *options)
    assert answer.code == 2
    assert f"--size {size} does not fit" in answer.err
    assert "multiples of 8" in answer.err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("package", ["diffusers", "transformers"])
def test_a_missing_package_is_named_for_this_python(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for words in (["generate", "<ada>", "--model", "miniature", "--output", "o"], ["demo", "--output", "d"]):
        said = run(*words)
        assert said.code == 2
        assert f"{package} is not installed" in said.err
        assert f'"{sys.executable}" -m pip install "{package}>=' in said.err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "words",
    [
        ["generate", "a \udcff <ada>", "--model", "miniature", "--output", "o"],
        ["generate", "<ada>", "--negative", "\udcff", "--model", "miniature", "--output", "o"],
        ["generate", "<ada>", "--model", "miniature", "--output", "o\udcff"],
        ["generate", "<ada>", "--model", "miniature", "--output", "o\udcff/deeper"],
        ["export", "ada", "--output", "\udcff.pt"],
        ["export", "ada", "--output", "\udcff/"],
        ["basis", "--model", "miniature", "--plot", "\udcff.svg"],
        ["learn", PHOTO, "--name", "x", "--model", "miniature", "--library", "\udcff", *MOMENT],
        ["learn", PHOTO, "--name", "x", "--model", "miniature", "--report", "\udcff.html", *MOMENT],
        ["demo", "--output", "\udcff"],
    ],
)
def test_bytes_that_are_no_text_are_told_before_the_run(words: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from celeb_basis.cli import common

    monkeypatch.setattr(common, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    said = run(*words)
    assert said.code == 2
    assert "not text in UTF-8" in said.err


# The miniature in diffusers, without any option


def test_the_miniature_loads_plainly_in_one_precision() -> None:
    import diffusers
    import torch

    plain = diffusers.DiffusionPipeline.from_pretrained(str(MODEL), local_files_only=True)
    assert {plain.unet.dtype, plain.vae.dtype, plain.text_encoder.dtype} == {torch.float32}
    half = diffusers.DiffusionPipeline.from_pretrained(str(MODEL), local_files_only=True, torch_dtype=torch.float16)
    assert {half.unet.dtype, half.vae.dtype, half.text_encoder.dtype} == {torch.float16}
    plain.set_progress_bar_config(disable=True)
    images = plain("a photo of Tom Hanks", num_inference_steps=1, width=128, height=128, output_type="np").images
    assert images.shape == (1, 128, 128, 3)
