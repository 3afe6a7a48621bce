"""The studies behind the defaults and the figures that README.md states.

    python experiments.py                  # lists the studies
    python experiments.py learning_rates   # runs one and writes results/learning_rates.json

Runs that are recorded already are skipped, so a study that was stopped goes on where it was.
"""

import json
import math
import os
import re
import subprocess
import sys
import time
from functools import partial

import torch

import train
from dataset import Augment, load_mnist
from model import cnn


def record(name, runs):
    """Run what is not yet in results/NAME.json; runs: {key: a function that returns a JSON value}."""
    path = f"results/{name}.json"
    os.makedirs("results", exist_ok=True)
    results = json.load(open(path)) if os.path.exists(path) else {}
    for key, run in runs.items():
        if key not in results:
            results[key] = run()
            print(key, results[key], flush=True)
            with open(path + ".tmp", "w") as file:
                file.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in results.items()) + "\n}\n")
            os.replace(path + ".tmp", path)


def train_cnn(data, optimizer, lr, seed, epochs, batch_size=128, augment=Augment(rotation=10, shift=1)):
    """The last report of a training of the CNN as train.py trains it; data: (training part, validation part)."""
    torch.manual_seed(seed)
    device = data[0].images.device
    model = cnn().to(device, memory_format=torch.channels_last)
    optimizer = train.make_optimizer(optimizer, model.parameters(), lr)
    total = epochs * math.ceil(len(data[0]) / batch_size)
    history = train.fit(model, *data, optimizer, train.make_schedule(optimizer, total), epochs,
                        batch_size=batch_size, seed=seed, autocast=train.has_bfloat16(device),
                        train_transform=lambda images, generator, step: augment(images, generator),
                        report_every=total, progress=False)
    last = history["reports"][-1]
    return {"validation_accuracy": round(last["test_accuracy"], 5), "train_accuracy": round(last["train_accuracy"], 5),
            "seconds": round(last["seconds"], 1)}


def recipe():
    """What train.py's defaults were chosen by: 5 epochs of the CNN with Adam, 5,000 validation images, two seeds."""
    data = train.hold_out(load_mnist()[0], 5000)
    return {f"lr {lr} batch {batch_size} {augment} seed {seed}":
            partial(train_cnn, data, "adam", lr, seed, 5, batch_size, augment)
            for lr, batch_size, augment in (
                (0.005, 128, Augment()), (0.005, 128, Augment(shift=1)), (0.005, 128, Augment(rotation=10, shift=1)),
                (0.01, 128, Augment(rotation=10, shift=1)),
                (0.003, 64, Augment(rotation=10, shift=1)), (0.005, 128, Augment(rotation=15, shift=2)))
            for seed in (0, 1)}


def learning_rates():
    """Learning rates a factor of three apart for every optimizer: 2 epochs of the CNN, 5,000 validation images."""
    data = train.hold_out(load_mnist()[0], 5000)
    return {f"{name} {lr}": partial(train_cnn, data, name, lr, 0, 2)
            for name, rates in {
                "sgd": (0.1, 0.3, 1), "momentum": (0.03, 0.1, 0.3), "nesterov": (0.03, 0.1, 0.3),
                "rmsprop": (0.001, 0.003, 0.01), "adagrad": (0.01, 0.03, 0.1), "adam": (0.0015, 0.005, 0.015),
                "adamw": (0.0015, 0.005, 0.015), "nadam": (0.0015, 0.005, 0.015)}.items()
            for lr in rates}


def seeds():
    """`python train.py` from start to end, seeds 0 to 4: test accuracy, seconds and MiB of the whole process."""
    return {f"seed {seed}": partial(whole_run, "train.py", "--seed", str(seed), "--save", f"runs/seed{seed}.pth")
            for seed in range(5)}


def bonus():
    """`python fashion_mnist.py` from random weights, start to end: test accuracy, seconds and MiB of the whole process."""
    return {" ".join(options) or "default":
            partial(whole_run, "fashion_mnist.py", "--weights", "none", *options, "--save", f"runs/bonus{''.join(options)}.pth")
            for options in ((), ("--image-size", "64"), ("--quick",))}


def whole_run(*command):
    """Run a script as a user does; what its record says, the wall-clock seconds and the peak memory in MiB."""
    os.makedirs("runs", exist_ok=True)
    code = ("import resource, subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]], check=True); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    start = time.perf_counter()
    with open("runs/output.txt", "w+") as output:  # for who wants to watch
        subprocess.run([sys.executable, "-c", code, *command], check=True, stdout=output)
        seconds = time.perf_counter() - start
        output.seek(0)
        lines = output.read()
    with open(re.search(r"history: (.+)$", lines, re.M)[1] + "/history.json") as file:
        record = json.load(file)
    last = record["reports"][-1]  # in the bonus its accuracies are those of a part of each set
    return {"test_accuracy": round(record.get("test_accuracy", last["test_accuracy"]), 5),
            "train_accuracy": round(last["train_accuracy"], 5),
            "seconds": round(seconds, 1), "mib": round(int(lines.split()[-1]) / 1024)}


STUDIES = {study.__name__: study for study in (recipe, learning_rates, seeds, bonus)}


def main():
    if len(sys.argv) != 2 or sys.argv[1] not in STUDIES:
        for name, study in STUDIES.items():
            print(f"{name:<18} {study.__doc__.splitlines()[0]}")
        sys.exit(2 if sys.argv[1:] else 0)
    record(sys.argv[1], STUDIES[sys.argv[1]]())


if __name__ == "__main__":
    main()
