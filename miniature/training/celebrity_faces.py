"""Face embeddings of the celebrities as the shipped weights render them; to be repeated whenever the weights change.

``python -m miniature.training.celebrity_faces`` generates the images that the cache lacks, and writes
``celeb_basis/miniature/name-faces``.
"""

from __future__ import annotations

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from celeb_basis.basis import BasisOptions, build_bases, most_components
from celeb_basis.events import follow
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.packs import MINIATURE, find_pack
from celeb_basis.files import atomic_path, cache_folder
from celeb_basis.hosts.diffusers import load_host
from celeb_basis.miniature import CELEBRITY_FACES, shipped_model, shipped_model_names
from celeb_basis.training.first_guess import chosen, file_name, generate_celebrity_faces


def write_name_faces() -> None:
    """Generate the celebrities as *quick* and *best* would, and store the face embeddings in half precision."""
    model, faces = load_host(shipped_model(), device="cpu"), InsightFaceNetwork(find_pack(MINIATURE).folder)
    options = BasisOptions(components=most_components(model.text_encoders))
    (built,) = build_bases(model.text_encoders, shipped_model_names(), options)
    names = built.basis.names
    cache = cache_folder() / "name-faces"
    with tqdm(desc="Drawing the names", total=len(chosen(names))) as bar:
        drawn = follow(generate_celebrity_faces(model, names, faces, cache), lambda _: bar.update())
    for old in CELEBRITY_FACES.glob("*.safetensors"):
        old.unlink()
    stored = load_file(str(cache / file_name(model, drawn.names, faces)))
    with atomic_path(CELEBRITY_FACES / file_name(model, drawn.names, faces)) as temporary:
        save_file({"vectors": stored["vectors"].to(torch.float16), "drawn": stored["drawn"]}, str(temporary))


if __name__ == "__main__":
    write_name_faces()
