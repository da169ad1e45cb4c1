"""Packages that do not load: the true cause, and a remedy that changes nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
import pytest
from support.command_line import PHOTO

from celeb_basis.errors import MissingPackageError
from celeb_basis.faces import packages
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.packs import SHIPPED_PACKS
from celeb_basis.photos import open_photo

ROOT = Path(__file__).resolve().parents[2]
PACK = SHIPPED_PACKS / "miniature"

FAILURES = [
    ("cv2", "libGL.so.1: cannot open shared object file: No such file or directory", ("libgl1", "headless")),
    ("cv2", "libgthread-2.0.so.0: cannot open shared object file: No such file or directory", ("libglib2.0-0",)),
    ("cv2", "libxcb.so.1: cannot open shared object file: No such file or directory", ("libxcb1",)),
    (
        "cv2",
        "DLL load failed while importing cv2: The specified module could not be found.",
        ("Visual C++", "Media Feature"),
    ),
    ("cv2", "numpy.core.multiarray failed to import", ("another NumPy", "opencv")),
    (
        "onnx",
        "DLL load failed while importing onnx_cpp2py_export: It failed.",
        ("Visual C++", "onnx"),
    ),
    ("onnx", "cannot import name 'runtime_version' from 'google.protobuf'", ("protobuf", "onnx")),
    ("onnx", "Detected incompatible Protobuf Gencode/Runtime versions when loading", ("protobuf", "onnx")),
    (
        "onnxruntime",
        "DLL load failed while importing onnxruntime_pybind11_state: failed.",
        ("Visual C++", "onnxruntime"),
    ),
    (
        "onnxruntime",
        "libcudart.so.12: cannot open shared object file: No such file",
        ("CUDA", "uninstall onnxruntime-gpu"),
    ),
    ("onnxruntime", "/lib/libc.so.6: version `GLIBC_2.34' not found (required by x.so)", ("newer system",)),
    ("onnxruntime", "dlopen(x.so): incompatible architecture (have 'x86_64', need 'arm64')", ("another machine",)),
    ("skimage", "numpy.dtype size changed, may indicate binary incompatibility.", ("another NumPy", "scikit-image")),
    ("scipy", "something else", ('--force-reinstall "scipy',)),
]


@pytest.mark.parametrize(("module", "text", "words"), FAILURES)
def test_the_remedy_fits_the_cause(tmp_path: Path, module: str, text: str, words: tuple[str, ...]) -> None:
    folder = tmp_path / module
    folder.mkdir()
    (folder / "__init__.py").write_text(f"raise ImportError({text!r})")
    said = loading(tmp_path)
    assert said.startswith(f"MissingPackageError {module} does not load ({text.rstrip('.')}): "), said
    advice = said.partition("): ")[2]
    for word in words:
        assert word in advice, advice
    assert_harmless(advice)


def test_a_package_that_is_missing_is_named_with_all_others_that_are(tmp_path: Path) -> None:
    script = "import sys; sys.modules['onnx'] = sys.modules['lazy_loader'] = None"
    said = loading(tmp_path, script)
    assert said.startswith("MissingPackageError onnx, lazy_loader are missing or incomplete"), said
    assert '"onnx' in said
    assert '"lazy-loader>=0.2"' in said
    assert_harmless(said)


def test_a_half_uninstalled_package_is_installed_again(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text("")
    said = loading(tmp_path)
    assert said.startswith("MissingPackageError onnxruntime is missing or incomplete"), said
    assert "--force-reinstall" in said, "pip takes it for installed"
    assert_harmless(said)


def test_an_older_insightface_that_lacks_what_the_newer_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """ReActor's 0.7.3 imports albumentations, whether it is used or not."""
    monkeypatch.setattr(packages, "_version", lambda name: {"insightface": "0.7.3", "numpy": "1.26.2"}.get(name, ""))
    said = str(packages.loading_error(ImportError("No module named 'albumentations'")))
    assert "insightface 2.1 works without albumentations" in said
    assert_harmless(said)


def test_the_gpu_builds_of_onnxruntime_are_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        packages, "_version", lambda name: {"onnxruntime-gpu": "1.20.1", "numpy": "1.26.2"}.get(name, "")
    )
    assert '"onnxruntime-gpu==1.20.1"' in packages.install_command("onnxruntime")


def test_where_pip_is_missing_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PathFinder, "find_spec", lambda _: None)
    assert "-m ensurepip" in packages.install_command("onnx")


def test_a_python_in_a_folder_with_spaces_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    for python, typed in ((r"C:\AI\venv\python.exe", None), (r"C:\AI [SD] 100%\venv\python.exe", '"')):
        monkeypatch.setattr(sys, "executable", python)
        quote = typed or ""
        assert packages.install_command("onnx").startswith(f"`{quote}{python}{quote} -m pip install --no-deps ")


def test_the_page_says_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match="restart the WebUI once while it is online") as caught:
        packages.check_packages()
    assert_harmless(str(caught.value))


def loading(folder: Path, first: str = "") -> str:
    """What is said when the face networks are loaded where ``folder`` has packages of its own."""
    script = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n{first}\n"
        "from pathlib import Path; from celeb_basis.faces.insight import InsightFaceNetwork\n"
        f"try: InsightFaceNetwork(Path({str(PACK)!r}))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    ).stdout.strip()


def assert_harmless(text: str) -> None:
    """Every command runs this Python, and pip changes nothing but what it is asked for."""
    commands = re.findall(r"`([^`]+)`", text)
    assert any("pip install" in one for one in commands) or "uninstall" not in text
    for one in commands:
        assert one.startswith((f"{sys.executable} -m ", f'"{sys.executable}" -m ', "apt-get install ")), one
        assert "pip install" not in one or "--no-deps" in one, one
        assert "numpy" not in one.lower()


def test_the_same_two_networks_are_loaded_as_before(miniature_faces: InsightFaceNetwork) -> None:
    """As insightface's own ``FaceAnalysis`` loads and prepares them."""
    from insightface.app import FaceAnalysis

    app = FaceAnalysis(name=str(PACK), allowed_modules=["detection", "recognition"], providers=["CPUExecutionProvider"])
    app.prepare(ctx_id=-1)
    picture = open_photo(PHOTO)
    theirs, ours = app.models["detection"].detect(picture[:, :, ::-1]), miniature_faces.detect_once(picture)
    np.testing.assert_array_equal(theirs[1][0], ours[0].landmarks)
    crop = miniature_faces.align(picture, ours[0].landmarks)
    feature = app.models["recognition"].get_feat([np.ascontiguousarray(crop[:, :, ::-1])])
    np.testing.assert_array_equal(
        feature / np.linalg.norm(feature, axis=1, keepdims=True), miniature_faces.embed([crop])
    )
