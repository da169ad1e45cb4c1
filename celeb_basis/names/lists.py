"""Lists of celebrities' names, the shipped one and the user's own from a text file; and tokens with many near-synonyms."""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import zip_longest
from pathlib import Path

from celeb_basis.errors import FileError, NamesError
from celeb_basis.files import read_bytes

MAX_LINE = 200
"""Longest line of a list in characters, except for comments: a file with longer ones is not a list of names."""

MAX_BYTES = 32 << 20
"""Largest list that is read, in bytes."""

MAX_LINES = 1_200_000
"""Most lines of a list, blank ones included."""

MAX_COLUMNS = 4
"""Columns behind the names that are read."""

MIN_GROUP = 8
"""Fewest names of a group; other values of a column say nothing of more than a few names."""

MAX_GROUPS = 24
"""Most groups of a column."""

_LINE_END = re.compile(r"\r\n|\r|\n")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
# Stripped by str.strip: a regular expression for the end of a line takes time that grows with the square of its length.
_INVISIBLE = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\ufeff\u200b"
_COLUMN_END = re.compile(r"[,\t]")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_SHIPPED = "celebrities.txt"
SYNONYMS_FILE = Path(__file__).with_name("near-synonyms.txt")
"""Written by ``miniature.near_synonyms``."""


@dataclass(frozen=True)
class NameList:
    """Names in the order of their list; may contain duplicates, which filtering drops."""

    names: tuple[str, ...]
    """In Unicode's composed form (NFC), trimmed, one space between words."""
    sha256: str
    """Hex SHA-256 of the normalized names joined by newlines, in UTF-8. Comments, blank lines, further columns, line
    endings, a byte order mark, spacing and the Unicode form of the file do not change it; the order of the names does."""
    source: str
    """Where the names come from, for messages."""
    columns: tuple[tuple[str, ...], ...] = ()
    """What the list says of each name in its further columns, such as ``("women", "Europe")``; empty if it has none."""

    def groups(self) -> Mapping[str, int]:
        """Groups of names: values that at least :data:`MIN_GROUP` names share, with the column that they stand in.

        A column with more than :data:`MAX_GROUPS` such values (dates, addresses) has no groups.
        """
        found: dict[str, int] = {}
        for column in range(MAX_COLUMNS):
            counts = Counter(row[column] for row in self.columns if len(row) > column and row[column])
            values = [value for value, count in counts.most_common() if count >= MIN_GROUP]
            if len(values) <= MAX_GROUPS:
                found = dict.fromkeys(values, column) | found
        return dict(sorted(found.items(), key=lambda group: group[1]))

    def find_group(self, group: str) -> tuple[str, int]:
        """A group as the list spells it, and the column that it stands in, whatever the case and spacing.

        Raises:
            NamesError: If there is no such group; the message says which there are.
        """
        known = self.groups()
        folded = {one.casefold(): one for one in known}
        if (name := folded.get(" ".join(group.split()).casefold())) is not None:
            return name, known[name]
        if not known:
            raise NamesError(
                f"There is no group {group!r}: {self.source} has no groups. Write them behind the names, as in "
                "`Ada Lovelace, women, Europe`."
            )
        raise NamesError(f"There is no group {group!r} in {self.source}: choose from {', '.join(known)}.")


def name_list(names: Iterable[str], source: str, columns: Iterable[Sequence[str]] = ()) -> NameList:
    """Normalize and hash ``names``; blank names and those that start with ``#`` are skipped.

    Args:
        names: The names.
        source: Where they come from, for messages.
        columns: Further columns of each name, or nothing.

    Raises:
        NamesError: If no name is left.
    """
    rows = zip_longest(map(_normalized, names), columns, fillvalue=())
    kept = [(str(name), tuple(row)) for name, row in rows if name and not str(name).startswith("#")]
    cleaned = tuple(name for name, _ in kept)
    if not cleaned:
        raise NamesError(f"There is no name in {source}: give a text file with one name per line.")
    digest = hashlib.sha256("\n".join(cleaned).encode("utf-8")).hexdigest()
    return NameList(cleaned, digest, source, tuple(row for _, row in kept) if any(row for _, row in kept) else ())


