"""The errors that a user can meet, each raised with a sentence that says what happened and what to do about it.

Front ends show ``str(error)`` as it is. The command line exits with code 2 for any of them.
"""

from __future__ import annotations


class CelebBasisError(Exception):
    """Base class of all errors that the user can fix. The text is a full sentence."""


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


class IdentityError(CelebBasisError):
    """An identity file cannot be read, or its name is not usable."""


class WrongModelError(IdentityError):
    """An identity does not fit the model it is to be used with."""


class ExportError(CelebBasisError):
    """An identity cannot be written in, or read from, another tool's format."""


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


def is_user_error(error: BaseException) -> bool:
    """Whether the user can fix ``error``: errors of this module, and running out of memory. Others are bugs."""
    return isinstance(error, (CelebBasisError, MemoryError)) or type(error).__name__ == "OutOfMemoryError"


def error_message(error: BaseException) -> str:
    """The sentence that a front end shows for ``error``, whatever it is."""
    if isinstance(error, CelebBasisError):
        return str(error)
    if is_user_error(error):  # torch's error is recognized by its name, so that torch need not be imported
        return (
            "Out of memory: load the model in fp16 or bf16, use batch_size 1 and gradient checkpointing, choose a smaller "
            "size, or close other programs."
        )
    kind = type(error).__name__
    return f"This is an error in celeb-basis itself ({kind}: {error}): run it again with -v and report it."
