"""``delete``: a person with everything that was derived from them."""

from __future__ import annotations

import argparse

from celeb_basis.cli.options import Commands, UsageError, add_command, add_library
from celeb_basis.cli.progress import Console

_ABOUT = """\
Delete a person with everything that was derived from them: the identity, card pictures beside it, interrupted runs, and the
pictures, reports, exports and evaluations that this program wrote about them anywhere. Mixtures of the person go too. What
will be deleted is listed and asked for first. A file that was changed since stays, and is named. What other programs made
of an export, copies, and your photos are yours to delete.

examples:
  celeb-basis delete ada --dry-run
  celeb-basis delete ada
  celeb-basis delete ada --yes --keep-mixtures"""


def add_parser(commands: Commands) -> None:
    """Add ``delete`` to the commands."""
    parser = add_command(commands, "delete", "delete a person with everything derived", _ABOUT)
    parser.set_defaults(run=run)
    parser.add_argument("name", metavar="NAME", help="of the library")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be deleted")
    parser.add_argument("--keep-mixtures", action="store_true", help="keep people who were blended of this one")
    add_library(parser)


def run(arguments: argparse.Namespace, screen: Console) -> int:
    """Do it; answers the exit code."""
    from celeb_basis.cli.unfinished import unfinished_runs
    from celeb_basis.errors import IdentityError
    from celeb_basis.identities.deleting import delete_person, traces_of
    from celeb_basis.identities.library import Library

    library = Library(arguments.library)
    # Interrupted runs of this command line lie in the cache, those of the WebUI beside its library.
    unfinished = (unfinished_runs(), library.folder.absolute().parent / "unfinished")
    mixtures = not arguments.keep_mixtures
    traces = traces_of(library, arguments.name, unfinished, mixtures=mixtures)
    if not traces:
        known = ", ".join(library.names()[:20]) or "nobody yet"
        raise IdentityError(f"There is nothing of {traces.name!r} in {library.folder}: it holds {known}.")
    if arguments.dry_run:
        screen.result(traces.as_dict())
    if arguments.dry_run or not arguments.yes:
        tell = screen.say if arguments.dry_run else screen.note
        tell(traces.sentence())
        for path in (*traces.identities, *traces.beside, *traces.states, *(file.path for file in traces.files)):
            tell(f"  {path}")
    if arguments.dry_run:
        return 0
    if not arguments.yes and not _asked(screen, traces.name):
        screen.note("Nothing was deleted.")
        return 0
    deleted = delete_person(library, arguments.name, unfinished, mixtures=mixtures)
    screen.result(deleted.as_dict())
    screen.say(deleted.sentence())
    return 1 if deleted.left else 0


def _asked(screen: Console, name: str) -> bool:
    agreed = screen.confirm(f"Delete {name} and all of this for good?")
    if agreed is None:
        raise UsageError("Deleting is for good, and nobody is here to be asked: add --yes, or --dry-run to look first.")
    return agreed
