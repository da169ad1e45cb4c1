"""The program ``celeb-basis``: the parser of all commands, and how errors become messages and exit codes.

Exit codes: 0, everything went well; 1, some of several people failed, or some files could not be deleted; 2, wrong usage
or an error that the user can fix; 70, an error in this program (``EX_SOFTWARE`` of sysexits.h; ``-v`` shows the
traceback); 130, interrupted by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence

from celeb_basis import __version__
from celeb_basis.cli import basis, demo, evaluate, generate, invent, learn, people, runs, transfer
from celeb_basis.cli.arguments import with_flags
from celeb_basis.cli.common import CommandParser, UsageError, add_output_options
from celeb_basis.cli.progress import Console
from celeb_basis.errors import error_message, is_user_error, printable

OK, SOME_FAILED, USER_ERROR, INTERNAL_ERROR, INTERRUPTED = 0, 1, 2, 70, 130

_EXAMPLES = """\
examples:
  celeb-basis demo
  celeb-basis invent --model /models/sd15.safetensors --output sheets
  celeb-basis learn ada.jpg --name ada --model /models/sd15.safetensors
  celeb-basis generate "an oil painting of <ada>" --model /models/sd15.safetensors --output pictures
  celeb-basis export ada --layout webui --output /webui/embeddings

'celeb-basis COMMAND --help' shows a command's options.
exit codes: 0 done, 1 some of several people failed, 2 wrong usage or input, 70 an error in this program, 130 interrupted"""


def console() -> None:
    """Run the command line of this process and exit."""
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The command and its options; those of this process by default.

    Returns:
        The exit code. Errors are shown, not raised.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    screen = Console(json="--json" in words, verbose=False, quiet=False)
    try:
        arguments = build_parser().parse_args(words)
        screen = Console(json=arguments.json, verbose=arguments.verbose, quiet=arguments.quiet)
        with screen.active():
            return int(arguments.run(arguments, screen))
    except UsageError as error:
        screen.error(str(error))
        return USER_ERROR
    except KeyboardInterrupt:  # outside a training run, or the second one during it
        screen.error("Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as head, has read enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except SystemExit as finished:  # --help and --version
        return finished.code if isinstance(finished.code, int) else OK
    except Exception as error:
        if screen.verbose:
            screen.err.write(printable(traceback.format_exc()))
        screen.error(with_flags(error_message(error)))
        return USER_ERROR if is_user_error(error) else INTERNAL_ERROR


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands. A command imports what it works with when it runs, not before."""
    parser = CommandParser(
        prog="celeb-basis",
        description="Learn a person from one photo as 1,024 coefficients, and use them in prompts as a placeholder token.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"celeb-basis {__version__}")
    add_output_options(parser, defaults=True)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    for module in (demo, invent, learn, runs, generate, evaluate, basis, transfer, people):
        module.add_parser(commands)
    return parser
