"""Control characters from files do not reach the terminal: they could rewrite what was printed, or type into the shell."""

from __future__ import annotations

import io
import json
import logging
import os
import struct
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from support.command_line import PHOTO, learn, own_folders, run

from celeb_basis.cli.progress import Console
from celeb_basis.errors import CelebBasisError, FileError, error_message, printable, printable_json

ATTACKS = (
    "\x1b[2J\x1b[1;1Hall fine",  # clears the screen
    "\x1b]0;title\x07",
    "\x9b31mred",  # the same in one character
    "\x1bP$q\x1b\\",
    "good\r\x08\x08bad",
    "photo\u202egnp.exe",  # shown from right to left
    "\u2066hidden\u2069\u200b\ufeff",
    "\U000e0041\U000e0042",
    "half \udce9",
    "line\u2028separator\x85",
)


def is_harmless(text: str) -> bool:
    return all(one.isprintable() or one in "\n\t" for one in text)


@pytest.mark.parametrize("attack", ATTACKS)
def test_everything_that_is_printed_is_escaped(attack: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(json=False, verbose=True, quiet=False, out=out, err=err)
    console.say(f"{attack}\n\tnext")
    console.note(attack)
    console.error(attack)
    with console.active():
        logging.getLogger("celeb_basis.test").warning("%s cannot be read", attack)
    with console.bar(3, attack) as bar:
        bar.update()
    lines = out.getvalue() + "".join(line for line in err.getvalue().splitlines(keepends=True) if "it/s" not in line)
    assert is_harmless(lines.replace("\r", "")), ascii(lines)
    assert attack not in err.getvalue()
    assert "\n\tnext\n" in out.getvalue()
    for error in (CelebBasisError(attack), FileError(f"Could not read {attack}."), ValueError(attack)):
        assert is_harmless(error_message(error))


@pytest.mark.parametrize("attack", ATTACKS)
def test_json_is_escaped_and_means_the_same(attack: str) -> None:
    out = io.StringIO()
    Console(json=True, verbose=False, quiet=False, out=out, err=io.StringIO()).result({"note": attack})
    assert is_harmless(out.getvalue())
    assert json.loads(out.getvalue()) == {"note": attack}
    assert json.loads(printable_json(json.dumps({attack: attack}, ensure_ascii=False))) == {attack: attack}


def test_what_people_write_stays() -> None:
    persian, rocket = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\U0001f469\u200d\U0001f680"
    for text in ("caf\u00e9 na\u00efve", "\u4f60\u597d", persian, rocket, "a\n\tb"):
        assert printable(text) == text


@pytest.mark.skipif(os.name == "nt", reason="Windows does not allow these characters in names")
def test_at_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = "\x1b[2J\x9b31m\u202e"
    shown = json.dumps(f"{attack} model")  # the description is JSON
    with own_folders(tmp_path):
        assert learn("ada").code == 0
        path = tmp_path / "library" / "ada.safetensors"
        # A description that another person has written.
        with open(path, "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        spoiled = {key: value.replace('"miniature"', shown) for key, value in header["__metadata__"].items()}
        assert spoiled != header["__metadata__"]
        save_file(load_file(path), tmp_path / f"{attack}.safetensors", spoiled)
        (tmp_path / f"{attack}.png").write_bytes(b"no picture")
        for words in (
            ("info", f"{attack}.safetensors"),
            ("info", f"{attack}.png"),
            ("info", attack),
            ("learn", f"{attack}.png", "--name", "bob", "--model", "miniature"),
            ("learn", PHOTO, "--name", f"bob{attack}", "--model", "miniature"),
            ("generate", f"<{attack}>", "--model", "miniature", "--output", "images"),
            ("generate", "<ada>", "--model", f"{attack}.safetensors", "--output", "images"),
            ("export", "ada", "--layout", attack, "--output", "out"),
            (attack,),
            ("import", f"{attack}.png", "--name", "eve"),
            ("-v", "info", f"{attack}.png"),
        ):
            for more in ((), ("--json",)):
                said = run(*words, *more)
                assert is_harmless(said.out + said.err), ascii(said.out + said.err)
                assert "1b[2J" in said.out + said.err or words[0] in ("generate", "import"), "it is shown, as an escape"
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    err = io.StringIO()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert Console(json=False, verbose=False, quiet=False, err=err).confirm(f"Delete {attack}?") is True
    assert is_harmless(err.getvalue())
