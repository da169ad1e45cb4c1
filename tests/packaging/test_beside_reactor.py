"""Beside ReActor, which brings insightface 0.7.3: our installer changes nothing, theirs leaves ours working, faces are found.

Slow tier: a new environment with the WebUI's pins, some 800 MB of packages, and insightface 0.7.3 built from its source, which
needs a C++ compiler. With ``CELEB_BASIS_NEIGHBOURS``, ReActor's own installer is run from its checkout there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.webui import ROOT

pytestmark = pytest.mark.slow

WEBUI = ("numpy==1.26.2", "protobuf==3.20.0", "Pillow==9.5.0", "scikit-image==0.21.0", "setuptools==69.5.1")
"""What WebUI 1.10.1 pins, of all that these packages could change."""
REACTOR = ("albumentations==1.4.3", "insightface==0.7.3", "onnx==1.16.1", "opencv-python>=4.7.0.72")
"""ReActor's ``requirements.txt`` at commit 2c6a6e6."""

LAUNCHER = """
import shlex, subprocess, sys

def run_pip(command, desc=None):
    subprocess.run([sys.executable, "-m", "pip", *shlex.split(command)], check=True)
"""
NO_GPU = """
from types import SimpleNamespace as Some

cuda = Some(is_available=lambda: False)
backends = Some(mps=Some(is_available=lambda: False))
"""
"""What ReActor's installer asks of torch."""

FIND = """
import sys
from pathlib import Path
from celeb_basis.errors import MissingPackageError
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.photos import open_photo
from support.sample_photos import sample_photos
try:
    network = InsightFaceNetwork(Path(sys.argv[1]))
    photo = open_photo(sample_photos()["six"])
    found = network.detect(photo)
    print(len(found), network.embed([network.align(photo, found[0].landmarks)]).shape)
except MissingPackageError as error:
    print(error)
"""
RUN_TESTS = """
import sys, insightface, numpy, pytest
assert (insightface.__version__, numpy.__version__) == ("0.7.3", "1.26.2")
sys.exit(pytest.main(sys.argv[1:]))
"""


@dataclass
class Environment:
    """A virtual environment, and the pack whose faces are looked for in it."""

    python: Path
    folder: Path
    pack: Path

    def run(self, *words: object, path: tuple[Path, ...] = (), cwd: Path | None = None) -> str:
        environment = {key: value for key, value in os.environ.items() if key != "COMMANDLINE_ARGS"}
        environment |= {"PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [str(self.python), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd or self.folder)
        assert done.returncode == 0, f"{command}:\n{done.stdout[-6000:]}\n{done.stderr[-4000:]}"
        return done.stdout.strip()

    def pip(self, *words: object) -> str:
        return self.run("-m", "pip", *words)

    def install(self, *requirements: str) -> None:
        self.pip("install", "--quiet", "--no-compile", "--disable-pip-version-check", *requirements)

    def installed(self) -> set[str]:
        return set(self.pip("list", "--format=freeze", "--disable-pip-version-check").lower().splitlines())

    def our_installer(self) -> str:
        """What ``install.py`` prints, run as the WebUI's launcher runs it; it could install anything."""
        return self.run(ROOT / "install.py", path=(self.folder / "launcher",))

    def faces(self) -> str:
        """What is found in the photo of six, with the shape of the vector of one; or why not."""
        return self.run("-c", FIND, self.pack, path=(ROOT, ROOT / "tests")).splitlines()[-1]


@pytest.fixture(scope="module")
def reactors(tmp_path_factory: pytest.TempPathFactory, miniature_folder: Path) -> Iterator[Environment]:
    """The WebUI's pins, ReActor's requirements and onnxruntime."""
    if sys.version_info[:2] not in ((3, 10), (3, 11)):
        pytest.skip("needs Python 3.10 or 3.11, for which the WebUI's pins exist")
    if os.name == "posix" and shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler: insightface 0.7.3 has no builds")
    folder = tmp_path_factory.mktemp("reactor")
    venv.create(folder / "venv", with_pip=True)
    made = Environment(
        folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python"), folder, miniature_folder
    )
    (folder / "launcher").mkdir()
    (folder / "launcher" / "launch.py").write_text(LAUNCHER)
    # The newest OpenCV and SciPy need NumPy 2, which a WebUI does not have.
    made.install(*WEBUI, "opencv-python<4.12", "scipy<1.16", "wheel", "tqdm", "packaging")
    made.install(*REACTOR, "onnxruntime==1.23.2", "numpy==1.26.2", "scikit-image==0.21.0")
    made.install("--no-deps", "protobuf==3.20.0")  # as the WebUI puts it back at its next start
    yield made
    shutil.rmtree(folder, ignore_errors=True)


def unchanged(environment: Environment) -> None:
    before = environment.installed()
    assert environment.our_installer() == ""
    assert environment.installed() == before


def test_our_installer_changes_nothing_and_the_tests_of_faces_pass(reactors: Environment) -> None:
    assert {"insightface==0.7.3", "albumentations==1.4.3", "numpy==1.26.2"} <= reactors.installed()
    unchanged(reactors)
    assert reactors.faces() == "6 (1, 512)"
    # With torch and pytest of the Python that runs now, behind everything that is installed there.
    behind = Path(reactors.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))")) / "behind.pth"
    behind.write_text(sysconfig.get_path("purelib"))
    try:
        options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={reactors.folder / 'pytest'}")
        said = reactors.run("-c", RUN_TESTS, *options, "tests/faces", path=(ROOT,), cwd=ROOT)
    finally:
        behind.unlink()
    assert re.search(r"^\d+ passed", said.splitlines()[-1]), said[-3000:]


