"""Run inside a WebUI: random prompts with ``<name>`` against the same vectors placed by hand, bit for bit.

By hand: with the tokens not installed, the host's own embedding database holds each person's vectors under a rare plain
word, which is one token. Through the host's prompt editing goes one character in place of each person; when the host is
about to tokenize, the rare word takes its place with spaces around it, so that the host finds it by itself.

One thing the host gets wrong on its own: where it moves the end of a full chunk behind a comma into the next one, it
leaves the embeddings behind. Prompts in which that happens are cut into chunks by ``chunked`` here, which otherwise has
to agree with the host.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from typing import Any

import torch
from support.installed_tokens import installed_for
from support.prompt_grammar import Grammar, Prompt
from support.webui_inside import parsed_arguments, start
from support.webui_people import add_people

from celeb_basis.hosts.a1111.tokens import CheckpointTracker
from celeb_basis.identities.identity import Identity

NAMES = ("person1", "person10", "Ada Lovelace", "zoë")
STEPS = 6


def main() -> None:
    """Print how many prompts were compared, and those that came out otherwise."""
    options = parsed_arguments()
    model = start(options.checkpoint, options.data)
    checkpoint = CheckpointTracker()()
    assert checkpoint is not None
    library = options.data / f"people-{options.checkpoint}"
    people = add_people(library, NAMES, checkpoint)
    encoders = [part for part in model.modules() if hasattr(part, "tokenize_line")]
    shorten(encoders)
    words = dict(zip(NAMES, rare_words(encoders, len(NAMES)), strict=True))
    marks = {name: chr(0xE000 + number) for number, name in enumerate(NAMES)}
    spelled = {ord(marks[name]): f" {words[name]} " for name in NAMES}
    grammar = Grammar(marks, options.seed)
    prompts = [grammar.prompt() for _ in range(options.count)]
    counts: Counter[str] = Counter()
    placed = register_by_hand(model, people, words)
    expected = [
        by_hand(model, encoders, prompt, number, placed, spelled, counts) for number, prompt in enumerate(prompts)
    ]
    forget_by_hand(model, words)
    different = []
    with installed_for(library):
        for number, prompt in enumerate(prompts):
            if fingerprint(conditioning(model, prompt.typed, number)) != expected[number]:
                different.append(prompt.typed)
    untouched = sum(
        fingerprint(conditioning(model, prompt.typed, number)) == expected[number]
        for number, prompt in enumerate(prompts[:50])
    )
    report = {
        "prompts": len(prompts),
        "people": sum(prompt.people for prompt in prompts),
        "with_people": sum(prompt.people > 0 for prompt in prompts),
        "different": different,
        "alike_without_tokens": untouched,
        **counts,
    }
    sys.stdout.write(json.dumps(report) + "\n")


def shorten(encoders: list[Any]) -> None:
    """Leave one layer of each text encoder, two where the host takes the last but one: what they are given is what counts
    here, every bit of it goes through any layer, and the full depth takes most of the time."""
    for encoder in encoders:
        for part in encoder.modules():
            for name, kept in (("layers", 1), ("resblocks", 2)):
                if isinstance(layers := getattr(part, name, None), torch.nn.ModuleList):
                    setattr(part, name, layers[:kept])


def conditioning(model: Any, text: str, number: int) -> list[Any]:
    """What the host makes of a prompt: every third is a negative one, every fifth is one of the second pass."""
    from modules import extra_networks, prompt_parser

    hires = 9 if number % 5 == 0 else None
    if number % 3 == 0:
        negative = prompt_parser.SdConditioning([text], is_negative_prompt=True)
        with torch.no_grad():
            schedules = prompt_parser.get_learned_conditioning(model, negative, STEPS, hires)
        return [(step.end_at_step, step.cond) for schedule in schedules for step in schedule]
    texts, _ = extra_networks.parse_prompts([text])
    with torch.no_grad():
        found = prompt_parser.get_multicond_learned_conditioning(
            model, prompt_parser.SdConditioning(texts), STEPS, hires
        )
    return [
        (part.weight, step.end_at_step, step.cond) for whole in found.batch for part in whole for step in part.schedules
    ]


def fingerprint(found: Any) -> Any:
    """``found`` with a hash of its shape and of every bit in place of each tensor: thousands of them fill the memory."""
    if isinstance(found, torch.Tensor):
        data = found.contiguous()
        return str(data.dtype), tuple(data.shape), hashlib.sha256(data.numpy().tobytes()).hexdigest()
    if isinstance(found, dict):
        return {key: fingerprint(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [fingerprint(value) for value in found]
    return found


def rare_words(encoders: list[Any], count: int) -> list[str]:
    """Plain words that every encoder's tokenizer makes one token of, alone and in a sentence."""
    from support.prompt_grammar import PLAIN

    found = []
    for word in ("sks", "hrv", "mfw", "vlc", "ndr", "zzle", "bvb", "kcr", "jks", "wnt", "qpr", "xrp"):
        together = [encoder.tokenize([word, f"a {word} b"]) for encoder in encoders]
        single = all(len(alone) == 1 and alone[0] in middle for alone, middle in together)
        if single and not any(word in plain for plain in PLAIN):
            found.append(word)
    assert len(found) >= count, found
    return found[:count]


