"""Run inside a WebUI: names on checkpoints out of the ordinary, each made of the small ones: SDXL with a refiner that takes
over in the middle, an SSD, Stable Diffusion 2 that predicts noise, and an inpainting checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from support.installed_tokens import installed_for
from support.webui_inside import parsed_arguments, start_with
from support.webui_people import add_people
from support.webui_prompts import rare_words
from support.webui_stays import switch_to
from support.webui_syntax import HIRES, NAMES, SYNTAX, Case, drawn

from celeb_basis.hosts.a1111.tokens import A1111Tokens
from celeb_basis.identities.identity import Identity

REFINER = {"refiner_checkpoint": "refiner", "refiner_switch_at": 0.5}
CASES = {
    "sdxl": {
        "refiner": Case("photo of @0, [@1:tree:0.5]", "@1.", REFINER),
        "refiner, joined": Case("@0{1.2} AND @1's hat :0.6", "", REFINER),
        "refiner in the second pass": Case("@0", "", {**REFINER, **HIRES, "hr_prompt": "@1, tree"}),
    },
    **{name: {key: SYNTAX[key] for key in ("plain", "joined", "nested", "long")} for name in ("ssd", "sd2eps", "sd2inpaint")},
}  # fmt: skip
_XL_UNET = {"num_res_blocks": 2, "channel_mult": [1, 2, 2], "transformer_depth": [0, 2, 10]}
"""Of the shape that the host cuts an SSD out of."""


def main() -> None:
    """Print for each checkpoint which cases came out otherwise, and what the host said."""
    options = parsed_arguments()
    folder = options.data / "checkpoints"
    make_checkpoints(folder)
    start_with(folder / "sdxl.safetensors", options.data)
    make_ssd(folder)
    from modules import sd_models, shared

    sd_models.list_models()
    library, report = options.data / "people", {}
    words: dict[str, str] = {}
    with contextlib.redirect_stdout(sys.stderr), installed_for(library) as tokens:
        for name, cases in CASES.items():
            switch_to(name)
            encoders = [part for part in shared.sd_model.modules() if hasattr(part, "tokenize_line")]
            words = words or dict(zip(NAMES, rare_words(encoders, len(NAMES)), strict=True))
            ids = {key: encoders[0].tokenize([word])[0][0] for key, word in words.items()}
            checkpoint = tokens.checkpoint()
            assert checkpoint is not None
            if name != "ssd":  # who draws with the people of the SDXL it was cut from
                people = add_people(library, NAMES, checkpoint)
            report[name] = compared(name, tokens, cases, words, ids, people)
    sys.stdout.write(json.dumps(report) + "\n")


def compared(
    name: str,
    tokens: A1111Tokens,
    cases: dict[str, Case],
    words: dict[str, str],
    ids: dict[str, int],
    people: list[Identity],
) -> dict[str, Any]:
    from modules import shared

    typed, spelled = [f"<{one}>" for one in NAMES], [f" {words[one]} " for one in NAMES]
    tokens.uninstall()
    as_text = {key: drawn(case, typed) for key, case in cases.items()}
    switch_to(name)
    with placed_by_hand(ids, people):
        by_hand = {key: drawn(case, spelled) for key, case in cases.items()}
    tokens.install()
    by_name = {key: drawn(case, typed) for key, case in cases.items()}
    switch_to(name)
    return {
        "cases": len(cases),
        "ssd": shared.sd_model.is_ssd,
        "family": checkpoint.info.family if (checkpoint := tokens.checkpoint()) else None,
        "people": all(one.available for one in tokens.mentioned(*typed)),
        "other_conditionings": [key for key in cases if by_name[key][0] != by_hand[key][0]],
        "other_pictures": [key for key in cases if by_name[key][1] != by_hand[key][1]],
        "same_as_text": [key for key in cases if by_name[key][:2] == as_text[key][:2]],
        "comments": sorted({found[2] for found in by_name.values()} - {""}),
    }


@contextlib.contextmanager
def placed_by_hand(ids: dict[str, int], people: list[Identity]) -> Iterator[None]:
    """The people at their words' tokens, on whatever checkpoint the host goes to."""
    from modules import sd_hijack
    from modules.textual_inversion.textual_inversion import Embedding

    placed = {}
    for person in people:
        vectors = {e: torch.tensor(v) for e, v in zip(person.encoders, person.vectors, strict=True)}
        embedding = Embedding(vectors if len(vectors) > 1 else next(iter(vectors.values())), "by hand")
        embedding.vectors, embedding.shape, embedding.filename = 2, 0, "by hand"
        placed[ids[person.name]] = embedding
    database = sd_hijack.model_hijack.embedding_db
    original = database.find_embedding_at_position
    database.find_embedding_at_position = lambda tokens, offset: (
        (placed[tokens[offset]], 1) if tokens[offset] in placed else original(tokens, offset)
    )
    try:
        yield
    finally:
        del database.find_embedding_at_position


