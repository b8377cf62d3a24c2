"""The `folkmoot` command.

Guarantees: an error that we know is one line on standard error, `error: what: what to do`, and the exit code of its
family; a usage error is 2; a full disk is 6, whoever meets it; Ctrl-C is 130; an error that nobody foresaw is 70, one line
too, and its trace is shown with `--debug`. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from .. import __version__
from ..disk import DiskFullError, is_full
from ..errors import FolkmootError
from ..logs import DEBUG_VARIABLE
from . import ask, audit, chat, coordinator, demo, log, model, node, status
from .terminal import emit, error_line, say

INTERRUPTED = 130
UNFORESEEN = 70
"""EX_SOFTWARE of sysexits.h."""

app = typer.Typer(
    name="folkmoot",
    help="Volunteers' machines together run open Mixture-of-Experts language models.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo", short_help="Run a whole network on this machine and ask it.")(demo.demo)
app.add_typer(model.app, name="model")
app.add_typer(coordinator.app, name="coordinator")
app.add_typer(node.app, name="node")
app.add_typer(audit.app, name="audit")
app.add_typer(log.app, name="log")
app.command("ask")(ask.ask)
app.command("chat")(chat.chat)
app.command("status")(status.status)


def _show_version(wanted: bool) -> None:
    if wanted:
        emit(f"folkmoot {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Log more, and show the trace of an error.")] = False,
) -> None:
    """Volunteers' machines together run open Mixture-of-Experts language models."""
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"
    if context.invoked_subcommand is None:
        emit(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    try:
        result = app(args=arguments, prog_name="folkmoot", standalone_mode=False)
    except FolkmootError as error:
        _trace_if_wanted()
        say(error_line(error))
        return error.exit_code
    except typer.BadParameter as error:
        return _usage(error)
    except typer.TyperException as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except OSError as error:
        if not is_full(error):
            return _unforeseen(error)
        _trace_if_wanted()
        where = f" for {error.filename}" if error.filename else ""
        say(f"error: {error.strerror}{where}: free some, or use another disk")
        return DiskFullError.exit_code
    except Exception as error:  # noqa: BLE001 - the last resort: whatever it is, the user gets one line
        return _unforeseen(error)
    return result if isinstance(result, int) else 0


def main() -> None:
    """The console script."""
    open_closed_streams()
    # Read when torch is loaded: OpenMP's threads would else go on spinning after each piece of work, on cores that other
    # processes of the same machine need.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run())


def open_closed_streams() -> None:
    """Gives standard streams that were closed before the start to nobody.

    Their numbers would otherwise be given to files that are opened later, a key's for example, and what libraries print
    would land in those.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - for as long as we live


def _usage(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "folkmoot"
    message = " ".join(error.format_message().split()).rstrip(".")
    say(f"error: {message}: see `{command} --help`")
    return error.exit_code


def _unforeseen(error: Exception) -> int:
    _trace_if_wanted()
    advice = "run it again as `folkmoot --debug ...` for the trace"
    say(f"error: unexpected {type(error).__name__}: {' '.join(str(error).split())}: {advice}")
    return UNFORESEEN


def _trace_if_wanted() -> None:
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exc()


if __name__ == "__main__":
    main()
