"""Interrupted runs: their files, and the command that resumes them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from celeb_basis.cli.arguments import command_line
from celeb_basis.cli.learn_people import resume_command, unfinished_run
from celeb_basis.cli.main import build_parser

MODEL = ["--model", "my models/sd15"]


def test_the_resume_command_has_the_options_of_the_run() -> None:
    parser = build_parser()
    begun = ["--device", "cuda:1", "--dtype", "fp32", "--names", "few.txt", "--library", "there", "--replace"]
    command = resume_command(parser.parse_args(["learn", "ada.jpg", *MODEL, *begun]), Path("a state.safetensors"))
    program, *words = shlex.split(command)
    assert program == "celeb-basis"
    assert words == ["learn", "--resume", "a state.safetensors", *MODEL, *begun]
    parser.parse_args(words)
    plain = resume_command(parser.parse_args(["learn", "ada.jpg", *MODEL]), Path("a.safetensors"))
    assert shlex.split(plain)[1:] == ["learn", "--resume", "a.safetensors", *MODEL]


def test_no_run_takes_the_place_of_another() -> None:
    def kept(*names: str, model: str = "sd15", library: str = "here") -> Path:
        return unfinished_run(names, parser.parse_args(["learn", "--model", model, "--library", library]))

    parser = build_parser()
    others = [kept("ada", "bob"), kept("ada", model="sd21"), kept("ada", library="there"), kept("bob")]
    assert len({kept("ada"), *others}) == 5
    assert kept("ada").name.startswith("ada-")
    assert kept("ada") == kept("ada", model=str(Path("sd15").absolute())) == kept("ada", library="./here")
    long = kept("\N{GRINNING FACE}" * 64)
    assert len(long.name.encode()) < 255
    assert long != kept("\N{GRINNING FACE}" * 63)


def test_windows_has_its_own_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["celeb-basis", "--resume", r"C:\Users\Ada B\run.safetensors", "--model", r"D:\sd15"]
    with monkeypatch.context() as patch:  # no longer than that: pathlib asks it too
        patch.setattr("os.name", "nt")
        typed = command_line(words)
    assert typed == r'celeb-basis --resume "C:\Users\Ada B\run.safetensors" --model D:\sd15'
