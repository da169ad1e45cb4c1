"""Media, such as pencil sketch or oil painting: functions from one ``(H, W, 3)`` RGB picture to another."""

from __future__ import annotations

from typing import Any

import numpy as np

from celeb_basis.faces.network import Pixels


def _pixels(values: Any) -> Pixels:
    """Clip and truncate to bytes."""
    picture: Pixels = np.clip(values, 0, 255).astype(np.uint8)
    return picture


def in_medium(picture: Pixels, medium: str, rng: np.random.Generator) -> Pixels:
    """Return the picture as photo, black and white photo, sepia photo, pencil sketch, oil painting or watercolor."""
    import cv2

    if medium == "photo":
        return picture
    if medium == "oil painting":
        return _oil(picture, rng)
    if medium == "watercolour":
        return _watercolor(picture)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    if medium == "black and white photo":
        return _pixels(np.repeat(grey[..., None], 3, 2))
    if medium == "sepia photo":
        tone = grey[..., None].astype(np.float32) / 255
        return _pixels(40 * (1 - tone) + tone * np.array([250, 220, 170]))
    if medium == "pencil sketch":
        blurred = cv2.GaussianBlur(255 - grey, (0, 0), 5)
        sketch = cv2.divide(grey, 255 - blurred, scale=235)
        # A light shade of the tones, so that the face stays one.
        shaded = 0.6 * sketch.astype(np.float32) + 0.4 * (90 + 0.6 * grey)
        hatch = 8 * (((np.arange(picture.shape[1])[None, :] + np.arange(picture.shape[0])[:, None]) // 2) % 2)
        return _pixels(np.repeat((shaded - hatch)[..., None], 3, 2))
    raise ValueError(medium)


def _oil(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Flat dabs of strong color: averaged along color edges, saturated, with brush marks."""
    import cv2

    flat = cv2.bilateralFilter(picture, 7, 45, 4).astype(np.float32)
    grey = flat.mean(2, keepdims=True)
    strong = grey + 1.45 * (flat - grey)
    side = picture.shape[0]
    marks = cv2.GaussianBlur(rng.standard_normal((side, side)).astype(np.float32), (0, 0), sigmaX=3.2, sigmaY=0.8)
    return _pixels(strong + 22 * marks[..., None])


def _watercolor(picture: Pixels) -> Pixels:
    """Pale washes with darker rims on white paper."""
    import cv2

    wash = cv2.bilateralFilter(picture, 7, 60, 5).astype(np.float32)
    pale = 255 - 0.6 * (255 - wash)
    rims = cv2.morphologyEx(wash.mean(2).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8))
    side = picture.shape[0]
    ramp = np.minimum(np.arange(side), np.arange(side)[::-1])
    paper = np.clip(np.minimum(ramp[:, None], ramp[None, :]) / 12.0, 0, 1)[..., None]
    inked = (pale - 0.4 * rims[..., None]) * paper + 250 * (1 - paper)
    return _pixels(inked)
