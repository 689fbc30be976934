"""How every program ends: with a status that says what happened, and one line where it failed."""

import os
import select
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TypeAlias

from benchmarks.runtime.console import BAD_INPUT, NOT_WRITTEN, complain, remark
from benchmarks.runtime.preemption import INTERRUPTED, RESTART, Stopped, raise_from_now_on
from jaxprune.validation import InputError, shown

Main: TypeAlias = Callable[[Sequence[str]], int]
# Set to 1: what nobody foresaw is shown with its traceback.
TRACEBACK = "JAXPRUNE_TRACEBACK"
# Exit status where nobody reads standard output any more: 128 + SIGPIPE, as of shells.
UNREAD = 141
STDOUT = 1  # its file descriptor
LONGEST = 300  # characters of a message that somebody else wrote


def guarded(kept: str) -> Callable[[Main], Main]:
    """Makes a program end in a status, never in a traceback.

    2 for bad input and for what nobody foresaw, 74 for files that cannot be written, 75 after
    SIGTERM or SIGHUP, 130 after Ctrl-C, 141 in silence where the reader of a page of help has left
    (`--help | head`); else what the program returns.

    Args:
        kept: what is left of the work that was cut short, for the message.
    """

    def guard(main: Main) -> Main:
        @wraps(main)
        def run(argv: Sequence[str]) -> int:
            raise_from_now_on()
            try:
                return main(argv)
            except InputError as error:
                complain(error)
                return BAD_INPUT
            except Stopped:
                remark(f"stopped: {kept}")
                return RESTART
            except KeyboardInterrupt:
                remark(f"interrupted: {kept}")
                return INTERRUPTED
            except OSError as error:
                if isinstance(error, BrokenPipeError) and _nobody_reads():
                    return UNREAD
                _show_traceback()
                complain(f"{error}; {kept}")
                return NOT_WRITTEN
            except Exception as error:
                _show_traceback()
                complain(unforeseen(error))
                return BAD_INPUT

        return run

    return guard


def unforeseen(error: Exception) -> str:
    """Returns one line on an error that no input should be able to cause."""
    return (
        f"unforeseen {type(error).__name__}: {shown(error, LONGEST)} (a damaged file, or a mistake "
        f"in the program: {TRACEBACK}=1 shows where)"
    )


def _nobody_reads() -> bool:
    """Returns whether it is the reader of standard output who left; then what is left is dropped.

    A pipe to anything else, such as a store, may break too, and that is an error.
    """
    pipe = select.poll()
    pipe.register(STDOUT, 0)
    if not any(event & select.POLLERR for _, event in pipe.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    return True


def _show_traceback() -> None:
    if os.environ.get(TRACEBACK) == "1":
        traceback.print_exc()
