"""A short film of a page: its screenshots one after another, with a pointer, written as an animated WebP."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from celeb_basis.errors import FileError
from celeb_basis.files import atomic_path

MOST_BYTES = 3_000_000
"""Nobody waits for more on a front page."""
_MOVE_FRAMES, _MOVE_MS = 7, 60
_MOST_WATCHED, _FEW_WATCHED = 60, 10
"""Frames of a wait: at most, and those that would fill its time; fewer are over sooner."""
_QUALITIES = (80, 65, 50, 35)

_POINTER = """() => {
    if (document.getElementById("film-pointer")) return;
    const arrow = "M2 2 L2 24 L8 18.5 L12 27 L16 25 L12 17 L20 17 Z";
    const pointer = document.createElement("div");
    pointer.id = "film-pointer";
    pointer.style = "position: fixed; z-index: 99999; left: 50%; top: 95%; pointer-events: none";
    pointer.innerHTML = `<svg width="24" height="30"><path d="${arrow}" fill="#111" stroke="#fff" stroke-width="1.5"/></svg>`;
    document.body.append(pointer);
    document.addEventListener("mousemove", (event) => {
        pointer.style.left = event.clientX + "px";
        pointer.style.top = event.clientY + "px";
    }, true);
}"""
_CARRY = """(uri) => {
    const photo = document.createElement("img");
    photo.id = "film-photo";
    photo.src = uri;
    photo.style = `position: absolute; left: 8px; top: 8px; z-index: -1; width: 110px; max-width: none; opacity: 0.9;
        border-radius: 6px; box-shadow: 0 4px 14px rgba(0, 0, 0, 0.4)`;
    document.getElementById("film-pointer").append(photo);
}"""
_LET_GO = "() => document.getElementById('film-photo')?.remove()"


class Film:
    """Frames of a page.

    Args:
        page: Playwright's page.
        width: Width of the film in pixels; the height follows.
    """

    def __init__(self, page: Any, width: int = 1024) -> None:
        self.page, self.width = page, width
        self.frames: list[Image.Image] = []
        self.milliseconds: list[int] = []
        page.evaluate(_POINTER)

    def hold(self, seconds: float) -> None:
        """Show the page as it is now for some seconds."""
        self._add(self._look(), round(1000 * seconds))

    def point(self, target: Any) -> None:
        """Move the pointer to the middle of an element."""
        target.scroll_into_view_if_needed()
        box = target.bounding_box()
        self._move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def click(self, target: Any) -> None:
        """Move the pointer to an element and click it."""
        self.point(target)
        target.click()
        self.hold(0.4)

    def type(self, target: Any, text: str) -> None:
        """Click a field and type, a frame for each letter."""
        self.click(target)
        for letter in text:
            target.press_sequentially(letter)
            self.hold(0.11)

    def drop(self, photo: Path, zone: Any, upload: Callable[[], None]) -> None:
        """Carry a photo to a drop zone, where ``upload`` gives it to the page."""
        uri = f"data:image/png;base64,{base64.b64encode(photo.read_bytes()).decode()}"
        self.page.evaluate(_CARRY, uri)
        self.hold(0.5)
        self.point(zone)
        self.hold(0.3)
        self.page.evaluate(_LET_GO)
        upload()

    def watch(self, done: Callable[[], bool], every: float = 1.0, within: float = 4.0) -> None:
        """Film until ``done()``, however long it takes, and show it within some seconds.

        Args:
            done: Whether the end is reached.
            every: Seconds between two looks at the page, at first: more, the longer it takes.
            within: Seconds of the film.
        """
        images: list[Image.Image] = []
        while not done():
            self.page.wait_for_timeout(1000 * every)
            image = self._look()
            if not images or _differ(images[-1], image):
                images.append(image)
            if len(images) >= _MOST_WATCHED:
                images, every = images[::2], 2 * every
        for image in images:
            self._add(image, round(1000 * within / max(len(images), _FEW_WATCHED)))

    def save(self, path: Path) -> int:
        """Write the film, as good as :data:`MOST_BYTES` allow; returns the bytes.

        Raises:
            FileError: It is too large, or cannot be written.
        """
        first, *others = self.frames
        for quality in _QUALITIES:
            packed = io.BytesIO()
            options = {"quality": quality, "method": 4, "minimize_size": True, "loop": 0}
            first.save(packed, "WEBP", save_all=True, append_images=others, duration=self.milliseconds, **options)
            if len(packed.getvalue()) <= MOST_BYTES:
                break
        else:
            raise FileError(
                f"The film of {len(self.frames)} frames is larger than {MOST_BYTES / 1e6:.0f} MB: make it shorter."
            )
        with atomic_path(path) as temporary:
            temporary.write_bytes(packed.getvalue())
        return len(packed.getvalue())

    def _move(self, x: float, y: float) -> None:
        start = self.page.evaluate(
            "() => { const box = document.getElementById('film-pointer').getBoundingClientRect(); return [box.x, box.y]; }"
        )
        for number in range(1, _MOVE_FRAMES + 1):
            share = number / _MOVE_FRAMES
            eased = share * share * (3 - 2 * share)
            self.page.mouse.move(start[0] + (x - start[0]) * eased, start[1] + (y - start[1]) * eased)
            self._add(self._look(), _MOVE_MS)

    def _look(self) -> Image.Image:
        image = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        return image.resize((self.width, round(image.height * self.width / image.width)), Image.Resampling.LANCZOS)

    def _add(self, image: Image.Image, milliseconds: int) -> None:
        if self.frames and not _differ(self.frames[-1], image):
            self.milliseconds[-1] += milliseconds
            return
        self.frames.append(image)
        self.milliseconds.append(milliseconds)


def _differ(one: Image.Image, other: Image.Image) -> bool:
    return ImageChops.difference(one, other).getbbox() is not None