@functools.cache
def shipped_names() -> NameList:
    """The list that comes with the package.

    Raises:
        NamesError: If the installation lacks it.
    """
    try:
        data = resources.files("celeb_basis.names").joinpath(_SHIPPED).read_bytes()
    except OSError as error:
        raise NamesError("The shipped list of names is missing: install celeb-basis again.") from error
    return _parsed(data, "the shipped list")


@functools.cache
def near_synonyms() -> Mapping[int, int]:
    """How many near-synonyms a token has in Stable Diffusion 1.4's text encoder, by its id in CLIP's vocabulary.

    Near-synonyms are one-token words for which the encoder's output has a cosine of at least 0.85. Only tokens with a hundred
    and more of them are listed.

    Raises:
        NamesError: If the installation lacks the list.
    """
    try:
        lines = SYNONYMS_FILE.read_text("utf-8").split("\n")
    except OSError as error:
        raise NamesError("The list of near-synonyms is missing: install celeb-basis again.") from error
    rows = [line.split(" ") for line in lines if line and not line.startswith("# ")]
    return {int(row[0]): int(row[1]) for row in rows}


def read_names(path: Path) -> NameList:
    """Read a list of names: UTF-8 with or without byte order mark, one name per line.

    In a line with columns, the name is what comes before the first comma or tab; up to :data:`MAX_COLUMNS` further ones
    say what groups it belongs to. Blank lines and lines that start with ``#`` are skipped.

    Raises:
        NamesError: For a file that is missing, unreadable, no ordinary file, too large or not UTF-8 text, that contains control
            characters or lines longer than :data:`MAX_LINE` characters, or that has no name at all.
    """
    path = Path(path)
    try:
        data = read_bytes(path, MAX_BYTES)
    except FileError as error:
        raise NamesError(str(error)) from error
    return _parsed(data, str(path))


def _parsed(data: bytes, source: str) -> NameList:
    names: list[str] = []
    columns: list[tuple[str, ...]] = []
    values: dict[str, str] = {}  # each value once in memory
    for number, line in enumerate(_LINE_END.split(_decoded(data, source)), start=1):
        line = line.strip(_INVISIBLE)
        if not line or line.startswith("#"):
            continue
        if len(line) > MAX_LINE:
            raise NamesError(
                f"Line {number} of {source} has {len(line)} characters: "
                f"put one name on each line, at most {MAX_LINE} characters."
            )
        if control := _CONTROL.search(line):
            raise NamesError(
                f"Line {number} of {source} contains the control character U+{ord(control.group()):04X}: remove it."
            )
        name, *row = _COLUMN_END.split(line, maxsplit=MAX_COLUMNS + 1)
        names.append(name)
        further = map(_normalized, row[:MAX_COLUMNS])
        columns.append(tuple(values.setdefault(value, value) for value in further) if row else ())
    return name_list(names, source, columns)


def _decoded(data: bytes, source: str) -> str:
    if len(data) > MAX_BYTES:
        raise NamesError(f"{source} is larger than {MAX_BYTES >> 20} MB, too large for a list of names: shorten it.")
    if data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n") > MAX_LINES:
        raise NamesError(f"{source} has more than {MAX_LINES:,} lines, too many for a list of names: shorten it.")
    if data.startswith(_UTF16_MARKS):
        raise NamesError(f"{source} is encoded in UTF-16: save it as UTF-8.")
    if b"\0" in data:
        raise NamesError(f"{source} is a binary file: give a text file in UTF-8 with one name per line.")
    try:
        # A byte order mark is removed with the invisible characters around the first line.
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = len(re.findall(rb"\r\n|\r|\n", data[: error.start])) + 1
        raise NamesError(f"Line {line} of {source} is not UTF-8: save the file as UTF-8 text.") from error


def _normalized(name: str) -> str:
    """NFC, without the quotes of spreadsheets and invisible characters at the ends, one space between words."""
    bare = name.strip(_INVISIBLE)
    if len(bare) > 1 and bare[0] == bare[-1] == '"':
        bare = bare[1:-1].strip(_INVISIBLE)
    return unicodedata.normalize("NFC", " ".join(bare.split()))
