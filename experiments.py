"""The studies that report.md rests on, and the defaults of the scripts.

    python experiments.py                      # lists the studies
    python experiments.py optimizers           # runs one, writes results/optimizers.json
    python experiments.py optimizers --quick   # its first and last run on a few images, into runs/quick/
    python experiments.py report               # redraws figures/ and the tables of report.md from results/

Runs that are recorded already are skipped, so a study that was stopped goes on where it was. What a study
measures on held-out training images ("validation") chose settings; the test set chose none, but for train.py's
learning rate for momentum (and Nesterov's), lowered after a training of `optimizers` collapsed.

Each study is a function that returns its runs, {key: what to call}, and below it stands a function show_...
that draws its figures and returns its tables.
"""

import functools
import glob
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

QUICK = False                           # --quick: 200 images of each set (96 and 100 by a script), one epoch; three kills
RECIPE = Augment(rotation=10, shift=1)  # how train.py augments MNIST
DEVICE = train.pick_device("auto")      # as in the scripts


# ------------------------------------------------------------------ one training


@functools.lru_cache(maxsize=2)
def splits(dataset, channels, size, validation=0):
    """(trainset, testset), or with `validation` (training part, so many held-out training images)."""
    data = train.DATASETS[dataset]("data", preprocess_for(channels, size))
    data = train.hold_out(data[0], validation) if validation else data
    return [(part.subset(slice(200)) if QUICK else part).to(DEVICE) for part in data]


def training(dataset, network, seed, epochs, optimizer, lr, *, batch_size=128, milestones=(0.6, 0.85),
             augment=RECIPE, validation=0, curve=None, images=5000, precision="auto", scale=None):
    """Train the CNN or LeNet-5 as train.py does; returns the record, with the accuracies over the whole sets.

    curve: mini-batches between measurements on the first `images` images of each set (None: all);
    they are recorded as [train accuracy, accuracy] each. scale: what is done to the pixels in [0, 1].
    """
    build, channels, size = MODELS[network]
    data = splits(dataset, channels, size, validation)
    epochs = 1 if QUICK else epochs
    torch.manual_seed(seed)
    model = build().to(DEVICE, memory_format=torch.channels_last)
    optimizer = train.make_optimizer(optimizer, model.parameters(), lr)
    total = epochs * math.ceil(len(data[0]) / batch_size)
    autocast = train.pick_autocast(precision, DEVICE)

    def augmented(pixels, generator, step):
        pixels = augment(pixels, generator)
        return scale(pixels) if scale else pixels

    try:
        history = train.fit(model, *data, optimizer, train.make_schedule(optimizer, total, milestones), epochs,
                            batch_size=batch_size, seed=seed, autocast=autocast, train_transform=augmented,
                            test_transform=scale, report_every=curve or total, report_images=images if curve else 1,
                            progress=False)  # without a curve 1 image: the seconds are then the training's alone
    except train.Diverged:  # a learning rate that is too high: has learned nothing, see COLLAPSED
        return {"accuracy": 0.0, "train_accuracy": 0.0, "seconds": 0.0, **({"curve": []} if curve else {})}
    points = [[round(report[key], 5) for key in ("train_accuracy", "test_accuracy")] for report in history["reports"]]
    right = [round(train.accuracy(model, part, scale, autocast=autocast), 5) for part in data]
    return {"accuracy": right[1], "train_accuracy": right[0], "seconds": round(history["reports"][-1]["seconds"], 2),
            **({"curve": points} if curve else {})}


def train_resnet18(size, images, seed, epochs, augment=Augment(), batch_size=64):
    """Train ResNet18 on the first `images` images of Fashion-MNIST as fashion_mnist.py does, but from random weights, at
    one size, in mini-batches of 64, flipped only if `augment` says so; returns the record, with each class's accuracy.
    """
    data = splits("fashion-mnist", 1, 28)
    data = [data[0].subset(slice(images)), data[1]]
    torch.manual_seed(seed)
    model = resnet18().to(DEVICE, memory_format=torch.channels_last)
    epochs = 1 if QUICK else epochs
    sizes = [size] * (epochs * math.ceil(len(data[0]) / batch_size))
    network_input = fashion_mnist.Input(augment, sizes)
    optimizer = fashion_mnist.make_optimizer(model)
    autocast = train.has_bfloat16(DEVICE)
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


