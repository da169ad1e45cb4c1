"""The parser of all commands, and what becomes of errors.

Exit codes: 0 all went well; 1 some people of several failed, or some files could not be deleted; 2 wrong usage or any error
that is the user's to mend; 70 an error in this program (EX_SOFTWARE of sysexits.h; ``-v`` shows where); 130 interrupted by
Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence

from celeb_basis import __version__
from celeb_basis.cli import basis, demo, evaluate, generate, learn, people, transfer
from celeb_basis.cli.common import CommandParser, UsageError, add_common
from celeb_basis.cli.progress import Console
from celeb_basis.errors import error_message, is_user_error

OK, SOME_FAILED, USER_ERROR, INTERNAL_ERROR, INTERRUPTED = 0, 1, 2, 70, 130

_EXAMPLES = """\
examples:
  celeb-basis demo
  celeb-basis learn ada.jpg --name ada --model /models/sd15.safetensors
  celeb-basis generate "an oil painting of <ada>" --identity ada --model /models/sd15.safetensors --output pictures
  celeb-basis export ada --layout webui --output /webui/embeddings

'celeb-basis COMMAND --help' tells more about each command.
exit codes: 0 done, 1 some people of several failed, 2 wrong usage or input, 70 an error in this program, 130 interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in ``argv`` (the process's own arguments by default); answers the exit code and never raises."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    screen = Console(json="--json" in arguments, verbose=False, quiet=False)
    try:
        parsed = build_parser().parse_args(arguments)
        screen = Console(json=parsed.json, verbose=parsed.verbose, quiet=parsed.quiet)
        with screen.active():
            return int(parsed.run(parsed, screen))
    except UsageError as error:
        screen.error(str(error))
        return USER_ERROR
    except KeyboardInterrupt:  # outside a run, or the second one in it
        screen.error("Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except SystemExit as finished:  # --help and --version
        return finished.code if isinstance(finished.code, int) else OK
    except Exception as error:
        if screen.verbose:
            traceback.print_exc()
        screen.error(error_message(error))
        return USER_ERROR if is_user_error(error) else INTERNAL_ERROR


def console() -> None:
    """The entry point ``celeb-basis``."""
    sys.exit(main())


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. Nothing heavy is imported for it."""
    parser = CommandParser(
        prog="celeb-basis",
        description="Learn a person from one photo as 1,024 numbers, and use them as a word in prompts.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"celeb-basis {__version__}")
    add_common(parser, defaults=True)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    for module in (demo, learn, generate, evaluate, basis, transfer, people):
        module.add_parser(commands)
    return parser
