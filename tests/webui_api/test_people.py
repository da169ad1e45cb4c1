"""People of the library by page and API: names, export and import, and why one is not available."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.service import ended, request
from support.toys import ToyModel

from celeb_basis.errors import CelebBasisError, ExportError, IdentityError
from celeb_basis.webui.import_export import split_off_celebbasis_basis
from celeb_basis.webui.people import People
from celeb_basis.webui.schemas import (
    NameTakenError,
    NoSuchPersonError,
)
from celeb_basis.webui.service import Service


def test_names(service: Service, program: Any) -> None:
    program.embeddings = frozenset({"badhands"})
    ended(service.start_learning(request("Ada")))
    assert service.people.check_name("Bob") is None
    assert "already a person" in str(service.people.check_name("ADA"))
    assert service.people.check_name("ADA", replace=True) is None
    assert "embedding called" in str(service.people.check_name("BadHands"))
    program.model.text_encoders[0].tokenize = lambda texts: [[] for _ in texts]
    assert "reads nothing" in str(service.people.check_name("Bob"))
    with pytest.raises(NameTakenError):
        service.start_learning(request("Ada"))


def test_people_are_renamed_noted_exported_imported_and_deleted(service: Service, tmp_path: Path) -> None:
    ended(service.start_learning(request("Ada")))
    known = service.people.entry("ada").identity
    assert known is not None
    assert service.people.rename("Ada", "ada").name == "ada"
    assert service.people.rename("ada", "Countess").name == "Countess"
    noted = service.people.set_notes("Countess", "new").identity
    assert noted is not None
    assert noted.metadata.notes == "new"
    assert noted.metadata.consent == known.metadata.consent, "what is not given stays"
    agreed = service.people.set_notes("Countess", consent="by letter").identity
    assert agreed is not None
    assert (agreed.metadata.notes, agreed.metadata.consent) == ("new", "by letter")
    assert agreed.content_hash == known.content_hash
    with pytest.raises(IdentityError, match="at most"):
        service.people.set_notes("Countess", consent="x" * 20_001)
    ((name, content),) = service.import_export.export("Countess")
    assert name == "Countess.safetensors"
    for layout in ("webui", "diffusers", "comfyui", "invokeai"):
        assert service.import_export.export("Countess", layout)[0][1]
    (written,) = service.import_export.to_host("Countess")
    assert written == tmp_path / "embeddings" / "Countess.safetensors"
    with pytest.raises(NameTakenError):
        service.import_export.import_file(content, name)
    service.people.delete("Countess")
    with pytest.raises(NoSuchPersonError):
        service.people.delete("Countess")
    (back,) = service.import_export.import_file(content, name, "Ada")
    assert back.identity is not None
    assert back.identity.content_hash == known.content_hash
    with pytest.raises(CelebBasisError, match=r"\.safetensors"):
        service.import_export.import_file(content, "person.exe")
    for name in ("../../etc/passwd", "..", "a\x00b"):
        with pytest.raises(IdentityError):
            service.import_export.export(name)


def test_an_embedding_of_narrow_vectors_is_taken_in_as_well(service: Service) -> None:
    ended(service.start_learning(request("Ada")))
    ((name, content),) = service.import_export.export("Ada", "webui")
    (back,) = service.import_export.import_file(
        content, name, "Again"
    )  # 512 components are more than these vectors have numbers
    known = service.people.entry("Ada").identity
    assert back.identity is not None
    assert known is not None
    np.testing.assert_allclose(back.identity.vectors[0], known.vectors[0], atol=1e-5)


def saved(content: Any, path: Path) -> bytes:
    import torch

    torch.save(content, path)
    return path.read_bytes()


def test_the_authors_coefficients_need_their_basis(
    service: Service, program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    width, size = program.model.text_encoders[0].width, 12
    generator = torch.Generator().manual_seed(1)
    place = torch.nn.functional.normalize(torch.randn(2, 1, size, generator=generator), dim=-1)
    theirs = torch.randn(2, 1 + size, width, generator=generator)
    file = saved({"id_coefficients": [place] + [torch.ones(2, 1, size)] * 9}, tmp_path / "embeddings_gs-799.pt")
    basis = saved(theirs, tmp_path / "celeb_basis.pt")
    options = service.workspace.options()
    with monkeypatch.context() as patch:
        patch.setattr(service.workspace, "options", lambda: replace(options, names_file=""))
        with pytest.raises(ExportError, match=r"celeb_basis\.pt .* or choose your copy of that repository's list"):
            service.import_export.import_file(file, "embeddings_gs-799.pt", "Eve")
    (own_list,) = service.import_export.import_file(file, "embeddings_gs-799.pt", "Listed")
    assert own_list.identity is not None
    assert "signs that this machine's" in own_list.identity.metadata.notes
    (eve,) = service.import_export.import_file(file, "embeddings_gs-799.pt", "Eve", authors_basis=basis)
    assert eve.identity is not None
    expected = torch.einsum("ehk,ekc->ehc", place, theirs[:, 1:])[:, 0] + theirs[:, 0]
    assert torch.allclose(torch.from_numpy(eve.identity.vectors[0].copy()), expected, atol=1e-5)


def test_the_authors_basis_is_found_among_files(tmp_path: Path) -> None:
    import torch

    basis = saved(torch.zeros(2, 513, 8), tmp_path / "any-name.pt")
    coefficients = saved({"id_coefficients": [torch.ones(2, 1, 512)]}, tmp_path / "a.pt")
    files = [("any-name.pt", basis), ("a.pt", coefficients), ("b.safetensors", b"x"), ("c.pt", b"not torch's")]
    assert split_off_celebbasis_basis(files) == (basis, [files[1], files[2], files[3]])
    assert split_off_celebbasis_basis(files[1:]) == (None, files[1:])


def test_a_person_of_another_family_is_shown_with_the_reason(service: Service, program: Any) -> None:
    ended(service.start_learning(request("Ada")))
    program.model = ToyModel(widths=(32, 48))
    (entry,) = service.people.entries()
    assert not entry.available
    assert "sdxl" in entry.reason
    assert entry.problem == ""


def test_a_broken_file_is_shown_with_its_problem(service: Service) -> None:
    service.workspace.paths.people.mkdir(parents=True)
    (service.workspace.paths.people / "Ada.safetensors").write_bytes(b"nonsense")
    (entry,) = service.people.entries()
    assert not entry.available
    assert "cannot be used" in entry.problem
    json.dumps(entry.as_dict())


def test_another_data_folder_is_used_at_once(service: Service, tmp_path: Path) -> None:
    ended(service.start_learning(request("Ada")))
    options = replace(service.workspace.options(), data_folder=str(tmp_path / "elsewhere"))
    service.workspace.options = lambda: options
    assert service.people.entries() == []
    assert service.workspace.registry is not None
    assert service.workspace.registry.folder == tmp_path / "elsewhere" / "people"


def test_a_file_whose_name_is_of_no_use_may_be_given_another(service: Service) -> None:
    ended(service.start_learning(request("Ada")))
    ((_, data),) = service.import_export.export("Ada", "webui")
    with pytest.raises(CelebBasisError, match=r"ada \(1\)"):
        service.import_export.import_file(data, "ada (1).safetensors")
    (taken,) = service.import_export.import_file(data, "ada (1).safetensors", "eve")
    assert taken.name == "eve"


def test_some_of_them_in_the_order_asked_for(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ada", "bob", "eve"):
        ended(service.start_learning(request(name)))
    service.workspace.library.path_of("bob").write_bytes(b"nothing")
    asked = []
    real = People._reasons
    monkeypatch.setattr(People, "_reasons", lambda people: asked.append(1) or real(people))
    entries = service.people.entries_of(["eve", "nobody", "bob"])
    assert asked == [1], "once for all of them"
    assert [entry.name for entry in entries] == ["eve", "bob"]
    alone = [service.people.entry(name) for name in ("eve", "bob")]
    assert [replace(entry, identity=None) for entry in entries] == [replace(entry, identity=None) for entry in alone]
    assert entries[1].problem