def measured(command, output):
    """Run Python with these arguments, what it prints into a file; its wall-clock seconds and its peak memory in MiB."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=output)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:  # who stops the study stops what it runs
        process.terminate()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)  # else it would be waited for again
    if process.returncode:
        raise train.UserError(f"{' '.join(command)} failed, see above and {output.name}")
    return time.perf_counter() - start, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)  # bytes, or KiB


def whole_run(*command):
    """Run a script as a user does; what its record says, the wall-clock seconds, the peak memory in MiB, its output."""
    os.makedirs("runs", exist_ok=True)
    short = ["--train-images", "96", "--validation", "100", "--epochs", "1"] if QUICK else []
    with open(f"runs/output-{os.getpid()}.txt", "w+") as output:  # for who wants to watch
        seconds, mib = measured([*command, *short], output)
        output.seek(0)
        lines = output.read().splitlines()
    with open(re.search(r"history: (.+)$", "\n".join(lines), re.M)[1] + "/history.json") as file:
        record = json.load(file)
    last = record["reports"][-1]  # in the bonus its accuracies are those of a part of each set
    return {"test_accuracy": round(record.get("test_accuracy", last["test_accuracy"]), 5),
            "train_accuracy": round(last["train_accuracy"], 5), "training_seconds": round(last["seconds"], 1),
            "seconds": round(seconds, 1), "mib": round(mib), "output": lines,
            "reports": [[r["batch"], round(r["loss"], 4), r["train_accuracy"], r["test_accuracy"]] for r in record["reports"]]}


# ------------------------------------------------------------------ statistics, tables, figures

T975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # Student's t by degrees of freedom
COLLAPSED = 0.5  # a training that ends below this accuracy has learned nothing; means are over the others
BLUE, ORANGE, GREEN, PINK, SKY, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#666666"  # Okabe and Ito's
STYLE = {"font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
         "lines.linewidth": 1.4, "lines.markersize": 4, "legend.frameon": False, "savefig.dpi": 110}


def recorded(path):
    """What a JSON file holds; {} where there is no such file."""
    try:
        with open(path) as file:
            return json.load(file)
    except FileNotFoundError:
        return {}
    except ValueError:
        raise train.UserError(f"{path} is damaged") from None


def results(name):
    """What results/NAME.json holds; raises UserError where the study of that name has runs that it lacks."""
    runs = recorded(f"results/{name}.json")
    if STUDIES[name][0]().keys() - runs.keys() if name in STUDIES else not runs:
        by = f"experiments.py {name}" if name in STUDIES else "tests/benchmark.py"
        raise train.UserError(f"results/{name}.json lacks runs, which python {by} would add")
    return runs


def groups(runs):
    """The KEYs of the runs called "KEY seed N", each once."""
    return list(dict.fromkeys(name.split(" seed ")[0] for name in runs))


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
    return f"{100 * mean:.2f} ± {100 * half:.2f}" if len(values) > 1 else f"{100 * mean:.2f}"


def seconds(runs, key, times=1):
    """The mean training time of the runs "KEY seed N", times a factor, in whole seconds."""
    return f"{times * interval(over_seeds(runs, key, 'seconds'))[0]:.0f}"


def difference(values, others):
    """[the paired difference of two lists, seed by seed where both learned, in percentage points; the number of pairs;
    whether it is significant].
    """
    pairs = [a - b for a, b in zip(values, others, strict=True) if min(a, b) > COLLAPSED]
    mean, half = interval(pairs)
    return [f"{100 * mean:+.2f} ± {100 * half:.2f}", len(pairs), "yes" if abs(mean) > half else "no"]


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def new_figure(columns=1, height=3.2):
    figure = Figure(figsize=(8, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def bars(axis, x, samples, look, colour, label=None, scale=100):
    """The mean and 95 % interval of each sample, against x."""
    points = [interval([scale * value for value in values]) for values in samples]
    axis.errorbar(x, *zip(*points), fmt=look, color=colour, capsize=3, label=label)


# ------------------------------------------------------------------ the assignment


def show_layers(save):
    rows = [[row["number"] or "", row["layer"], row["input"], row["output"], row["formula"]]
            for row in layer_table(cnn(), (1, 28, 28), 16)]
    total = f"{sum(p.numel() for p in cnn().parameters()):,}"
    return {"layers": table(["", "layer", "input", "output", "trainable parameters"], [*rows, ["", "total", "", "", total]])}


def recipe():
    """What train.py's defaults were chosen by: 5 epochs of the CNN with Adam, 5,000 validation images, two seeds."""
    return {f"lr {lr} batch {batch_size} {augment} seed {seed}":
            partial(training, "mnist", "cnn", seed, 5, "adam", lr, batch_size=batch_size, augment=augment, validation=5000)
            for lr, batch_size, augment in (
                (0.005, 128, Augment()), (0.005, 128, Augment(shift=1)), (0.005, 128, RECIPE), (0.01, 128, RECIPE),
                (0.003, 64, RECIPE), (0.005, 128, Augment(rotation=15, shift=2)))
            for seed in (0, 1)}


def show_recipe(save):
    runs = results("recipe")
    return {"recipe": table(["learning rate", "batch size", "rotation up to (degrees)", "shift up to (pixels)",
                             "validation accuracy: seed 0 (%)", "seed 1 (%)"],
                            [[*re.match(r"lr (\S+) batch (\d+) Augment\(flip=0.0, rotation=(\d+)\S*, shift=(\d+)\)", key).groups(),
                              *(f"{100 * v:.2f}" for v in over_seeds(runs, key))] for key in groups(runs)])}


def seeds():
    """`python train.py` from start to end, seeds 0 to 4: test accuracy, seconds and MiB of the whole process."""
    return {f"seed {seed}": partial(whole_run, "train.py", "--seed", str(seed), "--save", f"runs/seed{seed}.pth")
            for seed in range(5)}


def show_seeds(save):
    runs = results("seeds")
    return {"seeds": table(["seed", "test accuracy (%)", "train accuracy (%)", "whole process (s)", "peak memory (MiB)"],
                           [[key[5:], f"{100 * r['test_accuracy']:.2f}", f"{100 * r['train_accuracy']:.2f}", r["seconds"], r["mib"]]
                            for key, r in runs.items()]
                           + [["mean", percent([r["test_accuracy"] for r in runs.values()]), "", "", ""]])}


# Six learning rates, a factor of about three apart, round what each optimizer likes; below, how the figures draw it.
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
LOOKS = {"sgd": (GREY, "o-"), "momentum": (BLUE, "s-"), "rmsprop": (GREEN, "^-"), "adam": (ORANGE, "D-"), "adamw": (PINK, "v--"),
         "nesterov": (SKY, "p--"), "adagrad": ("black", "+:"), "nadam": ("#E69F00", "1-.")}


def sweep():
    """Six learning rates for each optimizer: 2 epochs of the CNN, 5,000 validation images, two seeds."""
    return {f"{name} {lr} seed {seed}": partial(training, "mnist", "cnn", seed, 2, name, lr, validation=5000)
            for name, rates in SWEEP.items() for lr in rates for seed in (0, 1)}


def show_sweep(save):
    runs = results("sweep")
    pairs = {name: [over_seeds(runs, f"{name} {lr}") for lr in rates] for name, rates in SWEEP.items()}

    def cell(values):  # the mean of two trainings, of those that learned
        left = [100 * value for value in values if value > COLLAPSED]
        return "< 50" if not left else f"{sum(left) / len(left):.2f}" + (" (1 of 2)" if len(left) == 1 else "")

    figure, axis = new_figure()
    for name, rates in SWEEP.items():
        colour, look = LOOKS[name]
        both = [(lr, 50 * sum(values)) for lr, values in zip(rates, pairs[name]) if min(values) > COLLAPSED]
        axis.semilogx(*zip(*both), look, color=colour, label=name)
        axis.plot(rates[rates.index(both[-1][0]) + 1], 84.3 + 0.25 * list(SWEEP).index(name), "x", color=colour)
    axis.set(xlabel="learning rate", ylabel="validation accuracy (%), mean of 2 seeds", ylim=(84, 99.5),
             title="crosses: the lowest learning rate at which one seed, or both, collapsed")
    figure.legend(loc="outside right center")
    save(figure, "sweep")
    return {"sweep": table(["optimizer", "lowest rate", "", "", "", "", "highest rate"],
                           [[name, *(f"{lr}: {cell(values)}" for lr, values in zip(rates, pairs[name]))] for name, rates in SWEEP.items()])}


def best_rates():
    """{optimizer: the learning rate with the highest mean validation accuracy in results/sweep.json}."""
    runs = results("sweep")
    return {name: max(rates, key=lambda lr: sum(over_seeds(runs, f"{name} {lr}"))) for name, rates in SWEEP.items()}


COMPARED = ("sgd", "momentum", "rmsprop", "adam", "adamw")


