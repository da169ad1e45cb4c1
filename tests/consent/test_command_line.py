"""Consent on the command line: the note survives an interruption, deleting finds everything, nothing is sent anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.remains import remains

from celeb_basis.cli.demo import STRANGERS
from celeb_basis.cli.main import main
from celeb_basis.cli.progress import LearnBar
from celeb_basis.errors import HostError
from celeb_basis.events import Event, StepDone
from celeb_basis.identities.identity import load_identity

NAME = "Zyxwvada"

# Python calls an audit hook for every connection, every datagram and every name lookup. (A library checks at its import
# whether the machine has IPv6, by binding a socket to itself: that reaches no other machine.)
HOOK = """
import socket, sys
REACHING = ("connect", "sendto", "sendmsg", "getaddrinfo", "gethostbyname", "gethostbyaddr", "getnameinfo", "listen")
reached = []
def hook(event, arguments):
    if event.startswith("socket.") and event[7:] in REACHING:
        reached.append((event, repr(arguments)[:200]))
sys.addaudithook(hook)
"""


def learned(parts: Any, *more: object) -> int:
    words = [
        "learn",
        parts.photo,
        "--name",
        NAME,
        "--consent",
        f"{NAME} wrote to us",
        *parts.learning,
        "--quiet",
        *more,
    ]
    return main([str(word) for word in words])


@pytest.fixture
def interrupted(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that Ctrl-C ended after two steps."""
    shown = LearnBar.show

    def show(bar: LearnBar, event: Event) -> None:
        shown(bar, event)
        if isinstance(event, StepDone) and event.step == 2:
            import signal

            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(LearnBar, "show", show)
        assert learned(parts) == 130


@pytest.mark.usefixtures("interrupted")
def test_a_resumed_run_keeps_the_note(
    celeb: Callable[..., Any], parts: Any, private_cache: Path, own_library: Path
) -> None:
    (state,) = (private_cache / "unfinished").iterdir()
    words = ["learn", "--resume", state, "--model", parts.model, "--names", parts.names]
    assert celeb(*words).code == 0
    assert load_identity(own_library / f"{NAME}.safetensors").metadata.consent == f"{NAME} wrote to us"


@pytest.mark.usefixtures("interrupted")
def test_deleting_finds_everything(
    celeb: Callable[..., Any], parts: Any, tmp_path: Path, private_cache: Path, own_library: Path
) -> None:
    assert learned(parts, "--report", tmp_path / "elsewhere" / "report.html") == 0
    drawing = ["--model", parts.model, "--steps", 1]
    assert celeb("generate", f"<{NAME}> at sea", "--identity", NAME, *drawing, "--output", tmp_path / "drawn").code == 0
    judged = [
        "--prompts",
        1,
        "--keep",
        tmp_path / "kept",
        "--sheet",
        tmp_path / "sheet.jpg",
        "--output",
        tmp_path / "v.json",
    ]
    faces = ["--faces", parts.faces]
    assert celeb("evaluate", "--identity", NAME, "--reference", parts.photo, *faces, *drawing, *judged).code == 0
    # Without a name: the images' own parameters say who is in them, and the sheet shows the photo.
    unnamed = ["--sheet", tmp_path / "unnamed.png", "--output", tmp_path / "unnamed.json"]
    assert celeb("evaluate", tmp_path / "drawn", "--reference", parts.photo, *faces, *unnamed).code == 0
    (tmp_path / "embeddings").mkdir()
    for layout in ("webui", "diffusers"):
        assert (
            celeb(
                "export", NAME, "--layout", layout, "--output", tmp_path / "embeddings" / f"x-{layout}.safetensors"
            ).code
            == 0
        )
    blending = ["--model", parts.model, "--names", parts.names]
    assert celeb("blend", NAME, "--toward-mean", 0.3, "--as", "softer", *blending).code == 0
    assert learned(parts, "--replace") == 0
    identity = load_identity(own_library / f"{NAME}.safetensors")
    assert identity.metadata.thumbnail is not None
    contents = parts.photo.read_bytes(), identity.metadata.thumbnail, identity.vectors[0].tobytes()
    folders = (tmp_path, private_cache)
    found = remains(folders, NAME, *contents)
    assert len(found) >= 8

    asked = celeb("delete", NAME)
    assert asked.code == 2
    assert "--yes" in asked.err
    looked = celeb("delete", NAME, "--dry-run")
    assert remains(folders, NAME, *contents) == found, "so far nothing was deleted"
    assert "sheet.jpg" in looked.out
    assert "unnamed.png" in looked.out
    answer = celeb("delete", NAME, "--yes", "--json")
    assert answer.code == 0
    assert answer.json["left"] == []
    assert set(answer.json["people"]) == {NAME, "softer"}
    assert remains(folders, NAME, *contents) == []
    assert celeb("delete", NAME, "--yes").code == 2


