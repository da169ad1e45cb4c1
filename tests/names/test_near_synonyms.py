"""Names whose token means nearly the same as hundreds of other words, and that nothing else changes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch

from celeb_basis.basis import BasisOptions, build_bases, filtered_names
from celeb_basis.diffusion_model import TextEncoder
from celeb_basis.errors import DownloadError, SettingsError
from celeb_basis.hosts.diffusers.configs import clip_tokenizer
from celeb_basis.names.filters import FilterOptions, filter_names
from celeb_basis.names.lists import SYNONYMS_FILE, name_list, near_synonyms, shipped_names
from miniature.near_synonyms import listed, read_table

TOKENIZER = cache(clip_tokenizer)


def tokenize(texts: object) -> list[list[int]]:
    ids: list[list[int]] = TOKENIZER()(list(texts), add_special_tokens=False).input_ids  # type: ignore[call-overload]
    return ids


@dataclasses.dataclass
class Encoder(TextEncoder):
    """CLIP's vocabulary with random vectors."""

    encoder: str = "clip_l"

    @property
    def name(self) -> str:
        return self.encoder

    @property
    def width(self) -> int:
        return 8

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return tokenize(texts)

    def token_table(self) -> torch.Tensor:
        return torch.randn(49408, 8, generator=torch.Generator().manual_seed(0))

    def weights(self) -> Iterator[torch.Tensor]:
        yield self.token_table()


def test_the_shipped_list_counts_tokens_of_clips_vocabulary() -> None:
    text = SYNONYMS_FILE.read_text("utf-8")
    assert "clip-similarwords 0.0.4.1" in text
    assert "MIT" in text
    rows = [line.split(" ") for line in text.splitlines() if not line.startswith("# ")]
    assert len(rows) == len(near_synonyms()) > 2000
    assert TOKENIZER().convert_ids_to_tokens([int(row[0]) for row in rows]) == [row[2] for row in rows]
    counts = [int(row[1]) for row in rows]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] >= 100
    vague = {row[2] for row in rows}
    assert {"ng</w>", "oh</w>", "man</w>", "best</w>", "da</w>"} <= vague
    assert not {"hanks</w>", "pitt</w>", "jolie</w>", "tom</w>"} & vague


def test_names_with_such_a_token_are_dropped_and_told() -> None:
    names = name_list(["Tom Hanks", "George Best", "Leonardo da Vinci", "Helena Bonham Best"], "test")
    filtered = filter_names(names, tokenize, FilterOptions(max_synonyms=200))
    assert filtered.names == ("Tom Hanks", "Helena Bonham Best")
    counts = near_synonyms()
    best, da = (counts[TOKENIZER().convert_tokens_to_ids(token)] for token in ("best</w>", "da</w>"))
    assert [(item.name, item.reason, item.kind) for item in filtered.dropped] == [
        ("George Best", f"token 2 has {best} near-synonyms, more than 200", "vague token"),
        ("Leonardo da Vinci", f"token 2 has {da} near-synonyms, more than 200", "vague token"),
    ]
    assert filtered.report()["counts"] == {"vague token": 2}
    assert filter_names(names, tokenize, FilterOptions(max_synonyms=max(best, da))).names == names.names


def test_most_of_the_shipped_list_passes() -> None:
    filtered = filter_names(shipped_names(), tokenize, FilterOptions(max_synonyms=200))
    dropped = filtered.report()["counts"]["vague token"]
    assert 150 < dropped < 350
    assert len(filtered.names) > 3900


def test_nothing_changes_for_those_who_do_not_ask(tmp_path: Path) -> None:
    names, encoder = shipped_names(), Encoder()
    plain, asked = (
        build_bases([encoder], names, BasisOptions(4, rules), cache=tmp_path)[0]
        for rules in (FilterOptions(), FilterOptions(max_synonyms=200))
    )
    assert "George Best" in plain.basis.names
    assert "George Best" not in asked.basis.names
    assert plain.basis.sha256 != asked.basis.sha256
    again = build_bases([encoder], names, BasisOptions(4), cache=tmp_path)[0]
    assert again.from_cache
    assert again.basis.sha256 == plain.basis.sha256


def test_names_that_were_filtered_before_are_found_again(tmp_path: Path) -> None:
    names, encoder = name_list(["Tom Hanks", "George Best"], "test"), Encoder()
    filtered_names(encoder, names, FilterOptions(), 2, tmp_path)
    rules = {"min_tokens": 2, "max_tokens": None, "drop_duplicates": True, "max_repeats": None}
    parts = [names.sha256, rules, 2, 49408, tokenize(names.names)]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == [f"names-{key}.safetensors"]
    assert filtered_names(encoder, names, FilterOptions(max_synonyms=200), 2, tmp_path).names == ("Tom Hanks",)
    assert len(list(tmp_path.iterdir())) == 2


def test_other_text_encoders_are_refused_and_those_beside_clip_l_are_not() -> None:
    options = BasisOptions(4, FilterOptions(max_synonyms=200))
    with pytest.raises(SettingsError, match=r"CLIP-L.*leave that filter out"):
        build_bases([Encoder("clip_h")], shipped_names(), options)
    both = build_bases([Encoder(), Encoder("clip_g")], shipped_names(), options)
    assert both[0].basis.names == both[1].basis.names


@pytest.mark.parametrize("value", [0, -1, 98, True, 2.5])
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(SettingsError, match="max_synonyms is"):
        FilterOptions(max_synonyms=value)  # type: ignore[arg-type]


def test_the_table_is_read_by_its_opcodes() -> None:
    tokens = {0: "a</w>", 300: "b</w>", 40000: "c"}
    table = {0: [(0, 1.0), (300, 0.9), (40000, 0.88)], 300: [(0, 0.9), (300, 1.0)], 40000: [(40000, 1.0)]}
    read, counts = read_table(pickle.dumps((tokens, table), protocol=4))
    assert read == tokens
    assert counts == {0: 2, 300: 1, 40000: 0}
    lines = [line for line in listed(read, counts, 1).splitlines() if not line.startswith("# ")]
    assert lines == ["0 2 a</w>", "300 1 b</w>"]


def test_a_table_that_would_run_code_is_refused() -> None:
    with pytest.raises(DownloadError, match="another form"):
        read_table(pickle.dumps(({0: "a"}, {0: [(Path("x"), 1.0)]}), protocol=4))
    with pytest.raises(DownloadError, match="another form"):
        read_table(b"no pickle")