def optimizers():
    """Five optimizers at the best learning rate of `sweep`: 5 epochs of the CNN, test set, ten seeds."""
    rates = best_rates()
    return {f"{name} seed {seed}": partial(training, "mnist", "cnn", seed, 5, name, rates[name], curve=50)
            for seed in range(10) for name in COMPARED}


def batches_to(curves, accuracy):
    """The mean number of mini-batches until a curve, a point every 50, first has this accuracy, over those that ever have it."""
    reached = [50 * min(hits) for curve in curves if (hits := [i for i, (_, test) in enumerate(curve, 1) if test >= accuracy])]
    if not reached:
        return "never"
    return f"{sum(reached) / len(reached):,.0f}" + (f" ({len(reached)} of {len(curves)} runs)" if len(reached) < len(curves) else "")


def show_optimizers(save):
    runs, swept, rates = results("optimizers"), results("sweep"), best_rates()
    figure, (left, right) = new_figure(2)
    for place, name in enumerate(COMPARED):
        colour, look = LOOKS[name]
        curves = torch.tensor(learned(runs, name, "curve"))[:, :, 1].mean(0)
        left.semilogy(range(50, 50 * len(curves) + 1, 50), (100 * (1 - curves)).numpy(), look[1:], color=colour, label=name)
        values = learned(runs, name)
        right.plot([place + 0.15] * len(values), [100 * v for v in values], ".", color=colour, alpha=0.4)
        bars(right, [place - 0.1], [values], "o", colour)
    ticks = (1, 2, 5, 10, 20, 50)
    left.set(xlabel="mini-batches of 128 images", ylabel="error on the first 5,000 test images (%)", yticks=ticks, yticklabels=ticks,
             title="mean of the seeds that learned")
    left.legend()
    right.set(xticks=range(len(COMPARED)), xticklabels=COMPARED, ylabel="test accuracy (%)",
              title="dots: seeds; bars: 95 % interval of the mean;\nwithout momentum's one collapsed seed")
    save(figure, "optimizers")

    pairs = [(a, b) for i, a in enumerate(COMPARED) for b in COMPARED[i + 1:]]
    return {"optimizers": table(
        ["optimizer", "learning rate", "collapsed", "test accuracy (%)", "mini-batches to 95 %", "to 98 %", "to 99 %", "training (s)"],
        [[name, rates[name], f"{10 - len(learned(runs, name))} of 10", percent(learned(runs, name)),
          *(batches_to(learned(runs, name, "curve"), accuracy) for accuracy in (0.95, 0.98, 0.99)),
          seconds(swept, f"{name} {rates[name]}", 2.5 * 60 / 55)] for name in COMPARED]),  # here the curves took time as well
        "optimizer-differences": table(
            ["", "difference (points)", "pairs", "significant"],
            [[f"{a} - {b}", *difference(over_seeds(runs, a), over_seeds(runs, b))] for a, b in pairs])}


SCHEDULES = {"adam": (0.0015, 0.005, 0.015), "sgd": (0.1, 0.3)}  # the last is the best of `sweep`


def schedules():
    """A constant learning rate and MultiStepLR, otherwise as in `optimizers`, which has MultiStepLR at the last rates: ten seeds."""
    return {f"{name} {lr} {schedule} seed {seed}":
            partial(training, "mnist", "cnn", seed, 5, name, lr, milestones=milestones, curve=50 if lr == 0.015 else None)
            for name, rates in SCHEDULES.items() for lr in rates
            for schedule, milestones in (("constant", ()), ("falling", (0.6, 0.85))) if (schedule, lr) != ("falling", rates[-1])
            for seed in range(10)}


def show_schedules(save):
    runs, best = results("schedules"), results("optimizers")
    runs |= {f"{name} {rates[-1]} falling seed {seed}": best[f"{name} seed {seed}"] for name, rates in SCHEDULES.items() for seed in range(10)}
    figure, (left, right) = new_figure(2)
    for schedule, label, colour, look in (("falling", "MultiStepLR", BLUE, "-"), ("constant", "constant", ORANGE, "--")):
        errors = 100 * (1 - torch.tensor(learned(runs, f"adam 0.015 {schedule}", "curve"))[:, :, 1])
        x = range(50, 50 * errors.shape[1] + 1, 50)
        left.semilogy(x, errors.mean(0).numpy(), look, color=colour, label=f"Adam 0.015, {label}")
        left.fill_between(x, errors.amin(0).numpy(), errors.amax(0).numpy(), color=colour, alpha=0.15, linewidth=0)
        for name, marker in (("adam", "o"), ("sgd", "s")):
            bars(right, SCHEDULES[name], [learned(runs, f"{name} {lr} {schedule}") for lr in SCHEDULES[name]], marker + look, colour,
                 f"{name}, {label}")
    ticks = (0.5, 1, 2, 5, 10, 20)
    left.set(xlabel="mini-batches of 128 images", ylabel="error on the first 5,000 test images (%)", ylim=(0.5, 20),
             yticks=ticks, yticklabels=ticks, title="line: mean of 10 seeds; band: all of them")
    rates = sum(SCHEDULES.values(), ())
    right.set(xscale="log", xticks=rates, xticklabels=rates, ylim=(97.6, 99.4), xlabel="(first) learning rate",
              ylabel="test accuracy (%)", title="mean and 95 % interval of 10 seeds")
    right.minorticks_off()
    left.legend()
    right.legend(loc="lower left", ncols=2)
    save(figure, "schedules")
    return {"schedules": table(
        ["optimizer", "learning rate", "MultiStepLR (%)", "constant (%)", "collapsed", "difference (points)", "pairs", "significant"],
        [[name, lr, percent(learned(*falling)), percent(learned(*constant)),
          f"{10 - len(learned(*falling))} and {10 - len(learned(*constant))} of 10",
          *difference(over_seeds(*falling), over_seeds(*constant))]
         for name, rates in SCHEDULES.items() for lr in rates
         for falling, constant in [[(runs, f"{name} {lr} {schedule}") for schedule in ("falling", "constant")]]])}


BATCH_SIZES = (16, 32, 64, 128, 256, 512)


def batch_lr(size):
    """The learning rate that `batch_sizes` gives Adam for mini-batches of so many images."""
    return float(f"{0.005 * (size / 128) ** 0.5:.3g}")


def batch_sizes():
    """Mini-batches of 16 to 512 images, Adam with 0.005 times the square root of size/128: 5 epochs, three seeds."""
    return {f"batch {size} seed {seed}": partial(training, "mnist", "cnn", seed, 5, "adam", batch_lr(size),
                                                 batch_size=size)
            for size in reversed(BATCH_SIZES) for seed in range(3)}


