"""The studies that report.md rests on, and the defaults of the scripts.

    python experiments.py                      # lists the studies
    python experiments.py optimizers           # runs one, writes results/optimizers.json
    python experiments.py optimizers --quick   # its first and last run on a few images, into runs/quick/
    python experiments.py report               # redraws figures/ and the tables of report.md from results/

Runs that are recorded already are skipped, so a study that was stopped goes on where it was. What a study
measures on held-out training images ("validation") chose settings; the test set chose nothing.
"""

import functools
import hashlib
import json
import math
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from functools import partial

import matplotlib
import torch
import torchvision
from matplotlib.figure import Figure
from torch import nn

import fashion_mnist
import train
from dataset import Augment, load_fashion_mnist, load_mnist, preprocess_for
from model import MODELS, cnn, layer_table, resnet18

QUICK = False                           # --quick: 200 images of each set, one epoch
RECIPE = Augment(rotation=10, shift=1)  # how train.py augments MNIST

# Six learning rates, a factor of about three apart, round what each optimizer likes.
SWEEP = {
    "sgd": (0.01, 0.03, 0.1, 0.3, 1, 3),
    "momentum": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "nesterov": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "rmsprop": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03),
    "adagrad": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "adam": (0.00015, 0.0005, 0.0015, 0.005, 0.015, 0.05),
    "adamw": (0.00015, 0.0005, 0.0015, 0.005, 0.015, 0.05),
    "nadam": (0.00015, 0.0005, 0.0015, 0.005, 0.015, 0.05),
}
BATCH_SIZES = (16, 32, 64, 128, 256, 512)
COMPARED = ("sgd", "momentum", "rmsprop", "adam", "adamw")


# ------------------------------------------------------------------ one training


@functools.lru_cache(maxsize=2)
def splits(dataset, channels, size, validation=0):
    """(trainset, testset), or with `validation` (training part, so many held-out training images)."""
    data = train.DATASETS[dataset]("data", preprocess_for(channels, size))
    data = train.hold_out(data[0], validation) if validation else data
    return [part.subset(slice(200)) for part in data] if QUICK else data


def measured(model, data, history, transform=None, autocast=False):
    """What a study records of a training: accuracies over the whole sets, seconds."""
    right = [round(train.accuracy(model, part, transform, autocast=autocast), 5) for part in data]
    return {"accuracy": right[1], "train_accuracy": right[0], "seconds": round(history["reports"][-1]["seconds"], 2)}


def training(dataset, network, seed, epochs, optimizer, lr, *, batch_size=128, milestones=(0.6, 0.85),
             augment=RECIPE, validation=0, curve=None, images=5000, precision="auto", scale=None):
    """Train the CNN or LeNet-5 as train.py does; returns the record.

    curve: mini-batches between measurements on the first `images` images of each set (None: all);
    they are recorded as [train accuracy, accuracy] each. scale: what is done to the pixels in [0, 1].
    """
    build, channels, size = MODELS[network]
    data = splits(dataset, channels, size, validation)
    epochs = 1 if QUICK else epochs
    torch.manual_seed(seed)
    model = build().to(memory_format=torch.channels_last)
    optimizer = train.make_optimizer(optimizer, model.parameters(), lr)
    total = epochs * math.ceil(len(data[0]) / batch_size)
    autocast = train.pick_autocast(precision, torch.device("cpu"))

    def augmented(pixels, generator, step):
        pixels = augment(pixels, generator)
        return scale(pixels) if scale else pixels

    history = train.fit(model, *data, optimizer, train.make_schedule(optimizer, total, milestones), epochs,
                        batch_size=batch_size, seed=seed, autocast=autocast, train_transform=augmented,
                        test_transform=scale, report_every=curve or total, report_images=images if curve else 1,
                        progress=False)
    points = [[round(report[key], 5) for key in ("train_accuracy", "test_accuracy")] for report in history["reports"]]
    return {**measured(model, data, history, scale, autocast), **({"curve": points} if curve else {})}


def train_resnet18(size, images, seed, epochs, augment=Augment(), batch_size=64):
    """Train ResNet18 on the first `images` images of Fashion-MNIST as fashion_mnist.py does, but at one size and in
    mini-batches of 64; returns the record, with the test accuracy of each class.
    """
    data = splits("fashion-mnist", 1, 28)
    data = [data[0].subset(slice(images)), data[1]]
    torch.manual_seed(seed)
    model = resnet18().to(memory_format=torch.channels_last)
    epochs = 1 if QUICK else epochs
    sizes = [size] * (epochs * math.ceil(len(data[0]) / batch_size))
    network_input = fashion_mnist.Input(augment, sizes)
    optimizer = fashion_mnist.make_optimizer(model)
    autocast = train.has_bfloat16(torch.device("cpu"))
    history = train.fit(model, *data, optimizer, fashion_mnist.make_schedule(optimizer, sizes), epochs,
                        batch_size=batch_size, seed=seed, train_transform=network_input.train, test_transform=network_input.test,
                        loss_fn=nn.CrossEntropyLoss(label_smoothing=0.1), autocast=autocast,
                        report_every=len(sizes), report_images=1, progress=False)
    logits = train.predict(model, data[1], network_input.test, autocast=autocast)
    confusion, by_class = fashion_mnist.class_accuracy(logits.argmax(1), data[1])
    right = train.accuracy(model, data[0], network_input.test, autocast=autocast)
    return {"accuracy": round(confusion.diag().sum().item() / len(data[1]), 5), "train_accuracy": round(right, 5),
            "by_class": [round(value, 4) for value in by_class.tolist()],
            "seconds": round(history["reports"][-1]["seconds"], 2)}


