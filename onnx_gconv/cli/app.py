"""Assembles the commands, and turns errors into one line on stderr and an exit code."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from onnx_gconv.cli.command_group import CommandGroup
from onnx_gconv.cli.commands.check import check
from onnx_gconv.cli.commands.config import config
from onnx_gconv.cli.commands.converters import converters
from onnx_gconv.cli.commands.demo import demo
from onnx_gconv.cli.commands.devices import devices
from onnx_gconv.cli.commands.explain import ExplainCommand, explain
from onnx_gconv.cli.commands.handoff import HandoffCommand, handoff
from onnx_gconv.cli.commands.inspect import inspect
from onnx_gconv.cli.commands.map import map_
from onnx_gconv.cli.commands.olive_config import olive_config
from onnx_gconv.cli.commands.presets import presets
from onnx_gconv.cli.commands.program import program
from onnx_gconv.cli.commands.readback import readback
from onnx_gconv.cli.commands.restore import restore
from onnx_gconv.cli.commands.simulate import simulate
from onnx_gconv.cli.commands.targets import targets
from onnx_gconv.cli.commands.verify import verify
from onnx_gconv.cli.mapping_flags import MappingFlagsCommand
from onnx_gconv.cli.options import debug_is_on
from onnx_gconv.cli.output import KeptJournalError, VisibleFormatter, tolerated_loss_of_reader
from onnx_gconv.errors import ConfigError, GconvError, VerificationError
from onnx_gconv.version import __version__
from onnx_gconv.visible_text import one_line, visible_lines

__all__ = ["app", "main"]

_EXIT_DOES_NOT_HOLD = 1
_EXIT_BAD_INPUT = 2
_EXIT_INTERRUPTED = 130
_EXIT_TERMINATED = 143

# The base class of typer's errors for wrong usage: ClickException, of click or, in newer versions, of typer's own copy
# of click, which typer does not export. It exports BadParameter, which derives from UsageError, and that from the base.
_UsageProblem: type[Exception] = typer.BadParameter.__mro__[2]

app: typer.Typer = typer.Typer(
    name="onnx-gconv",
    cls=CommandGroup,
    help="Map the weights of ONNX models to conductance pairs for analog in-memory computing, and prove that nothing "
    "changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 what was checked does not hold, 2 bad usage or bad input.",
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer's signature
    if wanted:
        typer.echo(f"onnx-gconv {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


app.command("map", cls=MappingFlagsCommand)(map_)
app.command("inspect", cls=MappingFlagsCommand)(inspect)
app.command("explain", cls=ExplainCommand)(explain)
app.command("verify")(verify)
app.command("check")(check)
app.command("restore")(restore)
app.command("handoff", cls=HandoffCommand)(handoff)
app.command("targets")(targets)
app.command("readback")(readback)
app.command("program")(program)
app.command("simulate", cls=MappingFlagsCommand)(simulate)
app.command("presets")(presets)
app.command("devices")(devices)
app.command("converters")(converters)
app.command("olive-config")(olive_config)
app.command("demo")(demo)
app.add_typer(config)


def main() -> int:
    """Run the command line and return its exit code.

    The code is 0 if all is done, 1 if a check does not hold, 2 for bad usage or bad input, and 130 after an interrupt.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the encoding may lack µ or the lines of tables
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:  # the handler of libraries' warnings without --debug
        logging.lastResort.setFormatter(VisibleFormatter())
    code = 0
    with _signals() as received:
        try:
            with tolerated_loss_of_reader():  # here for the help, which typer prints
                code = _run(received)
        except ConfigError as error:  # stdout cannot be written
            return _fail(str(error), _EXIT_BAD_INPUT)
        except (KeyboardInterrupt, typer.Abort):
            return _fail("interrupted; nothing was left behind", _EXIT_INTERRUPTED)
    return code


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Turn SIGINT and SIGTERM into exceptions, so that unfinished files are removed; ignore further signals.

    Yields:
        The number of the signal that was received, once there is one.
    """
    received: list[int] = []

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        for each in previous:
            signal.signal(each, _disregard)  # not SIG_IGN, with which Python reports a signal that is still pending
        raise _stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for each in previous:
        signal.signal(each, stop)
    try:
        yield received
    finally:
        was_stopped = signal.getsignal(signal.SIGINT) is not stop
        for each, handler in previous.items():
            # After a stop, signals are ignored to the end: one during the interpreter's shutdown would change the exit
            # code.
            signal.signal(each, signal.SIG_IGN if was_stopped else handler)


def _stopped(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(_EXIT_TERMINATED)


def _disregard(_number: int, _frame: object) -> None:
    """Ignore a further signal."""


def _run(received: Sequence[int]) -> int:
    try:
        result = _result(received)
    except _UsageProblem as error:
        return _fail(_usage_message(error), _EXIT_BAD_INPUT)
    except KeptJournalError as error:
        return _fail(str(error), _EXIT_INTERRUPTED)
    except VerificationError as error:
        return _fail(str(error), _EXIT_DOES_NOT_HOLD)
    except GconvError as error:
        _print_traceback()
        return _fail(str(error), _EXIT_BAD_INPUT)
    except (BrokenPipeError, KeyboardInterrupt, typer.Abort, SystemExit):
        raise
    except Exception as error:  # noqa: BLE001 - the last resort: a user should never have to read a traceback
        _print_traceback()
        kind = type(error).__name__
        return _fail(f"internal error, {kind}: {one_line(str(error))}; run again with --debug", _EXIT_BAD_INPUT)
    if result == _EXIT_INTERRUPTED:  # typer turns an interrupt into this exit code
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def _result(received: Sequence[int]) -> object:
    """Run a command.

    Args:
        received: The signal that stopped it, once there is one. Whatever error the command ends with then is due to the
            signal: a metric of the user, or a library that is being imported, may turn the exception into another one.
    """
    try:
        return typer.main.get_command(app).main(prog_name="onnx-gconv", standalone_mode=False)
    except KeptJournalError:
        raise
    except Exception:
        if received:
            raise _stopped(received[0]) from None
        raise


def _fail(message: str, code: int) -> int:
    if message:
        sys.stderr.write(f"onnx-gconv: {one_line(message)}\n")
    return code


def _print_traceback() -> None:
    if debug_is_on():
        sys.stderr.write(visible_lines(traceback.format_exc()))


def _usage_message(error: Exception) -> str:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    message = message.replace(": Value error, ", ": ")  # a prefix of typer's that says nothing
    if not message:  # without any argument, typer has printed the help already
        return ""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "onnx-gconv"
    return f"{one_line(message)} (see '{command} --help')"