def show_batch_sizes(save):
    runs, keys = results("batch_sizes"), [f"batch {size}" for size in BATCH_SIZES]
    figure, axes = new_figure(2)
    for axis, field, scale, label in ((axes[0], "accuracy", 100, "test accuracy (%)"), (axes[1], "seconds", 1, "training (s)")):
        bars(axis, BATCH_SIZES, [over_seeds(runs, key, field) for key in keys], "o-", BLUE, scale=scale)
        axis.set(xscale="log", xticks=BATCH_SIZES, xticklabels=BATCH_SIZES, xlabel="images in a mini-batch", ylabel=label,
                 title="mean and 95 % interval of 3 seeds")
        axis.minorticks_off()
    save(figure, "batch_sizes")
    return {"batch_sizes": table(
        ["batch size", "learning rate", "test accuracy (%)", "training (s)"],
        [[size, batch_lr(size), percent(over_seeds(runs, key)), seconds(runs, key)] for size, key in zip(BATCH_SIZES, keys)])}


# ------------------------------------------------------------------ the tutorial


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


def show_tutorial(save):
    curves = {name: over_seeds(results("tutorial"), name, "curve") for name in ("as printed", "centred")}
    samples = {(name, which): [[curve[epoch][which] for curve in curves[name]] for epoch in range(6)]
               for name in curves for which in (0, 1)}  # 0: train, 1: test
    figure, axes = new_figure(2)
    for axis, which, label, claim in ((axes[0], 0, "train", 62.34), (axes[1], 1, "test", 57.23)):
        bars(axis, range(1, 7), samples["as printed", which], "o-", BLUE, "as printed")
        bars(axis, range(1, 7), samples["centred", which], "s--", ORANGE, "pixels in [-1, 1]")
        axis.axhline(claim, color=GREY, linestyle=":", label="the hand-out's figure, after 2 epochs")
        axis.set(xlabel="epochs", ylabel=f"{label} accuracy (%)", title="mean and 95 % interval of 5 seeds")
        axis.legend(loc="lower right")
    save(figure, "tutorial")
    return {"tutorial": table(
        ["epochs", "as printed: train (%)", "test (%)", "pixels in [-1, 1]: train (%)", "test (%)"],
        [[epoch + 1, *(percent(sample[epoch]) for sample in samples.values())] for epoch in range(6)])}


def lenet5_further():
    """How far LeNet-5's 62,006 parameters go on CIFAR10 with this bundle's tools: three seeds, one of the longest."""
    flips = Augment(flip=0.5, shift=2)
    return {f"{name} seed {seed}": partial(training, "cifar10", "lenet5", seed, epochs, "adamw", 0.003,
                                           augment=augment, scale=centred)
            for name, epochs, augment, count in (("10 epochs", 10, Augment(), 3), ("10 epochs, flips and shifts", 10, flips, 3),
                                                 ("30 epochs", 30, Augment(), 3), ("30 epochs, flips and shifts", 30, flips, 3),
                                                 ("100 epochs, flips and shifts", 100, flips, 3),
                                                 ("300 epochs, flips and shifts", 300, flips, 1))
            for seed in range(count)}


def show_lenet5_further(save):
    runs = results("lenet5_further")
    return {"lenet5": table(
        ["training", "runs", "train accuracy (%)", "test accuracy (%)", "training of seed 0 (s)"],
        [[key, len(over_seeds(runs, key)), percent(over_seeds(runs, key, "train_accuracy")), percent(over_seeds(runs, key)),
          f"{runs[f'{key} seed 0']['seconds']:,.0f}"] for key in groups(runs)]),
        "lenet5-differences": table(
            ["", "gain by flips and shifts (points)", "pairs", "significant"],
            [[key, *difference(over_seeds(runs, f"{key}, flips and shifts"), over_seeds(runs, key))] for key in ("10 epochs", "30 epochs")])}


# ------------------------------------------------------------------ the bonus


def validated(*options, validation=5000):
    """What fashion_mnist.py reaches on held-out training images, from random weights."""
    run = whole_run("fashion_mnist.py", "--weights", "none", *options, "--validation", str(validation), "--save", "runs/validated.pth")
    return {"accuracy": run["test_accuracy"], "seconds": run["training_seconds"]}


PLANS = {  # image sizes: training images, so that two epochs take about as long
    "64:0.357,96:0.167,128:0.143,160:0.119,192:0.095,224:0.119": 46_200,
    "64:0.50,80:0.09,96:0.10,112:0.09,128:0.08,160:0.06,192:0.04,224:0.04": 55_000,
    "64:0.22,112:0.30,160:0.20,224:0.28": 39_450}


def plans():
    """How the images grow to 224x224, at about equal time: `fashion_mnist.py`, 2 epochs, 5,000 validation images, one seed."""
    return {plan: partial(validated, "--epochs", "2", "--image-size", plan, "--train-images", str(images))
            for plan, images in PLANS.items()}


def show_plans(save):
    return {"plans": table(["image size: share of the mini-batches", "images seen", "validation accuracy (%)", "training (s)"],
                           [[plan, f"{2 * PLANS[plan]:,}", percent([run["accuracy"]]), f"{run['seconds']:,.0f}"]
                            for plan, run in results("plans").items()])}


SETTINGS = ("", "--batch-size 64", *(f"--batch-size 64 {other}" for other in (
    "--lr 0.1", "--lr 0.025", "--flip 0", "--label-smoothing 0", "--weight-decay 0.002", "--first-layer patches")))


def settings():
    """Other settings of `fashion_mnist.py`: 2 epochs of 25,000 images at 48x48, 10,000 validation images,
    one seed, one core.
    """
    return {options or "default": partial(validated, "--epochs", "2", "--image-size", "48", "--train-images", "25000",
                                          *options.split(), validation=10_000)
            for options in SETTINGS}


def show_settings(save):
    runs = results("settings")
    return {"settings": table(
        ["options", "validation accuracy (%)", "minus that of --batch-size 64 (points)", "training (s)"],
        [["none" if key == "default" else f"`{key}`", percent([run["accuracy"]]),
          f"{100 * (run['accuracy'] - runs['--batch-size 64']['accuracy']):+.2f}", f"{run['seconds']:,.0f}"] for key, run in runs.items()])}


LONGEST = "--epochs 15 --batch-size 64 --lr 0.1 --shift 2 --image-size 64:0.45,96:0.2,128:0.15,160:0.08,192:0.06,224:0.06"


def longest():
    """The training that fashion_mnist.pth is of: 15 epochs, 5,000 validation images."""
    return {LONGEST: partial(validated, *LONGEST.split())}