def test_a_state_that_was_saved_elsewhere_is_deleted_too(
    celeb: Callable[..., Any], parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_bar: LearnBar, event: Event) -> None:
        if isinstance(event, StepDone):
            raise HostError("The checkpoint was switched.")

    state = tmp_path / "elsewhere" / "run.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(LearnBar, "show", failing)
        state.parent.mkdir()
        state.write_bytes(b"as an error leaves it")
        assert learned(parts, "--state", state) == 2
    assert celeb("delete", NAME, "--yes").code == 0
    assert not state.exists()


def test_a_changed_file_is_kept_and_listed(celeb: Callable[..., Any], parts: Any, tmp_path: Path) -> None:
    assert learned(parts, "--report", tmp_path / "report.html") == 0
    (tmp_path / "report.html").write_text("mine")
    answer = celeb("delete", NAME, "--yes")
    assert answer.code == 1
    assert str(tmp_path / "report.html") in answer.out
    assert (tmp_path / "report.html").read_text() == "mine"


def test_images_of_generate_name_the_people_in_the_prompt(
    celeb: Callable[..., Any], parts: Any, tmp_path: Path
) -> None:
    assert learned(parts) == 0
    words = ["generate", f"<{NAME}> at sea", "--identity", NAME, "--model", parts.model, "--steps", 1]
    (shown,) = celeb(*words, "--output", tmp_path / "drawn", "--json").json["pictures"]
    with Image.open(shown["file"]) as image:
        texts = image.text
    assert f"AI-generated picture of <{NAME}>," in texts["AI-generated person"]
    assert "digitalsourcetype/trainedAlgorithmicMedia" in texts["XML:com.adobe.xmp"]
    assert f'"{NAME}' in texts["parameters"].replace("\\", "")


def run_watched(*arguments: object) -> list[Any]:
    """Run the command line in another process; returns what it tried to reach."""
    words = [str(argument) for argument in arguments]
    script = f"{HOOK}\nimport json\nfrom celeb_basis.cli.main import main\ncode = main({words!r})\n"
    script += "print(json.dumps([code, reached]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    code, reached = json.loads(done.stdout.strip().splitlines()[-1])
    assert code == 0, done.stderr
    return list(reached)


def test_learning_on_the_miniature_opens_no_connection(miniature_folder: Path, tmp_path: Path) -> None:
    words = ["learn", STRANGERS[0], "--name", NAME, "--model", "miniature", "--faces", miniature_folder]
    few = ["--steps", 2, "--views", 2, "--batch-size", 1, "--no-likeness", "--library", tmp_path / "people", "--quiet"]
    assert run_watched(*words, *few, "--report", tmp_path / "report.html") == []
    assert (tmp_path / "people" / f"{NAME}.safetensors").is_file()


def test_the_hook_would_see_a_connection() -> None:
    """Otherwise the test above would prove nothing."""
    script = f"{HOOK}\ntry: socket.create_connection(('127.0.0.1', 9), 1)\nexcept OSError: print(len(reached))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 2
