"""Files of every format that was ever written still open. They lie in ``files/``, made by the versions that wrote them:
``identity-1`` and ``state-1`` by the first commits that could. A new version of a format adds a file and leaves the others.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save
from support.bases import toy_bases
from support.toys import ToyModel

from celeb_basis.errors import IdentityError, TrainingError
from celeb_basis.identities.deletion import delete_person, traces_of
from celeb_basis.identities.identity import FORMAT_VERSION, READERS, load_identity, save_identity
from celeb_basis.identities.library import Library
from celeb_basis.reading import safetensors_metadata
from celeb_basis.training.state import read_summary, resume_trainer

FILES = Path(__file__).parent / "files"


def test_there_is_a_file_of_every_version() -> None:
    assert sorted(READERS) == list(range(1, FORMAT_VERSION + 1))
    for version in READERS:
        assert safetensors_metadata(FILES / f"identity-{version}.safetensors")["format_version"] == str(version)


@pytest.mark.parametrize("version", sorted(READERS))
def test_an_identity_of_every_version_opens_and_is_written_anew(version: int, tmp_path: Path) -> None:
    identity = load_identity(FILES / f"identity-{version}.safetensors")
    about = identity.metadata
    assert (identity.name, identity.encoders) == ("Ada", ("clip_l",))
    assert np.array_equal(identity.coefficients[0], np.arange(8, dtype=np.float32).reshape(2, 4) / 8)
    assert np.array_equal(identity.vectors[0], np.arange(12, dtype=np.float32).reshape(2, 6) / 12)
    assert (about.base_model, about.family, about.steps, about.source) == ("small sd1", "sd1", 4, "learned")
    assert (about.consent, about.notes) == ("Ada said yes, in writing", "from the garden party")
    assert about.settings == {"steps": 4, "mode": "head"}
    assert about.thumbnail is not None
    save_identity(identity, tmp_path / "anew.safetensors")
    again = load_identity(tmp_path / "anew.safetensors")
    assert again.metadata.format_version == FORMAT_VERSION
    assert (again.content_hash, again.metadata.consent) == (identity.content_hash, about.consent)


def with_remarks(file: Path, target: Path, **changes: str) -> Path:
    target.write_bytes(save(load_file(file), safetensors_metadata(file) | changes))
    return target


def test_an_identity_of_a_newer_program_is_refused_with_a_sentence(tmp_path: Path) -> None:
    newer = str(FORMAT_VERSION + 1)
    file = with_remarks(FILES / "identity-1.safetensors", tmp_path / "eve.safetensors", format_version=newer)
    with pytest.raises(IdentityError, match=f"version {newer} of the format .* update celeb-basis"):
        load_identity(file)
    (entry,) = Library(tmp_path).entries()
    assert entry.identity is None, "and the library goes on to list it, with the reason"
    assert "update celeb-basis" in str(entry.problem)


def test_an_interrupted_run_of_the_first_version_goes_on_to_its_end() -> None:
    """It was kept after 3 of 30 steps, before recipes, landmarks and notes on consent were in a state."""
    path = FILES / "state-1.safetensors"
    saved = read_summary(path)
    assert (saved.names, saved.consent) == (("ann",), "")
    model = ToyModel()
    trainer = resume_trainer(path, model, toy_bases(model, 8))
    assert trainer.step == 3
    assert list(trainer.run())
    assert trainer.step == 30
    assert list(trainer.results()) == ["ann"]


def test_deleting_finds_an_interrupted_run_of_the_first_version(tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    state = unfinished / "ann.safetensors"
    state.write_bytes((FILES / "state-1.safetensors").read_bytes())
    library = Library(tmp_path / "people")
    assert traces_of(library, "ann", [unfinished]).states == (state,)
    delete_person(library, "Ann", [unfinished])
    assert not state.exists()


def test_a_run_of_a_newer_program_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = FILES / "state-1.safetensors"
    header: dict[str, Any] = json.loads(safetensors_metadata(path)["state"])
    file = with_remarks(path, tmp_path / "state.safetensors", state=json.dumps(header | {"format": 2}))
    with pytest.raises(TrainingError, match="state of format 2, this version reads 1"):
        read_summary(file)
