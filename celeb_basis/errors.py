"""The errors that a user can meet, each raised with a sentence that says what happened and what to do about it.

Front ends show ``str(error)`` as it is. The command line exits with code 2 for any of them.
"""

from __future__ import annotations

import re

# Control characters but line feed and tab, whatever reverses or hides text, and halves of characters. The joiners
# U+200C and U+200D belong to scripts and emoji.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    r"""``text`` with its control characters as escapes such as ``\x1b``: in a terminal, they could rewrite what was printed.

    Names of files, metadata and notes come from files that others have made.
    """
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_json(text: str) -> str:
    """The same for JSON, with JSON's own escapes: the value that it stands for stays the same."""

    def escaped(found: re.Match[str]) -> str:
        code = found[0].encode("utf-16-be", "surrogatepass").hex()
        return "".join(f"\\u{code[start : start + 4]}" for start in range(0, len(code), 4))

    return _CONTROLS.sub(escaped, text)


class CelebBasisError(Exception):
    """Base class of all errors that the user can fix. The text is a full sentence, without control characters."""

    def __str__(self) -> str:
        return printable(super().__str__())


class NamesError(CelebBasisError):
    """A list of names cannot be read, is empty, or has too few usable names."""


class BasisError(CelebBasisError):
    """A basis cannot be built, or does not fit the given coefficients."""


class PhotoError(CelebBasisError):
    """A picture file cannot be read, or is not usable as a photo."""


class FaceError(CelebBasisError):
    """No face was found in a photo, or not the requested one."""


class FacePackError(CelebBasisError):
    """A face model pack is missing, incomplete or damaged."""


class LicenseError(FacePackError):
    """A pack would have to be downloaded, but its license has not been accepted."""


class DownloadError(CelebBasisError):
    """A download failed, or the downloaded file is not the expected one."""


class SettingsError(CelebBasisError):
    """A setting is unknown or out of its range."""


class TrainingError(CelebBasisError):
    """Training cannot start, continue, or be resumed."""


class NotFiniteError(TrainingError):
    """The loss or a gradient became NaN or infinite. The last good state is preserved."""


class OutOfMemoryError(TrainingError):
    """Memory ran out during training. The last good state is preserved."""


class IdentityError(CelebBasisError):
    """An identity file cannot be read, or its name is not usable."""


class WrongModelError(IdentityError):
    """An identity does not fit the model it is to be used with."""


class ExportError(CelebBasisError):
    """An identity cannot be written in, or read from, another tool's format."""


class PlacesError(CelebBasisError):
    """The places of a prompt's people cannot be used; the image is generated without them."""


class EvaluationError(CelebBasisError):
    """Pictures cannot be evaluated with what was given."""


class HostError(CelebBasisError):
    """A checkpoint cannot be loaded, or does not support what was asked of it."""


class FileError(CelebBasisError):
    """A file or folder cannot be read or written: missing, read-only, disk full."""


class StoppedError(CelebBasisError):
    """Work was stopped before it finished; it has no result."""


class MissingPackageError(CelebBasisError):
    """An optional package is not installed; the text names the command that installs it."""


# How torch says it on processors, on Apple's devices and in NVIDIA's libraries, where it is no class of its own.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|_STATUS_ALLOC_FAILED", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. torch's error is recognized by its name, so that torch need not be imported."""
    if isinstance(error, CelebBasisError):
        return False
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def is_user_error(error: BaseException) -> bool:
    """Whether the user can fix ``error``: errors of this module, and running out of memory. Others are bugs."""
    return isinstance(error, CelebBasisError) or is_out_of_memory(error)


def error_message(error: BaseException) -> str:
    """The sentence that a front end shows for ``error``, whatever it is."""
    if isinstance(error, CelebBasisError):
        return str(error)
    if is_out_of_memory(error):
        return (
            "Out of memory: load the model in fp16 or bf16, use batch_size 1 and gradient checkpointing, choose a smaller "
            "size, or close other programs."
        )
    kind = type(error).__name__
    return (
        f"This is an error in celeb-basis itself ({kind}: {printable(str(error))}): run it again with -v and report it."
    )
