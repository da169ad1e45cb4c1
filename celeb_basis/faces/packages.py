"""The packages that find faces: whether they are whole, and what helps when one of them does not load.

A command that is recommended here runs the Python that runs now, changes no other package (``--no-deps``), and installs
versions that were tested beside the NumPy that is installed: in a WebUI, pip would otherwise replace its NumPy, Pillow and
protobuf.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

from celeb_basis import TELEMETRY_ALREADY_ON
from celeb_basis.errors import MissingPackageError

_log = logging.getLogger(__name__)


class _Package(NamedTuple):
    """A package by the module that it provides."""

    module: str
    requirement: str
    """Beside NumPy 1, as in AUTOMATIC1111's WebUI; empty if it is not needed there."""
    newer: str = ""
    """Beside NumPy 2, if it is another."""
    inside: str = ""
    """Start of the path of a file in the module's folder without which it cannot work."""


# The same versions as in install.py, which cannot import this package.
_PACKAGES = (
    _Package("insightface", "insightface==2.1", inside="app/__init__.py"),
    _Package("onnx", "onnx==1.16.1", "onnx>=1.17", inside="onnx_cpp2py_export"),
    _Package("onnxruntime", "onnxruntime==1.23.2", "onnxruntime>=1.20", inside="capi/onnxruntime_pybind11_state"),
    _Package("google.protobuf", "protobuf==3.20.0", "protobuf>=5", inside="message.py"),
    _Package("cv2", "opencv-python-headless>=4.8,<4.12", "opencv-python-headless>=4.10", inside="__init__.py"),
    _Package("scipy", "scipy>=1.10,<1.17", "scipy>=1.13", inside="__init__.py"),
    _Package("skimage", "scikit-image==0.21.0", "scikit-image>=0.25", inside="__init__.py"),
    _Package("lazy_loader", "lazy-loader>=0.2", inside="__init__.py"),
    _Package("flatbuffers", "flatbuffers>=23.5", inside="__init__.py"),
    _Package("requests", "requests>=2.28", inside="__init__.py"),
    _Package("tqdm", "tqdm>=4.65", inside="__init__.py"),
    _Package("ml_dtypes", "", "ml-dtypes>=0.5", inside="__init__.py"),  # newer releases of onnx import it
)
_BY_MODULE = {one.module: one for one in _PACKAGES}

_LIBRARIES = {
    "libGL": "libgl1",
    "libEGL": "libegl1",
    "libgthread": "libglib2.0-0",
    "libglib": "libglib2.0-0",
    "libSM": "libsm6",
    "libICE": "libice6",
    "libXext": "libxext6",
    "libXrender": "libxrender1",
    "libX11": "libx11-6",
    "libxcb": "libxcb1",
    "libgomp": "libgomp1",
    "libstdc++": "libstdc++6",
    "libatomic": "libatomic1",
}
"""Debian's and Ubuntu's package of a system library, by the beginning of its file name."""

_DISTRIBUTIONS = {"yaml": "PyYAML", "PIL": "Pillow", "sklearn": "scikit-learn", "dateutil": "python-dateutil"}
"""Names for pip, where they differ from the module's."""

_LIBRARY = re.compile(r"(?P<file>lib[\w+.-]*\.so[\w.]*): cannot open shared object")
_NEWER_SYSTEM = re.compile(r"version `?(GLIBC|GLIBCXX|CXXABI)_[\d.]+'? not found|built for newer macOS")
_WINDOWS = re.compile(r"DLL load failed|WinError (126|127|193|1114)\b")
_PROTOBUF = re.compile(r"Protobuf Gencode|Descriptors cannot be created|google[./]protobuf", re.IGNORECASE)
_NUMPY = re.compile(r"_ARRAY_API|compiled using NumPy|numpy\.core\.multiarray|dtype size changed|binary incompatib")
_DAMAGED = re.compile(r"undefined symbol|invalid ELF header|file too short|incompatible architecture|wrong ELF class")

_CUDA = ("libcu", "libnv", "libcudnn", "libnppi")
_VISUAL_C = "https://aka.ms/vs/17/release/vc_redist.x64.exe"


def is_whole(module: str) -> bool:
    """Whether ``module`` is installed, without importing it: a folder that pip left behind is not.

    Python takes any folder of that name on its path for a package, even an empty one.
    """
    try:
        found = importlib.util.find_spec(module)
    except ValueError:  # a module that is loaded, and was not found in the ordinary way
        return sys.modules.get(module) is not None
    except (ImportError, AttributeError):
        return False
    if found is None or found.loader is None or found.origin is None:
        return False
    package, places = _BY_MODULE.get(module), found.submodule_search_locations
    return package is None or not places or any(_has(Path(place), package.inside) for place in places)


def _has(folder: Path, inside: str) -> bool:
    place, start = folder / os.path.dirname(inside), os.path.basename(inside)
    with contextlib.suppress(OSError):
        return any(name.startswith(start) for name in os.listdir(place))
    return False


def missing_packages() -> list[str]:
    """Modules that are needed to find faces, and are not installed or not whole."""
    return [one.module for one in _PACKAGES if _requirement(one.module) and not is_whole(one.module)]


