"""AUTOMATIC1111's WebUI 1.10 reading an embedding file, reimplemented: its check of pickles and its three layouts."""

from __future__ import annotations

import collections
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

# modules/safe.py allows these globals and no others.
ALLOWED = {
    "collections": {"OrderedDict"},
    "torch._utils": {"_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_device_tensor_from_numpy"},
    "torch": {"FloatStorage", "HalfStorage", "IntStorage", "LongStorage", "DoubleStorage", "ByteStorage", "float32"}
    | {"BFloat16Storage"},
    "torch.nn.modules.container": {"ParameterDict"},
    "numpy.core.multiarray": {"scalar", "_reconstruct"},
    "numpy": {"dtype", "ndarray"},
    "_codecs": {"encode"},
    "__builtin__": {"set"},
}


class _Checker(pickle.Unpickler):
    def persistent_load(self, saved_id: Any) -> Any:
        assert saved_id[0] == "storage"
        return torch.storage.TypedStorage(_internal=True)

    def find_class(self, module: str, name: str) -> Any:
        if name not in ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"global '{module}/{name}' is forbidden")
        if module == "torch._utils":
            return getattr(torch._utils, name)
        return getattr(collections if module == "collections" else torch, name)


def check_pt(path: Path) -> None:
    """Raise unless the WebUI would accept the file: a zip with only its three kinds of entries, or a file of five pickles."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                rest = name.partition("/")[2]
                if rest not in ("version", "data.pkl") and not (
                    rest.startswith("data/") and rest.removeprefix("data/").isdigit()
                ):
                    raise pickle.UnpicklingError(f"bad file inside: {name}")
        return
    with open(path, "rb") as file:
        for _ in range(5):
            _Checker(file).load()


def load_embedding(path: Path) -> tuple[str, Any, int, int]:
    """Name, vectors, shape and number of vectors, as the WebUI registers the file."""
    if path.suffix == ".safetensors":
        data: Any = load_file(path, device="cpu")
    else:
        check_pt(path)
        data = torch.load(path, map_location="cpu", weights_only=True)
    if "string_to_param" in data:
        (vec,) = data["string_to_param"].values()
        return path.stem, vec.detach().to(torch.float32), vec.shape[-1], vec.shape[0]
    if type(data) is dict and "clip_g" in data and "clip_l" in data:
        vecs = {key: value.detach().to(torch.float32) for key, value in data.items()}
        return path.stem, vecs, data["clip_g"].shape[-1] + data["clip_l"].shape[-1], data["clip_g"].shape[0]
    if type(data) is dict and type(next(iter(data.values()))) is torch.Tensor:
        assert len(data) == 1, "embedding file has multiple terms in it"
        (vec,) = data.values()
        vec = vec.unsqueeze(0) if vec.ndim == 1 else vec
        assert data.get("step") is None
        return path.stem, vec.detach().to(torch.float32), vec.shape[-1], vec.shape[0]
    raise AssertionError("neither textual inversion embedding nor diffuser concept")


def load_in_comfyui(path: Path, key: str) -> torch.Tensor:
    """The tensor that ComfyUI's ``load_embed`` reads from the file for the text encoder ``key``."""
    if path.suffix == ".safetensors":
        data: Any = load_file(path, device="cpu")
    else:
        data = torch.load(path, map_location="cpu", weights_only=True)
    if "string_to_param" in data:
        chosen = next(iter(data["string_to_param"].values()))
    elif key in data:
        chosen = data[key]
    else:
        chosen = next(iter(data.values()))
    assert isinstance(chosen, torch.Tensor)
    return chosen
