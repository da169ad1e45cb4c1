"""Starting is fast, examples in help texts parse, and exit codes and streams are as documented."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celeb_basis import __version__
from celeb_basis.cli.main import build_parser, main
from celeb_basis.settings import TrainingSettings

HEAVY = ("torch", "numpy", "diffusers", "transformers", "insightface", "matplotlib", "ray", "PIL", "tqdm")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["learn", "--help"], ["evaluate", "--help"]])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from celeb_basis.cli.main import main\n"
        f"code = main({arguments!r})\n"
        f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules])\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("loaded: []")


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celeb_basis", "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"celeb-basis {__version__}")
    done = subprocess.run([sys.executable, "-m", "celeb_basis", "lern"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def _commands() -> dict[str, Any]:
    (action,) = (action for action in build_parser()._actions if action.choices and action.dest != "help")
    assert isinstance(action.choices, dict)
    return action.choices


def test_all_commands_are_there() -> None:
    assert set(_commands()) >= {"basis", "learn", "generate", "evaluate", "export", "import", "blend", "info", "demo"}


def test_every_example_in_a_help_text_is_understood_by_its_parser() -> None:
    import shlex

    checked = 0
    for parser in (build_parser(), *_commands().values()):
        text = f"{parser.description}\n{parser.epilog or ''}".replace("\\\n", " ")
        for line in text.splitlines():
            if not line.strip().startswith("celeb-basis "):
                continue
            example = line.split("     (")[0].strip()
            parsed = build_parser().parse_args(shlex.split(example)[1:])
            assert callable(parsed.run), example
            checked += 1
    assert checked >= 20


def test_every_setting_is_an_option_that_reaches_the_settings() -> None:
    from celeb_basis.cli.common import chosen_settings

    given = TrainingSettings(
        mode="head", start="random", steps=7, batch_size=3, accumulation=2, learning_rate=0.5, weight_decay=0.25, components=9,
        shared=True, average_decay=0.5, precision="bf16", checkpointing="on", cuda_graph="off", size=128, views=5, smallest=0.3,
        describe=False, early_stop=False, settled=0.5, seed=11, celebrities=20, celebrity_size=256,
        highest_noise=0.75,
    )  # fmt: skip
    words = ["learn", "photo.jpg", "--model", "m"]
    for name, value in given.as_dict().items():
        option = name.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{option}"] if isinstance(value, bool) else [f"--{option}", str(value)]
    assert chosen_settings(build_parser().parse_args(words)) == given
    assert all(value != getattr(TrainingSettings(), name) for name, value in given.as_dict().items())
    paper = build_parser().parse_args(["learn", "p", "--model", "m", "--preset", "paper", "--steps", "3"])
    assert chosen_settings(paper).steps == 3
    assert chosen_settings(paper).views == 800


@pytest.mark.parametrize("words", [["--json", "info"], ["info", "--json"]])
def test_json_may_stand_before_or_after_the_command(celeb: Callable[..., Any], words: list[str]) -> None:
    answer = celeb(*words)
    assert answer.code == 0
    assert answer.json["kind"] == "library"
    assert answer.json["people"] == []


def test_an_internal_error_says_so_and_shows_its_traceback_only_with_verbose(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> int:
        raise RuntimeError("a wheel came off")

    monkeypatch.setattr("celeb_basis.cli.people._describe_library", broken)
    assert main(["info"]) == 70
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "a wheel came off" in said
    assert "Traceback" not in said
    assert main(["info", "-v"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_what_libraries_print_never_mixes_with_a_result(
    monkeypatch: pytest.MonkeyPatch, celeb: Callable[..., Any]
) -> None:
    def chatty(*_: object) -> dict[str, Any]:
        print("find model: det.onnx")
        return {"kind": "library", "folder": "f", "people": []}

    monkeypatch.setattr("celeb_basis.cli.people._describe_library", chatty)
    answer = celeb("info", "--json")
    assert answer.json["kind"] == "library"
    assert "find model" in answer.err


def test_the_default_library_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:

    from celeb_basis.cli.arguments import default_library

    assert default_library().name == "library"
    monkeypatch.delenv("CELEB_BASIS_LIBRARY")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    monkeypatch.setenv("LOCALAPPDATA", "/data")
    assert default_library() == Path("/data/celeb-basis/identities")


def test_the_layouts_that_the_help_lists_are_those_of_the_exports() -> None:
    from celeb_basis.cli import transfer
    from celeb_basis.exports.textual_inversion import LAYOUTS

    assert tuple(LAYOUTS) == transfer.LAYOUTS


def test_the_miniature_is_found_from_within_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a folder ``miniature`` is not a checkpoint; one that is a checkpoint is meant."""
    from celeb_basis.miniature import MODEL

    monkeypatch.chdir(tmp_path)
    (tmp_path / "miniature").mkdir()
    words = ["learn", "photo.jpg", "--model", "miniature"]
    assert build_parser().parse_args(words).model == MODEL
    (tmp_path / "miniature" / "model_index.json").write_text("{}")
    assert build_parser().parse_args(words).model == Path("miniature")
