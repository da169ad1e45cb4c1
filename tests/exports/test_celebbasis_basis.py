"""The CelebBasis repository's basis, rebuilt from a list of names, against scikit-learn and ``torch.svd``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from celeb_basis.errors import BasisError
from celeb_basis.exports.celebbasis_repo import rebuild_celebbasis_basis
from celeb_basis.hosts.diffusers.configs import clip_tokenizer
from celeb_basis.names.lists import NameList, name_list, shipped_names

WIDTH, K = 48, 24


class Encoder:
    """CLIP's own tokenizer with a random table."""

    name, width = "clip_l", WIDTH

    def __init__(self) -> None:
        self._tokenizer = clip_tokenizer("clip")
        table = torch.randn(49408, WIDTH, generator=torch.Generator().manual_seed(0))
        self._table = table * torch.linspace(2, 0.5, WIDTH)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(ids) for ids in self._tokenizer(list(texts), add_special_tokens=False).input_ids]

    def token_table(self) -> torch.Tensor:
        return self._table

    def weights(self) -> Iterator[torch.Tensor]:
        yield self._table


@pytest.fixture(name="encoder", scope="module")
def fixture_encoder() -> Encoder:
    return Encoder()


def some_names() -> NameList:
    """Unsorted names with repetitions, shared first names, a name of one token, and names of three tokens and more."""
    chosen = shipped_names().names[:300][::-1]
    return name_list([*chosen, *chosen[:40], "Madonna", "Madonna", "Robert Downey Jr"], "a list")


def rows_of(encoder: Encoder, names: NameList, position: int) -> np.ndarray:
    """Rows of a column in the repository's order: distinct lines, sorted; repeated tokens stay."""
    ids = encoder.tokenize(sorted(set(names.names)))
    return encoder.token_table()[[one[position] for one in ids if len(one) > position]].numpy()


def test_means_and_components_are_those_of_the_distinct_names(encoder: Encoder) -> None:
    names = some_names()
    basis = rebuild_celebbasis_basis(encoder, names, K)
    assert basis.components.shape == (2, K, WIDTH)
    for position in (0, 1):
        rows = rows_of(encoder, names, position)
        pca = PCA(n_components=K, svd_solver="full").fit(rows.astype(np.float64))
        np.testing.assert_allclose(basis.mean[position].numpy(), pca.mean_, atol=1e-5)
        cosines = np.abs((basis.components[position].double().numpy() * pca.components_).sum(axis=1))
        assert cosines.min() > 0.999
        np.testing.assert_allclose(basis.variance[position].numpy(), pca.explained_variance_, rtol=1e-3)


def test_signs_are_left_as_the_decomposition_gives_them(encoder: Encoder) -> None:
    """Our basis makes the largest entry positive; the repository's does not, and its coefficients depend on that."""
    names = some_names()
    basis = rebuild_celebbasis_basis(encoder, names, K)
    for position in (0, 1):
        rows = torch.from_numpy(rows_of(encoder, names, position))
        _, _, v = torch.svd(rows - rows.mean(dim=0, keepdim=True), some=False)
        assert torch.equal(basis.components[position], v.t()[:K])
    largest = basis.components.gather(2, basis.components.abs().argmax(dim=2, keepdim=True))
    assert (largest < 0).any()


def test_a_name_of_one_token_is_in_the_first_column_only(encoder: Encoder) -> None:
    names = some_names()
    assert len(encoder.tokenize(["Madonna"])[0]) == 1
    assert len(rows_of(encoder, names, 0)) == len(rows_of(encoder, names, 1)) + 1
    basis = rebuild_celebbasis_basis(encoder, names, K)
    without = rebuild_celebbasis_basis(encoder, name_list([n for n in names.names if n != "Madonna"], "a list"), K)
    assert torch.equal(basis.mean[1], without.mean[1])
    assert not torch.equal(basis.mean[0], without.mean[0])
    assert "Madonna" not in basis.names


def test_the_order_of_the_list_does_not_matter(encoder: Encoder) -> None:
    names = some_names()
    reversed_names = name_list(names.names[::-1], "a list")
    assert torch.equal(
        rebuild_celebbasis_basis(encoder, names, K).components,
        rebuild_celebbasis_basis(encoder, reversed_names, K).components,
    )


def test_a_list_that_is_too_short(encoder: Encoder) -> None:
    with pytest.raises(BasisError, match="too few for 24 components: use the CelebBasis repository's own list"):
        rebuild_celebbasis_basis(encoder, name_list(shipped_names().names[:20], "a list"), K)
    with pytest.raises(BasisError, match="too few for 49 components"):
        rebuild_celebbasis_basis(encoder, some_names(), WIDTH + 1)
