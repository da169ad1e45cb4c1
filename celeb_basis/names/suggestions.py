"""Names for invented people, which no celebrity of a list has."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from celeb_basis.errors import NamesError
from celeb_basis.names.filters import comparison_key

WOMEN = (
    *("Alma", "Anouk", "Asta", "Bria", "Calla", "Cleo", "Dalia", "Edda", "Elin", "Enid", "Esme", "Fleur", "Freya"),
    *("Greta", "Hedda", "Ilka", "Imani", "Inaya", "Ines", "Isla", "Jorun", "Juna", "Kaia", "Kiri", "Leona", "Liv"),
    *("Lotta", "Maren", "Mavi", "Mira", "Nadia", "Neve", "Noemi", "Oona", "Petra", "Priya", "Ragna", "Romy", "Runa"),
    *("Sanna", "Selma", "Signe", "Sunniva", "Tamsin", "Thea", "Tilda", "Vera", "Wren", "Yuna", "Zora"),
)
MEN = (
    *("Aarav", "Alaric", "Anton", "Arlo", "Bram", "Caspar", "Cato", "Dario", "Eamon", "Edvin", "Elio", "Emre", "Falk"),
    *("Finn", "Gael", "Goran", "Hakon", "Hugo", "Ivo", "Jannik", "Joren", "Juri", "Kaito", "Kasper", "Kofi", "Lasse"),
    *("Leif", "Lorcan", "Malik", "Matteo", "Milo", "Nils", "Odin", "Oskar", "Pavel", "Rafi", "Rasmus", "Rune", "Sami"),
    *("Severin", "Soren", "Tarek", "Teo", "Tomas", "Ulf", "Viggo", "Wim", "Yann", "Yusuf", "Zeno"),
)
_FIRST = (
    *("Bran", "Cal", "Dor", "El", "Fen", "Gar", "Hal", "Ing", "Jar", "Kel", "Lin", "Mor", "Nor", "Or", "Quin"),
    *("Ros", "Sel", "Tal", "Ul", "Vel", "Wes", "Yar", "Zel", "Ash", "Ber", "Cor", "Dun", "Ever", "Fal", "Hart"),
)
_MIDDLE = ("", "", "a", "e", "i", "o", "en", "er", "an")
_LAST = (
    *("brook", "dahl", "den", "feld", "gren", "holt", "lane", "lund", "mere", "mond", "nell", "quist", "rell"),
    *("rin", "sby", "stad", "thorn", "tova", "vale", "van", "ver", "wick", "worth", "yard", "zin"),
)

_TRIES = 10_000
_FRESH_TRIES = 200
"""After so many, first names of ``taken`` are used again."""


def suggested_name(
    seed: int, celebrities: Iterable[str], taken: Collection[str] = (), *, women: bool = True, men: bool = True
) -> str:
    """A first name and an invented last name; the same seed and lists give the same one.

    Args:
        seed: Chooses the name.
        celebrities: No name of theirs is suggested, nor a last name of theirs.
        taken: Names that are not suggested, in any case and spelling.
        women: Whether the first name may be a woman's.
        men: Whether it may be a man's.

    Raises:
        NamesError: All names are taken.
    """
    known = list(celebrities)
    last_names = {comparison_key(name.split()[-1]) for name in known if name.split()}
    unusable = {comparison_key(name) for name in (*known, *taken)}
    generator = np.random.default_rng([seed, 1606926])
    first_names = (WOMEN if women else ()) + (MEN if men or not women else ())
    used = {comparison_key(name.split()[0]) for name in taken if name.split()}
    for attempt in range(_TRIES):
        first, *parts = (str(generator.choice(some)) for some in (first_names, _FIRST, _MIDDLE, _LAST))
        last = "".join(parts)
        name = f"{first} {last}"
        if attempt < _FRESH_TRIES and comparison_key(first) in used:
            continue  # people of one sheet have different first names
        if comparison_key(last) not in last_names and comparison_key(name) not in unusable:
            return name
    raise NamesError("Every name that could be suggested is taken: give a name of your own.")
