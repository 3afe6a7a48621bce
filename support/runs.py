"""The folder of a training: settings, checkpoint, resuming, record.

    runs/2026-11-28-150733-123456/
        settings.json     the options in full, and the circumstances
        checkpoint.pt     what the training has come to; gone when it is finished
        history.json      the record of a finished training
"""

import argparse
import contextlib
import json
import sys
import time
from datetime import datetime
from pathlib import Path

import torch

from support import Diverged, UserError, files, processes

# Options that may differ when a run is resumed: they do not change what it computes.
FREE = {"threads", "data", "save", "report_every", "runs", "resume", "evaluate"}


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
    mine = []
    for folder in sorted(folders, reverse=True):  # their names begin with the time
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # a damaged one
            settings = files.read_json(folder / "settings.json")
            if settings["script"] == script and settings["options"] and settings["circumstances"]:
                mine.append((folder, settings))
    if not mine:
        raise UserError(f"--resume: there is no run of {script} in {args.resume or args.runs}")
    for folder, settings in mine:
        if not (folder / "history.json").exists():
            return folder, settings
    print(f"{mine[0][0]} is finished: there is nothing to resume")
    sys.exit(0)


def open_folder(folder, args, script, now):
    """The folder of a new run; or `folder`, and a line on what is not as it was: `now`, the
    circumstances of today.
    """
    if folder:
        before = files.read_json(folder / "settings.json")["circumstances"]
        changed = [f"{name} is {value}, was {before.get(name)}"
                   for name, value in now.items() if value != before.get(name)]
        print("; ".join([f"going on with {folder}", *changed]))
        return folder
    folder = Path(args.runs) / datetime.now().strftime("%Y-%m-%d-%H%M%S-%f")
    try:
        folder.mkdir(parents=True)
        files.write_json({"script": script, "options": vars(args), "circumstances": now},
                         folder / "settings.json")
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from None
    return folder


class Progress:
    """What a training has come to; it begins where the checkpoint at `path` stopped, if any.

    total: mini-batches in all; parts: model, optimizer and scheduler, by name.
    step: mini-batches done; losses: float [total]; reports: a list of dicts.
    Raises UserError for a file that is no checkpoint of these parts.
    """

    def __init__(self, total, device, path, **parts):
        self.path, self.parts, self.step, self.reports = path, parts, 0, []
        self.losses = torch.zeros(total, device=device)  # there: to read each would stall a GPU
        self.started = self.saved = time.perf_counter()
        exists = path is not None and Path(path).exists()
        state = processes.from_first(lambda: files.read(path, "checkpoint") if exists else None)
        if state:
            self.restore(state)

    def restore(self, state):
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.losses.copy_(state["losses"])
            self.step, self.reports = state["step"], state["reports"]
            self.started -= state["seconds"]
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{self.path}: no checkpoint of this network and optimizer") from None

    def seconds(self):
        """Of training, over all stops."""
        return time.perf_counter() - self.started

    def add(self, loss):
        """Count a mini-batch and keep its loss. Raises Diverged, at the latest after 100."""
        self.losses[self.step] = processes.mean(loss.detach())
        self.step += 1
        if self.step % 100 == 0 and not self.losses.isfinite().all():
            raise Diverged("the loss is not finite: try a smaller learning rate (--lr); "
                           "no model was saved")

    def report(self, **measured):
        """Keep what was measured, with the mean loss since the last report."""
        since = self.reports[-1]["batch"] if self.reports else 0
        loss = self.losses[since:self.step].mean().item()
        self.reports.append({"batch": self.step, "loss": loss, "seconds": self.seconds(),
                             **measured})

    def save(self, now=False):
        """Write the checkpoint: now, or when the last one is two minutes old."""
        due = now or time.perf_counter() - self.saved > 120
        if self.path is None or not due or not processes.FIRST:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        try:
            files.save({**state, "losses": self.losses, "step": self.step,
                        "reports": self.reports, "seconds": self.seconds()}, self.path)
        except OSError as error:  # full for a moment, say: no reason to lose hours
            print(f"cannot write {self.path}, going on: {error.strerror}", file=sys.stderr)
        self.saved = time.perf_counter()


@contextlib.contextmanager
def saying_what_is_saved(folder):
    """Whatever ends what is inside carries a sentence on what is saved."""
    try:
        yield
    except Diverged as error:
        if processes.FIRST:
            finish(folder, {"diverged": str(error)})
        raise
    except BaseException as stop:
        if (folder / "history.json").exists():
            stop.saved = f"the training was finished, {folder} has its record"
        elif (folder / "checkpoint.pt").exists():
            stop.saved = f"{folder} has its checkpoint: go on with --resume"
        raise


def finish(folder, record):
    """Write the record of a finished training; its checkpoint, and what a kill left, can go."""
    files.write_json(record, folder / "history.json")
    for path in [folder / "checkpoint.pt", *folder.glob("*.tmp")]:
        path.unlink(missing_ok=True)
