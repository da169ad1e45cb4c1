"""Set up the project from a fresh clone and run a task, with nothing but Python: ``python bootstrap.py demo``.

Makes a virtual environment in ``.venv``, installs the tested versions of the packages, and runs the task. Steps that are
already done are skipped. Standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON = (3, 10)
FACE_PACK = ROOT / "celeb_basis" / "miniature" / "face_pack" / "miniature"
WEBUI_TESTS = (
    *("webui", "webui_tokens", "webui_api", "webui_tab", "webui_cards"),
    *("install", "consent", "packaging", "neighbours"),
)

TASKS = {
    "setup": ["-m", "celeb_basis", "--version"],
    "demo": ["-m", "celeb_basis", "demo"],
    "test": ["-m", "pytest", "-n", "auto", "--maxprocesses", "8", "--dist", "worksteal"],
    "lint": ["-m", "ruff", "check", "."],
    "bench": ["-m", "benchmarks"],
    "bench-gpu": ["-m", "benchmarks.gpu"],
    "gate": ["-m", "miniature.training.gate"],
    "evidence": ["-m", "benchmarks.evidence"],
    "interop": ["-m", "benchmarks.interop"],
    "face-pack": ["-m", "miniature.face_pack.build", str(FACE_PACK)],
    "test-webui": ["-m", "pytest", *(str(ROOT / "tests" / folder) for folder in WEBUI_TESTS)],
    "bench-webui": ["-m", "benchmarks.webui"],
    "screenshots": ["-m", "benchmarks.webui.screenshots"],
    "film": ["-m", "benchmarks.webui.screenshots", "--film", "docs/images/film.webp"],
}
"""Arguments of Python for each task."""
IN_A_WEBUI = ("test-webui", "bench-webui", "screenshots", "film")


def main() -> int:
    """Run a task; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS, help="what to run; setup only prepares the environment")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="folder of the virtual environment")
    arguments, rest = parser.parse_known_args()
    if sys.version_info < OLDEST_PYTHON:
        print(
            f"Python {'.'.join(map(str, OLDEST_PYTHON))} or newer is needed; this is {sys.version.split()[0]}.",
            file=sys.stderr,
        )
        return 2
    if arguments.task in IN_A_WEBUI and not os.environ.get("CELEB_BASIS_WEBUI"):
        print("Set CELEB_BASIS_WEBUI to the folder of a WebUI that has been started once.", file=sys.stderr)
        return 2
    requirements = "run" if arguments.task in ("setup", "demo", "face-pack", "evidence") else "test"
    python = make_environment(arguments.venv.absolute(), requirements)
    if arguments.task in ("gate", "evidence"):
        step("Installing the independent face networks")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.check_call([*pip, "-r", str(ROOT / "benchmarks" / "evidence" / "requirements.txt")])
        # Without it, the task says what is missing and asks the other two judges.
        subprocess.call([python, "-m", "miniature.face_pack.mobile_face_net"], cwd=ROOT)
    step(f"Running: {arguments.task}")
    # Tests and benchmarks may import it before the package, which sets the same.
    os.environ["ORT_DISABLE_TELEMETRY"] = os.environ.get("ORT_DISABLE_TELEMETRY") or "1"
    code = subprocess.call([python, *TASKS[arguments.task], *rest], cwd=ROOT)
    if arguments.task == "lint" and code == 0:
        code = subprocess.call([python, "-m", "mypy"], cwd=ROOT)
    return code


def make_environment(folder: Path, requirements: str) -> str:
    """Create the virtual environment, or bring it up to date, and return its Python.

    Args:
        folder: Where the environment is or will be.
        requirements: Name of the list in ``requirements/`` to install: ``run`` or ``test``.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        if importlib.util.find_spec("ensurepip") is None:  # Debian and Ubuntu ship it as a package of its own
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            sys.exit(
                f"This Python cannot make virtual environments: run `apt-get install python{version}-venv`, then this again."
            )
        step(f"Creating a virtual environment in {folder}")
        venv.create(folder, with_pip=True)
    lists = sorted((ROOT / "requirements").glob("*.txt"))
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in [*lists, ROOT / "pyproject.toml"])).hexdigest()
    stamp = folder / f".celeb-basis-{requirements}"
    if not stamp.exists() or stamp.read_text() != wanted:
        step("Installing packages (torch is by far the largest)")
        if (
            subprocess.call([str(python), "-c", "import pip"], stderr=subprocess.DEVNULL) != 0
        ):  # made by uv, or interrupted
            subprocess.check_call([str(python), "-m", "ensurepip"])
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.check_call([*pip, "-r", str(ROOT / "requirements" / f"{requirements}.txt")])
        subprocess.check_call([*pip, "--no-deps", "-r", str(ROOT / "requirements" / "no-deps.txt")])
        subprocess.check_call([*pip, "--no-deps", "--editable", str(ROOT)])
        stamp.write_text(wanted)
    return str(python)


def step(text: str) -> None:
    """Print a heading."""
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        print(
            f"This step failed: {' '.join(map(str, error.cmd))}. Fix the problem reported above, then run it again.",
            file=sys.stderr,
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
