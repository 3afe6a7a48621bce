"""The folder of a training: settings, resuming, record.

    runs/2026-11-28-150733-123456/
        settings.json     the options in full, and the circumstances
        checkpoint.pt     what the training has come to; gone when it is finished
        history.json      the record of a finished training
"""

import argparse
import contextlib
import json
import os
import sys
from datetime import datetime
from pathlib import Path

try:
    import fcntl  # not on Windows
except ImportError:
    fcntl = None

from support import Diverged, UserError, files, processes

# Options that may differ when a run is resumed. They do not change what is trained; threads,
# device and precision change how it is rounded, and `open_folder` says so.
FREE = {"threads", "device", "precision", "data", "save", "report_every", "runs", "resume"}


def parse(parser):
    """(options, None), or with --resume (the options of that run, its folder).

    Raises UserError for an option that contradicts the run.
    """
    args = parser.parse_args()
    if args.resume is None:
        return args, None
    folder, begun = processes.from_first(lambda: find(args, parser.prog))
    # argparse sets a default only where there is no value: the run's settings stand
    args = parser.parse_args(namespace=argparse.Namespace(**begun["options"]))
    for name, value in begun["options"].items():
        given = json.loads(json.dumps(getattr(args, name)))
        if given != value and name not in FREE:
            option = "--" + name.replace("_", "-")
            raise UserError(f"--resume: {folder} was begun with {option} {value}, not {given}")
    return args, folder


def find(args, script):
    """(folder, settings) of the newest unfinished run of `script`, or of the run named."""
    folders = [Path(args.resume)] if args.resume else Path(args.runs).glob("*")
    finished = None
    for folder in sorted(folders, reverse=True):  # their names begin with the time
        try:
            settings = files.read_json(folder / "settings.json")
            if settings["script"] != script or not settings["options"]:
                continue
        except (OSError, ValueError, TypeError, KeyError):  # damaged, or no run's folder
            continue
        if (folder / "checkpoint.pt").exists():
            return folder, settings
        if (folder / "history.json").exists():
            finished = finished or folder
    if finished:
        print(f"{finished} has ended: there is nothing to resume")
        sys.exit(0)
    raise UserError(f"--resume: no run of {script} in {args.resume or args.runs} "
                    "has come to a checkpoint")


def open_folder(folder, args, script, now):
    """The folder of a new run; or `folder`, and a line on what is not as it was: `now`, the
    circumstances of today.
    """
    if folder:
        before = files.read_json(folder / "settings.json").get("circumstances", {})
        changed = [f"{name} is {value}, was {before.get(name)}"
                   for name, value in now.items() if value != before.get(name)]
        print("; ".join([f"going on with {folder}", *changed]))
        return folder
    try:
        os.makedirs(args.runs, exist_ok=True)
        folder = Path(args.runs, f"{datetime.now():%Y-%m-%d-%H%M%S-%f}")
        folder.mkdir()
        files.write_json({"script": script, "options": vars(args), "circumstances": now},
                         folder / "settings.json")
    except OSError as error:
        raise UserError(f"cannot make a folder in {args.runs}: {error.strerror}") from None
    return folder


@contextlib.contextmanager
def locked(folder):
    """Keep other processes off the run; raises UserError where one is at it, or has ended it."""
    if fcntl is None or not processes.FIRST:
        yield
        return
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder} is being trained by another process") from None
        if (folder / "history.json").exists() and not (folder / "checkpoint.pt").exists():
            (folder / "lock").unlink(missing_ok=True)
            raise UserError(f"{folder} has been ended by another process")
        yield


@contextlib.contextmanager
def saying_what_is_saved(folder):
    """Tell whatever exception ends the block, in `saved`, what of the training is on the disk."""
    try:
        yield
    except Diverged as error:
        if processes.FIRST:
            finish(folder, {"diverged": str(error)})
        raise
    except BaseException as stop:
        stop.saved = "there was no checkpoint yet, nothing was saved"
        if (folder / "history.json").exists():
            stop.saved = f"the training was finished, {folder} has its record"
        elif (folder / "checkpoint.pt").exists():
            stop.saved = f"its weights are in {folder / 'checkpoint.pt'}: go on with --resume"
        raise


def finish(folder, record):
    """Write the record of a finished training; its checkpoint, and what a kill left, can go."""
    files.write_json(record, folder / "history.json")
    for path in [folder / "checkpoint.pt", folder / "lock", *folder.glob("*.tmp")]:
        path.unlink(missing_ok=True)
