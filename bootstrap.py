"""From a fresh clone to a running project, with nothing but Python: ``python bootstrap.py demo`` or ``... test``.

Makes a virtual environment in ``.venv``, installs the tested versions into it, assembles the small face networks of the
demo and the tests, and runs what was asked for. Everything is skipped that was done before. Standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ASSETS = ROOT / ".assets"
OLDEST_PYTHON = (3, 10)
TASKS = ("setup", "demo", "test", "lint", "bench", "gate", "evidence", "interop", "test-webui", "bench-webui")
WEBUI_TESTS = (
    *("webui", "webui_tokens", "webui_api", "webui_tab", "webui_cards"),
    *("install", "consent", "packaging", "neighbours"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS, help="what to set up for, and to run")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where the virtual environment is made")
    arguments, rest = parser.parse_known_args()
    if sys.version_info < OLDEST_PYTHON:
        print(
            f"Python {'.'.join(map(str, OLDEST_PYTHON))} or newer is needed; this is {sys.version.split()[0]}.",
            file=sys.stderr,
        )
        return 2
    if arguments.task.endswith("-webui") and not os.environ.get("CELEB_BASIS_WEBUI"):
        print("Set CELEB_BASIS_WEBUI to the folder of a WebUI that has been started once.", file=sys.stderr)
        return 2
    with_tests = arguments.task not in ("setup", "demo")
    python = make_environment(arguments.venv.absolute(), "test" if with_tests else "run")
    environment = {**os.environ, "CELEB_BASIS_FACES": str(ASSETS / "faces" / "models")}
    if arguments.task == "lint":
        return subprocess.call([python, "-m", "ruff", "check", "."], cwd=ROOT) or subprocess.call(
            [python, "-m", "mypy"], cwd=ROOT
        )
    step("Assembling the small face networks")
    networks = [python, "-m", "miniature.face_pack.build", str(ASSETS / "faces" / "models" / "miniature")]
    if code := subprocess.call(networks, cwd=ROOT):
        return code
    commands = {
        "setup": [python, "-m", "celeb_basis", "--version"],
        "demo": [python, "-m", "celeb_basis", "demo"],
        "test": [python, "-m", "pytest"],
        "bench": [python, "-m", "benchmarks"],
        "gate": [python, "-m", "miniature.training.gate"],
        "evidence": [python, "-m", "benchmarks.evidence"],
        "interop": [python, "-m", "benchmarks.interop"],
        "test-webui": [python, "-m", "pytest", *(str(ROOT / "tests" / folder) for folder in WEBUI_TESTS)],
        "bench-webui": [python, "-m", "benchmarks.webui"],
    }
    if arguments.task in ("gate", "evidence"):
        step("Installing the judge and the face generator")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.check_call([*pip, "-r", str(ROOT / "benchmarks" / "evidence" / "requirements.txt")])
    step(f"Running: {arguments.task}")
    return subprocess.call([*commands[arguments.task], *rest], cwd=ROOT, env=environment)


def make_environment(folder: Path, requirements: str) -> str:
    """Make the virtual environment, or bring it up to date; returns its Python."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        step(f"Making a virtual environment in {folder}")
        venv.create(folder, with_pip=True)
    lists = sorted((ROOT / "requirements").glob("*.txt"))
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in [*lists, ROOT / "pyproject.toml"])).hexdigest()
    stamp = folder / f".celeb-basis-{requirements}"
    if not stamp.exists() or stamp.read_text() != wanted:
        step("Installing packages (torch is the large one)")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.check_call([*pip, "-r", str(ROOT / "requirements" / f"{requirements}.txt")])
        subprocess.check_call([*pip, "--no-deps", "-r", str(ROOT / "requirements" / "no-deps.txt")])
        subprocess.check_call([*pip, "--no-deps", "--editable", str(ROOT)])
        stamp.write_text(wanted)
    return str(python)


def step(text: str) -> None:
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        print(
            f"This step failed: {' '.join(map(str, error.cmd))}. Look at the message above, mend it, and run again.",
            file=sys.stderr,
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
