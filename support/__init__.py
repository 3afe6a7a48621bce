"""The plumbing: what makes the scripts robust, and what nobody needs to follow the lesson.

    sources.py       the data's files: where they lie, how they are checked
    downloads.py     where they are fetched from
    files.py         files that are whole or not there; reading model files
    runs.py          the folder of a training: settings, resuming, record
    progress.py      what a training has come to, and its checkpoint
    processes.py     torchrun: what several processes share
    machine.py       its device, precision and memory
    command_line.py  options, and errors in one line
    figures.py       the pictures

The scripts import it before torch, for a start in half the time.
"""

import atexit
import gc
import os
import sys

if "torch" not in sys.modules:
    # Threads that wait for each other sleep. They would spin, and where another program has a
    # core too, in the way of the very thread that they wait for.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # What imports make is no garbage: look through it less often than after every 700 objects,
    # and not at exit.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)


class UserError(Exception):
    """What a person can mend: one line that says what is wrong and what is allowed."""

    status = 2  # what the script then exits with


class DataError(UserError):
    """The data cannot be had: what was tried, why it failed, what to do by hand."""


class Diverged(UserError):
    """The loss or a weight is no longer finite."""

    status = 1


def is_out_of_memory(error):
    """Whether that is what Python or PyTorch say of memory that is out."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)