# ------------------------------------------------------------------ studies of the assignment


def recipe():
    """What train.py's defaults were chosen by: 5 epochs of the CNN with Adam, 5,000 validation images, two seeds."""
    return {f"lr {lr} batch {batch_size} {augment} seed {seed}":
            partial(training, "mnist", "cnn", seed, 5, "adam", lr, batch_size=batch_size, augment=augment, validation=5000)
            for lr, batch_size, augment in (
                (0.005, 128, Augment()), (0.005, 128, Augment(shift=1)), (0.005, 128, RECIPE), (0.01, 128, RECIPE),
                (0.003, 64, RECIPE), (0.005, 128, Augment(rotation=15, shift=2)))
            for seed in (0, 1)}


def sweep():
    """Six learning rates for each optimizer: 2 epochs of the CNN, 5,000 validation images, two seeds."""
    return {f"{name} {lr} seed {seed}": partial(training, "mnist", "cnn", seed, 2, name, lr, validation=5000)
            for name, rates in SWEEP.items() for lr in rates for seed in (0, 1)}


def best_rates():
    """{optimizer: the learning rate with the highest mean validation accuracy in results/sweep.json}."""
    runs = results("sweep")
    return {name: max(rates, key=lambda lr: sum(runs[f"{name} {lr} seed {seed}"]["accuracy"] for seed in (0, 1)))
            for name, rates in SWEEP.items()}


def optimizers():
    """Five optimizers at the best learning rate of `sweep`: 5 epochs of the CNN, test set, ten seeds."""
    rates = best_rates()
    return {f"{name} seed {seed}": partial(training, "mnist", "cnn", seed, 5, name, rates[name], curve=50)
            for seed in range(10) for name in COMPARED}


def schedules():
    """A constant learning rate instead of MultiStepLR, otherwise as in `optimizers`: Adam, ten seeds."""
    lr = best_rates()["adam"]
    return {f"adam constant seed {seed}": partial(training, "mnist", "cnn", seed, 5, "adam", lr, milestones=(), curve=50)
            for seed in range(10)}


def batch_lr(size):
    """The learning rate that `batch_sizes` gives Adam for mini-batches of so many images."""
    return float(f"{0.005 * (size / 128) ** 0.5:.3g}")


def batch_sizes():
    """Mini-batches of 16 to 512 images, Adam with 0.005 times the square root of size/128: 5 epochs, three seeds."""
    return {f"batch {size} seed {seed}": partial(training, "mnist", "cnn", seed, 5, "adam", batch_lr(size),
                                                 batch_size=size)
            for size in reversed(BATCH_SIZES) for seed in range(3)}


def seeds():
    """`python train.py` from start to end, seeds 0 to 4: test accuracy, seconds and MiB of the whole process."""
    return {f"seed {seed}": partial(whole_run, "train.py", "--seed", str(seed), "--save", f"runs/seed{seed}.pth")
            for seed in range(5)}


# ------------------------------------------------------------------ studies of the tutorial


def centred(pixels):
    """Pixels in [-1, 1], as the PyTorch tutorial has them from which the hand-out descends."""
    return pixels * 2 - 1


def tutorial():
    """LeNet-5 on CIFAR10 with the hand-out's settings, pixels in [0, 1] as it prints or in [-1, 1], after each of
    six epochs (it prints two; the learning rate is constant, so each is a training of so many epochs): five seeds.
    """
    return {f"{name} seed {seed}": partial(training, "cifar10", "lenet5", seed, 6, "momentum", 0.001, batch_size=4,
                                           milestones=(), augment=Augment(), curve=12500, images=None,
                                           precision="float32", scale=scale)
            for seed in range(5) for name, scale in (("as printed", None), ("centred", centred))}


def lenet5_further():
    """How far LeNet-5's 62,006 parameters go on CIFAR10 with this bundle's tools: three seeds, one of the longest."""
    flips = Augment(flip=0.5, shift=2)
    return {f"{name} seed {seed}": partial(training, "cifar10", "lenet5", seed, epochs, "adamw", 0.003,
                                           augment=augment, scale=centred)
            for name, epochs, augment, count in (("10 epochs", 10, Augment(), 3), ("10 epochs, flips and shifts", 10, flips, 3),
                                                 ("30 epochs, flips and shifts", 30, flips, 3),
                                                 ("100 epochs, flips and shifts", 100, flips, 1))
            for seed in range(count)}


# ------------------------------------------------------------------ studies of the bonus

ROTATIONS = (0, 10, 20, 45, 90, 180)
IMAGES = (800, 4000, 24_000)  # seen so often that each makes as many mini-batches


def augmentation():
    """Horizontal flips (off, on) by rotations: ResNet18 at 32x32 on 4,000 images, 6 epochs, three seeds."""
    return {f"flip {flip} rotation {rotation} seed {seed}":
            partial(train_resnet18, 32, 4000, seed, 6, Augment(flip, rotation))
            for seed in range(3) for flip in (0, 0.5) for rotation in ROTATIONS}


