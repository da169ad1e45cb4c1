"""The commands and the Python of docs/tools/, run as they stand, on small models."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from support.people import WIDTHS, model_info, random_basis, unit_coefficients

from celeb_basis.cli.main import main
from celeb_basis.identities.expand import new_identity
from celeb_basis.identities.identity import load_identity
from celeb_basis.identities.library import Library
from celeb_basis.names.lists import shipped_names
from miniature.small_models.pipelines import make_pipeline, save_pipeline

PAGES = Path(__file__).resolve().parents[2] / "docs" / "tools"
NARROW = {"width": 64, "second_width": 128}
EXPORTS = {
    "diffusers": "ada-word.safetensors",
    "comfyui": "ComfyUI/models/embeddings/ada.safetensors",
    "invokeai": "ada.safetensors",
    "webui-without-the-extension": "stable-diffusion-webui/embeddings/ada.safetensors",
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (PAGES / f"{page}.md").read_text("utf-8"), re.DOTALL)


def run(line: str, library: Path) -> int:
    program, *words = shlex.split(line)
    assert program == "celeb-basis"
    return main([*words, "--library", str(library)])


def put_ada(library: Path, family: str) -> None:
    encoders = zip(WIDTHS[family], NARROW.values(), strict=False)
    bases = [random_basis(encoder, width, seed=i) for i, (encoder, width) in enumerate(encoders)]
    Library(library).add(new_identity("ada", unit_coefficients(bases), bases, model_info(family)), replace=True)


@pytest.mark.parametrize("page", EXPORTS)
def test_the_export_of_a_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put_ada(tmp_path / "people", "sd1")
    written = tmp_path / EXPORTS[page]
    written.parent.mkdir(parents=True, exist_ok=True)
    (block,) = blocks(page, "sh")
    assert [run(line, tmp_path / "people") for line in block.splitlines()] == [0]
    assert written.is_file()


@pytest.mark.parametrize(("number", "family", "folder"), [(0, "sd1", "sd15"), (1, "sdxl", "sdxl")])
def test_the_python_for_diffusers(
    number: int, family: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put_ada(tmp_path / "people", family)
    save_pipeline(make_pipeline(family, **NARROW), tmp_path / folder)  # type: ignore[arg-type]
    (export,) = blocks("diffusers", "sh")
    assert run(export.strip(), tmp_path / "people") == 0
    known: dict[str, object] = {}
    exec(blocks("diffusers", "python")[number], known)
    assert known["image"].size == (64, 64)  # type: ignore[attr-defined]


def test_the_imports_of_the_celebbasis_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    size = 16
    save_pipeline(make_pipeline("sd1", width=64), tmp_path / "sd14.safetensors")
    slot = torch.nn.functional.normalize(torch.randn(2, 1, size), dim=-1)
    basis = torch.randn(2, 1 + size, 64)
    torch.save({"id_coefficients": [slot] + [torch.ones(2, 1, size)] * 9}, "embeddings_gs-799.pt")
    torch.save(slot, "id_coefficient_000.pt")
    torch.save(basis, "celeb_basis.pt")
    (tmp_path / "wiki_names_v2.txt").write_text("\n".join(shipped_names().names[:100]), "utf-8")
    exact, listed = blocks("celebbasis-repository", "sh")
    assert [run(line, tmp_path / "people") for line in exact.splitlines()] == [0, 0]
    expected = torch.einsum("ehk,ekc->ehc", slot, basis[:, 1:])[:, 0] + basis[:, 0]
    for name in ("ada", "bob"):
        vectors = load_identity(tmp_path / "people" / f"{name}.safetensors").vectors[0]
        assert torch.allclose(torch.from_numpy(vectors.copy()), expected, atol=1e-5)
    assert [run(line, tmp_path / "listed") for line in listed.splitlines()] == [0]
    assert "signs" in load_identity(tmp_path / "listed" / "ada.safetensors").metadata.notes
