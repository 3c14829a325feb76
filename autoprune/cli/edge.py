"""The edge between commands and the shell: exceptions become one line on stderr and an exit code."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from autoprune.cli.answers import kept_alone
from autoprune.cli.quiet import DEBUG_VARIABLE, debugging
from autoprune.errors import AutopruneError, ConfigError, nearest, one_line

DONE, BUG, WRONG, STOPPED = 0, 1, 2, 130
#: Characters of an unforeseen message that fit a line which is read.
_LONGEST = 300
_LESS_MEMORY = (
    "Take fewer calibration images (--calibration-images), smaller batches where you train (--batch-size), or another "
    "device (--device); what was evaluated or trained before is kept."
)


def run(arguments: Sequence[str]) -> int:
    """Returns the exit code of a command line; everything that may go wrong has been said on stderr by then."""
    from autoprune.cli.app import app

    return guarded(lambda: _invoke(app, list(arguments) or ["--help"]))


def guarded(command: Callable[[], int]) -> int:
    """Returns what a command returns, or the exit code of what it raised."""
    try:
        with _terminated_as_by_ctrl_c():
            code = command()
            _hand_over()
            return code
    except KeyboardInterrupt as error:
        _say("stopped.", error)
        return STOPPED
    except BrokenPipeError:
        return _left_alone()
    except (AutopruneError, OSError) as error:
        _say("error: " + (_system_message(error) if isinstance(error, OSError) else str(error)), error)
        return WRONG
    except SystemExit as error:  # of a user's own data set or forward: autoprune itself returns its exit codes
        if isinstance(error.__context__, BrokenPipeError):  # click's way to say so, while it prints a help page
            return _left_alone()
        _say(f"error: Code that is not autoprune's ended the process ({one_line(error)}). Let it raise instead.", error)
        return WRONG
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of typer, whose class differs between its versions
            _say("error: " + _usage_message(error), error)
            return WRONG
        if _lacks_memory(error):
            _say(f"error: The memory did not suffice ({one_line(error)[:_LONGEST].rstrip('.')}). {_LESS_MEMORY}", error)
            return WRONG
        hint = "" if debugging() else f" Set {DEBUG_VARIABLE}=1 to see where."
        _say(f"internal error: {_shortened(error)}{hint}", error)
        return BUG


@contextmanager
def _terminated_as_by_ctrl_c() -> Iterator[None]:
    """Raises KeyboardInterrupt where SIGTERM comes, with which batch systems and containers end a process.

    A handler that is there already stays, and so does a signal that is ignored. Outside the main thread, which hears no
    signals, it does nothing.
    """

    def hear(*_: object) -> None:
        raise KeyboardInterrupt

    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _hand_over() -> None:
    """Writes out what was printed, so that a full disk and a reader who has left are heard of while all can be said.

    Raises:
        OSError: it cannot be written. It is dropped: Python would complain again when it ends.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError:
        _drop_output()
        raise


def _left_alone() -> int:
    """Returns the exit code after the reader of a pipe (`| head`) has left; Python would complain when it flushes."""
    _drop_output()
    return BUG


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _invoke(app: Any, arguments: list[str]) -> int:
    import typer

    _require_values(arguments)
    try:
        parsed = typer.main.get_command(app).main(args=arguments, prog_name="autoprune", standalone_mode=False)
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    if callable(parsed):
        with kept_alone() if "--json" in arguments else nullcontext():
            return int(parsed())
    return parsed if isinstance(parsed, int) else DONE  # a number after --help and --version


def _require_values(arguments: Sequence[str]) -> None:
    """Refuses empty arguments, as unset variables of a shell leave them: an empty path is the working directory."""
    for before, argument in zip(("autoprune", *arguments), arguments, strict=False):
        option, equals, value = argument.partition("=")
        if not argument.strip() or (option.startswith("--") and equals and not value.strip()):
            place = f"after {before}" if not argument.strip() else f"of {option}"
            raise ConfigError(f"The value {place} is empty. Is a variable of the shell not set?")


def _lacks_memory(error: Exception) -> bool:
    """Returns whether memory ran out; torch is not imported to find out: without it, nothing can have."""
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from autoprune.devices import is_out_of_memory

    return is_out_of_memory(error)


def _say(message: str, error: BaseException) -> None:
    if debugging():
        traceback.print_exception(error)
    # Notes carry what a command knows beyond the error itself: how to go on.
    text = " ".join(" ".join([message, *getattr(error, "__notes__", ())]).split())
    # Where stderr is a file on the disk that is full, the exit code still says what kind of error it was.
    with suppress(OSError):
        print(f"autoprune: {text}", file=sys.stderr, flush=True)


def _shortened(error: BaseException) -> str:
    """Returns an exception as its type and what its message begins with: torch's may list every kernel it has."""
    message = " ".join(str(error).split())
    cut = f"{message}." if len(message) <= _LONGEST else message[:_LONGEST].rpartition(" ")[0] + " ..."
    return f"{type(error).__name__}: {cut}"


def _system_message(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return f"{reason}: {error.filename!r}." if error.filename is not None else f"{reason}."


def _usage_message(error: Any) -> str:
    name = getattr(error, "option_name", None)
    context = getattr(error, "ctx", None)
    if name is not None and hasattr(error, "possibilities"):
        known = [flag for parameter in context.command.params for flag in parameter.opts] if context else []
        long_flags = [flag for flag in known if flag.startswith("--")]
        hint = _elsewhere(str(name), context) or nearest(str(name), long_flags)
        return f"Unknown option {str(name)!r}.{'' if hint.startswith(' Known') else hint} {_help_hint(context)}"
    message = str(error.format_message()).strip()
    command = re.match(r"No such command '(.*?)'", message)
    if command is not None and context is not None:
        # Both typer and click add a hint of their own, depending on their versions.
        message = f"Unknown command {command[1]!r}.{nearest(command[1], context.command.commands)}"
    return f"{message if message.endswith(('.', '?', '!')) else message + '.'} {_help_hint(context)}"


def _elsewhere(flag: str, context: Any) -> str:
    """Returns a sentence that names the commands which know an option, empty where none does."""
    commands = getattr(getattr(context, "parent", None), "command", None)
    owners = [
        f"`autoprune {name}`"
        for name, command in getattr(commands, "commands", {}).items()
        if any(flag in parameter.opts for parameter in command.params)
    ]
    return f" {' and '.join(owners[:2])} {'has' if len(owners) == 1 else 'have'} it." if owners else ""


def _help_hint(context: Any) -> str:
    return f"Try `{context.command_path if context else 'autoprune'} --help`."
