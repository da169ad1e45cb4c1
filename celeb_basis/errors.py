"""Every error that a user can meet, each raised with one sentence that says what is wrong and what to do about it.

A front end shows ``str(error)`` as it is. The command line answers any of them with exit code 2.
"""

from __future__ import annotations


class CelebBasisError(Exception):
    """The base of every error that is the user's to mend; its text is a full sentence."""


class NamesError(CelebBasisError):
    """A list of names is unreadable, empty, or has too few usable names."""


class BasisError(CelebBasisError):
    """A basis cannot be built, or does not fit the coefficients given to it."""


class PhotoError(CelebBasisError):
    """A picture file cannot be read, or is of no use as a photo."""


class FaceError(CelebBasisError):
    """No face, or not the face asked for, was found in a photo."""


class FacePackError(CelebBasisError):
    """A face model pack is missing, incomplete or broken."""


class LicenseError(FacePackError):
    """A pack would have to be downloaded, and nobody has agreed to its licence."""


class DownloadError(CelebBasisError):
    """A download failed or brought something else than was promised."""


class SettingsError(CelebBasisError):
    """A setting is unknown or out of its range."""


class TrainingError(CelebBasisError):
    """Learning cannot start, go on, or be resumed."""


class NotFiniteError(TrainingError):
    """The loss or the coefficients became NaN or infinite; the last good state was kept."""


class IdentityError(CelebBasisError):
    """An identity file is unreadable, or its name is not usable."""


class WrongModelError(IdentityError):
    """An identity does not fit the model it is to be used with."""


class ExportError(CelebBasisError):
    """An identity cannot be written, or read, in another tool's layout."""


class EvaluationError(CelebBasisError):
    """Pictures cannot be judged with what was given."""


class HostError(CelebBasisError):
    """A checkpoint cannot be loaded, or cannot do what was asked of it."""


class FileError(CelebBasisError):
    """A file or folder cannot be read or written: missing, read-only, disk full."""


class StoppedError(CelebBasisError):
    """Work was stopped before it finished; it has no result."""


class MissingPackageError(CelebBasisError):
    """An optional package is not installed; the text names the command that installs it."""


# FOLDED: What an error is told as: errors of the user's and of the machine's limits in a sentence that says what
# FOLDED: to do.


def is_user_error(error: BaseException) -> bool:
    """Whether :func:`error_message` says what to do about ``error``; else it is an error in this program."""
    return isinstance(error, (CelebBasisError, MemoryError)) or type(error).__name__ == "OutOfMemoryError"


def error_message(error: BaseException) -> str:
    """The sentence for ``error``."""
    if isinstance(error, CelebBasisError):
        return str(error)
    if is_user_error(error):  # torch's own error is known by its name: torch is not imported for it
        return (
            "The memory is full: hold the model in fp16 or bf16, learn with batch_size 1 and checkpointing, "
            "use a smaller size, or close other programs."
        )
    kind = type(error).__name__
    return f"This is an error in celeb-basis itself ({kind}: {error}): run it again with -v and report it."
