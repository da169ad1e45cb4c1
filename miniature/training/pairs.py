"""Small pictures with captions, on which the text encoder is trained, and what their captions say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celeb_basis.errors import FileError
from celeb_basis.faces.network import Pixels

SIDE = 64
_HELD_OUT = 20
"""One picture of so many is not trained on."""
_PAIRED = 100
"""How often two words follow each other in the captions so that they are predicted."""
_TOKENS = 1 << 16
"""More than there are token ids."""


@dataclass(frozen=True)
class Pairs:
    """Pictures with captions."""

    pictures: Pixels
    """``(N, V, 64, 64, 3)``: views of each, the first of the whole picture, the others nearer to the heads."""
    captions: NDArray[np.int32]
    """``(N, C, L)`` token ids: start, words, end, and ends as padding, cut after the longest caption."""
    alike: NDArray[np.int32]
    """``(N,)`` the group of pictures that differ in little but the face, or -1."""

    def __len__(self) -> int:
        return len(self.pictures)

    def rows(self, rows: NDArray[np.int64]) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.pictures[rows], self.captions[rows], self.alike[rows])


def read_pairs(folder: Path, end: int) -> tuple[Pairs, Pairs]:
    """Read all shards of a folder: the pairs to train on, and the others.

    Args:
        folder: Folder of ``.npz`` or ``.safetensors`` shards. The last twentieth of each is not for training.
        end: Token id of the end of a text.

    Raises:
        FileError: There is no shard, or one without pictures and captions of the right shapes.
    """
    training: list[Pairs] = []
    held_out: list[Pairs] = []
    for path in sorted([*folder.glob("*.npz"), *folder.glob("*.safetensors")]):
        shard = _read_shard(path)
        kept = len(shard) - max(1, len(shard) // _HELD_OUT)
        order = np.arange(len(shard))
        training.append(shard.rows(order[:kept]))
        held_out.append(shard.rows(order[kept:]))
    if not training:
        raise FileError(f"There are no pairs in {folder}: write shards with `python -m miniature.world.pool` first.")
    longest = max(int((pairs.captions != end).sum(2).max()) for pairs in [*training, *held_out])
    length = min(longest + 5, training[0].captions.shape[2])
    return _joined(training, length), _joined(held_out, length)


def _read_shard(path: Path) -> Pairs:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                tensors = dict(stored)
        else:
            tensors = load_file(str(path))
        pictures, captions = tensors["pictures"], tensors["captions"]
        alike = tensors.get("alike", np.full(len(pictures), -1, np.int32))
    except (KeyError, OSError, ValueError, SafetensorError) as error:
        raise FileError(
            f"{path} is no shard of pictures and captions ({error}): delete it or draw it again."
        ) from error
    known = pictures.ndim == 5 and pictures.shape[2:] == (SIDE, SIDE, 3) and pictures.shape[1] > 0
    if not known or captions.ndim != 3 or len(pictures) != len(captions):
        raise FileError(
            f"{path} has pictures of shape {pictures.shape} and captions of shape {captions.shape}: "
            f"draw shards with (N, V, {SIDE}, {SIDE}, 3) pictures and (N, C, 77) captions."
        )
    return Pairs(pictures, captions, alike)


def _joined(parts: Sequence[Pairs], length: int) -> Pairs:
    return Pairs(
        np.concatenate([part.pictures for part in parts]),
        np.concatenate([part.captions[:, :, :length] for part in parts]),
        np.concatenate([part.alike for part in parts]),
    )


class WordPairs:
    """Which pairs of words that often follow each other captions have."""

    def __init__(self, captions: NDArray[np.int32], ends: Iterable[int]) -> None:
        """Find those of ``(N, C, L)`` captions; pairs with a token of ``ends`` do not count."""
        found, counts = np.unique(self._numbers(captions), return_counts=True)
        often = counts >= min(_PAIRED, captions.shape[0] * captions.shape[1] // 20)
        often &= ~np.isin(found // _TOKENS, list(ends)) & ~np.isin(found % _TOKENS, list(ends))
        self._found: NDArray[np.int64] = found[often]
        share = counts[often] / (captions.shape[0] * captions.shape[1])
        self._weights: NDArray[np.float32] = -np.log(np.minimum(share, 0.9)).astype(np.float32)

    def __len__(self) -> int:
        return len(self._found)

    def of(self, captions: NDArray[np.int32]) -> NDArray[np.float32]:
        """``(N, P)`` weights of the pairs that any of ``(N, C, L)`` captions has: rare ones weigh more, a row sums to 1."""
        result = np.zeros((len(captions), len(self)), np.float32)
        if len(self):
            numbers = self._numbers(captions)
            places = np.searchsorted(self._found, numbers).clip(max=len(self) - 1)
            rows, *rest = np.nonzero(self._found[places] == numbers)
            columns = places[rows, rest[0], rest[1]]
            result[rows, columns] = self._weights[columns]
        shares: NDArray[np.float32] = result / np.maximum(result.sum(1, keepdims=True), 1e-6)
        return shares

    @staticmethod
    def _numbers(captions: NDArray[np.int32]) -> NDArray[np.int64]:
        return captions[..., :-1].astype(np.int64) * _TOKENS + captions[..., 1:]


def named_people(pairs: Pairs, names: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """``(N,)``: which of the names the captions of a picture say, or -1 where it is none or several."""
    people = {tuple(name): row for row, name in enumerate(names)}
    lengths = sorted({len(name) for name in people})
    found = np.full(len(pairs), -1, np.int64)
    for row, captions in enumerate(pairs.captions.tolist()):
        said = [
            {
                people[words]
                for length in lengths
                for start in range(len(caption) - length + 1)
                if (words := tuple(caption[start : start + length])) in people
            }
            for caption in captions
        ]
        everybody = set().union(*said)
        if len(everybody) == 1:
            found[row] = everybody.pop()
    return found
