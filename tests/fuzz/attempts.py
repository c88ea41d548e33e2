"""One damaged input: what its reader makes of it, and whether that is right."""

from __future__ import annotations

import re
import resource
import signal
import sys
import traceback
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from onnx_gconv import GconvError
from tests.fuzz.place import Place
from tests.fuzz.readings import NotJudgedError, WrongError
from tests.fuzz.targets import TARGETS

__all__ = ["LONGEST_SECONDS", "LONGEST_WAIT", "Outcome", "attempt", "peak_bytes"]

LONGEST_SECONDS = 5.0
"""An input that keeps the processor busy for longer counts as one that hangs; other programs do not count."""

LONGEST_WAIT = 60.0
"""In seconds, for one that waits."""

_LONGEST_MESSAGE = 2100
_SHOWN_FRAMES = 4
_OWN_FILES = re.compile(r"[/\\](onnx_gconv|passes)[/\\]")


@dataclass(frozen=True)
class Outcome:
    """What became of an input.

    Attributes:
        kind: Whether it was taken, taken but not judged, or refused; or that the reader failed.
        detail: What it says, or what is wrong.
        place: The kind of a fault, by which equal ones are told together.
    """

    kind: Literal["accepted", "unjudged", "refused", "fault"]
    detail: str = ""
    place: str = ""


class _TooLongError(BaseException):
    """An input takes too long."""


def attempt(name: str, seed: int, number: int, place: Place) -> Outcome:
    """Let a reader read the damaged input of a number.

    Args:
        name: The reader.
        seed: The seed of the run.
        number: The number of the input; equal numbers give equal inputs.
        place: Where files are written.
    """
    random = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
    place.clear()
    for number_of_signal in (signal.SIGPROF, signal.SIGALRM):
        if signal.getsignal(number_of_signal) is not _too_long:
            signal.signal(number_of_signal, _too_long)
    signal.setitimer(signal.ITIMER_PROF, LONGEST_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_WAIT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            TARGETS[name].check(random, place)
        outcome = Outcome("accepted")
    except NotJudgedError as error:
        outcome = Outcome("unjudged", str(error))
    except GconvError as error:
        outcome = _refused(error, place)
    except WrongError as error:
        outcome = Outcome("fault", str(error), f"wrong: {' '.join(str(error).split()[:4])}")
    except _TooLongError as error:
        outcome = _fault(error)
    except Exception as error:  # noqa: BLE001 - what this is all about
        outcome = _fault(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    if outcome.kind != "fault" and (changed := place.changed()):
        return Outcome("fault", f"the inputs {changed} were changed", "inputs changed")
    return outcome


def _too_long(number: int, _frame: object) -> None:
    limit = LONGEST_SECONDS if number == signal.SIGPROF else LONGEST_WAIT
    raise _TooLongError(f"more than {limit:g} s")


def _refused(error: GconvError, place: Place) -> Outcome:
    message = str(error)
    if left := place.leftovers():
        return Outcome("fault", f"{left} were left behind: {message}", "leftovers")
    if "\n" in message or not message or len(message) > _LONGEST_MESSAGE:
        return Outcome("fault", f"not one line of bounded length: {message[:300]!r}", f"message: {_where(error)}")
    return Outcome("refused", message)


def _fault(error: BaseException) -> Outcome:
    """A fault, with where in the project it was raised."""
    text = "".join(traceback.format_exception_only(error)).strip()[:400]
    return Outcome("fault", f"{text} at {_where(error, _SHOWN_FRAMES)}", f"{type(error).__name__} at {_where(error)}")


def _where(error: BaseException, frames: int = 1) -> str:
    trace = traceback.extract_tb(error.__traceback__)
    own = [item for item in trace if _OWN_FILES.search(item.filename)]
    shown = (own or trace)[: -frames - 1 : -1]
    return " < ".join(f"{Path(item.filename).name}:{item.lineno} {item.name}" for item in shown)


def peak_bytes() -> int:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
