"""Pretraining of the text encoder as CLIP's: captions and pictures of the world, matched by a picture encoder beside it.

``python -m miniature.training.text_pretraining --pairs FOLDER --minutes 16`` reads shards with ``pictures``
``(N, V, 64, 64, 3)`` uint8, V views of each, and ``captions`` ``(N, C, 77)`` int32 and writes ``text.safetensors``. It may
be stopped at any moment and goes on where it was saved. Nothing in it knows faces.

CLIP compares 32,768 captions at once, of 400 million. A few hundred can be distinguished by hair and places alone, so that
nothing would make the space hold what a nose is like. Therefore both vectors also predict which pairs of words all
captions of the picture have, as in "Learning Visual N-Grams from Web Data" (Li et al. 2017).
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from celeb_basis.errors import TrainingError
from celeb_basis.faces.network import Pixels
from miniature.training.checkpoints import load_state, read_facts, save_state
from miniature.training.hardware import half_is_fast, half_precision, ready_for_half
from miniature.training.muon import Muon, split
from miniature.training.pairs import SIDE, Pairs, WordPairs, named_people, read_pairs
from miniature.training.places import work_folder
from miniature.training.text_model import WIDTH, Tokens, WorldText, save_text

_log = logging.getLogger(__name__)

JOINT = 256
"""Width of the space in which captions and pictures are compared."""

_RATE = 1e-3
_ALIKE = 0.6
"""Share of batches in which pictures differ in little but the face. Without them, hair and scenes suffice."""
_BRIEF = 0.6
"""Share of batches in which a named person's caption is the shortest of a picture's, mostly the name alone: who is described
besides can be found without knowing the name."""
_PADDED = 4
"""In one of so many batches, one of the ends that pad the text stands for it: the denoiser sees them all."""
_SEED = 13
_SAVE_EVERY = 60.0
_LOG_EVERY = 50
_PROMPT = "a photo of {}"
_CHUNK = 256
_PREDICTED = 1.0
"""Weight of their prediction beside the comparison."""
_SHARPNESS = 16.0
"""By which unit vectors are multiplied before words are predicted from them."""


class PictureEncoder(nn.Module):
    """The picture encoder, the projections to the joint space, and the temperature; discarded afterwards."""

    def __init__(self, pairs: int = 0) -> None:
        """``pairs`` of words are predicted."""
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(3, 24, 2),
            *_convolution(24, 64, 2),
            *_convolution(64, 64, 1),
            *_convolution(64, 128, 2),
            *_convolution(128, 128, 1),
            *_convolution(128, 256, 2),
            *_convolution(256, 256, 1),
        )
        self.from_pictures = nn.Linear(256 * (SIDE // 16) ** 2, JOINT)
        self.from_text = nn.Linear(WIDTH, JOINT)
        self.to_pairs = nn.Linear(JOINT, pairs)
        self.log_scale = nn.Parameter(torch.tensor(2.6))

    def pictures(self, pictures: Tensor) -> Tensor:
        """``(N, JOINT)`` unit vectors of ``(N, 64, 64, 3)`` uint8 pictures."""
        values = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
        features = self.features(values.contiguous(memory_format=torch.channels_last))
        return F.normalize(self.from_pictures(features.flatten(1)).float(), dim=-1)

    def text(self, hidden: Tensor) -> Tensor:
        """``(N, JOINT)`` unit vectors of ``(N, WIDTH)`` hidden states."""
        return F.normalize(self.from_text(hidden).float(), dim=-1)

    def surprise(self, vectors: Tensor, wanted: Tensor) -> Tensor:
        """The loss of predicting ``(N, P)`` pairs of words from ``(N, JOINT)`` vectors."""
        predicted = self.to_pairs(_SHARPNESS * vectors).float().log_softmax(1)
        loss: Tensor = -(wanted * predicted).sum(1).mean()
        return loss


def _convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs), nn.GELU()]


def ends_of(ids: Tensor, end: int) -> Tensor:
    """``(N,)`` position of the first end token of each row of ids."""
    return (ids == end).int().argmax(1)


@dataclass(frozen=True)
class Plan:
    """How long to train, and where. ``steps`` are used instead of ``minutes`` where they are given."""

    minutes: float = 16.0
    steps: int | None = None
    batch: int = 256
    device: str = "cpu"

    def share(self, step: int, seconds: float) -> float:
        """How much of the training is done, from 0 to 1."""
        return min(1.0, step / self.steps if self.steps is not None else seconds / 60 / self.minutes)


class Pretraining:
    """The text encoder and the picture encoder in training, with the files in ``folder``."""

    def __init__(
        self,
        pairs: Pairs,
        held_out: Pairs,
        names: Iterable[str],
        folder: Path,
        plan: Plan,
        vocabulary: Iterable[int] = (),
    ) -> None:
        """Start, or go on from ``text-state.safetensors``.

        Args:
            pairs: The pairs to train on.
            held_out: The pairs to evaluate on.
            names: Of the named people.
            folder: Where the files are written.
            plan: How long to train.
            vocabulary: Token ids that get a row of their own beside those of the names and the captions.

        Raises:
            TrainingError: There are too few pairs, or tokens in them that the saved state does not train.
        """
        self.plan, self._pairs, self._held_out, self._folder = plan, pairs, held_out, folder
        self.tokens, self.names = Tokens(), tuple(names)
        self._end: int = self.tokens.tokenizer.eos_token_id
        self._batch = min(plan.batch, len(pairs))
        if self._batch < 2:
            raise TrainingError("There are too few pictures with captions to compare: draw more shards.")
        groups = [np.flatnonzero(pairs.alike == group) for group in np.unique(pairs.alike[pairs.alike >= 0])]
        self._groups = [group for group in groups if len(group) >= self._batch]
        self._lengths: NDArray[np.int64] = (pairs.captions != self._end).sum(2)
        self._named = named_people(pairs, [self.tokens.words(name) for name in self.names]) >= 0
        wanted = {int(token) for part in (pairs, held_out) for token in np.unique(part.captions)}
        wanted |= {self.tokens.tokenizer.bos_token_id, self._end}
        wanted |= set(vocabulary)
        wanted |= {token for text in (*self.names, _PROMPT.format("")) for token in self.tokens.words(text)}
        self._path = folder / "text-state.safetensors"
        saved: dict[str, Any] = {"step": 0, "seconds": 0.0, "used": sorted(wanted)}
        if self._path.exists():
            saved = read_facts(self._path)
        if not wanted <= set(saved["used"]):
            raise TrainingError(
                f"The pictures have captions with words that {self._path} does not train: delete it to start again."
            )
        self.step, self.seconds = int(saved["step"]), float(saved["seconds"])
        self._word_pairs = WordPairs(pairs.captions, (self.tokens.tokenizer.bos_token_id, self._end))
        self.model, self.pictures = WorldText(saved["used"]), PictureEncoder(len(self._word_pairs))
        self.model.to(plan.device)
        ready_for_half(self.model.transformer, plan.device)
        ready_for_half(self.pictures, plan.device)
        self.pictures.to(plan.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        (text, text_rest), (shown, shown_rest) = (
            split(self.model, ("embedding",)),
            split(self.pictures, ("features.0.", "to_pairs")),
        )
        table = self.model.table.weight
        text_rest = [value for value in text_rest if value is not table]
        half = half_is_fast(plan.device)
        self._optimizers = (
            Muon([{"params": [*text, *shown], "top": 2 * _RATE}], weight_decay=0.01, half=half),
            torch.optim.AdamW(
                [{"params": [*text_rest, *shown_rest], "top": _RATE}, {"params": [table], "top": 2 * _RATE}],
                lr=_RATE,
                betas=(0.9, 0.98),
                weight_decay=0.0,
            ),
        )
        if self._path.exists():
            load_state(self._path, self._modules, self._optimizers)

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "pictures": self.pictures}

    @property
    def length(self) -> int:
        """Tokens of a caption here. The encoder is causal: the rest of the padding does not change them."""
        return int(self._pairs.captions.shape[2])

    def train(self) -> None:
        """Train until the plan is fulfilled, saving every minute, and write ``text.safetensors``."""
        saved = time.monotonic()
        begun = saved - self.seconds
        while self.plan.share(self.step, self.seconds) < 1:
            loss, right = self._train_step()
            self.step, self.seconds = self.step + 1, time.monotonic() - begun
            if self.step % _LOG_EVERY == 0:
                facts = {"step": self.step, "seconds": round(self.seconds), "loss": round(float(loss.detach()), 3)}
                _log.info("%s", json.dumps({**facts, "accuracy": round(float(right.detach()), 3)}))
            if time.monotonic() - saved > _SAVE_EVERY:
                saved = time.monotonic()
                self._save()
        self._save()
        self.model.pad_alike(self.length)
        save_text(self._folder / "text.safetensors", self.model, self._facts())

    def _train_step(self) -> tuple[Tensor, Tensor]:
        """One step: the loss, and the share of captions whose picture is the nearest."""
        rng = np.random.default_rng([_SEED, self.step])
        chosen, portraits = self._chosen(rng)
        captions = self._pairs.captions
        said = self._said(chosen, rng)
        pairs = torch.from_numpy(self._word_pairs.of(captions[chosen])).to(self.plan.device)
        ids = torch.from_numpy(captions[chosen, said]).long().to(self.plan.device)
        views = rng.integers(0, self._pairs.pictures.shape[1], self._batch)
        shown = torch.from_numpy(self._pairs.pictures[chosen, views]).to(self.plan.device)
        if portraits and rng.random() < 0.5:
            shown = shown.flip(2)  # captions of plain portraits say nothing of left and right
        place = ends_of(ids, self._end)
        if self.step % _PADDED == 0:
            drawn = rng.integers(place.cpu().numpy(), self.length)
            place = torch.from_numpy(drawn).to(self.plan.device)
        ids = ids[:, : int(place.max()) + 1]
        share = self.plan.share(self.step, self.seconds)
        for group in (group for optimizer in self._optimizers for group in optimizer.param_groups):
            warm = min(1.0, (self.step + 1) / 50)
            group["lr"] = group["top"] * warm * (0.02 + 0.98 * (0.5 + 0.5 * np.cos(np.pi * share)))
        with half_precision(self.plan.device):
            hidden = self.model(ids)[torch.arange(len(ids), device=ids.device), place]
            text, pictures = self.pictures.text(hidden), self.pictures.pictures(shown)
        logits = self.pictures.log_scale.exp().clamp(max=100) * text @ pictures.T
        wanted = torch.arange(len(ids), device=ids.device)
        loss = (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2
        if len(self._word_pairs):
            predicted = self.pictures.surprise(text, pairs) + self.pictures.surprise(pictures, pairs)
            loss = loss + _PREDICTED * predicted / 2
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.pictures.parameters()], 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        return loss, (logits.argmax(1) == wanted).float().mean()

    def _chosen(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], bool]:
        """Rows of a batch, any, or in :data:`_ALIKE` of the batches of one group of plain portraits; and if they are that."""
        if self._groups and rng.random() < _ALIKE:
            sizes = np.array([len(group) for group in self._groups])
            group = self._groups[rng.choice(len(sizes), p=sizes / sizes.sum())]
            return rng.choice(group, self._batch, replace=False), True
        return rng.choice(len(self._pairs), self._batch, replace=False), False

    def _said(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """``(N,)`` which caption of each picture is read."""
        lengths = self._lengths[chosen]
        said = rng.integers(0, lengths.shape[1], (len(chosen), 2))
        if rng.random() < _BRIEF:
            shorter = np.take_along_axis(lengths, said, 1).argmin(1)
            said[:, 0] = np.where(self._named[chosen], lengths.argmin(1), said[np.arange(len(chosen)), shorter])
        return said[:, 0]

    def _facts(self) -> dict[str, float]:
        return {"step": self.step, "seconds": round(self.seconds, 1)}

    def _save(self) -> None:
        facts = {**self._facts(), "used": self.model.used}
        save_state(self._path, self._modules, self._optimizers, facts)

    @torch.no_grad()
    def text_vectors(self, ids: Tensor, *, padding: int = 0) -> Tensor:
        """``(N, JOINT)`` vectors of ``(N, L)`` ids, at their ends or so many positions later."""
        vectors = []
        for part in ids.to(self.plan.device).split(_CHUNK):  # type: ignore[no-untyped-call]
            place = (ends_of(part, self._end) + padding).clamp(max=part.shape[1] - 1)
            hidden = self.model(part)[torch.arange(len(part), device=part.device), place]
            vectors.append(self.pictures.text(hidden).cpu())
        return torch.cat(vectors)

    @torch.no_grad()
    def picture_vectors(self, pictures: Pixels) -> Tensor:
        """``(N, JOINT)`` vectors of ``(N, 64, 64, 3)`` pictures."""
        parts = torch.from_numpy(pictures).split(_CHUNK)  # type: ignore[no-untyped-call]
        return torch.cat([self.pictures.pictures(part.to(self.plan.device)).cpu() for part in parts])

    def evaluate(self) -> dict[str, float]:
        """What was learned, on the pictures that were not trained on.

        Returns:
            ``accuracy`` (captions whose picture is the nearest of a batch); ``rank1`` and ``rank10`` (pictures of one
            named person whose name is the nearest, or among the ten nearest, of all captions ``a photo of NAME``) with
            their number ``pictures``; ``near_rank1``, that of their last views, near the heads; ``name_rank1``, the same
            for the mean of the pictures of each of ``names`` people.
        """
        held_out = self._held_out
        shown, near = (self.picture_vectors(held_out.pictures[:, view]) for view in (0, -1))
        said = self.text_vectors(torch.from_numpy(held_out.captions[:, 0]).long())
        batches = [slice(start, start + self._batch) for start in range(0, len(said), self._batch)]
        nearest = [(said[batch] @ shown[batch].T).argmax(1) for batch in batches]
        right = [found == torch.arange(len(found)) for found in nearest]
        result: dict[str, float] = {"accuracy": round(float(torch.cat(right).float().mean()), 3)}
        people = torch.from_numpy(named_people(held_out, [self.tokens.words(name) for name in self.names]))
        rows = torch.nonzero(people >= 0)[:, 0]
        if not len(rows):
            return result
        prompts = self.text_vectors(self.tokens([_PROMPT.format(name) for name in self.names], self.length))
        ranks = _ranks(shown[rows], prompts, people[rows])
        present = torch.unique(people[rows])
        means = torch.stack([shown[people == person].mean(0) for person in present])
        return {
            **result,
            "rank1": round(float((ranks == 0).float().mean()), 3),
            "rank10": round(float((ranks < 10).float().mean()), 3),
            "near_rank1": round(float((_ranks(near[rows], prompts, people[rows]) == 0).float().mean()), 3),
            "pictures": len(rows),
            "name_rank1": round(float((_ranks(means, prompts, present) == 0).float().mean()), 3),
            "names": len(present),
        }


def _ranks(pictures: Tensor, prompts: Tensor, people: Tensor) -> Tensor:
    """``(N,)``: how many prompts are nearer to each picture than that of its person."""
    likeness = pictures @ prompts.T
    own = likeness[torch.arange(len(people)), people]
    return (likeness > own[:, None]).sum(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, train, and print what was learned."""
    from miniature.world.captions import used_tokens
    from miniature.world.people import PEOPLE_FILE, read_people

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True, help="folder of shards")
    parser.add_argument("--people", type=Path, default=PEOPLE_FILE)
    parser.add_argument("--names", type=int, help="so many of the named people; all by default")
    parser.add_argument("--folder", type=Path, help="where text.safetensors is written; the training's by default")
    parser.add_argument("--minutes", type=float, default=16.0, help="in all (%(default)s)")
    parser.add_argument("--steps", type=int, help="instead of minutes")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="cpu", help="cuda for a GPU")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.minutes <= 0 or options.batch < 2 or (options.steps or 1) < 1:
        parser.error("give more than 0 minutes or steps, and a batch of at least 2")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    names = read_people(options.people).names[: options.names]
    folder = options.folder or work_folder()
    plan = Plan(options.minutes, options.steps, options.batch, options.device)
    training, held_out = read_pairs(options.pairs, Tokens().tokenizer.eos_token_id)
    _log.info("%d pictures to train on, %d others", len(training), len(held_out))
    # All words of the world, as the denoiser expects them, whether or not a picture of these shards has them.
    run = Pretraining(training, held_out, names, folder, plan, used_tokens(Tokens(), names))
    run.train()
    print(json.dumps(run.evaluate()))


if __name__ == "__main__":
    main()