def augmentation_and_images():
    """The same on 800 images 30 times and on 24,000 once: as many mini-batches as in `augmentation`, three seeds."""
    return {f"{images} images flip {flip} rotation {rotation} seed {seed}":
            partial(train_resnet18, 32, images, seed, 24_000 // images, Augment(flip, rotation))
            for seed in range(3) for images in (IMAGES[0], IMAGES[2]) for flip, rotation in ((0, 0), (0.5, 0), (0, 20))}


def image_sizes():
    """ResNet18 at 32x32, 64x64, 112x112 and 224x224 on 2,000 images, 6 epochs: three seeds, fewer of the large ones."""
    return {f"{size}x{size} seed {seed}": partial(train_resnet18, size, 2000, seed, 6)
            for size, count in ((32, 3), (64, 3), (112, 1), (224, 1)) for seed in range(count)}


def bonus():
    """`python fashion_mnist.py` from random weights, start to end: test accuracy, seconds and MiB of the whole process."""
    return {" ".join(options) or "default":
            partial(whole_run, "fashion_mnist.py", "--weights", "none", *options, "--save", f"runs/bonus{''.join(options)}.pth")
            for options in ((), ("--epochs", "6"), ("--quick",), ("--image-size", "64"))}


def shipped():
    """What the two models in this folder make of the test sets: confusion matrix, most confident mistakes."""
    return {"model.pth": partial(examine, "model.pth", cnn(), load_mnist, 28),
            "fashion_mnist.pth": partial(examine, "fashion_mnist.pth", resnet18(), load_fashion_mnist, 224)}


def examine(path, model, load, size):
    train.load_weights(model, path)
    testset = load()[1].subset(slice(200 if QUICK else None))
    transform = fashion_mnist.Input(Augment(), [size]).test if size == 224 else None
    autocast = train.has_bfloat16(torch.device("cpu"))
    logits = train.predict(model.to(memory_format=torch.channels_last), testset, transform, autocast=autocast)
    confusion, by_class = fashion_mnist.class_accuracy(logits.argmax(1), testset)
    mistakes = fashion_mnist.confident_mistakes(logits.softmax(1), testset, 24)
    return {"accuracy": confusion.diag().sum().item() / len(testset), "by_class": by_class.tolist(),
            "confusion": confusion.tolist(), "mistakes": mistakes}


# ------------------------------------------------------------------ studies of whole processes


def whole_run(*command):
    """Run a script as a user does; what its record says, the wall-clock seconds, the peak memory in MiB, its output."""
    os.makedirs("runs", exist_ok=True)
    code = ("import resource, subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]], check=True); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    short = ["--train-images", "640", "--validation", "200"] if QUICK else []
    short += ["--epochs", "1"] if QUICK and "--quick" not in command else []
    start = time.perf_counter()
    with open("runs/output.txt", "w+") as output:  # for who wants to watch
        subprocess.run([sys.executable, "-c", code, *command, *short], check=True, stdout=output)
        seconds = time.perf_counter() - start
        output.seek(0)
        *lines, memory = output.read().splitlines()
    with open(re.search(r"history: (.+)$", "\n".join(lines), re.M)[1] + "/history.json") as file:
        record = json.load(file)
    last = record["reports"][-1]  # in the bonus its accuracies are those of a part of each set
    return {"test_accuracy": round(record.get("test_accuracy", last["test_accuracy"]), 5),
            "train_accuracy": round(last["train_accuracy"], 5),
            "seconds": round(seconds, 1), "mib": round(int(memory) / 1024), "output": lines,
            "reports": [[r["batch"], round(r["loss"], 4), r["train_accuracy"], r["test_accuracy"]] for r in record["reports"]]}


def outputs():
    """What the programs print, for the report."""
    os.makedirs("runs", exist_ok=True)
    tests = ("tests/test_model.py",) if QUICK else ("tests/test_model.py", "tests/test_tutorial.py")
    return {f"python {' '.join(command)}": partial(output_of, *command)
            for command in (("model.py",), ("train.py", "--save", "runs/model.pth"), ("train.py", "--evaluate", "model.pth"),
                            ("fashion_mnist.py", "--evaluate", "fashion_mnist.pth"), ("-m", "pytest", "-q", *tests))}


def output_of(*command):
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise train.UserError(f"{' '.join(command)} ended with status {done.returncode}: {done.stdout[-300:]}")
    return {"output": done.stdout.splitlines()}


def kills():
    """Trainings that are killed at random moments and resumed: how many end as if they had never been killed."""
    small = {"train.py": ("--train-images", "12800", "--validation", "500", "--epochs", "2", "--report-every", "10"),
             "fashion_mnist.py": ("--weights", "none", "--image-size", "40", "--train-images", "1280", "--batch-size", "64",
                                  "--validation", "200", "--epochs", "2", "--report-every", "4")}
    return {script: partial(killed_trainings, 2 if QUICK else count, script, *small[script])
            for script, count in (("train.py", 50), ("fashion_mnist.py", 20))}


def killed_trainings(count, *command):
    """Kill trainings with SIGKILL at random moments after the first checkpoint's, every second time when a file is next
    being written, and resume them, until `count` kills; how many of them left an unfinished file lying there, how many trainings that took, and how many of them ended with the very bytes of the model file, and the
    history but for its times, of the training that nobody killed.
    """
    chance = random.Random(0)
    command = [sys.executable, os.path.abspath(command[0]), *command[1:], "--data", os.path.abspath("data"),
               "--threads", "1", "--save", "model.pth"]
    with tempfile.TemporaryDirectory() as root:
        whole = os.path.join(root, "whole")
        begun, duration = killable_training(command, whole, None, False)
        result = {"kills": 0, "while_writing": 0, "trainings": 0, "as_never_killed": 0}
        while result["kills"] < count:
            folder = os.path.join(root, f"training{result['trainings']}")
            finished = False
            while not finished:
                moment = begun + chance.random() * (duration - begun) if result["kills"] < count else None
                writing = result["kills"] % 2 == 1
                finished = killable_training(command, folder, moment, writing)
                if not finished:
                    result["kills"] += 1
                    result["while_writing"] += any(name.endswith(".tmp") for _, _, names in os.walk(folder) for name in names)
            result["trainings"] += 1
            result["as_never_killed"] += outcome(folder) == outcome(whole)
    return result


def killable_training(command, folder, moment, writing):
    """Train in `folder`, going on where there is a checkpoint, and kill `moment` seconds after the start, or with
    `writing` when a file is next being written.

    Returns False where it was killed, else (seconds to the first checkpoint, seconds in all).
    """
    os.makedirs(folder, exist_ok=True)
    resume = ["--resume"] if written(folder, "checkpoint.pt") or written(folder, "history.json") else []
    start, first = time.perf_counter(), None
    process = subprocess.Popen([*command, *resume], cwd=folder, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        now = time.perf_counter() - start
        if first is None and written(folder, "checkpoint.pt"):
            first = now
        if moment and now > moment and (not writing or any(name.endswith(".tmp") for run in runs_in(folder)
                                                           for name in os.listdir(run))):
            process.kill()
        time.sleep(0.0002)
    if process.returncode not in (0, -9):
        raise RuntimeError(f"{command} ended with status {process.returncode}")
    return process.returncode == 0 and (first, time.perf_counter() - start)


def runs_in(folder):
    runs = os.path.join(folder, "runs")
    return [os.path.join(runs, name) for name in os.listdir(runs)] if os.path.exists(runs) else []


def written(folder, name):
    return [path for run in runs_in(folder) if os.path.exists(path := os.path.join(run, name))]


def outcome(folder):
    """(SHA-256 of the model file, the history without its times) of a finished training in `folder`."""
    with open(os.path.join(folder, "model.pth"), "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    [path] = written(folder, "history.json")
    with open(path) as file:
        history = json.load(file)
    return digest, history["losses"], [{**report, "seconds": None} for report in history["reports"]]


# ------------------------------------------------------------------ the report

BLUE, ORANGE, GREEN, PINK, SKY, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#666666"  # Okabe and Ito's
STYLE = {"font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
         "lines.linewidth": 1.4, "lines.markersize": 4, "legend.frameon": False, "savefig.dpi": 110}
LOOKS = {"sgd": (GREY, "o-"), "momentum": (BLUE, "s-"), "rmsprop": (GREEN, "^-"), "adam": (ORANGE, "D-"), "adamw": (PINK, "v--"),
         "nesterov": (SKY, "x--"), "adagrad": ("black", "+:"), "nadam": ("#E69F00", "1-.")}
T975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # Student's t by degrees of freedom
COLLAPSED = 0.5  # a training that ends below this accuracy has learned nothing; means are over the others


def results(name):
    with open(f"results/{name}.json") as file:
        return json.load(file)


def over_seeds(runs, key, field="accuracy"):
    """The values of a field in the runs called "KEY seed N", in the order of the seeds."""
    seeds = sorted(int(name.removeprefix(f"{key} seed ")) for name in runs if name.startswith(f"{key} seed "))
    return [runs[f"{key} seed {seed}"][field] for seed in seeds]


def learned(runs, key, field="accuracy"):
    """`over_seeds` without the trainings that collapsed."""
    return [value for value, accuracy in zip(over_seeds(runs, key, field), over_seeds(runs, key)) if accuracy > COLLAPSED]


def interval(values):
    """(mean, half the width of its 95 % confidence interval by Student's t; 0 for a single value)."""
    n, mean = len(values), sum(values) / len(values)
    if n == 1:
        return mean, 0.0
    return mean, T975[n - 1] * (sum((v - mean) ** 2 for v in values) / (n - 1) / n) ** 0.5


def percent(values):
    mean, half = interval(values)
    return f"{100 * mean:.2f} ± {100 * half:.2f}" if half else f"{100 * mean:.2f}"


def difference(values, others):
    """[the paired difference of two lists, seed by seed where both learned, in percentage points; the number of pairs;
    whether it can be told from 0].
    """
    pairs = [a - b for a, b in zip(values, others, strict=True) if min(a, b) > COLLAPSED]
    mean, half = interval(pairs)
    return [f"{100 * mean:+.2f} ± {100 * half:.2f}", len(pairs), "yes" if abs(mean) > half else "no"]


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def first_batch(curve, accuracy, every=50):
    """Mini-batches until a curve first has this accuracy, None where it never has."""
    return next(((i + 1) * every for i, (_, test) in enumerate(curve) if test >= accuracy), None)


def batches_to(curves, accuracy):
    reached = [batch for curve in curves if (batch := first_batch(curve, accuracy))]
    if not reached:
        return "never"
    return f"{sum(reached) / len(reached):,.0f}" + (f" ({len(reached)} of {len(curves)} runs)" if len(reached) < len(curves) else "")


def tables():
    """{marker in report.md: Markdown}."""
    made = {"layers": table(
        ["", "layer", "input", "output", "trainable parameters"],
        [[row["number"] or "", row["layer"], row["input"], row["output"], row["formula"]]
         for row in layer_table(cnn(), (1, 28, 28), 16)] + [["", "total", "", "", f"{sum(p.numel() for p in cnn().parameters()):,}"]])}

    runs = results("recipe")
    made["recipe"] = table(["recipe", "validation accuracy, seeds 0 and 1 (%)"],
                           [[key, " and ".join(f"{100 * v:.2f}" for v in over_seeds(runs, key))]
                            for key in dict.fromkeys(name.split(" seed ")[0] for name in runs)])

    runs = results("seeds")
    made["seeds"] = table(["seed", "test accuracy (%)", "train accuracy (%)", "whole process (s)", "peak memory (MiB)"],
                          [[key[5:], f"{100 * r['test_accuracy']:.2f}", f"{100 * r['train_accuracy']:.2f}", r["seconds"], r["mib"]]
                           for key, r in runs.items()]
                          + [["mean", percent([r["test_accuracy"] for r in runs.values()]), "", "", ""]])

    runs, swept, rates = results("optimizers"), results("sweep"), best_rates()
    made["optimizers"] = table(
        ["optimizer", "learning rate", "collapsed", "test accuracy (%)", "mini-batches to 95 %", "to 99 %", "training (s)"],
        [[name, rates[name], f"{10 - len(learned(runs, name))} of 10", percent(learned(runs, name)),
          *(batches_to(learned(runs, name, "curve"), accuracy) for accuracy in (0.95, 0.99)),
          f"{2.5 * sum(over_seeds(swept, f'{name} {rates[name]}', 'seconds')) / 2:.0f}"] for name in COMPARED])
    pairs = [(a, b) for i, a in enumerate(COMPARED) for b in COMPARED[i + 1:]]
    made["optimizer-differences"] = table(
        ["", "difference (points)", "pairs", "told from 0"],
        [[f"{a} - {b}", *difference(over_seeds(runs, a), over_seeds(runs, b))] for a, b in pairs])
    made["sweep"] = table(
        ["optimizer", *(f"{n}." for n in ("1", "2", "3", "4", "5", "6"))],
        [[name, *(f"{lr}: {100 * sum(over_seeds(swept, f'{name} {lr}')) / 2:.2f}" for lr in lrs)] for name, lrs in SWEEP.items()])

    constant = results("schedules")
    made["schedules"] = table(
        ["optimizer", "MultiStepLR (%)", "constant (%)", "collapsed", "difference (points)", "pairs", "told from 0"],
        [[name, percent(learned(runs, name)), percent(learned(constant, f"{name} constant")),
          f"{10 - len(learned(runs, name))} and {10 - len(learned(constant, f'{name} constant'))} of 10",
          *difference(over_seeds(runs, name), over_seeds(constant, f"{name} constant"))] for name in ("adam",)])

    runs = results("batch_sizes")
    made["batch_sizes"] = table(
        ["batch size", "learning rate", "test accuracy (%)", "training (s)"],
        [[size, batch_lr(size), percent(over_seeds(runs, f"batch {size}")),
          f"{interval(over_seeds(runs, f'batch {size}', 'seconds'))[0]:.0f}"] for size in BATCH_SIZES])

    runs = results("tutorial")
    made["tutorial"] = table(
        ["epochs", "as printed: train (%)", "test (%)", "pixels in [-1, 1]: train (%)", "test (%)"],
        [[epoch + 1, *(percent([curve[epoch][which] for curve in over_seeds(runs, name, "curve")])
                       for name in ("as printed", "centred") for which in (0, 1))] for epoch in range(6)])

    runs = results("lenet5_further")
    made["lenet5"] = table(
        ["training", "train accuracy (%)", "test accuracy (%)", "training (s)"],
        [[name, percent(over_seeds(runs, name, "train_accuracy")), percent(over_seeds(runs, name)),
          f"{interval(over_seeds(runs, name, 'seconds'))[0]:.0f}"]
         for name in dict.fromkeys(key.split(" seed ")[0] for key in runs)])

    runs = results("bonus")
    made["bonus"] = table(
        ["command", "tested at", "test accuracy (%)", "whole process (s)", "peak memory (MiB)"],
        [[f"`python fashion_mnist.py{'' if key == 'default' else ' ' + key}`", "64x64" if key in ("--quick", "--image-size 64") else "224x224",
          f"{100 * r['test_accuracy']:.2f}", f"{r['seconds']:,.0f}", f"{r['mib']:,}"] for key, r in runs.items()])
    models = results("shipped")
    made["classes"] = table(["", *load_fashion_mnist()[1].classes],
                            [["test accuracy (%)", *(f"{100 * v:.1f}" for v in models["fashion_mnist.pth"]["by_class"])]])

    runs = results("augmentation")
    made["augmentation"] = table(
        ["rotation up to (degrees)", *(f"flip {flip}: {which} (%)" for flip in (0, 0.5) for which in ("train", "test"))],
        [[rotation, *(percent(over_seeds(runs, f"flip {flip} rotation {rotation}", field))
                      for flip in (0, 0.5) for field in ("train_accuracy", "accuracy"))] for rotation in ROTATIONS])
    plain = over_seeds(runs, "flip 0 rotation 0")
    made["augmentation-differences"] = table(
        ["", "difference from no augmentation (points)", "pairs", "told from 0"],
        [[f"flip {flip}, rotation {rotation}", *difference(over_seeds(runs, f"flip {flip} rotation {rotation}"), plain)]
         for flip in (0, 0.5) for rotation in ROTATIONS if flip or rotation])
    more = results("augmentation_and_images") | {f"4000 images {key}": run for key, run in runs.items()}
    made["augmentation-images"] = table(
        ["", *(f"{n:,} images, {24_000 // n} times (%)" for n in IMAGES)],
        [[name, *(percent(over_seeds(more, f"{n} images {key}")) for n in IMAGES)] for name, key in MORE.items()])

    runs = results("image_sizes")
    made["image_sizes"] = table(
        ["image size", "runs", "test accuracy (%)", "train accuracy (%)", "training (s)"],
        [[size, len(over_seeds(runs, size)), percent(over_seeds(runs, size)), percent(over_seeds(runs, size, "train_accuracy")),
          f"{interval(over_seeds(runs, size, 'seconds'))[0]:.0f}"] for size in dict.fromkeys(key.split(" seed ")[0] for key in runs)])

    made["kills"] = table(["script", "kills", "after which an unfinished file lay there", "trainings", "ended as if never killed"],
                          [[f"`{script}`", *list(r.values())[:4]] for script, r in results("kills").items()])
    studies = [name for name in STUDIES if os.path.exists(f"results/{name}.json")]
    made["machines"] = table(["study", "runs", "machine"],
                             [[f"`{name}`", len(runs), "; ".join(dict.fromkeys(r.get("machine", "not recorded") for r in runs.values()))]
                              for name, runs in ((name, results(name)) for name in studies)])
    for name, text in printed().items():
        made[f"output-{name}"] = f"![what `{text[0]}` prints](figures/output_{name}.png)\n\n" + "\n".join(["```", "$ " + text[0], *text[1:], "```"])
    return made


MORE = {"none": "flip 0 rotation 0", "flip": "flip 0.5 rotation 0", "rotation by up to 20 degrees": "flip 0 rotation 20"}


def printed():
    """{name: the lines of a terminal: the command and what it printed, without the lines' ends in spaces}."""
    outputs = results("outputs")
    names = ("model", "train", "evaluate", "fashion_evaluate", "tests")  # in the order of the study
    screens = {name: [command, *run["output"]] for name, (command, run) in zip(names, outputs.items(), strict=True)}
    screens["fashion"] = ["python fashion_mnist.py --weights none --epochs 6", *results("bonus")["--epochs 6"]["output"]]
    return {name: [line.rstrip() for line in lines] for name, lines in screens.items()}


def figures(folder):
    """Draw every figure of the report into `folder`."""
    def finish(figure, name):
        figure.savefig(os.path.join(folder, name + ".png"))

    def new(columns=1, height=3.2):
        figure = Figure(figsize=(8, height), layout="constrained")
        return figure, figure.subplots(1, columns)

    swept = results("sweep")
    figure, axis = new()
    for name, rates in SWEEP.items():
        colour, look = LOOKS[name]
        axis.semilogx(rates, [100 * sum(over_seeds(swept, f"{name} {lr}")) / 2 for lr in rates], look, color=colour, label=name)
    axis.set(xlabel="learning rate", ylabel="validation accuracy (%), mean of 2 seeds", ylim=(88, 99.5))
    axis.legend(ncols=4, loc="lower center")
    finish(figure, "sweep")

    runs, constant = results("optimizers"), results("schedules")
    figure, (left, right) = new(2)
    for name in COMPARED:
        colour, look = LOOKS[name]
        curves = torch.tensor(learned(runs, name, "curve"))[:, :, 1].mean(0)
        left.semilogy(range(50, 50 * len(curves) + 1, 50), (100 * (1 - curves)).numpy(), look[1:], color=colour, label=name)
    left.set(xlabel="mini-batches of 128 images", ylabel="test error (%), mean of the seeds", yticks=(1, 2, 5, 10, 20, 50))
    left.set_yticklabels((1, 2, 5, 10, 20, 50))
    left.legend()
    for place, name in enumerate(COMPARED):
        values = [100 * v for v in learned(runs, name)]
        mean, half = interval(values)
        right.plot([place + 0.15] * len(values), values, ".", color=LOOKS[name][0], alpha=0.4)
        right.errorbar(place - 0.1, mean, half, fmt="o", color=LOOKS[name][0], capsize=4)
    right.set(xticks=range(len(COMPARED)), xticklabels=COMPARED, ylabel="test accuracy (%)",
              title="dots: seeds that learned; bars: 95 % interval of their mean")
    finish(figure, "optimizers")

    figure, axis = new()
    for label, source, colour, look in (("Adam, MultiStepLR", learned(runs, "adam", "curve"), BLUE, "-"),
                                        ("Adam, constant", learned(constant, "adam constant", "curve"), ORANGE, "--")):
        curves = 100 * (1 - torch.tensor(source)[:, :, 1])
        x = range(50, 50 * curves.shape[1] + 1, 50)
        axis.semilogy(x, curves.mean(0).numpy(), look, color=colour, label=label)
        axis.fill_between(x, curves.amin(0).numpy(), curves.amax(0).numpy(), color=colour, alpha=0.15, linewidth=0)
    axis.set(xlabel="mini-batches of 128 images", ylabel="test error (%)", ylim=(0.5, 20), yticks=(0.5, 1, 2, 5, 10, 20),
             title="line: mean of the seeds that learned; band: all of them")
    axis.set_yticklabels((0.5, 1, 2, 5, 10, 20))
    axis.legend()
    finish(figure, "schedules")

    runs, sizes = results("batch_sizes"), BATCH_SIZES
    figure, (left, right) = new(2)
    for axis, field, scale, label in ((left, "accuracy", 100, "test accuracy (%)"), (right, "seconds", 1, "training (s)")):
        means = [interval([scale * v for v in over_seeds(runs, f"batch {size}", field)]) for size in sizes]
        axis.errorbar(sizes, *zip(*means), fmt="o-", color=BLUE, capsize=4)
        axis.set(xscale="log", xticks=sizes, xticklabels=sizes, xlabel="images in a mini-batch", ylabel=label,
                 title="mean and 95 % interval of 3 seeds")
        axis.minorticks_off()
    finish(figure, "batch_sizes")

    runs = results("tutorial")
    figure, axes = new(2)
    for axis, which, label, claim in ((axes[0], 0, "train", 62.34), (axes[1], 1, "test", 57.23)):
        for name, colour, look in (("as printed", BLUE, "o-"), ("centred", ORANGE, "s--")):
            points = [interval([100 * curve[epoch][which] for curve in over_seeds(runs, name, "curve")]) for epoch in range(6)]
            axis.errorbar(range(1, 7), *zip(*points), fmt=look, color=colour, capsize=3,
                          label=name if name == "as printed" else "pixels in [-1, 1]")
        axis.axhline(claim, color=GREY, linestyle=":", label="the hand-out's figure, after 2 epochs")
        axis.set(xlabel="epochs", ylabel=f"{label} accuracy (%)", title="mean and 95 % interval of 5 seeds")
        axis.legend(loc="lower right")
    finish(figure, "tutorial")

    runs = results("augmentation")
    figure, axes = new(2)
    for axis, field, label in ((axes[0], "accuracy", "test"), (axes[1], "train_accuracy", "train")):
        for flip, colour, look in ((0, BLUE, "o-"), (0.5, ORANGE, "s--")):
            points = [interval([100 * v for v in over_seeds(runs, f"flip {flip} rotation {r}", field)]) for r in ROTATIONS]
            axis.errorbar(range(len(ROTATIONS)), *zip(*points), fmt=look, color=colour, capsize=3,
                          label=f"flip with probability {flip}")
        axis.set(xticks=range(len(ROTATIONS)), xticklabels=ROTATIONS, xlabel="rotation by up to (degrees)",
                 ylabel=f"{label} accuracy (%)", title="mean and 95 % interval of 3 seeds")
        axis.legend()
    finish(figure, "augmentation")

    classes = load_fashion_mnist()[1].classes
    figure, axis = new(height=3.8)
    plain = torch.tensor(over_seeds(runs, "flip 0 rotation 0", "by_class"))
    shown = [(f"{flip} {rotation}", f"flip {flip} rotation {rotation}") for flip in (0, 0.5) for rotation in ROTATIONS if flip or rotation]
    effects = torch.stack([100 * (torch.tensor(over_seeds(runs, key, "by_class")) - plain).mean(0) for _, key in shown])
    picture = axis.imshow(effects.numpy(), cmap="RdBu", vmin=-30, vmax=30, aspect="auto")
    for row in range(len(shown)):
        for column in range(10):
            value = effects[row, column].item()
            axis.text(column, row, f"{value:+.0f}", ha="center", va="center", fontsize=8, color="white" if abs(value) > 20 else "black")
    axis.grid(False)
    axis.set(xticks=range(10), yticks=range(len(shown)), yticklabels=[name for name, _ in shown], ylabel="flip, rotation")
    axis.set_xticklabels(classes, rotation=30, ha="right")
    figure.colorbar(picture, label="test accuracy minus that\nwithout augmentation (points)")
    finish(figure, "augmentation_classes")

    more = results("augmentation_and_images") | {f"4000 images {key}": run for key, run in runs.items()}
    figure, axis = new()
    for (name, key), colour, look, nudge in zip(MORE.items(), (GREY, BLUE, ORANGE), ("o-", "s--", "^-."), (0.98, 1, 1.02)):
        points = [interval([100 * v for v in over_seeds(more, f"{n} images {key}")]) for n in IMAGES]
        axis.errorbar([n * nudge for n in IMAGES], *zip(*points), fmt=look, color=colour, capsize=3, label=name)
    axis.set(xscale="log", xticks=IMAGES, xticklabels=("800 (30 times)", "4,000 (6 times)", "24,000 (once)"),
             xlabel="training images", ylabel="test accuracy (%)", title="mean and 95 % interval of 3 seeds")
    axis.minorticks_off()
    axis.legend()
    finish(figure, "augmentation_images")

    runs = results("image_sizes")
    figure, axis = new()
    for key in dict.fromkeys(name.split(" seed ")[0] for name in runs):
        values = over_seeds(runs, key)
        seconds = interval(over_seeds(runs, key, "seconds"))[0]
        mean, half = interval([100 * v for v in values])
        axis.errorbar(seconds, mean, half, fmt="o", color=BLUE, capsize=4)
        axis.annotate(f" {key}, n = {len(values)}", (seconds, mean), textcoords="offset points", xytext=(6, 4))
    axis.set(xscale="log", xlabel="seconds of training", ylabel="test accuracy (%)", title="mean, and 95 % interval where n = 3")
    finish(figure, "image_sizes")

    curve = results("bonus")["--epochs 6"]["reports"]
    figure, axis = new()
    batches = [point[0] for point in curve]
    for which, label, colour, look in ((2, "training", BLUE, "o-"), (3, "test", ORANGE, "s--")):
        axis.plot(batches, [100 * point[which] for point in curve], look, color=colour, label=f"first images of the {label} set")
    axis.set(xlabel="mini-batches of 32 images, growing from 64x64 to 224x224", ylabel="accuracy (%), at the size of the moment")
    axis.legend(loc="lower right")
    finish(figure, "bonus")

    models, (digits, garments) = results("shipped"), (load_mnist()[1], load_fashion_mnist()[1])
    for name, dataset, model in (("mnist", digits, "model.pth"), ("fashion", garments, "fashion_mnist.pth")):
        fashion_mnist.plot_confusion(torch.tensor(models[model]["confusion"]), dataset.classes,
                                     os.path.join(folder, f"confusion_{name}.png"), "test")
        fashion_mnist.plot_mistakes(models[model]["mistakes"], dataset, os.path.join(folder, f"mistakes_{name}.png"), "test")

    for name, lines in printed().items():
        width = max(len(line) for line in lines)
        figure = Figure(figsize=(0.075 * width + 0.3, 0.155 * len(lines) + 0.25), facecolor="#1e1e1e")
        figure.text(0.1 / figure.get_figwidth(), 1 - 0.1 / figure.get_figheight(), "\n".join(["$ " + lines[0], *lines[1:]]),
                    family="monospace", fontsize=8.5, color="#e8e8e8", va="top", linespacing=1.3, parse_math=False)
        finish(figure, f"output_{name}")


def fill(text, blocks):
    """`text` with what stands between each pair of markers replaced by the block of that name."""
    def block(match):
        return f"<!-- {match[1]} -->\n{blocks[match[1]]}\n<!-- end -->"
    return re.sub(r"<!-- ([\w-]+) -->\n.*?<!-- end -->", block, text, flags=re.S)


def report(path="report.md", folder="figures"):
    """Redraws every figure in figures/ and rewrites every table of report.md from results/, without training."""
    with open("report.md", encoding="utf-8") as file:
        text = file.read()
    with matplotlib.rc_context(STYLE):
        figures(folder)
    train.write(fill(text, tables()).encode(), path)


# ------------------------------------------------------------------ the command line


def machine():
    """What the runs of a study were made on."""
    try:
        with open("/proc/cpuinfo") as file:
            processor = re.search(r"model name\s*: (.*)", file.read())[1]
    except (OSError, TypeError):
        processor = platform.processor()
    return (f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} used, Python {platform.python_version()}, "
            f"torch {torch.__version__}, torchvision {torchvision.__version__}")


def record(path, runs):
    """Run what is not yet in the JSON file; runs: {key: a function that returns a JSON value}."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    results = {}
    if os.path.exists(path):
        with open(path) as file:
            results = json.load(file)
    for key, run in runs.items():
        if key not in results:
            results[key] = {**run(), "machine": machine()}
            print(key, {k: v for k, v in results[key].items() if k not in ("curve", "machine", "output")}, flush=True)
            lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in results.items())
            train.write(f"{{\n{lines}\n}}\n".encode(), path)


STUDIES = {study.__name__: study for study in (recipe, sweep, optimizers, schedules, batch_sizes, seeds, tutorial,
                                               lenet5_further, augmentation, augmentation_and_images, image_sizes,
                                               bonus, shipped, outputs, kills)}


def main():
    global QUICK
    names = [argument for argument in sys.argv[1:] if argument != "--quick"]
    if len(sys.argv) == 1:
        for name, study in STUDIES.items():
            print(f"{name:<24} {' '.join(study.__doc__.split())}")
        print(f"{'report':<24} {report.__doc__}")
    elif names == ["report"]:
        report()
    elif len(names) != 1 or names[0] not in STUDIES:
        raise train.UserError(f"name one of {', '.join(STUDIES)} or report, not {' '.join(names) or 'none'}")
    else:
        QUICK = "--quick" in sys.argv
        runs = STUDIES[names[0]]()
        if QUICK:
            runs = {key: runs[key] for key in (list(runs)[0], list(runs)[-1])}
        record(f"runs/quick/{names[0]}.json" if QUICK else f"results/{names[0]}.json", runs)


if __name__ == "__main__":
    train.script(main)