def install_command(*modules: str) -> str:
    """The command that installs what provides ``modules`` and changes nothing else, in backticks.

    Where pip considers something as installed already, the command replaces it.
    """
    requirements = [_requirement(module) for module in modules]
    known = any(_distribution(re.split("[=<>]", one)[0]) for one in requirements)
    options = "--no-deps --force-reinstall" if known else "--no-deps"
    command = f"`{_python()} -m pip install {options} {' '.join(_quoted(one) for one in requirements)}`"
    if PathFinder.find_spec("pip") is None:
        return f"`{_python()} -m ensurepip` (pip is missing too), then {command}"
    return command


def loading_error(error: BaseException) -> MissingPackageError:
    """What to report when insightface or what it needs cannot be imported: the cause, and what mends it."""
    text, module = _text(error), _failing(error)
    if remedy := _known_remedy(error, text, module):
        return MissingPackageError(f"{module} does not load ({text}): {remedy}.")
    if missing := missing_packages():
        verb = "is" if len(missing) == 1 else "are"
        return MissingPackageError(
            f"{', '.join(missing)} {verb} missing or incomplete, so no face can be found: run {install_command(*missing)}."
        )
    if absent := _absent(error):
        return MissingPackageError(f"{module} does not load ({text}): {_without(absent, module)}.")
    return MissingPackageError(f"{module} does not load ({text}): run {install_command(module)}.")


def limit_telemetry(onnxruntime: Any) -> None:
    """Say it, once, if onnxruntime was imported with its telemetry on before this package could turn it off."""
    if not TELEMETRY_ALREADY_ON or onnxruntime in _limited or not _has_telemetry(onnxruntime):
        return
    _limited.append(onnxruntime)
    with contextlib.suppress(Exception):  # the function is not in every build
        onnxruntime.disable_telemetry_events()
    _log.warning(
        "Something else imported onnxruntime before celeb_basis, with its telemetry on: it may contact its maker's server. "
        "To turn it off for good, set ORT_DISABLE_TELEMETRY=1 in the environment before the start."
    )


_limited: list[Any] = []


def _has_telemetry(onnxruntime: Any) -> bool:
    version = re.match(r"(\d+)\.(\d+)", str(getattr(onnxruntime, "__version__", "")))
    # 1.28 had none but Windows' own event tracing, which stays on the machine.
    return version is not None and (int(version[1]), int(version[2])) > (1, 28)


def _without(absent: str, module: str) -> str:
    """What to do about a package that ``module`` needs, and that is not one of ours."""
    if module == "insightface" and _numbers(_version("insightface")) < (1,):
        return f"insightface 2.1 works without {absent}: run {install_command('insightface')}"
    return f"run {install_command(_DISTRIBUTIONS.get(absent, absent))}"


def _known_remedy(error: BaseException, text: str, module: str) -> str:
    """What to do about a cause that is known, after a colon and without a full stop; else empty."""
    reinstall = f"run {install_command(module)}"
    if library := _LIBRARY.search(text):
        return _library_remedy(library["file"], module)
    if _NEWER_SYSTEM.search(text):
        return f"it was built for a newer system than this one: update the system, or {reinstall}"
    if _WINDOWS.search(text):
        media = "; on Windows N, also install the Media Feature Pack" if module == "cv2" else ""
        return (
            f"install the newest Visual C++ runtime ({_VISUAL_C}) and start again{media}. If it still does not load, "
            f"{reinstall}"
        )
    if _PROTOBUF.search(text):
        return f"this onnx and this protobuf do not fit together: run {install_command('onnx')}"
    if _NUMPY.search(text):
        return f"it was built for another NumPy than the {_version('numpy')} here: {reinstall}"
    if _DAMAGED.search(text):
        return f"its file is damaged or was built for another machine: {reinstall}"
    if any(isinstance(one, PermissionError) for one in _chain(error)):
        return "permission to read it is denied: start the program as the user who installed it"
    if any(isinstance(one, MemoryError) for one in _chain(error)):
        return "there is too little memory: close other programs and try again"
    return ""


def _library_remedy(file: str, module: str) -> str:
    """What to do about a library of the system that is not there."""
    if file.startswith(_CUDA):
        return (
            "this build of it needs a CUDA that is not here, and faces are found on the processor. Install that CUDA, or run "
            f"`{_python()} -m pip uninstall onnxruntime-gpu`, then "
            f"`{_python()} -m pip install --no-deps --force-reinstall {_quoted(_pinned('onnxruntime'))}`"
        )
    package = next((name for start, name in _LIBRARIES.items() if file.startswith(start)), "")
    where = f"the system's package {package} (`apt-get install {package}` on Debian and Ubuntu)" if package else file
    if module != "cv2":
        return f"a library of the system is missing: install {where}"
    return (
        f"a library of the system is missing: install {where}, or use the OpenCV that does without it: run "
        f"`{_python()} -m pip uninstall opencv-python`, then {install_command('cv2')}"
    )