def register_by_hand(model: Any, people: list[Identity], words: dict[str, str]) -> dict[int, Any]:
    """The people in the host's own database, and the embedding of each word's one token."""
    from modules import sd_hijack
    from modules.textual_inversion.textual_inversion import Embedding

    placed = {}
    for person in people:
        vectors = {e: torch.tensor(v) for e, v in zip(person.encoders, person.vectors, strict=True)}
        vec = vectors if len(vectors) > 1 else next(iter(vectors.values()))
        embedding = Embedding(vec, words[person.name])
        embedding.vectors, embedding.shape, embedding.filename = 2, 0, "by hand"
        sd_hijack.model_hijack.embedding_db.register_embedding(embedding, model)
        placed[model.cond_stage_model.tokenize([words[person.name]])[0][0]] = embedding
    return placed


def forget_by_hand(model: Any, words: dict[str, str]) -> None:
    from modules import sd_hijack

    for word in words.values():
        sd_hijack.model_hijack.embedding_db.register_embedding_by_name(None, model, word)


def by_hand(
    model: Any,
    encoders: list[Any],
    prompt: Prompt,
    number: int,
    placed: dict[int, Any],
    spelled: dict[int, str],
    counts: Counter[str],
) -> Any:
    """The conditioning of ``prompt`` in its marked spelling, as a fingerprint."""
    lost: list[str] = []

    def checked(encoder: Any, line: str) -> Any:
        line = line.translate(spelled)
        chunks, count = type(encoder).tokenize_line(encoder, line)
        reference = chunked(encoder, line, placed)
        counts["chunked"] += 1
        counts["placed"] += sum(len(chunk.fixes) for chunk in chunks)
        if any(chunk.tokens[1 + mark.offset] != 0 for chunk in chunks for mark in chunk.fixes):
            lost.append(line)
        elif described(chunks) != described(reference):
            raise AssertionError(f"the reference cuts {line!r} otherwise than the host")
        return reference, count

    for encoder in encoders:
        encoder.tokenize_line = lambda line, encoder=encoder: checked(encoder, line)
    try:
        result = conditioning(model, prompt.marked, number)
    finally:
        for encoder in encoders:
            del encoder.tokenize_line
    counts["moved_by_the_host"] += bool(lost)
    counts["long"] += any(
        len(part[-1]["crossattn"] if isinstance(part[-1], dict) else part[-1]) > 77 for part in result
    )
    return fingerprint(result)


def described(chunks: list[Any]) -> list[Any]:
    return [(chunk.tokens, chunk.multipliers, [tuple(mark) for mark in chunk.fixes]) for chunk in chunks]


def chunked(encoder: Any, line: str, placed: dict[int, Any]) -> list[Any]:
    """The host's rules for chunks, with a person as one item that is never taken apart."""
    from modules import prompt_parser, sd_hijack_clip
    from modules.shared import opts

    chunks: list[list[tuple[Any, float]]] = []
    now: list[tuple[Any, float]] = []
    comma: int | None = None

    def width(items: list[tuple[Any, float]]) -> int:
        return sum(1 if isinstance(item, int) else 2 for item, _ in items)

    def full() -> None:
        nonlocal now, comma
        chunks.append(now)
        now, comma = [], None

    for text, weight in prompt_parser.parse_prompt_attention(line):
        if text == "BREAK" and weight == -1:
            full()
            continue
        for token in encoder.tokenize([text])[0]:
            item = placed.get(token, token)
            if token == encoder.comma_token:
                comma = len(now)
            elif comma is not None and width(now) == 75:
                after = now[comma + 1 :]
                if opts.comma_padding_backtrack > 0 and 75 - width(now[:comma]) <= opts.comma_padding_backtrack:
                    now = now[: comma + 1]
                    full()
                    now = after
            if width(now) + width([(item, weight)]) > 75:
                full()
            now.append((item, weight))
    if now or not chunks:
        full()
    return [_host_chunk(encoder, sd_hijack_clip, items) for items in chunks]


def _host_chunk(encoder: Any, sd_hijack_clip: Any, items: list[tuple[Any, float]]) -> Any:
    chunk = sd_hijack_clip.PromptChunk()
    tokens: list[int] = []
    weights: list[float] = []
    for item, weight in items:
        if isinstance(item, int):
            tokens.append(item)
            weights.append(weight)
        else:
            chunk.fixes.append(sd_hijack_clip.PromptChunkFix(len(tokens), item))
            tokens += [0, 0]
            weights += [weight, weight]
    missing = 75 - len(tokens)
    chunk.tokens = [encoder.id_start, *tokens, *[encoder.id_end] * missing, encoder.id_end]
    chunk.multipliers = [1.0, *weights, *[1.0] * missing, 1.0]
    return chunk


if __name__ == "__main__":
    main()
