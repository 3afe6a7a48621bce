"""The state of a training, and the checkpoint that keeps it."""

import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from support import Diverged, UserError, files, processes


def check_finite(what, *tensors):
    """Raise Diverged where a number is not finite."""
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise Diverged(f"{what} not finite: try a smaller learning rate (--lr); "
                       "no model was saved")


class Progress:
    """The state of a training; restored from the checkpoint at `path` where there is one.

    total: mini-batches in all; parts: model, optimizer and scheduler, by name.
    step: mini-batches done; losses: float [total]; reports: a list of dicts.
    Raises UserError for a file that is no checkpoint of these parts.
    """

    def __init__(self, total, device, path, **parts):
        self.path, self.parts, self.step, self.reports = path, parts, 0, []
        self.losses = torch.zeros(total, device=device)  # to read each would stall a GPU
        self.started = self.saved = time.perf_counter()
        exists = path is not None and Path(path).exists()
        state = processes.from_first(lambda: files.read(path, "checkpoint") if exists else None)
        if state is not None:
            self.restore(state)

    def restore(self, state):
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.losses.copy_(state["losses"])
            self.step, self.reports = state["step"], state["reports"]
            self.started -= state["seconds"]  # as if begun so much earlier
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{self.path}: a checkpoint of another training") from None

    def seconds(self):
        """Of training and measuring, without pauses between a stop and --resume."""
        return time.perf_counter() - self.started

    def add(self, loss):
        """Count a mini-batch and keep its loss; every 100 look whether they are finite."""
        self.losses[self.step] = processes.mean(loss.detach())
        self.step += 1
        if self.step % 100 == 0:
            check_finite("the loss is", self.losses)

    def report(self, epoch, train_accuracy, test_accuracy, learning_rate):
        """Keep, and return, what was measured, with the mean loss since the last report."""
        since = self.reports[-1]["batch"] if self.reports else 0
        self.reports.append({
            "epoch": epoch, "batch": self.step, "loss": self.losses[since:self.step].mean().item(),
            "train_accuracy": train_accuracy, "test_accuracy": test_accuracy,
            "learning_rate": learning_rate, "seconds": self.seconds()})
        return self.reports[-1]

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

    def history(self):
        """What `fit` returns, at the end."""
        # no loss was computed from the last weights
        check_finite("the weights are", *self.parts["model"].parameters())
        return {"reports": self.reports, "losses": self.losses.tolist()}

    def bar(self, quiet):
        """A progress bar for the first process, on a terminal: None has tqdm look."""
        return tqdm(total=len(self.losses), initial=self.step, leave=False,
                    disable=True if quiet or not processes.FIRST else None,
                    bar_format="{percentage:3.0f}% |{bar}| {elapsed} gone, {remaining} left")