def show_longest(save):
    [[options, run]] = results("longest").items()
    return {"longest": table(
        ["command", "validation accuracy (%)", "test accuracy (%)", "training (s)"],
        [[f"`python fashion_mnist.py --weights none --validation 5000 {options}`", percent([run["accuracy"]]),
          percent([results("shipped")["fashion_mnist.pth"]["accuracy"]]), f"{run['seconds']:,.0f}"]])}


def first_layer():
    """`fashion_mnist.py` from random filters and from image patches: the default's 6 epochs, 5,000 validation images, two seeds."""
    return {f"{start} seed {seed}": partial(validated, "--epochs", "6", "--first-layer", start, "--seed", str(seed))
            for start in ("random", "patches") for seed in (0, 1)}


def show_first_layer(save):
    runs = results("first_layer")
    return {"first-layer": table(["first layer", "validation accuracy: seed 0 (%)", "seed 1 (%)"],
                                 [[f"`--first-layer {start}`", *(percent([value]) for value in over_seeds(runs, start))] for start in groups(runs)])}


ON_CUDA = ("train.py --save runs/m.pth", "fashion_mnist.py --weights none --epochs 6 --save runs/b.pth")


def on_cuda():
    """Both scripts with their defaults, from random weights, on a GPU: test accuracy and seconds of the whole process."""
    return {command: partial(whole_run, *command.split(), "--device", "cuda") for command in ON_CUDA}


def show_on_cuda(save):
    rates = results("benchmark_cuda")["resnet18 training at 224, steps"]  # by tests/benchmark.py
    return {"on-cuda": table(
        ["command", "test accuracy (%)", "training (s)", "whole process (s)"],
        [[f"`python {command}`", percent([run["test_accuracy"]]), f"{run['training_seconds']:.0f}", f"{run['seconds']:.0f}"]
         for command, run in results("on_cuda").items()]),
        "on-cuda-rates": table(
        ["training of ResNet18 at 224x224, mini-batches of 64", "mini-batches a second", "ours over it"],
        [[name, f"{rate:.0f}", f"{rates['ours_over'].get(name, 1):.2f}"] for name, rate in rates["per_second"].items()])}


TO_90 = 66_000  # images that fashion_mnist.py sees on its way to 90 % in tests/benchmark.py
BONUS = ("--epochs 4", "--epochs 4 --batch-size 64", "--epochs 3 --first-layer patches", "--quick",
         "--epochs 6 --image-size 64:0.55,96:0.2,128:0.1,160:0.05,192:0.05,224:0.05", "--epochs 4 --image-size 64",
         *(f"--image-size 64 --epochs 3 --batch-size 64{start}" for start in ("", " --first-layer patches")))


def bonus():
    """`python fashion_mnist.py` from random weights, start to end: test accuracy, seconds and MiB of the whole process."""
    return {options: partial(whole_run, "fashion_mnist.py", "--weights", "none", *options.split(), "--save", f"runs/bonus{options.replace(' ', '')}.pth")
            for options in BONUS}


def show_bonus(save):
    runs, default = results("bonus"), results("on_cuda")[ON_CUDA[1]]
    figure, axis = new_figure()
    batches = [point[0] for point in default["reports"]]
    start = 0
    for size, count in re.findall(r"(\d+) for (\d+) batches", "\n".join(default["output"])):
        axis.axvline(start, color=GREY, linewidth=0.6)
        axis.text(start + 40, 0.02, size, color=GREY, transform=axis.get_xaxis_transform())
        start += int(count)
    for which, label, colour, look in ((2, "training", BLUE, "o-"), (3, "test", ORANGE, "s--")):
        axis.plot(batches, [100 * point[which] for point in default["reports"]], look, color=colour, label=f"first 1,000 images of the {label} set")
    axis.set(xlabel="mini-batches, of images of the size written at the bottom", ylabel="accuracy (%), at the size of the moment")
    axis.legend(loc="lower right", bbox_to_anchor=(1, 0.06))
    save(figure, "bonus")
    race = results("benchmark_float32")["resnet18 to 90 %, seconds"]  # by tests/benchmark.py
    ours, course, looks = race["ours"], race["course"], race["course"]["looks"]
    best = max(looks, key=lambda look: look["accuracy"])
    return {"to-90": table(
        ["", "images seen", "validation accuracy (%)", "images it is measured on", "minutes"],
        [["`fashion_mnist.py`", f"{TO_90:,}", percent([ours["accuracy"]]), "5,000", f"{ours['seconds'] / 60:.0f}"],
         ["the course's loop", f"{looks[-1]['images']:,}", f"at most {percent([best['accuracy']])}", f"{best['of']:,}", f"{course['seconds'] / 60:.0f}, estimated"]]),
        "bonus": table(
        ["command", "tested at", "test accuracy (%)", "whole process (s)", "peak memory (MiB)", "processor"],
        [[f"`python fashion_mnist.py --weights none {key}`", re.search(r"accuracy at (\w+)", "\n".join(r["output"]))[1],
          f"{100 * r['test_accuracy']:.2f}", f"{r['seconds']:,.0f}", f"{r['mib']:,}", r["machine"].split(",")[0]]
         for key, r in runs.items()])}


def shipped():
    """What the two models in this folder make of the test sets: confusion matrix, most confident mistakes."""
    return {"model.pth": partial(examine, "model.pth", cnn, "mnist", None),
            "fashion_mnist.pth": partial(examine, "fashion_mnist.pth", resnet18, "fashion-mnist",
                                         partial(fashion_mnist.to_network, size=224))}


def examine(path, build, dataset, transform):
    model = build()
    train.load_weights(model, path)
    testset = splits(dataset, 1, 28)[1]
    autocast = train.has_bfloat16(DEVICE)
    logits = train.predict(model.to(DEVICE, memory_format=torch.channels_last), testset, transform, autocast=autocast)
    confusion, by_class = fashion_mnist.class_accuracy(logits.argmax(1), testset)
    mistakes = fashion_mnist.confident_mistakes(logits.softmax(1), testset, 24)
    right = logits.argmax(1) == testset.labels
    return {"accuracy": right.double().mean().item(), "first_1000": right[:1000].double().mean().item(),
            "by_class": by_class.tolist(), "confusion": confusion.tolist(), "mistakes": mistakes}


def show_shipped(save):
    models, digits, garments = results("shipped"), load_mnist()[1], load_fashion_mnist()[1]
    for name, dataset, model in (("mnist", digits, "model.pth"), ("fashion", garments, "fashion_mnist.pth")):
        save(fashion_mnist.draw_confusion(torch.tensor(models[model]["confusion"]), dataset.classes, "test"), f"confusion_{name}")
        save(fashion_mnist.draw_mistakes(models[model]["mistakes"], dataset, "test"), f"mistakes_{name}")
    return {"classes": table(["", *garments.classes],
                             [["test accuracy (%)", *(f"{100 * v:.1f}" for v in models["fashion_mnist.pth"]["by_class"])]])}


