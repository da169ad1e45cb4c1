"""``install.py`` as the WebUI's launcher runs it, in a new environment that holds the WebUI's pins and none of our packages.

Slow tier: it downloads some 200 MB of packages. Needs ``CELEB_BASIS_WEBUI`` for the launcher.
"""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from support.webui import ROOT, need_webui

PINNED = ("Pillow", "numpy", "protobuf", "safetensors", "psutil")
"""Of what the WebUI pins: all that our packages could pull along."""


def run(*command: object, environment: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(words)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def installed(python: Path) -> dict[str, str]:
    lines = run(python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check").splitlines()
    return dict(line.lower().split("==") for line in lines if "==" in line)


@pytest.mark.slow
def test_only_what_is_missing_is_installed_and_no_pin_changes(tmp_path: Path, miniature_folder: Path) -> None:
    webui = need_webui()
    if sys.version_info[:2] not in ((3, 10), (3, 11)):
        pytest.skip("needs Python 3.10 or 3.11, for which the WebUI's pins exist")
    pins = re.findall(r"^(\S+==\S+)", (webui.folder / "requirements_versions.txt").read_text("utf-8"), re.MULTILINE)
    wanted = [pin for pin in pins if pin.split("==")[0] in PINNED]
    assert len(wanted) == len(PINNED)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *wanted,
        "tqdm",
        "requests",
        "packaging",
    )
    before = installed(python)

    # As the launcher's run_extension_installer does, from the WebUI's folder.
    environment = {key: value for key, value in os.environ.items() if key != "COMMANDLINE_ARGS"}
    environment |= {"PYTHONPATH": str(webui.folder), "PYTHONDONTWRITEBYTECODE": "1"}
    run(python, ROOT / "install.py", environment=environment, cwd=webui.folder)
    after = installed(python)
    assert {name: after.get(name) for name in before} == before, "what was there is there, in its version"
    needed = runpy.run_path(str(ROOT / "install.py"), run_name="installer")["NEEDED"]
    assert set(after) - set(before) <= {name.lower() for _, name, _ in needed}, "and nothing came along"
    assert {"insightface", "onnx", "onnxruntime"} <= set(after)

    # It works, with packages of these versions: a face is found and measured.
    script = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from celeb_basis.faces.insight import InsightFaceNetwork\n"
        "from support.sample_photos import sample_photos\n"
        "from celeb_basis.photos import open_photo\n"
        f"network = InsightFaceNetwork(Path({str(miniature_folder)!r}))\n"
        "photo = open_photo(sample_photos()['six']); found = network.detect(photo)\n"
        "print(len(found), network.embed([network.align(photo, found[0].landmarks)]).shape)"
    )
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    assert run(python, "-c", script, environment=environment, cwd=tmp_path).strip().endswith("6 (1, 512)")

    # The next start has nothing to do.
    environment |= {"PYTHONPATH": str(webui.folder), "PIP_INDEX_URL": "http://127.0.0.1:9"}
    assert run(python, ROOT / "install.py", environment=environment, cwd=webui.folder) == ""
    assert installed(python) == after
