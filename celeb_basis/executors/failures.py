"""What an error is told as: errors of the user's and of the machine's limits in a sentence that says what to do."""

from __future__ import annotations

from celeb_basis.errors import CelebBasisError


def is_explained(error: BaseException) -> bool:
    """Whether :func:`sentence_of` says what to do about ``error``; else it is an error in this program."""
    return isinstance(error, (CelebBasisError, MemoryError)) or type(error).__name__ == "OutOfMemoryError"


def sentence_of(error: BaseException) -> str:
    """The sentence for ``error``."""
    if isinstance(error, CelebBasisError):
        return str(error)
    if is_explained(error):  # torch's own error is known by its name: torch is not imported for it
        return (
            "The memory is full: hold the model in fp16 or bf16, learn with batch_size 1 and checkpointing, "
            "use a smaller size, or close other programs."
        )
    kind = type(error).__name__
    return f"This is an error in celeb-basis itself ({kind}: {error}): run it again with -v and report it."
