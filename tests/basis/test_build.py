"""From names to a basis: columns, errors, and what is read from the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from support.bases import name_list
from support.full_disk import full_disk
from support.toys import ToyModel, ToyTextEncoder, tokenize

from celeb_basis.basis import BasisOptions, build_bases, build_basis, summarize
from celeb_basis.errors import BasisError, NamesError
from celeb_basis.names.filters import FilterOptions
from celeb_basis.names.lists import name_list as names_of
from celeb_basis.training.tracking import nearest_names

_OPTIONS = BasisOptions(components=8)


def _encoder() -> ToyTextEncoder:
    return ToyTextEncoder("clip_l", 24, seed=0)


def test_first_tokens_make_the_first_column_and_second_tokens_the_second() -> None:
    encoder, names = _encoder(), name_list(60)
    basis = build_basis(encoder, names, _OPTIONS).basis
    for column in range(2):
        rows = encoder.table[[tokenize(name)[column] for name in names.names]].double().numpy()
        reference = PCA(n_components=8, svd_solver="full").fit(rows)
        np.testing.assert_allclose(basis.mean[column], rows.mean(0), atol=1e-6)
        np.testing.assert_allclose(
            np.abs((basis.components[column].double().numpy() * reference.components_).sum(1)), 1, atol=1e-6
        )
        np.testing.assert_allclose(
            basis.name_coefficients[:, column].abs(), np.abs(reference.transform(rows)), atol=1e-5
        )
        assert float(basis.total_variance[column]) == pytest.approx(rows.var(0, ddof=1).sum(), rel=1e-5)


def test_expand_and_project_are_each_others_inverse_and_the_unit_sphere_is_at_distance_one() -> None:
    basis = build_basis(_encoder(), name_list(60), _OPTIONS).basis
    coefficients = torch.nn.functional.normalize(
        torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    vectors = basis.expand(coefficients)
    assert vectors.shape == (5, 2, 24)
    torch.testing.assert_close((vectors - basis.mean).norm(dim=-1), torch.ones(5, 2))  # |z_e - m_e| = 1
    torch.testing.assert_close(basis.project(vectors), coefficients)
    torch.testing.assert_close(basis.expand(torch.zeros(2, 8)), basis.mean)
    assert basis.distance(coefficients[0]) == pytest.approx(float((1 / basis.spread).mean()), rel=1e-5)


def test_nearest_is_the_celebrity_itself_by_cosine() -> None:
    basis = build_basis(_encoder(), name_list(60), _OPTIONS).basis
    own = basis.name_coefficients[basis.names.index("first7 last7")]
    (name, cosine), *others = nearest_names([basis], [3 * own], count=4)
    assert name == "first7 last7"
    assert cosine == pytest.approx(1.0, abs=1e-5)
    flat = basis.name_coefficients.reshape(60, -1).numpy()
    expected = flat @ own.reshape(-1).numpy() / np.linalg.norm(flat, axis=1) / np.linalg.norm(own)
    assert [n for n, _ in others] == [basis.names[i] for i in np.argsort(-expected)[1:4]]


def test_repeated_first_names_count_as_often_as_they_occur_unless_tokens_are_distinct() -> None:
    encoder = _encoder()
    names = names_of([f"maria last{i}" for i in range(50)] + [f"first{i} other{i}" for i in range(30)], "a list")
    weighed = build_basis(encoder, names, _OPTIONS).basis
    distinct = build_basis(encoder, names, BasisOptions(components=8, distinct_tokens=True)).basis
    tokens = [tokenize(name)[0] for name in names.names]
    torch.testing.assert_close(weighed.mean[0], encoder.table[tokens].mean(0))
    torch.testing.assert_close(distinct.mean[0], encoder.table[sorted(set(tokens))].mean(0))
    assert weighed.sha256 != distinct.sha256
    assert distinct.name_coefficients.shape == (80, 2, 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tables_are_upcast(dtype: torch.dtype) -> None:
    half, wide = _encoder(), _encoder()
    half.table = half.table.to(dtype)
    wide.table = half.table.float()
    first, second = (build_basis(encoder, name_list(60), _OPTIONS).basis for encoder in (half, wide))
    assert torch.equal(first.components, second.components)
    assert first.components.dtype == torch.float32


def test_the_cache_is_used_for_the_same_content_only(tmp_path: Path) -> None:
    encoder = _encoder()
    made = build_basis(encoder, name_list(60), _OPTIONS, cache=tmp_path)
    again = build_basis(encoder, name_list(60), _OPTIONS, cache=tmp_path)
    assert (made.from_cache, again.from_cache) == (False, True)
    for field in ("mean", "components", "variance", "total_variance", "name_coefficients"):
        assert torch.equal(getattr(made.basis, field), getattr(again.basis, field)), field
    assert (again.basis.names, again.basis.sha256) == (made.basis.names, made.basis.sha256)

    unused = _encoder()
    used = {token for name in name_list(60).names for token in tokenize(name)}
    unused.table[min(set(range(4000)) - used)] += 1
    assert build_basis(unused, name_list(60), _OPTIONS, cache=tmp_path).from_cache
    tuned = _encoder()
    tuned.table[tokenize("first3")[0], 0] += 1e-4
    assert not build_basis(tuned, name_list(60), _OPTIONS, cache=tmp_path).from_cache
    assert not build_basis(encoder, name_list(59), _OPTIONS, cache=tmp_path).from_cache
    assert not build_basis(encoder, name_list(60), BasisOptions(components=7), cache=tmp_path).from_cache


def test_a_cached_basis_gives_the_bits_of_one_just_built(tmp_path: Path) -> None:
    """Matrix products depend on where in memory their operands lie: both have to lie as torch puts its own tensors."""
    encoder = ToyTextEncoder("clip_l", 48, seed=0)
    options = BasisOptions(components=20)
    bases = [build_basis(encoder, name_list(60), options, cache=tmp_path).basis for _ in range(3)]
    for basis in bases:
        for name in ("mean", "components", "variance", "total_variance", "name_coefficients"):
            tensor = getattr(basis, name)
            assert tensor.data_ptr() % 64 == 0, name
            assert tensor.stride() == getattr(bases[0], name).stride()
            assert torch.equal(tensor, getattr(bases[0], name))
    coefficients = torch.randn(100, 2, 20, generator=torch.Generator().manual_seed(0))
    first, *others = (basis.expand(coefficients) for basis in bases)
    assert all(torch.equal(first, other) for other in others)


def test_cached_names_depend_on_the_tokenizer_and_the_options(tmp_path: Path) -> None:
    encoder, names = _encoder(), names_of([*name_list(60).names, "Alone"], "a list")
    first = build_basis(encoder, names, _OPTIONS, cache=tmp_path).filtered
    asked: list[int] = []
    plain = encoder.tokenize
    encoder.tokenize = lambda texts: asked.append(len(texts)) or plain(texts)  # type: ignore[method-assign]
    again = build_basis(encoder, names, _OPTIONS, cache=tmp_path).filtered
    assert (again.names, again.dropped) == (first.names, first.dropped)
    np.testing.assert_array_equal(again.token_ids, first.token_ids)
    many = name_list(5000)
    build_basis(encoder, many, _OPTIONS, cache=tmp_path)
    asked.clear()
    assert build_basis(encoder, many, _OPTIONS, cache=tmp_path).from_cache
    assert sum(asked) < 100  # the probes, not the list

    encoder.tokenize = lambda texts: [[(i + 1) % 4000 for i in ids] for ids in plain(texts)]  # type: ignore[method-assign]
    other = build_basis(encoder, names, _OPTIONS, cache=tmp_path).filtered
    assert (other.token_ids == (first.token_ids + 1) % 4000).all()
    exact = BasisOptions(components=8, filters=FilterOptions(max_tokens=2))
    three = names_of([*names.names, "one two three"], "a list")
    assert "one two three" in build_basis(_encoder(), three, _OPTIONS, cache=tmp_path).basis.names
    assert "one two three" not in build_basis(_encoder(), three, exact, cache=tmp_path).basis.names


def test_a_damaged_cache_is_rebuilt(tmp_path: Path) -> None:
    made = build_basis(_encoder(), name_list(60), _OPTIONS, cache=tmp_path)
    files = list(tmp_path.iterdir())
    assert len(files) == 2  # the names and the basis
    for file in files:
        file.write_bytes(file.read_bytes()[:500])
    again = build_basis(_encoder(), name_list(60), _OPTIONS, cache=tmp_path)
    assert not again.from_cache
    assert torch.equal(made.basis.components, again.basis.components)
    assert build_basis(_encoder(), name_list(60), _OPTIONS, cache=tmp_path).from_cache


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    built = build_basis(_encoder(), name_list(60), _OPTIONS, cache=tmp_path / "file")
    assert built.basis.size == 8
    assert "not cached" in caplog.text
    caplog.clear()
    with full_disk():
        assert build_basis(_encoder(), name_list(60), _OPTIONS, cache=tmp_path / "full").basis.size == 8
    assert "The basis is not cached" in caplog.text


def test_fewer_usable_names_than_components_are_refused_with_both_numbers() -> None:
    with pytest.raises(NamesError, match=r"Only 8 of the 8 names .* 8 components need at least 9"):
        build_basis(_encoder(), name_list(8), _OPTIONS)
    names = names_of(["one", "two", *(f"a{i} b{i}" for i in range(5))], "a list")
    with pytest.raises(NamesError, match="Only 5 of the 7 names in a list"):
        build_basis(_encoder(), names, _OPTIONS)


def test_enough_names_of_too_few_distinct_tokens_are_refused_with_the_rank() -> None:
    names = names_of([f"first{i % 5} last{i}" for i in range(60)], "a list")
    with pytest.raises(BasisError, match="span only 4 dimensions"):
        build_basis(_encoder(), names, _OPTIONS)


def test_every_text_encoder_gets_a_basis_of_its_own_width() -> None:
    model = ToyModel((24, 40))
    first, second = (built.basis for built in build_bases(model.text_encoders, name_list(60), _OPTIONS))
    assert (first.encoder, first.width, second.encoder, second.width) == ("clip_l", 24, "clip_g", 40)
    assert first.sha256 != second.sha256


def test_summary_tells_explained_variance_and_dropped_names() -> None:
    names = names_of([*name_list(60).names, "Alone", "FIRST1 last1"], "a list")
    built = build_basis(_encoder(), names, _OPTIONS)
    summary = summarize(built)
    assert (summary.names_used, summary.names_dropped) == (60, 2)
    assert {item["name"] for item in summary.report["dropped"]} == {"Alone", "FIRST1 last1"}
    for position in summary.explained:
        assert len(position) == 8
        assert list(position) == sorted(position, reverse=True)
        assert 0 < sum(position) < 1
    assert summary.as_dict()["encoder"] == "clip_l"