def test_without_albumentations_the_advice_mends_it_and_changes_nothing_else(reactors: Environment) -> None:
    """insightface 0.7.3 imports albumentations, for masks that nobody here uses."""
    reactors.pip("uninstall", "-y", "--quiet", "albumentations")
    unchanged(reactors)
    said = reactors.faces()
    assert "insightface 2.1 works without albumentations" in said
    (advice,) = re.findall(r"-m (pip install [^`]+)`", said)
    before = reactors.installed()
    reactors.run("-m", *(word.strip('"') for word in advice.split()))
    assert before ^ reactors.installed() == {"insightface==0.7.3", "insightface==2.1"}
    assert reactors.faces() == "6 (1, 512)"
    unchanged(reactors)


def test_both_builds_of_onnxruntime(reactors: Environment) -> None:
    reactors.install("--no-deps", "onnxruntime-gpu==1.23.2")
    assert {"onnxruntime==1.23.2", "onnxruntime-gpu==1.23.2"} <= reactors.installed()
    unchanged(reactors)
    assert reactors.faces() == "6 (1, 512)"


def test_reactors_own_installer_leaves_ours_working(reactors: Environment) -> None:
    """It wants its versions of insightface, onnx and albumentations again, and the newest onnxruntime-gpu."""
    checkout = Path(os.environ.get("CELEB_BASIS_NEIGHBOURS") or "/nowhere") / "sd-webui-reactor"
    if not checkout.is_dir():
        pytest.skip("needs sd-webui-reactor: set CELEB_BASIS_NEIGHBOURS to a folder with its checkout")
    theirs = reactors.folder / "sd-webui-reactor"
    shutil.copytree(checkout, theirs, ignore=shutil.ignore_patterns(".git"))
    stand_in = reactors.folder / "stand-in"
    stand_in.mkdir()
    (stand_in / "torch.py").write_text(NO_GPU)
    models = reactors.folder / "models" / "insightface"
    models.mkdir(parents=True)
    (models / "inswapper_128.onnx").touch()  # half a gigabyte, which it would download
    reactors.run(theirs / "install.py", path=(stand_in,))
    after = reactors.installed()
    assert {"insightface==0.7.3", "albumentations==1.4.3", "onnx==1.16.1"} <= after
    unchanged(reactors)
    assert reactors.faces() == "6 (1, 512)"
    reactors.run(theirs / "install.py", path=(stand_in,))
    assert reactors.installed() == after, "neither installs against the other"