ROTATIONS = (0, 5, 10, 20, 45, 90, 180)
GRID = {f"flip {flip} rotation {rotation}": (flip, rotation) for flip in (0, 0.5) for rotation in ROTATIONS}


def augmentation():
    """Horizontal flips (off, on) by rotations: ResNet18 at 32x32 on 4,000 images, 6 epochs, three seeds."""
    return {f"{key} seed {seed}": partial(train_resnet18, 32, 4000, seed, 6, Augment(*GRID[key]))
            for seed in range(3) for key in GRID}


def show_augmentation(save):
    runs = results("augmentation")
    accuracies = {(flip, field): [over_seeds(runs, f"flip {flip} rotation {rotation}", field) for rotation in ROTATIONS]
                  for flip in (0, 0.5) for field in ("train_accuracy", "accuracy")}
    figure, axes = new_figure(2)
    for axis, field, label in ((axes[0], "accuracy", "test"), (axes[1], "train_accuracy", "train")):
        for flip, colour, look, nudge in ((0, BLUE, "o-", -0.08), (0.5, ORANGE, "s--", 0.08)):
            bars(axis, [place + nudge for place in range(len(ROTATIONS))], accuracies[flip, field], look, colour, f"flip with probability {flip}")
        axis.set(xticks=range(len(ROTATIONS)), xticklabels=ROTATIONS, xlabel="rotation by up to (degrees)",
                 ylabel=f"{label} accuracy (%)", title="mean and 95 % interval of 3 seeds")
        axis.legend()
    save(figure, "augmentation")

    plain, *others = GRID
    by_class = {key: torch.tensor(over_seeds(runs, key, "by_class")) for key in GRID}
    effects = torch.stack([100 * (by_class[key] - by_class[plain]).mean(0) for key in others])
    figure, axis = new_figure(height=3.8)
    picture = axis.imshow(effects.numpy(), cmap="RdBu", vmin=-45, vmax=45, aspect="auto")
    for row, column in torch.cartesian_prod(torch.arange(len(others)), torch.arange(10)).tolist():
        value = effects[row, column].item()
        axis.text(column, row, f"{value:+.0f}" if abs(value) >= 0.5 else "0", ha="center", va="center", fontsize=8,
                  color="white" if abs(value) > 30 else "black")
    axis.grid(False)
    axis.set(xticks=range(10), yticks=range(len(others)), ylabel="augmentation, rotation by up to",
             yticklabels=[f"{'flip' if flip else 'no flip'}, {rotation}°" for flip, rotation in GRID.values()][1:])
    axis.set_xticklabels(load_fashion_mnist()[1].classes, rotation=30, ha="right")
    figure.colorbar(picture, label="test accuracy minus that\nwithout augmentation (points)")
    save(figure, "augmentation_classes")

    return {"augmentation": table(
        ["rotation up to (degrees)", *(f"flip {flip}: {which} (%)" for flip in (0, 0.5) for which in ("train", "test"))],
        [[rotation, *(percent(sample[i]) for sample in accuracies.values())] for i, rotation in enumerate(ROTATIONS)]),
        "augmentation-flips": table(
            ["rotation up to (degrees)", "flip 0.5 - flip 0 (points)", "pairs", "significant"],
            [*([rotation, *difference(flipped, plain)] for rotation, flipped, plain
               in zip(ROTATIONS, accuracies[0.5, "accuracy"], accuracies[0, "accuracy"])),
             ["mean of these", *difference(*([sum(seed) / len(ROTATIONS) for seed in zip(*accuracies[flip, "accuracy"])]
                                               for flip in (0.5, 0)))]]),
        "augmentation-differences": table(
            ["", "difference from no augmentation (points)", "pairs", "significant"],
            [[key.replace(" rotation", ", rotation"), *difference(over_seeds(runs, key), over_seeds(runs, plain))]
             for key in others])}


IMAGES = (800, 4000, 24_000)  # seen so often that each makes as many mini-batches
PICKED = {"none": "flip 0 rotation 0", "flip": "flip 0.5 rotation 0", "rotation by up to 20 degrees": "flip 0 rotation 20"}


