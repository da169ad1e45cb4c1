"""Files of the CelebBasis repository, made with ``torch.save`` in the structure that its code writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.people import model_info, random_basis

from celeb_basis.errors import ExportError, FileError, WrongModelError
from celeb_basis.exports.celebbasis_repo import import_celebbasis_file, read_celebbasis_basis, read_celebbasis_file
from celeb_basis.identities.blending import blend
from celeb_basis.method import Basis

E, K, D = 2, 16, 48
INFO = model_info()


def trained(seed: int) -> torch.Tensor:
    """A slot after 400 steps: the moving average of unit rows, and what remains of the noise it was initialized with."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.nn.functional.normalize(torch.randn(E, 1, K, generator=generator), dim=-1)
    slot = torch.randn(E, 1, K, generator=generator)
    for _ in range(400):
        slot = 0.99 * slot + (1 - 0.99) * target
    return slot


def checkpoint(people: int = 2, slots: int = 10) -> dict[str, Any]:
    """``embeddings_gs-STEP.pt``: a list of slots, all initialized with the same tensor."""
    coefficients = [torch.randn(E, 1, K)] * slots
    for index in range(people):
        coefficients[index] = trained(index)
    return {"id_coefficients": coefficients}


def repository_basis(ours: Basis, seed: int = 1) -> torch.Tensor:
    """A basis as the repository saves it, ``(E, 1 + K, D)``: the same span with other signs and another order."""
    order = torch.randperm(K, generator=torch.Generator().manual_seed(seed))
    signs = torch.where(torch.arange(K) % 3 == 0, -1.0, 1.0)
    return torch.cat([ours.mean[:, None], (ours.components * signs[:, None])[:, order]], dim=1)


@pytest.fixture(name="basis")
def fixture_basis() -> Basis:
    return random_basis(width=D, components=K)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("half", [True, False])
def test_a_file_of_a_training_run(zipped: bool, half: bool, tmp_path: Path) -> None:
    content = checkpoint(people=2)
    if half:
        content["id_coefficients"] = [x.half() for x in content["id_coefficients"]]
    torch.save(content, tmp_path / "embeddings_gs-799.pt", _use_new_zipfile_serialization=zipped)
    file = read_celebbasis_file(tmp_path / "embeddings_gs-799.pt")
    assert (len(file.coefficients), file.skipped, file.vectors) == (2, 8, ())
    for index, rows in enumerate(file.coefficients):
        expected = content["id_coefficients"][index][:, 0].float()
        assert rows.dtype == np.float32
        assert rows.tobytes() == expected.numpy().tobytes()


def test_nine_trained_people_and_one_slot_of_noise(tmp_path: Path) -> None:
    torch.save(checkpoint(people=9), tmp_path / "x.pt")
    file = read_celebbasis_file(tmp_path / "x.pt")
    assert (len(file.coefficients), file.skipped) == (9, 1)


def test_no_trained_person(tmp_path: Path) -> None:
    torch.save(checkpoint(people=0), tmp_path / "x.pt")
    with pytest.raises(ExportError, match="no trained person"):
        read_celebbasis_file(tmp_path / "x.pt")


