"""Run by the WebUI at every start: installs the packages that are missing, and changes the version of none.

insightface requires onnx, and every onnx requires a newer protobuf than the WebUI pins; both work with the pinned one.
The missing packages are therefore installed without their dependencies; those that matter are listed here as well.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib import metadata

NEEDED = (
    # the module to look for, the name for the launcher, what to install
    ("insightface", "insightface", "insightface==2.1"),
    ("onnx", "onnx", "onnx==1.16.2"),
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

PIP_OPTIONS = "--no-deps --no-input --retries 1 --timeout 20"
"""A machine without a network must not wait for long at every start."""


def is_there(module: str) -> bool:
    """Whether ``module`` can be imported; only its parent packages are run."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def missing() -> list[str]:
    """Requirements of the packages that are not installed under any name: onnxruntime-gpu provides onnxruntime too."""
    import launch

    newer = NEWER if numpy_version() >= 2 else {}
    return [
        newer.get(name, wanted)
        for module, name, wanted in NEEDED
        if not is_there(module) and not launch.is_installed(name)
    ]


def numpy_version() -> int:
    """Major version of NumPy; 1, which the WebUI pins, if it is not installed."""
    try:
        return int(metadata.version("numpy").split(".")[0])
    except (metadata.PackageNotFoundError, ValueError):
        return 1


def main() -> int:
    """Install what is missing; a failure is printed and stops nothing, since the extension's page repeats it."""
    try:
        import launch
    except ImportError:
        print(
            "celeb-basis: install.py is run by the WebUI; elsewhere run `python bootstrap.py setup`.", file=sys.stderr
        )
        return 1
    wanted = missing()
    if not wanted:
        return 0
    quoted = " ".join(f'"{one}"' for one in wanted)
    try:
        launch.run_pip(f"install {PIP_OPTIONS} {quoted}", f"the face networks' packages for Celeb Basis: {quoted}")
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or ["unknown"])[-1][:300]
        print(
            f"celeb-basis: {quoted} could not be installed ({reason}). Everything but finding faces works without; "
            "start the WebUI once while it is online, and they are installed."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