def make_checkpoints(folder: Path) -> None:
    """The small checkpoints, Stable Diffusion 2 as one that predicts noise, and SDXL's half as a refiner."""
    from omegaconf import OmegaConf
    from safetensors.torch import load_file, save_file

    shipped = Path(os.environ["CELEB_BASIS_WEBUI"]) / "models" / "Stable-diffusion"
    folder.mkdir()
    for name, source in (("sdxl", "sdxl"), ("sd2inpaint", "sd2inpaint"), ("sd2eps", "sd2v")):
        (folder / f"{name}.safetensors").symlink_to(shipped / f"{source}.safetensors")
        config = OmegaConf.load(shipped / f"{source}.yaml")
        config.model.params.pop("parameterization", None)
        OmegaConf.save(config, folder / f"{name}.yaml")
    config = OmegaConf.load(shipped / "sdxl.yaml")
    _, text, *sizes = config.model.params.conditioner_config.params.emb_models
    sizes[-1].input_key = "aesthetic_score"
    config.model.params.conditioner_config.params.emb_models = [text, *sizes]
    unet = config.model.params.network_config.params
    tensors = load_file(shipped / "sdxl.safetensors")
    width = int(tensors["conditioner.embedders.1.model.ln_final.weight"].shape[0])
    whole, unet.context_dim, unet.adm_in_channels = int(unet.context_dim), width, width + 5 * 256
    made = {}
    for key, tensor in tensors.items():
        if key.startswith("conditioner.embedders.0."):
            continue
        if "attn2.to_k" in key or "attn2.to_v" in key:
            tensor = tensor[:, whole - width :].contiguous()
        if key.endswith("label_emb.0.0.weight"):
            tensor = tensor[:, : width + 5 * 256].contiguous()
        made[key.replace("conditioner.embedders.1.", "conditioner.embedders.0.")] = tensor
    save_file(made, folder / "refiner.safetensors")
    OmegaConf.save(config, folder / "refiner.yaml")


def make_ssd(folder: Path) -> None:
    """SDXL's text encoders with a denoiser cut as Segmind's is. Only inside the host, whose code makes the whole one."""
    from omegaconf import OmegaConf
    from safetensors.torch import load_file, save_file
    from sgm.util import instantiate_from_config

    config = OmegaConf.load(folder / "sdxl.yaml")
    unet = config.model.params.network_config
    unet.params.update(_XL_UNET)
    torch.manual_seed(0)
    denoiser = instantiate_from_config(unet)
    for tensor in denoiser.parameters():
        if not tensor.any():  # the last layer of each block, which would draw nothing
            torch.nn.init.normal_(tensor, std=0.02)
    gone = ["middle_block.1.", "middle_block.2."]
    for block, kept, depth in (("input_blocks.7", 4, 10), ("input_blocks.8", 4, 10), ("output_blocks.0", 4, 10),
                               ("output_blocks.1", 4, 10), ("output_blocks.4", 1, 2), ("output_blocks.5", 1, 2)):  # fmt: skip
        gone += [f"{block}.1.transformer_blocks.{number}." for number in range(kept, depth)]
    tensors = {
        key: tensor
        for key, tensor in load_file(folder / "sdxl.safetensors").items()
        if not key.startswith("model.diffusion_model.")
    }
    for key, tensor in denoiser.state_dict().items():
        if not key.startswith(tuple(gone)):
            tensors[f"model.diffusion_model.{key}"] = tensor.contiguous()
    save_file(tensors, folder / "ssd.safetensors")
    OmegaConf.save(config, folder / "ssd.yaml")


if __name__ == "__main__":
    main()
