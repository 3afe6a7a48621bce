"""The plumbing: what makes the scripts robust, and what nobody needs to follow the lesson.

    sources.py       the data's files: where they lie, how they are checked
    downloads.py     where they are fetched from, and ImageNet weights
    files.py         files that are whole or not there; reading model files
    runs.py          the folder of a training: settings, resuming, record
    progress.py      what a training has come to, and its checkpoint
    processes.py     torchrun: what several processes share
    convolution.py   faster gradients on a CPU
    machine.py       device, precision and memory of this machine
    command_line.py  options, and errors in one line
    figures.py       the pictures of a training, and of predict.py
    display.py       imshow: whatever people call an image, with a window or without
    pictures.py      people's pictures: reading them, finding the strokes that are digits
    drawing.py       a window to draw digits in

The scripts import it before torch, for the settings at its end.
"""

import atexit
import contextlib
import gc
import os
import sys
import time


class UserError(Exception):
    """What a person can mend: one line that says what is wrong and what is allowed."""

    status = 2  # what the script then exits with


class DataError(UserError):
    """The data cannot be had: what was tried, why it failed, what to do by hand."""


class Diverged(UserError):
    """The loss or a weight is no longer finite."""

    status = 1


def is_out_of_memory(error):
    """Whether `error` means that memory ran out."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


# ------------------------------------------------------------------ a quick start, quick threads


def others_run():
    """Whether something else ran at each of five looks; of the whole machine. Only Linux says."""
    for _ in range(5):
        with open("/proc/loadavg") as file:  # such as "0.52 1.29 1.91 2/206 4711": 2 of 206 run
            if file.read().split()[3].startswith(("0/", "1/")):  # this one
                return False
        time.sleep(0.005)
    return True


if "torch" not in sys.modules:
    # Threads that wait for each other spin, which is quickest; but where another program runs,
    # they spin in the way of the very thread that they wait for. There they are to sleep.
    with contextlib.suppress(OSError):
        if others_run():
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # What imports make is no garbage: Python looks through it less often, and not at exit.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
