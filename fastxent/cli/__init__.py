"""The command line: one module per command, with its help text, options and `run`."""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import fastxent as fx
from fastxent.cli import interrupts

# Out of memory, or out of space for temporary files, which may be in memory.
_NO_ROOM = {errno.ENOMEM, errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
INTERRUPTED = 130  # exit status that a shell reports for Ctrl-C: 128 + SIGINT


class Command(Protocol):
    """Interface of a command's module."""

    SUMMARY: str  # one line, for the list of commands
    DESCRIPTION: str  # what the command does and how to read its output
    EXAMPLES: str  # example command lines

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""

    def run(self, args: argparse.Namespace) -> int:
        """Run the command and return 0; on failure return 1 or `sys.exit` with the reason."""


_DESCRIPTION = """\
Cross-entropy kernels: loss, gradient and softmax in one pass over the logits.

fastxent is a library; these commands show what it does on this machine.
"""

_EPILOG = """\
%(prog)s <command> --help explains a command and its output.

Results go to stdout, progress and errors to stderr. Progress and colours are
shown on terminals only; NO_COLOR disables colours. --json prints one JSON
object instead.

exit status: 0 success, 1 the command failed, 2 wrong usage, 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` by default, and return its exit status.

    --help, --version and wrong usage raise `SystemExit`, as in `argparse`.
    """
    try:
        with interrupts.redelivery():
            try:
                return _run(argv)
            finally:
                sys.stdout.flush()  # a broken pipe raises here, not at exit
    except KeyboardInterrupt:
        interrupts.clear_pending()
        # A terminal shows ^C at the cursor.
        print("\rinterrupted" if sys.stderr.isatty() else "interrupted", file=sys.stderr)
        return INTERRUPTED
    except MemoryError as error:
        print(f"fastxent: not enough memory: {str(error) or 'none is left'}", file=sys.stderr)
        return 1
    except OSError as error:
        if _is_broken_pipe(error):
            # The reader has closed the pipe; Python must not flush stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        if error.errno not in _NO_ROOM:
            raise
        print(f"fastxent: {error.strerror}", file=sys.stderr)
        return 1


def _is_broken_pipe(error: OSError) -> bool:
    """Whether the reader of stdout is gone; Windows reports this as an invalid argument."""
    if isinstance(error, BrokenPipeError):
        return True
    windows = sys.platform.startswith("win")
    return windows and error.errno == errno.EINVAL and error.filename is None


def _run(argv: Sequence[str] | None) -> int:
    commands = _commands()
    parser = _parser(commands)
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    return commands[args.command].run(args)


def _commands() -> dict[str, Command]:
    """The commands by name; a new command is a module of this package, listed here."""
    # Imported here, so that Ctrl-C is handled during the slow imports.
    from fastxent.cli import bench, demo, info, warmup

    return {"demo": demo, "bench": bench, "info": info, "warmup": warmup}


def _parser(commands: dict[str, Command]) -> argparse.ArgumentParser:
    run_as_module = Path(sys.argv[0]).name == "__main__.py"
    parser = argparse.ArgumentParser(
        prog="python -m fastxent" if run_as_module else "fastxent",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fastxent {fx.__version__}")
    choice = parser.add_subparsers(title="commands", dest="command", metavar="<command>")
    for name, command in commands.items():
        command.add_arguments(
            choice.add_parser(
                name,
                help=command.SUMMARY,
                description=command.DESCRIPTION,
                epilog=command.EXAMPLES,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    return parser
