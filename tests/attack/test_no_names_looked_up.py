"""Learning, generating, evaluating and the API look up no name and reach no other machine, native code included.

onnxruntime looks names up in threads of its own that Python knows nothing of. A small library that is loaded before the C
library therefore writes down each lookup of the whole process (``support/watched_names.c``). Reports that could not be
sent at once are stored in the home folder and the folder of temporary files: those have to stay empty.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import celeb_basis

ROOT = Path(__file__).resolve().parents[2]
SHIM = ROOT / "tests" / "support" / "watched_names.c"

SESSION = """
import os, sys, time
from pathlib import Path
from celeb_basis.cli.main import main
from celeb_basis.miniature import PHOTOS

def run(*words):
    code = main([str(word) for word in words])
    assert code == 0, (words, code)

here, photo, model = Path(os.environ["OUTPUT"]), PHOTOS / "stranger1.png", ("--model", "miniature")
few = ("--steps", 2, "--views", 3, "--batch-size", 1, "--no-early-stop", "--quiet")
run("learn", photo, "--name", "ada", *model, *few, "--report", here / "report.html")
drawing = ("--steps", 1, "--quiet")
run("generate", "a photo of <ada>", *model, *drawing, "--output", here / "images")
run("evaluate", "--identity", "ada", "--reference", photo, *model, *drawing, "--prompts", 1, "--sheet", here / "s.png")
run("evaluate", here / "images", "--reference", photo, "--faces", "miniature", "--quiet")
assert "onnxruntime" in sys.modules and "transformers" in sys.modules and "matplotlib" in sys.modules
time.sleep(float(os.environ.get("LINGER", "0")))
"""


@dataclass
class Watched:
    """Runs Python in a process whose lookups are written down."""

    library: Path
    folder: Path

    def environment(self, **more: str) -> dict[str, str]:
        """A process's environment without a word about telemetry, and with empty folders of its own."""
        ours = ("XDG_", "CELEB_BASIS_")  # a WebUI, which the latter may name, looks up what it likes
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in celeb_basis.NO_TELEMETRY and not name.startswith(ours)
        }
        places = {"HOME": "home", "TMPDIR": "temporary", "OUTPUT": "output"}
        for name in places.values():
            (self.folder / name).mkdir(exist_ok=True)
        return {
            **kept,
            **{variable: str(self.folder / name) for variable, name in places.items()},
            "CELEB_BASIS_CACHE": str(self.folder / "output" / "cache"),
            "CELEB_BASIS_LIBRARY": str(self.folder / "output" / "library"),
            "MPLCONFIGDIR": str(self.folder / "output" / "matplotlib"),
            "PYTHONPATH": str(ROOT),
            "LD_PRELOAD": str(self.library),
            "NAMES_LOG": str(self.folder / "names"),
            **more,
        }

    def run(self, *arguments: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=self.environment(**more),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def looked_up(self) -> list[str]:
        log = self.folder / "names"
        return log.read_text().splitlines() if log.is_file() else []

    def left_behind(self) -> list[str]:
        """Files in the home folder and among the temporary ones."""
        places = (self.folder / "home", self.folder / "temporary")
        return [str(path) for place in places for path in place.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if not sys.platform.startswith("linux") or compiler is None:
        pytest.skip("watching native lookups needs Linux and a C compiler")
    built = tmp_path_factory.mktemp("shim") / "watched_names.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(built), str(SHIM), "-ldl"], check=True)
    return built


@pytest.fixture
def watched(library: Path, tmp_path: Path) -> Watched:
    return Watched(library, tmp_path)


def test_the_watcher_sees_native_lookups_and_other_machines(watched: Watched) -> None:
    """Otherwise the tests below would prove nothing. Nothing of this reaches a network: the address is this machine's own."""
    script = (
        "import ctypes, socket\n"
        "libc = ctypes.CDLL(None); result = ctypes.c_void_p()\n"
        "libc.getaddrinfo(b'localhost', None, None, ctypes.byref(result))\n"
        "socket.getaddrinfo('127.0.0.1', 80)\n"
        "one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "one.connect(('127.0.0.1', 9))\n"
        "try: one.connect(('192.0.2.1', 9))\n"  # a datagram socket that is connected has sent nothing
        "except OSError: pass\n"
    )
    watched.run("-c", script)
    assert watched.looked_up() == ["getaddrinfo localhost", "connect 192.0.2.1"]


@pytest.mark.parametrize("linger", ["0", pytest.param("60", marks=pytest.mark.slow)])
def test_the_command_line_reaches_nobody(watched: Watched, linger: str) -> None:
    """``linger``: onnxruntime sends what it has collected after some 20 seconds."""
    watched.run("-c", SESSION, LINGER=linger)
    assert watched.looked_up() == []
    assert watched.left_behind() == []


@pytest.mark.parametrize(
    "tests",
    [
        pytest.param("webui_api/test_api_routes.py", id="a person is learned over the API", marks=pytest.mark.slow),
        pytest.param("webui_api/test_service.py", id="what the page does", marks=pytest.mark.slow),
        pytest.param("evaluation/test_evaluation_clip.py", id="CLIP in both formats"),
        pytest.param("hosts/test_loading.py", id="checkpoints of all families", marks=pytest.mark.slow),
    ],
)
def test_the_rest_reaches_nobody(watched: Watched, tests: str) -> None:
    """Other tests, run in a process that is watched."""
    options = ("-q", "-x", "-p", "no:cacheprovider", "--basetemp", str(watched.folder / "output" / "pytest"))
    said = watched.run("-m", "pytest", f"tests/{tests}", *options)
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None, said
    assert int(passed[1]) >= 4, "they were not skipped"
    assert watched.looked_up() == []
    assert watched.left_behind() == []


def test_the_package_sets_what_its_dependencies_read() -> None:
    assert {name: os.environ.get(name) for name in celeb_basis.NO_TELEMETRY} == celeb_basis.NO_TELEMETRY


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("", "1"), ("1", "1"), ("0", "0")])
def test_a_choice_of_the_users_own_stays(before: str | None, after: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({} if before is None else {"ORT_DISABLE_TELEMETRY": before})
    for first in ("import celeb_basis", "import runpy; runpy.run_path('preload.py')"):
        script = f"{first}; import os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == after, first


def test_the_webui_reads_it_before_any_extension_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host runs every ``preload.py`` before it imports the scripts of extensions."""
    names = ("ORT_DISABLE_TELEMETRY", "NO_ALBUMENTATIONS_UPDATE")
    for name in names:
        monkeypatch.delenv(name)
    runpy.run_path(str(ROOT / "preload.py"))
    assert {name: os.environ[name] for name in names} == {name: celeb_basis.NO_TELEMETRY[name] for name in names}


def test_onnxruntime_that_was_imported_first_is_reported() -> None:
    """Its telemetry cannot be stopped any more: that is said, with what can be done."""
    script = (
        "import sys, types, logging; logging.basicConfig()\n"
        "fake = types.ModuleType('onnxruntime'); fake.__version__ = '1.32.0'; calls = []\n"
        "fake.disable_telemetry_events = lambda: calls.append(1)\n"
        "sys.modules['onnxruntime'] = fake\n"
        "from celeb_basis.faces.packages import limit_telemetry\n"
        "limit_telemetry(fake); limit_telemetry(fake)\n"
        "print(calls)\n"
        "fake.__version__ = '1.23.2'; limit_telemetry(fake)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in celeb_basis.NO_TELEMETRY}
    environment |= {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1]"
    assert done.stderr.count("ORT_DISABLE_TELEMETRY=1") == 1, done.stderr