def _absent(error: BaseException) -> str:
    """The module that is not there at all, if that is the reason."""
    for one in _causes(error):
        if found := re.search(r"No module named '?([\w.]+)", str(one)):
            return _package_of(found[1])
    return ""


def _failing(error: BaseException) -> str:
    """The module of :data:`_PACKAGES` that failed: the innermost whose code ran, or that the system could not load."""
    for pattern in (r"while importing (\w+)", r"import name '\w+' from '([\w.]+)'", r"module '([\w.]+)' has no"):
        if found := re.search(pattern, _text(error)):
            for one in _PACKAGES:
                if _package_of(found[1]) == one.module or os.path.basename(one.inside) == found[1]:
                    return "onnx" if one.module == "google.protobuf" else one.module
    inner = "insightface"
    for before in _chain(error):
        trace = before.__traceback__
        while trace is not None:
            name = str(trace.tb_frame.f_globals.get("__name__", ""))
            if (module := _package_of(name)) in _BY_MODULE:
                inner = module
            trace = trace.tb_next
        if inner != "insightface":
            break
    return inner


def _package_of(module: str) -> str:
    return next((one for one in _BY_MODULE if module == one or module.startswith(f"{one}.")), module.split(".")[0])


def _causes(error: BaseException) -> list[BaseException]:
    """The errors that ``error`` was raised from, the first one first."""
    chain = [error]
    while (cause := chain[0].__cause__) is not None and cause not in chain:
        chain.insert(0, cause)
    return chain


def _chain(error: BaseException) -> list[BaseException]:
    """The errors that led to ``error``, the first one first, among them those that were handled by trying something else."""
    chain = [error]
    while (before := chain[0].__cause__ or chain[0].__context__) is not None and before not in chain:
        chain.insert(0, before)
    return chain


def _text(error: BaseException) -> str:
    """In a line: what the system said, or else what the first error says."""
    patterns = (_LIBRARY, _NEWER_SYSTEM, _WINDOWS, _PROTOBUF, _NUMPY, _DAMAGED)
    known = [one for one in _chain(error) if any(pattern.search(str(one)) for pattern in patterns)]
    first = (known or _causes(error))[0]
    lines = [line.strip() for line in str(first).splitlines() if line.strip()]
    telling = [line for line in lines if any(pattern.search(line) for pattern in patterns)]
    return ((telling or lines or [type(first).__name__])[0])[:240].rstrip(".")


def _requirement(module: str) -> str:
    """What pip is asked for. A name that is not one of ours stands for itself."""
    if module == "onnxruntime":
        # The builds for other processors provide the same module; two of them together break each other.
        for other in ("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-silicon"):
            if version := _version(other):
                return f"{other}=={version}"
    if module == "cv2":
        for other in ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"):
            if (version := _version(other)) and not _version("opencv-python-headless"):
                return f"{other.removesuffix('-headless')}-headless=={version}"
    return _pinned(module)


def _pinned(module: str) -> str:
    package = _BY_MODULE.get(module)
    if package is None:
        return module
    if module == "onnx":
        return onnx_requirement(_version("numpy"), _version("protobuf"))
    newer = package.newer if _numbers(_version("numpy")) >= (2,) else ""
    return newer or package.requirement


def onnx_requirement(numpy: str, protobuf: str) -> str:
    """The onnx that works beside these versions: a newer one refuses an older protobuf when it is imported."""
    if _numbers(numpy) < (2,):
        return _BY_MODULE["onnx"].requirement
    if protobuf and _numbers(protobuf) < (4, 25, 1):
        return "onnx==1.17.0"
    return "onnx>=1.18,<1.22" if protobuf and _numbers(protobuf) < (6, 31, 1) else _BY_MODULE["onnx"].newer


def _distribution(name: str) -> bool:
    return bool(_version(name))


def _version(name: str) -> str:
    """Version of an installed distribution; empty if there is none, or what remains of it names none."""
    try:
        return metadata.version(name) or ""
    except Exception:  # of many kinds, for damaged metadata
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    """``"6.31.1"`` as ``(6, 31, 1)``; ``(1,)`` for none, as the WebUI pins NumPy 1."""
    return tuple(int(one) for one in re.findall(r"\d+", version.split("+")[0])[:3]) or (1,)


def _python() -> str:
    """The Python that runs now, as it is typed: PowerShell would take a path in quotes for a text."""
    plain = re.fullmatch(r"[\w./\\:+~-]+", sys.executable, re.ASCII)
    return sys.executable if plain else f'"{sys.executable}"'


def _quoted(requirement: str) -> str:
    return f'"{requirement}"'


def check_packages(modules: Iterable[str] = ("insightface", "onnxruntime", "onnx")) -> None:
    """Check that ``modules`` are installed, without importing them.

    Raises:
        MissingPackageError: One is not, or only leftovers of it are there.
    """
    if missing := [name for name in modules if not is_whole(name)]:
        raise MissingPackageError(
            f"The package {missing[0]} is missing or incomplete, so no face can be found: restart the WebUI once while it is "
            f"online and without --skip-install, and the extension installs it; or run {install_command(*missing)}."
        )
