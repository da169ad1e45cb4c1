"""Face vectors from the portraits that people keep, and the sentences for those who have none."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.people import PNG, person

from celeb_basis.errors import IdentityError
from celeb_basis.faces.insight import InsightFaceNetwork
from celeb_basis.faces.portraits import portrait
from celeb_basis.identities.identity import identity_from_bytes, identity_to_bytes
from celeb_basis.identities.photo_vectors import photo_vector, photo_vectors
from celeb_basis.miniature import PHOTOS
from celeb_basis.photos import open_photo
from celeb_basis.training.dataset import THUMBNAIL


def kept(name: str, faces: InsightFaceNetwork) -> tuple[bytes, Any]:
    """The thumbnail that learning keeps of a photo, and the portrait that it learns from."""
    learned = portrait(open_photo(PHOTOS / name), faces, size=512)
    image = Image.fromarray(learned.picture)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue(), learned.vector


def test_the_portrait_gives_nearly_the_photos_vector(miniature_faces: InsightFaceNetwork) -> None:
    vectors = []
    for name in ("stranger1.png", "stranger2.png"):
        thumbnail, wanted = kept(name, miniature_faces)
        identity = identity_from_bytes(identity_to_bytes(person("ada", thumbnail=thumbnail)))
        found = photo_vector(identity, miniature_faces)
        assert float(found @ wanted) > 0.9
        vectors.append(found)
    assert float(vectors[0] @ vectors[1]) < 0.75


@pytest.mark.parametrize(
    ("details", "says"),
    [
        ({"source": "invented"}, "ada was invented, so there is no photo"),
        ({"source": "blended"}, "ada is a blend"),
        ({"source": "imported"}, "ada was imported without a photo"),
        ({"thumbnail": None}, "ada keeps no photo .*: learn the person again"),
        ({"thumbnail": PNG}, "No face is found in the portrait of ada"),
        ({"thumbnail": b"\x89PNG\r\n\x1a\n" + bytes(40)}, "No face is found in the portrait of ada"),
    ],
)
def test_who_has_no_photo_gets_a_sentence(
    miniature_faces: InsightFaceNetwork, details: dict[str, Any], says: str
) -> None:
    with pytest.raises(IdentityError, match=says):
        photo_vector(
            person("ada", **{"thumbnail": kept("stranger1.png", miniature_faces)[0], **details}), miniature_faces
        )


def test_several_people_keep_their_order(miniature_faces: InsightFaceNetwork) -> None:
    thumbnail, _ = kept("stranger1.png", miniature_faces)
    people = [person("ada", thumbnail=thumbnail), person("ben", source="invented"), person("eve", thumbnail=thumbnail)]
    vectors, sentences = photo_vectors(people, lambda: miniature_faces)
    assert [one is None for one in vectors] == [False, True, False]
    assert sentences == ("ben was invented, so there is no photo for face guidance.",)
    np.testing.assert_array_equal(vectors[0], vectors[2])
