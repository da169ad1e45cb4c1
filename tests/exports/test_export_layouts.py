"""Exported files as the WebUI and ComfyUI read them, and reading any tool's file back."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.people import WIDTHS, family_bases, model_info, person
from support.webui_rules import check_pt, load_embedding, load_in_comfyui

from celeb_basis.errors import ExportError, FileError
from celeb_basis.exports.textual_inversion import (
    LAYOUTS,
    Embedding,
    export_identity,
    identity_from_embedding,
    import_embedding,
    usage,
)
from celeb_basis.exports.torch_files import read_torch_file
from celeb_basis.identities.identity import Identity

FAMILIES = sorted(WIDTHS)


def vectors_of(identity: Identity) -> dict[str, torch.Tensor]:
    return dict(zip(identity.encoders, identity.token_vectors(), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_webui(family: str, suffix: str, tmp_path: Path) -> None:
    identity = person("ada", family, steps=400)
    (path,) = export_identity(identity, tmp_path / f"person1{suffix}", "webui")
    name, vec, shape, count = load_embedding(path)
    expected = vectors_of(identity)
    assert (name, shape, count) == ("person1", sum(WIDTHS[family].values()), 2)
    if family == "sdxl":
        assert set(vec) == set(expected)
        assert all(torch.equal(vec[key], expected[key]) for key in expected)
    else:
        assert torch.equal(vec, next(iter(expected.values())))


def test_webui_dictionary(tmp_path: Path) -> None:
    identity = person("ada", steps=400)
    (path,) = export_identity(identity, tmp_path / "ada.pt", "webui")
    data = torch.load(path, weights_only=True)
    assert set(data) == {"string_to_token", "string_to_param", "name", "step", "sd_checkpoint", "sd_checkpoint_name"}
    assert data["string_to_token"] == {"*": 265}
    assert list(data["string_to_param"]) == ["*"]
    assert (data["name"], data["step"], data["sd_checkpoint_name"]) == ("ada", 400, "a-model")
    assert identity.metadata.base_sha256.startswith(data["sd_checkpoint"])


def test_the_webui_s_rules_would_refuse_an_ordinary_file(tmp_path: Path) -> None:
    """The emulation can fail: a zip of a current torch, and a pickle with another global, are rejected."""
    torch.save({"emb_params": torch.zeros(2, 768)}, tmp_path / "zip.pt")
    torch.save({"a": torch.Size([1]), "b": torch.zeros(1)}, tmp_path / "odd.pt", _use_new_zipfile_serialization=False)
    for name in ("zip.pt", "odd.pt"):
        with pytest.raises(pickle.UnpicklingError):
            check_pt(tmp_path / name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_comfyui(family: str, suffix: str, tmp_path: Path) -> None:
    identity = person("ada", family)
    (path,) = export_identity(identity, tmp_path / f"ada{suffix}", "comfyui")
    for key, expected in vectors_of(identity).items():
        assert torch.equal(load_in_comfyui(path, key), expected)


def test_comfyui_names_have_no_spaces(tmp_path: Path) -> None:
    identity = person("Ada, Lovelace")
    (path,) = export_identity(identity, tmp_path, "comfyui")
    assert path.name == "Ada_Lovelace.safetensors"
    assert usage(identity, path, "comfyui").endswith("embedding:Ada_Lovelace in a prompt")
    with pytest.raises(ExportError, match=r"name the file 'ada_l\.safetensors'"):
        export_identity(identity, tmp_path / "ada l.safetensors", "comfyui")
    assert export_identity(identity, tmp_path, "webui")[0].name == "Ada, Lovelace.safetensors"


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("family", FAMILIES)
def test_invokeai(family: str, suffix: str, tmp_path: Path) -> None:
    """It looks for these keys when a file is added, and takes the width for the base model; any other key it refuses."""
    identity = person("ada", family)
    (path,) = export_identity(identity, tmp_path / f"ada{suffix}", "invokeai")
    tensors = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
    expected = vectors_of(identity)
    assert set(tensors) == (set(expected) if family == "sdxl" else {"emb_params"})
    for key, theirs in tensors.items():
        assert torch.equal(theirs, expected[key] if family == "sdxl" else next(iter(expected.values())))


def test_invokeai_s_words_are_of_plain_characters(tmp_path: Path) -> None:
    identity = person("Zoë+2")
    (path,) = export_identity(identity, tmp_path, "invokeai")
    assert path.name == "Zo_2.safetensors"
    assert usage(identity, path, "invokeai").endswith("write <Zo_2> in a prompt")
    with pytest.raises(ExportError, match=r"name the file 'a_b\.safetensors'"):
        export_identity(identity, tmp_path / "a+b.safetensors", "invokeai")


def test_a_name_with_a_dot_keeps_it(tmp_path: Path) -> None:
    (path,) = export_identity(person("dr. who"), tmp_path, "webui")
    assert path.name == "dr. who.safetensors"


@pytest.mark.parametrize(
    ("layout", "name"), [("webui", "a.bin"), ("webui", "a"), ("comfyui", "a.png"), ("diffusers", "a.ckpt")]
)
def test_suffixes_that_a_tool_does_not_read(layout: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"name the file with \.safetensors"):
        export_identity(person(), tmp_path / name, layout)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_unknown_layout(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="choose one of webui, diffusers, comfyui"):
        export_identity(person(), tmp_path / "a.pt", "photoshop")  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_nothing_is_half_written(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FileError, match="disk is full"):
        export_identity(person(), tmp_path / f"ada{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_what_is_exported_can_be_imported(family: str, layout: str, tmp_path: Path) -> None:
    bases = family_bases(family)
    identity = person("ada", family, bases=bases, steps=7)
    for suffix in LAYOUTS[layout].suffixes:
        files = export_identity(identity, tmp_path / f"ada{suffix}", layout)  # type: ignore[arg-type]
        if len(files) > 1:
            continue
        embedding = import_embedding(files[0])
        again = identity_from_embedding(embedding, bases, model_info(family), name="ada")
        for ours, theirs in zip(identity.vectors, embedding.vectors.values(), strict=True):
            assert ours.tobytes() == theirs.tobytes()
        for i in range(len(bases)):
            np.testing.assert_allclose(again.coefficients[i], identity.coefficients[i], atol=1e-6)
            np.testing.assert_allclose(again.vectors[i], identity.vectors[i], atol=1e-6)
        assert again.metadata.source == "imported"
        assert again.metadata.settings["explained"] == pytest.approx([1] * len(bases), abs=1e-5)


def test_how_much_the_basis_explains(tmp_path: Path) -> None:
    """A vector with as much inside the space as outside of it is explained by half."""
    (basis,) = family_bases()
    inside = basis.components[:, 0]
    outside = torch.randn(2, 768, generator=torch.Generator().manual_seed(3))
    outside -= torch.einsum("ed,ekd,ekf->ef", outside, basis.components, basis.components)
    outside = torch.nn.functional.normalize(outside, dim=-1)
    save_file({"x": basis.mean + inside + outside}, tmp_path / "half.safetensors")
    identity = identity_from_embedding(import_embedding(tmp_path / "half.safetensors"), [basis], model_info())
    assert identity.metadata.settings["explained"] == pytest.approx([0.5], abs=1e-4)
    assert "50% for clip_l" in identity.metadata.notes
    np.testing.assert_allclose(identity.vectors[0], (basis.mean + inside).numpy(), atol=1e-6)


def test_files_of_other_trainers(tmp_path: Path) -> None:
    rows = torch.randn(2, 768)
    old = torch.nn.ParameterDict({"*": torch.nn.Parameter(rows)})
    cases = {
        "ldm.pt": {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": old},
        "concept.bin": {"<ada>": rows},
        "half.pt": {"string_to_param": {"*": rows.half()}, "step": 12},
        "bfloat.pt": {"<ada>": rows.bfloat16()},
        "bare.pt": rows,
        "parameter.pt": {"<ada>": torch.nn.Parameter(rows)},
        "transposed.pt": {"<ada>": rows.T.contiguous().T},
        "part.pt": {"<ada>": torch.cat([torch.zeros(3, 768), rows])[3:]},
    }
    for name, content in cases.items():
        for zipped in (True, False):
            torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
            embedding = import_embedding(tmp_path / name)
            kept = rows.half() if name == "half.pt" else rows.bfloat16() if name == "bfloat.pt" else rows
            assert torch.equal(torch.from_numpy(embedding.vectors[""]), kept.float()), name
            assert embedding.name == name.partition(".")[0]
    assert import_embedding(tmp_path / "half.pt").steps == 12
    save_file({"emb_params": rows.bfloat16()}, tmp_path / "b.safetensors")
    assert np.array_equal(import_embedding(tmp_path / "b.safetensors").vectors[""], rows.bfloat16().float().numpy())


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"a": torch.zeros(2, 4), "b": torch.zeros(2, 4)},
        {"a": torch.zeros(2, 3, 4)},
        {"a": torch.zeros(2, 4, dtype=torch.int64)},
        {"a": torch.full((2, 4), float("nan"))},
        {"a": torch.full((2, 4), 1e300, dtype=torch.float64)},
        {"a": torch.zeros(76, 4)},
        {"a": torch.zeros(0, 4)},
        {"a": "text"},
        {"string_to_param": [1]},
        {"string_to_param": {}},
        {3: torch.zeros(2, 4)},
        [torch.zeros(2, 4)],
        "text",
        None,
    ],
)
def test_what_is_no_embedding(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ExportError, match=r"x\.pt"):
        import_embedding(tmp_path / "x.pt")


def test_broken_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2, 768)}, path)
    data = path.read_bytes()
    for broken in (b"", data[:20], data[:-4], b"text" * 99):
        path.write_bytes(broken)
        with pytest.raises(ExportError, match="damaged"):
            import_embedding(path)
    with pytest.raises(FileError):
        import_embedding(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    ("vectors", "says"),
    [
        ({"": np.zeros((2, 1024), np.float32)}, "1024 numbers"),
        ({"": np.zeros((8, 768), np.float32)}, "8 token vectors"),
        ({"clip_h": np.zeros((2, 768), np.float32)}, "is for clip_h"),
        ({"clip_l": np.zeros((2, 768), np.float32), "clip_g": np.zeros((2, 1280), np.float32)}, "clip_g, clip_l"),
    ],
)
def test_embeddings_of_another_model(vectors: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(ExportError, match=says):
        identity_from_embedding(Embedding("ada", vectors), family_bases(), model_info())


def test_one_unnamed_tensor_is_not_enough_for_sdxl() -> None:
    with pytest.raises(ExportError, match="one unnamed text encoder"):
        identity_from_embedding(
            Embedding("ada", {"": np.zeros((2, 768), np.float32)}), family_bases("sdxl"), model_info("sdxl")
        )


def test_files_are_written_by_torch_s_rules(tmp_path: Path) -> None:
    (path,) = export_identity(person(), tmp_path / "ada.pt")
    assert set(read_torch_file(path)) == set(torch.load(path, weights_only=True))
