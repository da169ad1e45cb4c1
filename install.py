"""Installs the packages that are missing, and changes the version of none. The WebUI runs it at every start.

ComfyUI-Manager runs it when it installs or updates the custom nodes; without the manager, run it with ComfyUI's Python.

insightface requires onnx, and every onnx requires a newer protobuf than the WebUI pins; both work with the pinned one.
The missing packages are therefore installed without their dependencies; those that matter are listed here as well.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from importlib import metadata

NEEDED = (
    # the module to look for, the name for pip, what to install
    ("insightface", "insightface", "insightface==2.1"),
    # Of 1.16.2 and 1.17, the builds for Windows do not load where the Visual C++ runtime is not the newest.
    ("onnx", "onnx", "onnx==1.16.1"),
    ("onnxruntime", "onnxruntime", "onnxruntime==1.23.2"),
    # what these and the plots need, and a WebUI has as a rule
    ("flatbuffers", "flatbuffers", "flatbuffers>=23.5"),
    ("google.protobuf", "protobuf", "protobuf==3.20.0"),
    ("cv2", "opencv-python", "opencv-python>=4.8,<4.12"),
    ("scipy", "scipy", "scipy>=1.10,<1.17"),
    ("skimage", "scikit-image", "scikit-image==0.21.0"),
    ("lazy_loader", "lazy-loader", "lazy-loader>=0.2"),
    ("matplotlib", "matplotlib", "matplotlib>=3.7,<3.11"),
    ("requests", "requests", "requests>=2.28"),
    ("tqdm", "tqdm", "tqdm>=4.65"),
)
"""Versions that were tested beside those of WebUI 1.10."""

NEWER = {
    "onnx": "onnx>=1.17",
    "onnxruntime": "onnxruntime>=1.20",
    "protobuf": "protobuf>=5",
    "opencv-python": "opencv-python-headless>=4.10",
    "scipy": "scipy>=1.13",
    "scikit-image": "scikit-image>=0.25",
    "matplotlib": "matplotlib>=3.9",
}
"""What to install instead beside NumPy 2, as in SD.Next: older builds of these packages do not work with it."""

NEEDED_BESIDE_NUMPY_2 = (("ml_dtypes", "ml-dtypes", "ml-dtypes>=0.5"),)
"""What only the newer releases need: here, those of onnx."""

HEART = {
    "insightface": "app/__init__.py",
    "onnx": "onnx_cpp2py_export",
    "onnxruntime": "capi/onnxruntime_pybind11_state",
    "google.protobuf": "message.py",
}
"""Start of the path of a file in a module's folder without which it cannot work; for others it is ``__init__.py``."""

PIP_OPTIONS = "--no-deps --no-input --only-binary=:all: --retries 1 --timeout 20"
"""A machine without a network must not wait for long at every start, nor one without a build for it compile at every start."""

OFFLINE = re.compile(
    r"NewConnectionError|Max retries exceeded|Temporary failure in name resolution|getaddrinfo failed|No route to host"
    r"|Network is unreachable|Connection (?:refused|timed out|reset)|ConnectTimeout|ReadTimeout|Name or service not known"
)

WHILE_ONLINE = "start the WebUI once while it is online, and it installs them"

REMEDIES = (
    (r"No module named '?pip", 'this Python has no pip: run "{python}" -m ensurepip'),
    (r"Cannot connect to proxy|ProxyError|Tunnel connection failed|407 Proxy",
     'the proxy refused: check HTTPS_PROXY and what "{python}" -m pip config list shows'),
    (r"CERTIFICATE_VERIFY_FAILED|SSLError", "the connection is not trusted: check the clock, and the network's certificates"),
    (OFFLINE.pattern, WHILE_ONLINE),
    (r"No space left|Errno 28|Disk quota", "the disk is full: free some space"),
    (r"WinError (?:5|32)\b", "another program uses the files: close every other WebUI and start again"),
    (r"Read-only file system|Permission denied|Errno 13|Errno 30|not writeable",
     "the folder of packages cannot be written: start the WebUI once as the user who installed it"),
    (r"--require-hashes", "pip's configuration demands checksums (require-hashes): turn that off for one start"),
    (r"externally-managed-environment", "this Python belongs to the system: start the WebUI in its own venv"),
    (r"No matching distribution|Could not find a version|Failed to build|not a supported wheel",
     "there is no build of it for this Python and system, or pip's configuration hides it (index-url, no-index)"),
)  # fmt: skip
"""What pip says, and what to do about it."""


def is_there(module: str) -> bool:
    """Whether ``module`` is installed and whole; only its parent packages are run.

    Python takes any folder of that name for a package, even an empty one that pip left behind.
    """
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return False
    if found is None or getattr(found, "loader", found) is None or getattr(found, "origin", found) is None:
        return False
    places = getattr(found, "submodule_search_locations", None)
    if not places:
        return True
    folder, start = os.path.split(HEART.get(module, "__init__.py"))
    for place in places:
        try:
            if any(name.startswith(start) for name in os.listdir(os.path.join(place, folder))):
                return True
        except OSError:
            continue
    return False


def missing() -> list[tuple[str, str]]:
    """Module and requirement of what is not installed under any name: onnxruntime-gpu provides onnxruntime too."""
    beside_2 = major(version("numpy")) >= 2
    newer = {**NEWER, "onnx": newer_onnx()} if beside_2 else {}
    return [
        (module, newer.get(name, wanted))
        for module, name, wanted in (*NEEDED, *(NEEDED_BESIDE_NUMPY_2 if beside_2 else ()))
        if not is_there(module)
    ]


