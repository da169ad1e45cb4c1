"""Celeb Basis: a person from one photo, as a word in any Stable Diffusion prompt.

The core (names, basis, photos, faces, views, learning, identities, judging) knows no host and no page. Importing this
package imports nothing heavy: torch, insightface and matplotlib load where they are first used.
"""

from __future__ import annotations

__version__ = "0.1.0"