def augmentation_and_images():
    """Three of these augmentations on 800 images 30 times and on 24,000 once: as many mini-batches, three seeds."""
    return {f"{images} images {key} seed {seed}":
            partial(train_resnet18, 32, images, seed, 24_000 // images, Augment(*GRID[key]))
            for seed in range(3) for images in (IMAGES[0], IMAGES[2]) for key in PICKED.values()}


def show_augmentation_and_images(save):
    runs = results("augmentation_and_images") | {f"4000 images {key}": run for key, run in results("augmentation").items()}
    samples = {name: [over_seeds(runs, f"{n} images {key}") for n in IMAGES] for name, key in PICKED.items()}
    figure, axis = new_figure()
    for (name, values), colour, look, nudge in zip(samples.items(), (GREY, BLUE, ORANGE), ("o-", "s--", "^-."), (0.98, 1, 1.02)):
        bars(axis, [n * nudge for n in IMAGES], values, look, colour, name)
    axis.set(xscale="log", xticks=IMAGES, xticklabels=("800 (30 times)", "4,000 (6 times)", "24,000 (once)"),
             xlabel="training images", ylabel="test accuracy (%)", title="mean and 95 % interval of 3 seeds")
    axis.minorticks_off()
    axis.legend()
    save(figure, "augmentation_images")
    none = samples.pop("none")
    trained = {name: [percent(over_seeds(runs, f"{n} images {key}", "train_accuracy")) for n in IMAGES] for name, key in PICKED.items()}
    return {"augmentation-images": table(
        ["", "800 images, 30 times (%)", "4,000, 6 times (%)", "24,000, once (%)"],
        [*([f"{name}: train", *values] for name, values in trained.items()),
         ["none: test", *map(percent, none)], *([f"{name}: test", *map(percent, values)] for name, values in samples.items()),
         *([f"{name} - none: test (points)", *(difference(*pair)[0] for pair in zip(values, none))] for name, values in samples.items())])}


LONGER = {"none": "flip 0 rotation 0", "flip": "flip 0.5 rotation 0", "rotation by up to 10 degrees": "flip 0 rotation 10"}


def augmentation_and_length():
    """Three of these augmentations in trainings four times as long: 24 epochs of the same 4,000 images, three seeds."""
    return {f"{key} seed {seed}": partial(train_resnet18, 32, 4000, seed, 24, Augment(*GRID[key]))
            for seed in range(3) for key in LONGER.values()}


def show_augmentation_and_length(save):
    short, long = results("augmentation"), results("augmentation_and_length")
    rows = []
    for name, key in LONGER.items():
        cells = [percent(over_seeds(runs, key, field)) for runs in (short, long) for field in ("train_accuracy", "accuracy")]
        gains = [difference(over_seeds(runs, key), over_seeds(runs, LONGER["none"]))[0] for runs in (short, long)]
        rows.append([name, *cells, *(gains if name != "none" else ("", ""))])
    return {"augmentation-length": table(
        ["", "6 epochs: train (%)", "test (%)", "24 epochs: train (%)", "test (%)", "test, minus none (points): 6 epochs", "24 epochs"], rows)}


def augmentation_at_224():
    """Three of these augmentations at 224x224: the same 4,000 images, 6 epochs, three seeds."""
    return {f"{key} seed {seed}": partial(train_resnet18, 224, 4000, seed, 6, Augment(*GRID[key]))
            for seed in range(3) for key in PICKED.values()}


def show_augmentation_at_224(save):
    runs, none = results("augmentation_at_224"), PICKED["none"]
    return {"augmentation-224": table(
        ["", "train accuracy (%)", "test accuracy (%)", "test, minus none (points)", "significant"],
        [[name, percent(over_seeds(runs, key, "train_accuracy")), percent(over_seeds(runs, key)),
          *(("", "") if key == none else difference(over_seeds(runs, key), over_seeds(runs, none))[::2])] for name, key in PICKED.items()])}


def image_sizes():
    """ResNet18 at 32x32, 64x64, 112x112 and 224x224 on 2,000 images, 6 epochs: three seeds."""
    return {f"{size}x{size} seed {seed}": partial(train_resnet18, size, 2000, seed, 6)
            for size in (32, 64, 112, 224) for seed in range(3)}


def show_image_sizes(save):
    runs = results("image_sizes")
    figure, axis = new_figure()
    for key in groups(runs):
        values, time_taken = over_seeds(runs, key), runs[f"{key} seed 0"]["seconds"]  # at the larger sizes, later seeds ran on another machine
        bars(axis, [time_taken], [values], "o", BLUE)
        axis.annotate(f" {key}", (time_taken, 100 * interval(values)[0]), textcoords="offset points", xytext=(6, 4))
    ticks = (20, 50, 100, 200, 500)
    axis.set(xscale="log", xlim=(15, 700), xticks=ticks, xticklabels=ticks, xlabel="seconds of training (seed 0)",
             ylabel="test accuracy (%)", title="mean and 95 % interval of 3 seeds")
    axis.minorticks_off()
    save(figure, "image_sizes")
    return {"image_sizes": table(
        ["image size", "runs", "test accuracy (%)", "train accuracy (%)", "training of seed 0 (s)"],
        [[key, len(over_seeds(runs, key)), percent(over_seeds(runs, key)), percent(over_seeds(runs, key, "train_accuracy")),
          f"{runs[f'{key} seed 0']['seconds']:.0f}"] for key in groups(runs)])}


# ------------------------------------------------------------------ what the programs print


PRINTED = {  # its name in report.md: what is printed by python ...
    "dataset": "dataset.py",
    "model": "model.py",
    "train": "train.py --save runs/model.pth",
    "optimizer": "train.py --optimizer sgd --report-every 500 --save runs/sgd.pth",
    "cifar10": "train.py --dataset cifar10 --report-every 400 --epochs 2 --save runs/cifar10.pth",
    "turned": "fashion_mnist.py --weights none --image-size 64 --epochs 1 --train-images 12800 --flip 0.5 --rotation 20 --save runs/turned.pth",
    "tests": "-m pytest -q tests/test_model.py tests/test_tutorial.py",
    "fashion_evaluate": "fashion_mnist.py --evaluate fashion_mnist.pth",
    "evaluate": "train.py --evaluate model.pth",
}


def outputs():
    """What the programs print, for the report."""
    return {f"python {command}": partial(output_of, *command.split()) for command in PRINTED.values()}


def output_of(*command):
    os.makedirs("runs", exist_ok=True)
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise train.UserError(f"{' '.join(command)} ended with status {done.returncode}: {done.stdout[-300:]}")
    return {"output": done.stdout.splitlines()}


def show_outputs(save):
    """Pictures of the terminal, and the text of each: the command and what it printed, without the lines' ends in spaces."""
    runs = results("outputs")
    screens = {name: [f"python {command}", *runs[f"python {command}"]["output"]] for name, command in PRINTED.items()}
    screens["fashion"] = [f"python {ON_CUDA[1]}", *results("on_cuda")[ON_CUDA[1]]["output"]]
    made = {}
    for name, printed in screens.items():
        lines = ["$ " + printed[0], *(line.rstrip() for line in printed[1:])]
        figure = Figure(figsize=(0.075 * max(map(len, lines)) + 0.3, 0.155 * len(lines) + 0.25), facecolor="#1e1e1e")
        for number, line in enumerate(lines, 1):
            figure.text(0.1 / figure.get_figwidth(), 1 - (0.05 + 0.155 * number) / figure.get_figheight(), line,
                        family="monospace", fontsize=8.5, color="#e8e8e8", va="baseline", parse_math=False)
        save(figure, f"output_{name}")
        made[f"output-{name}"] = f"![what `{printed[0]}` prints](figures/output_{name}.png)\n\n" + "\n".join(["```", *lines, "```"])
    return made


# ------------------------------------------------------------------ trainings that are killed


def kills():
    """Trainings that are killed at random moments and resumed: how many end as if they had never been killed."""
    return {script: partial(killed_trainings, count // 20 if QUICK else count, script, "--train-images", str(images // 4 if QUICK else images),
                            "--epochs", "2", *options.split())
            for script, count, images, options in (
                ("train.py", 50, 12_800, "--validation 500 --report-every 10"),
                ("fashion_mnist.py", 20, 1280, "--weights none --image-size 40 --batch-size 64 --validation 200 --report-every 4"))}


def killed_trainings(count, *command):
    """Kill trainings with SIGKILL at random moments after the first checkpoint, every second time not before an
    unfinished file lies in the run's folder, and resume them, until `count` kills.

    Returns the kills, after how many of them an unfinished file lay there, the trainings that took, and how many of these
    ended with the very bytes of the model file, and the history but for its times, of the training that nobody killed.
    """
    chance = random.Random(0)
    command = [sys.executable, os.path.abspath(command[0]), *command[1:], "--data", os.path.abspath("data"),
               "--device", "cpu", "--threads", "1", "--save", "model.pth"]
    with tempfile.TemporaryDirectory() as root:
        whole = os.path.join(root, "whole")
        begun, duration = killable_training(command, whole)
        result = {"kills": 0, "while_writing": 0, "trainings": 0, "as_never_killed": 0}
        while result["kills"] < count:
            folder, unfinished = os.path.join(root, f"training{result['trainings']}"), 0
            while not killable_training(command, folder,
                                        moment=begun + chance.random() * (duration - begun) if result["kills"] < count else None,
                                        writing=result["kills"] % 2 == 1):
                result["kills"] += 1
                earlier, unfinished = unfinished, len(written(folder, "*.tmp"))
                result["while_writing"] += unfinished > earlier
            result["trainings"] += 1
            result["as_never_killed"] += outcome(folder) == outcome(whole)
    return result


def killable_training(command, folder, moment=None, writing=False):
    """Train in `folder`, going on where there is a checkpoint, and kill `moment` seconds after the start, with `writing`
    as soon after that as another unfinished file lies in the run's folder; without a moment never.

    Returns False where it was killed, else (seconds to the first checkpoint, seconds in all).
    """
    os.makedirs(folder, exist_ok=True)
    resume = ["--resume"] if written(folder, "checkpoint.pt") or written(folder, "history.json") else []
    start, first, unfinished = time.perf_counter(), None, len(written(folder, "*.tmp"))
    process = subprocess.Popen([*command, *resume], cwd=folder, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            now = time.perf_counter() - start
            if first is None and written(folder, "checkpoint.pt"):
                first = now
            if moment and now > moment and (not writing or len(written(folder, "*.tmp")) > unfinished):
                process.kill()
            time.sleep(0.0002)
    finally:
        process.kill()  # who stops the study stops its training
        process.wait()
    if process.returncode not in (0, -9):
        raise train.UserError(f"{' '.join(command)} ended with status {process.returncode}")
    return process.returncode == 0 and (first, time.perf_counter() - start)


def written(folder, name):
    """The files of this name (or pattern) that the trainings in `folder` have in their runs/."""
    return glob.glob(f"{folder}/runs/*/{name}")


def outcome(folder):
    """(SHA-256 of the model file, the history without its times) of a finished training in `folder`."""
    with open(os.path.join(folder, "model.pth"), "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    [path] = written(folder, "history.json")
    with open(path) as file:
        history = json.load(file)
    return digest, history["losses"], [{**report, "seconds": None} for report in history["reports"]]


def show_kills(save):
    return {"kills": table(["script", "kills", "after which an unfinished file lay there", "trainings", "ended as if never killed"],
                           [[f"`{script}`", *list(r.values())[:4]] for script, r in results("kills").items()])}


# ------------------------------------------------------------------ the report


def show_machines(save):
    machines = {name: [run.get("machine", "not recorded") for run in results(name).values()] for name in STUDIES}
    return {"machines": table(["study", "runs", "machine"],
                              [[f"`{name}`", len(used), "; ".join(dict.fromkeys(used))] for name, used in machines.items()])}


def fill(text, blocks):
    """`text` with what stands between each pair of markers replaced by the block of that name."""
    return re.sub(r"<!-- ([\w-]+) -->\n.*?<!-- end -->",
                  lambda match: f"<!-- {match[1]} -->\n{blocks[match[1]]}\n<!-- end -->", text, flags=re.S)


def report(path="report.md", folder="figures"):
    """Redraws every figure in figures/ and rewrites every table of report.md from results/, without training."""
    with open("report.md", encoding="utf-8") as file:
        text = file.read()
    tables = {}
    with matplotlib.rc_context(STYLE):
        for show in (show_machines, show_layers, *(shown for _, shown in STUDIES.values())):  # the first reads all results
            tables |= show(lambda figure, name: figure.savefig(os.path.join(folder, name + ".png")))
    train.write(fill(text, tables).encode(), path)


# ------------------------------------------------------------------ the command line


def machine():
    """What the runs of a study were made on."""
    try:
        with open("/proc/cpuinfo") as file:
            processor = re.search(r"model name\s*: (.*)", file.read())[1]
    except (OSError, TypeError):
        processor = platform.processor()
    device = f"{torch.cuda.get_device_name(DEVICE)}, " if DEVICE.type == "cuda" else ""
    precision = "bfloat16" if train.has_bfloat16(DEVICE) else "float32"
    return (f"{device}{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} used, {precision}, Python {platform.python_version()}, "
            f"torch {torch.__version__}, torchvision {torchvision.__version__}")


def record(path, runs):
    """Run what is not yet in the JSON file; runs: {key: a function that returns a JSON value}."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    done = recorded(path)
    for key, run in runs.items():
        if key not in done:
            try:
                done[key] = {**run(), "machine": machine()}
            except (KeyboardInterrupt, train.Terminated) as stop:
                stop.args = (f"{len(done)} of {len(runs)} runs are recorded; the same command goes on from there",)
                raise
            print(key, {k: v for k, v in done[key].items() if k not in ("curve", "machine", "output")}, flush=True)
            lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in done.items())
            train.write(f"{{\n{lines}\n}}\n".encode(), path)


STUDIES = {study.__name__: (study, shown) for study, shown in (
    (recipe, show_recipe), (sweep, show_sweep), (optimizers, show_optimizers), (schedules, show_schedules),
    (batch_sizes, show_batch_sizes), (seeds, show_seeds), (tutorial, show_tutorial), (lenet5_further, show_lenet5_further),
    (augmentation, show_augmentation), (augmentation_and_images, show_augmentation_and_images),
    (augmentation_and_length, show_augmentation_and_length), (augmentation_at_224, show_augmentation_at_224), (image_sizes, show_image_sizes),
    (plans, show_plans), (settings, show_settings), (first_layer, show_first_layer), (bonus, show_bonus), (on_cuda, show_on_cuda),
    (longest, show_longest), (shipped, show_shipped),
    (outputs, show_outputs), (kills, show_kills))}


def main():
    global QUICK
    names = [argument for argument in sys.argv[1:] if argument != "--quick"]
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        for name, (study, _) in STUDIES.items():
            print(f"{name:<24} {' '.join(study.__doc__.split())}")
        print(f"{'report':<24} {report.__doc__}")
    elif sys.argv[1:] == ["report"]:
        report()
    elif len(names) != 1 or names[0] not in STUDIES:
        raise train.UserError(f"name one of {', '.join(STUDIES)} or report, not {' '.join(sys.argv[1:])}")
    else:
        QUICK = "--quick" in sys.argv
        runs = STUDIES[names[0]][0]()
        if QUICK:
            runs = {key: runs[key] for key in (list(runs)[0], list(runs)[-1])}
        record(f"runs/quick/{names[0]}.json" if QUICK else f"results/{names[0]}.json", runs)


if __name__ == "__main__":
    train.script(main)
