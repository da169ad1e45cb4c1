"""The face vectors of the people in a prompt, from the portraits that learned people keep, for face guidance.

No identity holds a face vector of its own: what it keeps of the photo is the portrait on its card, so the vector is made
from that whenever it is needed, by whichever face models are used then. People of version 0.1.0 have that portrait too.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from celeb_basis.errors import IdentityError
from celeb_basis.faces.guidance import portrait_vector
from celeb_basis.faces.network import FaceNetwork, Floats
from celeb_basis.identities.identity import Identity
from celeb_basis.regions import Region

_NO_PHOTO = {
    "invented": "{} was invented, so there is no photo for face guidance.",
    "blended": "{} is a blend, so there is no photo for face guidance: name one of its people instead.",
    "imported": "{} was imported without a photo, so face guidance does not act: learn the person from a photo.",
}


def check_has_photo(identity: Identity) -> None:
    """Check that a person keeps a photo, without face models.

    Raises:
        IdentityError: The person does not, with the reason.
    """
    metadata = identity.metadata
    if (sentence := _NO_PHOTO.get(metadata.source)) is not None:
        raise IdentityError(sentence.format(identity.name))
    if metadata.thumbnail is None:
        raise IdentityError(f"{identity.name} keeps no photo for face guidance: learn the person again.")


def photo_vector(identity: Identity, faces: FaceNetwork) -> Floats:
    """The ``(512,)`` face vector of the photo that a person was learned from.

    Args:
        identity: The person.
        faces: The face models that find and embed the face.

    Raises:
        IdentityError: If the person has no photo, or no face is found in it.
    """
    check_has_photo(identity)
    try:
        portrait = np.asarray(Image.open(io.BytesIO(identity.metadata.thumbnail or b"")).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        portrait = None
    vector = None if portrait is None else portrait_vector(portrait, faces)
    if vector is None:
        raise IdentityError(
            f"No face is found in the portrait of {identity.name}, which face guidance needs: learn the person again."
        )
    return vector


def photo_vectors(
    people: Sequence[Identity], open_faces: Callable[[], FaceNetwork]
) -> tuple[tuple[Floats | None, ...], tuple[str, ...]]:
    """The face vectors of several people, ``None`` for those without one, and a sentence for each of these.

    Args:
        people: The people.
        open_faces: Opens the face models; not called where nobody keeps a photo.
    """
    vectors: list[Floats | None] = []
    sentences = []
    for one in people:
        try:
            check_has_photo(one)
            vectors.append(photo_vector(one, open_faces()))
        except IdentityError as error:
            vectors.append(None)
            sentences.append(str(error))
    return tuple(vectors), tuple(sentences)


def from_left_to_right(people: Sequence[Identity], regions: Sequence[Region]) -> list[Identity]:
    """The people in the order of their places, if everybody has one; else in that of the prompt.

    Args:
        people: Those whom the prompt names, in its order.
        regions: Their places, in whose prompts nobody else who has a place is named.
    """
    middles = {}
    for region in regions:
        text = region.prompt.casefold()
        named = [one.name for one in people if f"<{one.name.casefold()}>" in text or f"<{one.name.casefold()}:" in text]
        if len(named) == 1:  # someone without a place is named in every region
            middles[named[0]] = region.box.left + region.box.right
    return sorted(people, key=lambda one: middles[one.name]) if len(middles) == len(people) else list(people)
