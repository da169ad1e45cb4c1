"""Other tools' files: writing an identity as an ordinary textual inversion, and reading such files back."""

from __future__ import annotations
