"""Face embeddings of the celebrities as the shipped weights render them; to be repeated whenever the weights change.

``python -m miniature.training.celebrity_faces`` generates the images that the cache lacks, and writes
``celeb_basis/miniature/name-faces``.
"""

from __future__ import annotations

from functools import partial

from tqdm import tqdm

from celeb_basis.basis import BasisOptions, build_bases, fitting_components
from celeb_basis.events import DrawingNames, Event, follow
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.packs import MINIATURE, find_pack
from celeb_basis.files import cache_folder
from celeb_basis.hosts.diffusers import load_host
from celeb_basis.miniature import CELEBRITY_FACES, shipped_model, shipped_model_names
from celeb_basis.training.celebrity_faces import PROMPT, generate_celebrity_faces
from celeb_basis.training.celebrity_files import CelebrityFile, file_name
from celeb_basis.training.first_guess import explained_share


def write_name_faces() -> None:
    """Generate the celebrities as *quick* and *best* would, and store the face embeddings with the weights."""
    model, faces = load_host(shipped_model(), device="cpu"), InsightFaceNetwork(find_pack(MINIATURE).folder)
    options = BasisOptions(fitting_components(model.text_encoders, BasisOptions.components))
    bases = [built.basis for built in build_bases(model.text_encoders, shipped_model_names(), options)]
    cache, name = cache_folder() / "name-faces", file_name(model, faces.name, PROMPT, 0)
    with tqdm(desc="Generating the celebrities") as bar:

        def show(event: Event) -> None:
            if isinstance(event, DrawingNames):
                bar.total = event.total
                bar.update(event.done - bar.n)

        explained = partial(explained_share, bases)
        follow(generate_celebrity_faces(model, bases[0].names, faces, cache, explained=explained), show)
    shipped = CelebrityFile(CELEBRITY_FACES / name, checkpoint=model.info.name, faces=faces.name)
    shipped.add(cache / name)
    for old in CELEBRITY_FACES.glob("*.safetensors"):
        old.unlink()
    shipped.save()


if __name__ == "__main__":
    write_name_faces()