def newer_onnx() -> str:
    """The onnx for NumPy 2: a newer one refuses an older protobuf when it is imported."""
    installed = [int(one) for one in re.findall(r"\d+", version("protobuf"))[:3]]
    if not installed or installed >= [6, 31, 1]:
        return NEWER["onnx"]
    return "onnx>=1.18,<1.22" if installed >= [4, 25, 1] else "onnx==1.17.0"


def version(name: str) -> str:
    """Version of an installed distribution; empty if there is none, or what remains of it names none."""
    try:
        return metadata.version(name) or ""
    except Exception:  # of many kinds, for damaged metadata
        return ""


def major(text: str) -> int:
    """The first number of a version; 1, as the WebUI pins NumPy's, if there is none."""
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 1


def left_behind(requirement: str) -> bool:
    """Whether pip takes ``requirement`` for installed, although its code is not there."""
    return bool(version(re.split("[=<>]", requirement)[0]))


def command(requirements: list[str]) -> str:
    """Pip's arguments that install ``requirements``."""
    again = " --force-reinstall" if any(map(left_behind, requirements)) else ""
    return f"install {PIP_OPTIONS}{again} {quoted(requirements)}"


def quoted(requirements: list[str]) -> str:
    """The requirements for a command line."""
    return " ".join(f'"{one}"' for one in requirements)


def install(requirements: list[str], run_pip: object) -> dict[str, str]:
    """Install ``requirements`` together, or one by one if that fails: one without a build must not keep the others out.

    Returns:
        What pip said, by requirement, of those that failed.
    """
    assert callable(run_pip)
    try:
        run_pip(command(requirements), f"the face networks' packages for Celeb Basis: {quoted(requirements)}")
    except Exception as error:
        said = str(error)
        if len(requirements) == 1 or OFFLINE.search(said):
            return dict.fromkeys(requirements, said)
    else:
        return {}
    failed: dict[str, str] = {}
    for one in requirements:
        failed |= install([one], run_pip)
        if OFFLINE.search(failed.get(one, "")):
            return failed | dict.fromkeys(requirements[requirements.index(one) :], failed[one])
    return failed


def explain(requirements: list[str], said: str) -> str:
    """Why ``requirements`` could not be installed by what pip said, and what to do, for the terminal."""
    remedy = next((text for pattern, text in REMEDIES if re.search(pattern, said)), WHILE_ONLINE)
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["unknown"]
    telling = [line for line in lines if re.search(r"ERROR|[a-z]Error\b|error:", line)]
    reason = (telling or lines)[-1][:300]
    return (
        f"celeb-basis: {quoted(requirements)} could not be installed ({reason}). Everything but finding faces works without. "
        f"What to do: {remedy.format(python=sys.executable)}. By hand, which changes no other package: "
        f'"{sys.executable}" -m pip install --no-deps {quoted(requirements)}'
    )


def say(text: str) -> None:
    """Print ``text`` on a terminal of any encoding, without control characters that came from elsewhere."""
    shown = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(shown.encode(encoding, "backslashreplace").decode(encoding))


def in_comfyui(file: str = __file__) -> bool:
    """Whether this repository lies among ComfyUI's custom nodes."""
    return os.path.basename(os.path.dirname(os.path.dirname(os.path.abspath(file)))) == "custom_nodes"


def run_pip(command: str, desc: str) -> None:
    """Run pip of this Python, as the WebUI's function of that name does.

    Raises:
        RuntimeError: It failed; the text is what it said.
    """
    print(f"celeb-basis: installing {desc}")
    done = subprocess.run(
        [sys.executable, "-m", "pip", *shlex.split(command)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{done.stdout}\n{done.stderr}")


def for_comfyui(text: str) -> str:
    """A sentence about the WebUI, as it is in ComfyUI."""
    again = f'run "{sys.executable}" "{os.path.abspath(__file__)}" while it is online'
    return text.replace(WHILE_ONLINE, again).replace("the WebUI", "ComfyUI").replace("other WebUI", "other ComfyUI")


def main() -> int:
    """Install what is missing; a failure is printed and stops nothing, since pages and nodes repeat it."""
    try:
        import launch

        run = getattr(launch, "run_pip", None)
    except ImportError:
        if not in_comfyui():
            print(
                "celeb-basis: install.py is for the WebUI and ComfyUI; elsewhere run `python bootstrap.py setup`.",
                file=sys.stderr,
            )
            return 1
        return install_missing(run_pip, for_comfyui)
    return install_missing(run, lambda text: text)


def install_missing(run: object, worded: object) -> int:
    """Install what is missing with ``run``, the launcher's ``run_pip``, and word what failed with ``worded``."""
    assert callable(worded)
    wanted = [requirement for _, requirement in missing()]
    if not wanted:
        return 0
    if sys.prefix != sys.base_prefix:
        os.environ["PIP_USER"] = "0"  # a configuration with "user = true" would make pip refuse in a venv
    failed = install(wanted, run)
    for said in dict.fromkeys(failed.values()):
        say(worded(explain([one for one in failed if failed[one] == said], said)))
    importlib.invalidate_caches()
    if not failed and (still := [requirement for _, requirement in missing() if requirement in wanted]):
        text = (
            f"celeb-basis: {quoted(still)} cannot be found, although pip reported no error: start the WebUI once without "
            f'--skip-install, and check for target, prefix or root in what "{sys.executable}" -m pip config list shows.'
        )
        say(worded(text.replace("start the WebUI once without --skip-install, and ", "") if in_comfyui() else text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
