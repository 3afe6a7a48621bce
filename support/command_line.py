"""What the scripts' command lines share: options, and errors in one line."""

import argparse
import atexit
import contextlib
import itertools
import math
import os
import signal
import sys
import threading
import time

import torch

from support import UserError, is_out_of_memory, processes

# ------------------------------------------------------------------ options


class Parser(argparse.ArgumentParser):
    """argparse, with one line for a mistake where argparse prints the whole usage."""

    def error(self, message):
        raise UserError(message)


def number(kind, low, high=math.inf, above=False):
    """An option's type: an int or a float from `low` (or above it) to `high`."""
    name = "a whole number" if kind is int else "a number"
    limits = f"above {low}" if above else f"from {low}"
    if high < math.inf:
        limits += f" to {high}"

    def parse(text):
        try:
            value = kind(text)
            if low <= value <= high and value < math.inf and not (above and value == low):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"must be {name} {limits}, not {text!r}")
    return parse


def milestones(text):
    """An option's type: "none" for [], or "0.6,0.85" for [0.6, 0.85]."""
    if text == "none":
        return []
    try:
        values = [float(part) for part in text.split(",")]
        if all(a < b for a, b in itertools.pairwise([0, *values, 1])):
            return values
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(
        f"must be none or rising shares between 0 and 1, such as 0.6,0.85, not {text!r}")


def add_shared_options(parser, save, epochs, batch_size, flip=0.0, rotation=0.0, shift=0):
    """The options that do not depend on the network; the arguments are defaults."""
    def group(title):
        return parser.add_argument_group(title).add_argument

    add = group("training")
    add("--epochs", type=number(int, 1, 10_000), default=epochs, metavar="N",
        help="times that the whole training set is seen (default: %(default)s)")
    add("--batch-size", type=number(int, 1, 60_000), default=batch_size, metavar="N",
        help="images in a mini-batch (default: %(default)s)")
    add("--seed", type=number(int, 0, 2**31 - 1), default=0, metavar="N",
        help="of the first weights, the order of images, augmentation (default: %(default)s)")

    add = group("augmentation, drawn anew for every training image")
    add("--flip", type=number(float, 0, 1), default=flip, metavar="P",
        help="probability of a horizontal flip (default: %(default)s)")
    add("--rotation", type=number(float, 0, 180), default=rotation, metavar="DEGREES",
        help="rotate by up to so much either way (default: %(default)s)")
    add("--shift", type=number(int, 0, 16), default=shift, metavar="PIXELS",
        help="shift by up to so much in each direction (default: %(default)s)")

    add = group("measuring")
    add("--report-every", type=number(int, 1), default=1000, metavar="N",
        help="mini-batches between report lines (default: %(default)s)")
    add("--validation", type=number(int, 0), default=0, metavar="N",
        help="to choose settings: hold out N training images, always the same, and measure on "
             "them, not on the test set (default: %(default)s)")
    add("--train-images", type=number(int, 1), metavar="N",
        help="train on the first N images only (default: all)")
    add("--evaluate", metavar="FILE", help="measure a saved model, train nothing")

    add = group("machine and files")
    add("--device", default="auto", metavar="NAME",
        help="auto, cpu, cuda, cuda:1, mps, ... (default: auto, a GPU where there is one)")
    add("--precision", choices=("auto", "float32", "bfloat16"), default="auto",
        help="of forward passes (default: auto, bfloat16 where the processor gains by it)")
    add("--threads", type=number(int, 1, 1024), metavar="N",
        help="CPU threads (default: one a core)")
    add("--data", default="data", metavar="FOLDER",
        help="where the datasets are (default: %(default)s)")
    add("--save", default=save, metavar="FILE",
        help="where the model goes (default: %(default)s)")
    add("--runs", default="runs", metavar="FOLDER",
        help="where each run gets its folder (default: %(default)s)")
    add("--resume", nargs="?", const="", metavar="RUN",
        help="go on with the newest unfinished run, or with the folder named; its options stand")


# ------------------------------------------------------------------ errors in one line


class Stopped(KeyboardInterrupt):
    """Raised by Ctrl-C, and by SIGTERM, which a machine that is shut down sends."""


def script(main):
    """Run main(); what people and machines do to it ends in one line and an exit status."""
    with stoppable() as numbers, printable(), own_threads():
        try:
            with processes.joined():
                main()
        except BaseException as error:
            for number in numbers:  # another Ctrl-C would cut the line short, or the exit
                signal.signal(number, signal.SIG_IGN)
                atexit.register(signal.signal, number, signal.SIG_IGN)
            status, line = verdict(error)
            if status is None:
                raise
            if processes.LOCAL_RANK > 0 and isinstance(error, (UserError, Stopped)):
                time.sleep(3)  # the first of this machine says the same, and then all are ended
                line = None
            leave(status, line)


def verdict(error):
    """(exit status, the line to print) for what ended a script; (None, None) for a bug or exit."""
    saved = getattr(error, "saved", None)
    also = f"; {saved}" if saved else ""
    if isinstance(error, UserError):
        return error.status, f"error: {error}"
    if isinstance(error, Stopped):
        number, = error.args
        name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        return 128 + number, f"stopped by {name}{also}"
    if isinstance(error, BrokenPipeError):  # whoever read the output has gone
        return 1, None
    if isinstance(error, OSError):  # standard output to a full disk, say
        return 1, f"error: {error}{also}"
    if is_out_of_memory(error):
        return 1, f"error: out of memory; a smaller --batch-size may help{also}"
    if processes.TORCHRUN and any(word in str(error) for word in ("gloo", "Connection", "NCCL")):
        return 1, f"error: another process has ended: {str(error).splitlines()[0]}"
    return None, None


def leave(status, line):
    """Print the line, flush what was printed, and exit."""
    if line:
        print(f"{os.path.basename(sys.argv[0])}: {line}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # nowhere to go; the interpreter would try again, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except AttributeError:  # there is no standard output
        pass
    sys.exit(status)


@contextlib.contextmanager
def own_threads():
    """The number of threads that --threads sets is given back: a notebook goes on."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextlib.contextmanager
def stoppable():
    """Ctrl-C and SIGTERM raise Stopped inside; but not in a thread, which has no signals."""
    handlers = {}

    def stop(number, _):
        raise Stopped(number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # as for a job in the background
                handlers[number] = signal.signal(number, stop)
    try:
        yield handlers
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextlib.contextmanager
def printable():
    """Print by the line, with what cannot be shown escaped, and from the first process only."""
    if not processes.FIRST:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
        return
    output, before = sys.stdout, {}
    if hasattr(output, "reconfigure"):  # a notebook's has not
        before = {"line_buffering": output.line_buffering, "errors": output.errors}
        output.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        yield
    finally:
        if before:
            output.reconfigure(**before)
