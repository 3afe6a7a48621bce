"""Kill trainings at random moments and resume them: do they end as if never killed?

    python tests/kills.py    # some ten minutes; results/kills.json, for the appendix

As if never killed: the same bytes of the model file, and the same loss and accuracies at every
step.
"""

import itertools
import json
import math
import multiprocessing
import os
import random
import runpy
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import fashion_mnist  # noqa: F401, for the forks, which need not import torch again
from support import UserError, files

FORK = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
KILLED = {"train.py --epochs 2 --train-images 1600 --batch-size 16 --validation 100 "
          "--report-every 20": 50,
          "fashion_mnist.py --epochs 2 --train-images 256 --batch-size 16 --validation 50 "
          "--report-every 4 --weights none --image-size 40": 20}


def killed(count, command):
    """Kill trainings of a command at random moments (SIGKILL), every second time waiting until a
    file is half written, and resume them, until there were `count` kills.

    Returns the kills, how many left a half-written file, the trainings that were killed, and how
    many of these ended with the model file and the history, its times apart, of one that was not.
    """
    chance = random.Random(0)
    result = {"kills": 0, "while_writing": 0, "trainings": 0, "as_never_killed": 0}
    with tempfile.TemporaryDirectory() as root:
        start = time.perf_counter()
        whole, _ = train_until(math.inf, False, Path(root, "whole"), command)
        duration = time.perf_counter() - start
        for number in itertools.count():
            if result["kills"] == count:
                return result
            before, outcome, folder = result["kills"], None, Path(root, str(number))
            while not outcome:
                wait = result["kills"] % 2 == 1
                moment = chance.uniform(0, duration) if result["kills"] < count else math.inf
                outcome, unfinished = train_until(moment, wait, folder, command)
                result["kills"] += not outcome
                result["while_writing"] += unfinished and not outcome
            if result["kills"] > before:
                result["trainings"] += 1
                result["as_never_killed"] += outcome == whole


def train_until(moment, wait, folder, command):
    """Train in `folder`, or go on there, and kill that after `moment` seconds; with `wait` not
    before one more unfinished file is there. Returns (outcome or None, whether one is there).
    """
    def unfinished():
        return len(list(folder.glob("runs/*/*.tmp")))

    folder.mkdir(exist_ok=True)
    script, *options = f"{command} --device cpu --threads 1 --save model.pth".split()
    options += ["--data", os.path.abspath("data")]
    if [*folder.glob("runs/*/checkpoint.pt"), *folder.glob("runs/*/history.json")]:
        options = ["--resume"]
    start, before = time.perf_counter(), unfinished()
    process = FORK.Process(target=become, args=(os.path.abspath(script), options, folder))
    process.start()
    try:
        while process.is_alive():
            late = time.perf_counter() - start > moment
            if late and (not wait or unfinished() > before):
                process.kill()
            time.sleep(0.0002)
    finally:
        process.kill()  # who stops the study stops its training
        process.join()
    if process.exitcode == -9:
        return None, unfinished() > before
    if process.exitcode:
        raise UserError(f"{command} ended with status {process.exitcode}")
    history = files.read_json(*folder.glob("runs/*/history.json"))
    reports = [report | {"seconds": None} for report in history["reports"]]
    return (Path(folder, "model.pth").read_bytes(), history["losses"], reports), False


def become(script, options, folder):
    """What a fork of this process, which has imported torch already, does: run a script."""
    os.chdir(folder)
    sys.argv = [script, *options]
    sys.stdout = open(os.devnull, "w")
    runpy.run_path(script, run_name="__main__")


def main():
    os.chdir(ROOT)
    found = {}
    for command, count in KILLED.items():
        found[command.split()[0]] = killed(count, command)
        print(command.split()[0], found[command.split()[0]], flush=True)
    files.write(f"{json.dumps(found, indent=1)}\n".encode(), "results/kills.json")


if __name__ == "__main__":
    main()