def test_a_file_that_was_saved_while_training_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slots are results of a graph, and are on the GPU."""
    weight = torch.nn.Parameter(trained(0))
    slots = [0.99 * trained(0) + 0.01 * weight] + [torch.randn(E, 1, K)] * 9
    monkeypatch.setattr("torch.serialization.location_tag", lambda _: "cuda:0")
    torch.save({"id_coefficients": slots}, tmp_path / "embeddings_gs-199.pt")
    monkeypatch.undo()
    assert b"cuda:0" in (tmp_path / "embeddings_gs-199.pt").read_bytes()
    (rows,) = read_celebbasis_file(tmp_path / "embeddings_gs-199.pt").coefficients
    assert rows.tobytes() == slots[0].detach()[:, 0].contiguous().numpy().tobytes()


@pytest.mark.parametrize("half", [True, False])
def test_with_the_repository_s_basis_the_vectors_are_exact(half: bool, tmp_path: Path, basis: Basis) -> None:
    theirs = repository_basis(basis)
    content = checkpoint(people=2)
    if half:
        content["id_coefficients"] = [x.half() for x in content["id_coefficients"]]
    torch.save(content, tmp_path / "embeddings_gs-799.pt")
    torch.save(theirs, tmp_path / "celeb_basis.pt")
    read = read_celebbasis_basis(tmp_path / "celeb_basis.pt")
    people = import_celebbasis_file(tmp_path / "embeddings_gs-799.pt", read, INFO, name="ada")
    assert [person.name for person in people] == ["ada-1", "ada-2"]
    for index, person in enumerate(people):
        # The repository's own expression: einsum('e h k, e k c -> e h c', x, pca_base) + c_mean.
        x = content["id_coefficients"][index].float()
        z = torch.einsum("ehk,ekc->ehc", x, theirs[:, 1:]) + theirs[:, :1]
        np.testing.assert_allclose(person.vectors[0], z[:, 0].numpy(), atol=1e-6)
        assert person.coefficients[0].tobytes() == x[:, 0].contiguous().numpy().tobytes()
        assert person.metadata.source == "imported"
        assert "used as they are" in person.metadata.notes
        assert "signs" not in person.metadata.notes


def test_coefficients_in_another_basis_are_another_person(tmp_path: Path, basis: Basis) -> None:
    torch.save(trained(3), tmp_path / "id_coefficient_003.pt")
    torch.save(repository_basis(basis), tmp_path / "celeb_basis.pt")
    (person,) = import_celebbasis_file(
        tmp_path / "id_coefficient_003.pt", read_celebbasis_basis(tmp_path / "celeb_basis.pt"), INFO
    )
    (other,) = import_celebbasis_file(tmp_path / "id_coefficient_003.pt", basis, INFO)
    assert person.name == "id_coefficient_003"
    assert not np.allclose(person.vectors[0], other.vectors[0], atol=0.1)
    assert "signs" in other.metadata.notes  # made from names


def test_imported_coefficients_are_not_blended_with_others(tmp_path: Path, basis: Basis) -> None:
    torch.save(trained(3), tmp_path / "c.pt")
    torch.save(repository_basis(basis), tmp_path / "celeb_basis.pt")
    (person,) = import_celebbasis_file(tmp_path / "c.pt", read_celebbasis_basis(tmp_path / "celeb_basis.pt"), INFO)
    with pytest.raises(WrongModelError, match="not blended"):
        blend([(person, 1.0)], [basis], INFO, name="mixed")


def test_extracted_vectors(tmp_path: Path, basis: Basis) -> None:
    vectors = basis.expand(trained(3)[:, 0])
    torch.save(vectors, tmp_path / "id_embedding_003.pt")
    (person,) = import_celebbasis_file(tmp_path / "id_embedding_003.pt", basis, INFO, name="ada")
    np.testing.assert_allclose(person.vectors[0], vectors.numpy(), atol=1e-5)
    slots = [torch.nn.Parameter(vectors), *[torch.nn.Parameter(torch.ones(E, D))] * 9]
    torch.save({"id_embeddings": slots}, tmp_path / "embeddings.pt")
    (person,) = import_celebbasis_file(tmp_path / "embeddings.pt", basis, INFO, name="ada")
    np.testing.assert_allclose(person.vectors[0], vectors.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            {"meta_id_net": {"stylegan_mlp.net.0.weight": torch.zeros(4, 4)}},
            "network of the CelebBasis repository and no coefficients",
        ),
        ({"id_coefficients": []}, "not a coefficient file of the CelebBasis repository"),
        ({"id_coefficients": None}, "not a coefficient file of the CelebBasis repository"),
        ({"id_coefficients": [torch.zeros(E, 3, K)]}, "several heads"),
        ({"id_coefficients": [torch.zeros(E, K)]}, "unknown shape"),
        ({"id_coefficients": ["text"]}, "not a coefficient file of the CelebBasis repository"),
        (
            {"id_coefficients": [torch.zeros(E, 1, K, dtype=torch.int64)]},
            "not a coefficient file of the CelebBasis repository",
        ),
        ({"id_coefficients": [torch.full((E, 1, K), float("nan"))]}, "NaN or infinity"),
        ({"id_embeddings": [torch.zeros(E, 1, D)]}, "unknown shape"),
        ({"something": torch.zeros(2)}, "not a coefficient file of the CelebBasis repository"),
        (torch.zeros(E, 513, 768), "the basis of the CelebBasis repository, not a person"),
        (torch.zeros(5), "not a coefficient file of the CelebBasis repository"),
        ("text", "not a coefficient file of the CelebBasis repository"),
    ],
)
def test_unusable_files(content: Any, says: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ExportError, match=says):
        read_celebbasis_file(tmp_path / "x.pt")


def test_sizes_that_do_not_fit(tmp_path: Path, basis: Basis) -> None:
    torch.save(trained(1), tmp_path / "c.pt")
    torch.save(torch.zeros(E, D + 1), tmp_path / "v.pt")
    with pytest.raises(ExportError, match="2 x 16 coefficients, but the basis is for 2 x 9"):
        import_celebbasis_file(tmp_path / "c.pt", random_basis(width=D, components=9), INFO)
    with pytest.raises(ExportError, match="token vectors of 2 x 49"):
        import_celebbasis_file(tmp_path / "v.pt", basis, INFO)
    with pytest.raises(ExportError, match="choose a model of sd1"):
        import_celebbasis_file(tmp_path / "c.pt", basis, model_info("sdxl"))


def test_other_files_given_as_the_basis(tmp_path: Path) -> None:
    for content in ({"a": 1}, torch.zeros(E, 1, K), torch.zeros(3, 4)):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(ExportError, match=r"choose the celeb_basis\.pt"):
            read_celebbasis_basis(tmp_path / "x.pt")
    with pytest.raises(FileError):
        read_celebbasis_basis(tmp_path / "none.pt")


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_such_a_file_is_never_run(zipped: bool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for content in (
        Evil(trace),
        {"id_coefficients": [trained(0), Evil(trace)]},
        {Evil: 1, "id_coefficients": [trained(0)]},
    ):
        torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        for read in (read_celebbasis_file, read_celebbasis_basis):
            with pytest.raises(ExportError, match=r"x\.pt cannot be read"):
                read(tmp_path / "x.pt")
    assert not trace.exists()
