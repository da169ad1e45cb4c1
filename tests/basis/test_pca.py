"""Principal components against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from celeb_basis.errors import BasisError
from celeb_basis.method import principal_components


def _columns(names: int, width: int, seed: int = 0) -> torch.Tensor:
    """Correlated vectors about as large as CLIP's token embeddings, in float32 as a model stores them."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(width, width)) * np.linspace(1, 0.05, width)
    return torch.from_numpy((random.normal(size=(names, width)) @ mixing * 0.01 + 0.003).astype(np.float32))


@pytest.mark.parametrize(("names", "width", "count"), [(1200, 768, 512), (700, 1280, 512), (300, 64, 63), (20, 8, 3)])
def test_components_equal_scikit_learns_up_to_the_fixed_sign(names: int, width: int, count: int) -> None:
    data = _columns(names, width)
    ours = principal_components(data, count)
    reference = PCA(n_components=count, svd_solver="full").fit(data.double().numpy())
    signs = np.sign(reference.components_[np.arange(count), np.abs(reference.components_).argmax(1)])
    np.testing.assert_allclose(ours.components.numpy(), reference.components_ * signs[:, None], atol=1e-5)
    np.testing.assert_allclose(ours.mean.numpy(), reference.mean_, atol=1e-10)
    np.testing.assert_allclose(ours.variance.numpy(), reference.explained_variance_, rtol=1e-7)
    np.testing.assert_allclose(
        (ours.variance / ours.total_variance).numpy(), reference.explained_variance_ratio_, rtol=1e-7
    )


@settings(max_examples=25, deadline=None)
@given(names=st.integers(5, 60), width=st.integers(2, 12), seed=st.integers(0, 1000))
def test_rows_are_orthonormal_with_their_largest_entry_positive(names: int, width: int, seed: int) -> None:
    count = min(names - 1, width)
    components = principal_components(_columns(names, width, seed), count).components
    torch.testing.assert_close(components @ components.T, torch.eye(count, dtype=torch.float64))
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    assert bool((largest > 0).all())


def test_order_of_the_names_does_not_matter() -> None:
    data = _columns(200, 32)
    shuffled = data[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    first, second = principal_components(data, 20), principal_components(shuffled, 20)
    torch.testing.assert_close(first.components, second.components)


def test_a_vector_that_counts_three_times_equals_three_vectors() -> None:
    data = _columns(60, 16)
    repeats = torch.arange(60) % 4 + 1
    weighted = principal_components(data, 10, repeats)
    reference = PCA(n_components=10, svd_solver="full").fit(np.repeat(data.double().numpy(), repeats.numpy(), axis=0))
    signs = np.sign(reference.components_[np.arange(10), np.abs(reference.components_).argmax(1)])
    np.testing.assert_allclose(weighted.components.numpy(), reference.components_ * signs[:, None], atol=1e-10)
    np.testing.assert_allclose(weighted.variance.numpy(), reference.explained_variance_, rtol=1e-10)
    assert weighted.total_variance == pytest.approx(
        reference.explained_variance_.sum() / reference.explained_variance_ratio_.sum()
    )


def test_too_low_a_rank_is_refused_with_the_rank() -> None:
    low_rank = _columns(300, 12)[:, :5] @ torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    with pytest.raises(BasisError, match="span only 5 dimensions"):
        principal_components(low_rank, 6)
    assert principal_components(low_rank, 5).components.shape == (5, 40)


def test_one_vector_many_times_has_no_components() -> None:
    with pytest.raises(BasisError, match="span only 0 dimensions"):
        principal_components(torch.ones(50, 8), 1)


def test_a_damaged_table_is_refused() -> None:
    data = _columns(50, 8)
    data[3, 2] = float("nan")
    with pytest.raises(BasisError, match="NaN"):
        principal_components(data, 2)
