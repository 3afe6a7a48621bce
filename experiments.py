"""The studies behind report.md.

    python experiments.py              # lists the studies
    python experiments.py optimizers   # runs one: results/optimizers.json, a line for each run
    python experiments.py report       # draws figures/ and fills in the tables of report.md

What is recorded is not run again: a study that was stopped goes on where it was, and one whose
file in results/ is removed is run anew. Held-out training images chose the settings.
"""

import importlib
import inspect
import json
import math
import os
import platform
import re
import subprocess
import sys
import textwrap
import time
from argparse import Namespace
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

ENVIRONMENT = dict(os.environ)  # a user's: what follows may change it

# before torch: support/__init__.py says why
from support import Diverged, UserError, command_line, figures, files, machine

import torch
from matplotlib.figure import Figure
from torch import nn

import fashion_mnist
import train
from dataset import Augment, preprocess_for
from model import MODELS, cnn, layer_table, resnet18

NETWORKS = MODELS | {"resnet18": (resnet18, 1, 28)}
DEVICE = machine.pick_device("auto")
CPUINFO = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
PROCESSOR = re.search(r"model name\s*: (.*)|$", CPUINFO)[1] or platform.processor()
PRECISION = "bfloat16" if machine.has_bfloat16(DEVICE) else "float32"
RECIPE = Augment(rotation=10, shift=1)  # how train.py augments MNIST


def load(dataset, network, validation=0, images=None):
    """(trainset, testset) for a network, as the scripts take them; images: of the trainset."""
    args = Namespace(data="data", validation=validation, train_images=images)
    preprocess = preprocess_for(*NETWORKS[network][1:])
    return train.splits(args, partial(train.DATASETS[dataset], preprocess=preprocess), DEVICE)


def training(dataset="mnist", network="cnn", *, seed, epochs=5, batch_size=128, images=None,
             optimizer="adam", lr=0.005, milestones=(0.6, 0.85), augment=RECIPE, validation=0,
             prepare=nn.Identity(), autocast=machine.has_bfloat16(DEVICE), curve=None):
    """Train on the first `images` images as train.py or, ResNet18, fashion_mnist.py does.

    curve: (mini-batches between measurements, on how many images of each set, None for all).
    """
    trainset, testset = load(dataset, network, validation, images)
    total = epochs * math.ceil(len(trainset) / batch_size)
    torch.manual_seed(seed)
    model = NETWORKS[network][0]().to(DEVICE, memory_format=torch.channels_last)
    loss_fn = nn.CrossEntropyLoss(label_smoothing=0.1 if network == "resnet18" else 0.0)
    if network == "resnet18":
        optimizer = fashion_mnist.make_optimizer(model, lr=0.05)
        schedule = fashion_mnist.make_schedule(optimizer, total)
    else:
        optimizer = train.make_optimizer(optimizer, model.parameters(), lr)
        schedule = train.make_schedule(optimizer, total, milestones)
    how = {"prepare": prepare, "autocast": autocast}
    report_every, report_images = curve or (total, 1)
    try:
        reports = train.fit(model, trainset, testset, optimizer, schedule, epochs,
                            batch_size=batch_size, seed=seed, augment=augment, loss_fn=loss_fn,
                            report_every=report_every, report_images=report_images,
                            quiet=True, **how)["reports"]
    except Diverged:  # it has learned nothing
        return {"accuracy": 0.0, "train_accuracy": 0.0}
    points = [(report["train_accuracy"], report["test_accuracy"]) for report in reports]
    return {"accuracy": round(train.accuracy(model, testset, **how), 5),
            "train_accuracy": round(train.accuracy(model, trainset, **how), 5),
            "curve": [[round(value, 5) for value in point] for point in points if curve]}


def script(*command):
    """What a script prints, and its seconds; of a training also what its record says."""
    os.makedirs("runs", exist_ok=True)  # models are saved there
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env=ENVIRONMENT)
    found = {"seconds": round(time.perf_counter() - start, 1), "output": done.stdout.splitlines()}
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed: {' '.join(found['output'][-3:])}")
    folder = re.search(r"history: (.+)", done.stdout)
    if folder:
        history = files.read_json(f"{folder[1]}/history.json")
        last = history["reports"][-1]
        reports = [[report["batch"], round(report["loss"], 4), report["train_accuracy"],
                    report["test_accuracy"]] for report in history["reports"]]
        found = {"accuracy": history.get("test_accuracy", last["test_accuracy"]),
                 "train_accuracy": last["train_accuracy"], **found, "reports": reports,
                 "confusion": history.get("confusion")}
    return found


def examine(path, dataset, network):
    """What a model in this folder makes of the test set."""
    testset, prepare = load(dataset, network)[1], nn.Identity()
    model = NETWORKS[network][0]().to(DEVICE, memory_format=torch.channels_last)
    state = files.load_weights(model, path)
    if network == "resnet18":
        size = files.note_in(state, "image_size", fashion_mnist.SIZE)
        prepare = partial(fashion_mnist.prepare, size=size)
    logits = train.predict(model, testset, prepare, machine.has_bfloat16(DEVICE))
    confusion = fashion_mnist.class_accuracy(logits.argmax(1), testset)[0]
    return {"confusion": confusion.tolist(),
            "mistakes": figures.confident_mistakes(logits.softmax(1), testset, 24)}


# ------------------------------------------------------------------ statistics, tables, figures

COLLAPSED = 0.35  # a training that ends below has hardly learned, and is left out
T975 = [4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]  # Student's t, for 3 to 10 values
BATCHES = 5 * math.ceil(60_000 / 128)  # of train.py's training
LOOKS = [(figures.BLUE, "o-"), (figures.ORANGE, "s--"), (figures.GREEN, "^-"),
         (figures.PINK, "v--"), (figures.GREY, "D-"), (figures.SKY, "p--"),
         (figures.BLACK, "+:"), (figures.YELLOW, "1-.")]


def keys_of(runs):
    """{KEY: how many trainings} for runs "KEY seed N"."""
    return Counter(run.rpartition(" seed ")[0] for run in runs)


def over_seeds(runs, key, field="accuracy"):
    """{N: a field of "KEY seed N"}, accuracies in percent, where the training learned."""
    values = {}
    for seed in range(10):
        run = runs.get(f"{key} seed {seed}")
        if run and run["accuracy"] > COLLAPSED:
            values[seed] = 100 * run[field] if field.endswith("accuracy") else run[field]
    return values


def interval(values):
    """(mean, half the width of its 95 % confidence interval by Student's t; 0 for one or two)."""
    count = len(values)
    half = T975[count - 3] * stdev(values) / count**0.5 if count > 2 else 0.0
    return fmean(values), half


def percent(values):
    """For a table; one or two values as they are, for their interval would say nothing."""
    if len(values) < 3:
        return ", ".join(f"{value:.2f}" for value in values)
    return "{:.2f} ± {:.2f}".format(*interval(values))


def difference(values, others):
    """For a table: the mean difference of pairs of one seed; a star where it is significant."""
    pairs = [values[seed] - others[seed] for seed in values if seed in others]
    if not pairs:
        return ""
    mean, half = interval(pairs)
    if len(pairs) < 3:
        return f"{mean:+.2f}"
    return f"{mean:+.2f} ± {half:.2f}" + (" *" if abs(mean) > half else "")


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def name_of(key):
    """In a table; an option is code."""
    return f"`{key}`" if key.startswith("--") else key


def show_trainings(name, runs, base=None):
    """A table of all trainings; base(KEY): the KEY that one is compared with."""
    header = ["training", "n", "train accuracy (%)", "accuracy (%)"]
    header += ["difference (points)"] if base else []
    rows = []
    for key, count in keys_of(runs).items():
        values = over_seeds(runs, key)
        n = count if len(values) == count else f"{len(values)} of {count}"
        train_accuracy = over_seeds(runs, key, "train_accuracy")
        rows.append([name_of(key), n, percent(train_accuracy.values()), percent(values.values())])
        if base:
            others = over_seeds(runs, base(key)) if base(key) != key else {}
            rows[-1].append(difference(values, others))
    return {name: table(header, rows)}


def show_lines(name, runs, base=None, level=None, **settings):
    """Their table, and a figure: mean accuracy and 95 % interval of runs "LINE X" against X.

    What follows a comma in LINE is left out; level: of a dotted line; settings: of the axes.
    """
    lines = {}
    for key in keys_of(runs):
        line, _, x = key.rpartition(" ")
        values = over_seeds(runs, key).values()
        if values:
            lines.setdefault(line.split(",")[0], []).append((float(x), *interval(values)))
    figure, axis = figures.new()
    for (line, points), (colour, look) in zip(lines.items(), LOOKS):
        x, means, halves = zip(*sorted(points))
        axis.errorbar(x, means, halves, fmt=look, color=colour, capsize=3, label=line)
    axis.set(**{"ylabel": "test accuracy (%)"} | settings)
    axis.minorticks_off()
    if level:
        axis.axhline(level, color=figures.GREY, linestyle=":")
    figure.legend(loc="outside right center")
    figure.savefig(f"figures/{name}.png")
    return show_trainings(name, runs, base)


def show_crossed(name, runs, base=None):
    """A table of mean accuracies for runs "ROW, COLUMN seed N"; base: the column to compare with.
    """
    pairs = [key.split(", ", 1) for key in keys_of(runs)]
    labels, columns = (dict.fromkeys(names) for names in zip(*pairs))
    rows = []
    for label in labels:
        rows.append([label])
        others = over_seeds(runs, f"{label}, {base}")
        for column in columns:
            values = over_seeds(runs, f"{label}, {column}")
            rows[-1].append(percent(values.values()))
            if base and column != base:
                rows[-1][-1] += f" ({difference(values, others)})"
    return {name: table(["accuracy (%)", *map(name_of, columns)], rows)}


def show_records(name, runs):
    """A table of the numbers in each record."""
    first = next(iter(runs.values()))
    fields = [field for field in first if isinstance(first[field], (int, float))]
    rows = [[f"`{key}`", *(f"{100 * run[field]:.2f} %" if "accuracy" in field else run[field]
                           for field in fields)] for key, run in runs.items()]
    return {name: table(["", *(field.replace("_", " ") for field in fields)], rows)}


def show_optimizers(name, runs):
    figure, axis = figures.new()
    looks = dict(zip(SWEEP, LOOKS))  # as in the figure of the learning rates
    for optimizer, lr in COMPARED:
        colour, look = looks[optimizer]
        look = "o:" if (optimizer, lr) == ("adam", 0.015) else look
        curves = torch.tensor(list(over_seeds(runs, f"{optimizer} {lr}", "curve").values()))
        errors = 100 * (1 - curves[:, :, 1].mean(0))
        batches = [*range(50, BATCHES, 50), BATCHES]
        axis.semilogy(batches, errors.tolist(), look[1:], color=colour, label=f"{optimizer} {lr}")
    for fall in (0.6, 0.85):
        axis.axvline(fall * BATCHES, color=figures.GREY, linestyle=":")
    ticks = (1, 2, 5, 10, 20, 50)
    axis.set(xlabel="mini-batches of 128 images (dotted: the learning rate falls)",
             ylabel="error (%), logarithmic", yticks=ticks, yticklabels=ticks)
    axis.legend()
    figure.savefig(f"figures/{name}.png")
    return show_trainings(name, runs, base=lambda key: "adamw 0.005")


def show_epochs(name, runs):
    """Its learning rate is constant, so each point of a curve is a training of so many epochs."""
    trainings = {}
    for key, run in runs.items():
        for n, (train_accuracy, accuracy) in enumerate(run["curve"], 1):
            trainings[key.replace(" seed", f", epochs {n} seed")] = {
                "train_accuracy": train_accuracy, "accuracy": accuracy}
    return show_lines(name, trainings, level=57.23, xlabel="epochs")


def show_bonus(name, runs):
    screen("fashion", f"fashion_mnist.py {BONUS} --save runs/bonus.pth",
           runs[f"{BONUS} seed 0"]["output"])
    return show_records(name, runs)


def show_shipped(name, runs):
    for path, dataset in (("model.pth", "mnist"), ("fashion_mnist.pth", "fashion-mnist")):
        testset = load(dataset, "cnn")[1].to("cpu")
        worst = runs[path]["mistakes"][:10]
        figures.mistakes(worst, testset, 5).savefig(f"figures/mistakes_{dataset}.png", dpi=120)
    counts = torch.tensor(runs[path]["confusion"])
    drawn = figures.confusion(counts, testset.classes, "test")
    drawn.savefig(f"figures/confusion_{dataset}.png")
    return {}


def show_outputs(name, runs):
    for key, run in runs.items():
        screen(key, PRINTED[key], run["output"])
    return {}


def screen(name, command, output):
    """Draw a picture of a terminal: "python COMMAND" and what it printed."""
    lines = textwrap.wrap(f"$ python {command}", 100, subsequent_indent="      ",
                          break_on_hyphens=False)
    lines = [*(f"{line} \\" for line in lines[:-1]), lines[-1]]  # a long command goes on
    lines += [line.rstrip() for line in output]
    width, height = 0.075 * max(map(len, lines)) + 0.3, 0.155 * len(lines) + 0.25
    figure = Figure(figsize=(width, height), facecolor="#1e1e1e")
    for number, line in enumerate(lines, 1):
        figure.text(0.1 / width, 1 - (0.05 + 0.155 * number) / height, line, family="monospace",
                    fontsize=8.5, color="#e8e8e8", va="baseline", parse_math=False)
    figure.savefig(f"figures/output_{name}.png", dpi=110)


# ------------------------------------------------------------------ the studies
#
# A run is called "KEY seed N": tables and figures split that again.


class Study(NamedTuple):
    about: str    # a line for the list
    runs: dict    # {key: a function that returns what is recorded, a dict}
    show: object  # (name, what is recorded) -> {name of a block in report.md: its text}


def seeded(count, trainings, **options):
    """{"KEY seed N": run} for trainings {KEY: its options} and N from 0; options: of all."""
    return {f"{key} seed {seed}": partial(training, seed=seed, **(options | own))
            for seed in range(count) for key, own in trainings.items()}


def scripts(count, command, options):
    """{"KEY seed N": a run of a script} for options {KEY: text} and N from 0."""
    return {f"{key} seed {seed}": partial(script, *f"{command} {text} --seed {seed}".split())
            for seed in range(count) for key, text in options.items()}


def named(options):
    """{KEY: text}, where the text itself is the KEY."""
    return {text: text for text in options}


def small(key, epochs=6):
    """The options of a small training of ResNet18; key: "flip 0.5 rotation 10"."""
    flip, rotation = map(float, key.split()[1::2])
    return {"dataset": "fashion-mnist", "network": "resnet18", "images": 4000, "epochs": epochs,
            "batch_size": 64, "augment": Augment(flip, rotation),
            "prepare": partial(fashion_mnist.prepare, size=32)}


RECIPES = [(0.005, 128, Augment()), (0.005, 128, Augment(shift=1)), (0.005, 128, RECIPE),
           (0.01, 128, RECIPE), (0.003, 64, RECIPE), (0.005, 128, Augment(rotation=15, shift=2))]
# six learning rates, a factor of about three apart, around what is usual for each optimizer
SGDS, ADAMS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3), (0.00015, 0.0005, 0.0015, 0.005, 0.015, 0.05)
SWEEP = {"sgd": (0.01, 0.03, 0.1, 0.3, 1, 3), "momentum": SGDS, "nesterov": SGDS,
         "rmsprop": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03), "adagrad": SGDS,
         "adam": ADAMS, "adamw": ADAMS, "nadam": ADAMS}
RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1)
COMPARED = [("sgd", 0.3), ("momentum", 0.1), ("rmsprop", 0.003), ("adam", 0.015),
            ("adam", 0.005), ("adamw", 0.005)]  # at the best of these; Adam's best two are as good
SCHEDULED = [("adam", 0.0015), ("adam", 0.005), ("adam", 0.015), ("sgd", 0.1), ("sgd", 0.3)]
SCHEDULES = {"falling": (0.6, 0.85), "constant": ()}
CENTRED = {"prepare": lambda images: images * 2 - 1}  # to [-1, 1]
LENET5 = {"dataset": "cifar10", "network": "lenet5", "augment": Augment()}
FURTHER = LENET5 | {"optimizer": "adamw", "lr": 0.003} | CENTRED
MOVED, SHIFTED = ", flips and shifts", FURTHER | {"augment": Augment(flip=0.5, shift=2)}
TRAIN, FASHION = "train.py --save runs/model.pth", "fashion_mnist.py --save runs/bonus.pth"
BONUS = "--weights imagenet-resnet18.pth"  # from elsewhere: report.md says which they are
TUNED = ["--lr 0.1", "--lr 0.01", "--batch-size 32", "--weight-decay 0.002",
         "--label-smoothing 0", "--flip 0", "--shift 2", "--image-size 96", "--weights none",
         "--weights none --lr 0.1", "--weights none --lr 0.3", "--epochs 8",
         "--epochs 8 --shift 2"]
SHORT = "--validation 10000 --train-images 15000 --epochs 3"
GRID = [f"flip {flip} rotation {rotation}"
        for flip in (0, 0.5) for rotation in (0, 5, 10, 20, 45, 90, 180)]
NONE, FLIP = "flip 0 rotation 0", "flip 0.5 rotation 0"
none_of = partial(re.sub, "flip.*", NONE)
PRINTED = {  # the name of its figure: the arguments of python
    "dataset": "dataset.py", "model": "model.py", "train": TRAIN,
    "optimizer": "train.py --optimizer sgd --report-every 500 --save runs/sgd.pth",
    "cifar10": "train.py --dataset cifar10 --report-every 400 --epochs 2 --save runs/cifar10.pth",
    "turned": "fashion_mnist.py --weights none --image-size 64 --epochs 1 --batch-size 32 "
              "--lr 0.05 --train-images 12800 --flip 0.5 --rotation 20 --save runs/turned.pth",
    "fashion_evaluate": "fashion_mnist.py --evaluate fashion_mnist.pth",
    "evaluate": "train.py --evaluate model.pth"}

STUDIES = {
    "recipe": Study("what train.py's settings were chosen by, on 5,000 validation images", seeded(
        2, {f"lr {lr} batch {size} {augment}": {"lr": lr, "batch_size": size, "augment": augment}
            for lr, size, augment in RECIPES}, validation=5000), show_trainings),
    "sweep": Study("six learning rates for each optimizer, on 5,000 validation images", seeded(
        2, {f"{name} {lr}": {"optimizer": name, "lr": lr}
            for name, rates in SWEEP.items() for lr in rates}, epochs=2, validation=5000),
        partial(show_lines, xlabel="learning rate", xscale="log", xticks=RATES, xticklabels=RATES,
                ylim=(84, 99.5), ylabel="validation accuracy (%)")),
    "optimizers": Study("five optimizers at the best learning rates of `sweep`", seeded(
        10, {f"{name} {lr}": {"optimizer": name, "lr": lr} for name, lr in COMPARED},
        curve=(50, 5000)), show_optimizers),
    "momentum": Study("two learning rates for momentum, on 5,000 validation images", seeded(
        10, {f"momentum {lr}": {"optimizer": "momentum", "lr": lr} for lr in (0.03, 0.1)},
        validation=5000), show_trainings),
    "schedules": Study("MultiStepLR and a constant learning rate", seeded(
        10, {f"{name} {lr}, {schedule}": {"optimizer": name, "lr": lr, "milestones": milestones}
             for name, lr in SCHEDULED for schedule, milestones in SCHEDULES.items()}),
        partial(show_crossed, base="constant")),
    "batch_sizes": Study("Adam at 0.005 times the square root of size/128", seeded(
        3, {f"batch {size}": {"batch_size": size, "lr": float(f"{0.005 * (size / 128)**0.5:.3g}")}
            for size in (16, 32, 64, 128, 256, 512)}),
        show_trainings),
    "seeds": Study("`python train.py` from start to end",
                   scripts(5, TRAIN, {"train.py": ""}), show_records),
    "tutorial": Study("LeNet-5 on CIFAR10 as in the hand-out, pixels in [0, 1] or [-1, 1]", seeded(
        5, {"as printed": {}, "centred": CENTRED}, **LENET5, optimizer="momentum", lr=0.001,
        epochs=6, batch_size=4, milestones=(), autocast=False, curve=(12500, None)), show_epochs),
    "lenet5_further": Study("how far LeNet-5 goes on CIFAR10", {
        **seeded(3, {f"{n} epochs": {"epochs": n} for n in (10, 30)}, **FURTHER),
        **seeded(3, {f"{n} epochs{MOVED}": {"epochs": n} for n in (10, 30, 100)}, **SHIFTED),
        **seeded(1, {f"300 epochs{MOVED}": {"epochs": 300}}, **SHIFTED)},
        partial(show_trainings, base=lambda key: key.removesuffix(MOVED))),
    "bonus_settings": Study("fashion_mnist.py's settings, on 10,000 validation images", {
        **scripts(2, f"{FASHION} {BONUS} {SHORT}", {"the defaults": ""}),
        **scripts(1, f"{FASHION} {BONUS} {SHORT}", named(TUNED))}, show_trainings),
    "augmentation": Study("flips by rotations: ResNet18 at 32x32 on 4,000 images", seeded(
        3, {key: small(key) for key in GRID}),
        partial(show_lines, base=none_of, xlabel="rotation by up to (degrees)")),
    "augmentation_and_length": Study("24 epochs of 4,000 images", seeded(
        3, {key: small(key, epochs=24) for key in (NONE, FLIP, GRID[2])}),
        partial(show_trainings, base=none_of)),
    "bonus": Study("`python fashion_mnist.py` from start to end", {
        **scripts(3, FASHION, named([BONUS])), **scripts(1, FASHION, named(["--weights none"]))},
        show_bonus),
    "shipped": Study("what the two models in this folder make of the test sets", {
        "model.pth": partial(examine, "model.pth", "mnist", "cnn"),
        "fashion_mnist.pth": partial(examine, "fashion_mnist.pth", "fashion-mnist", "resnet18")},
        show_shipped),
    "outputs": Study("what the programs print", {
        name: partial(script, *command.split()) for name, command in PRINTED.items()},
        show_outputs)}


def results(name):
    """What results/NAME.json holds."""
    path = f"results/{name}.json"
    try:
        return files.read_json(path) if os.path.exists(path) else {}
    except ValueError:
        raise UserError(f"{path} is damaged") from None


def record(name):
    """Run what results/NAME.json does not have yet."""
    done, runs = results(name), STUDIES[name].runs
    on = (f"{PROCESSOR}, {os.cpu_count()} cores, {torch.get_num_threads()} used, {PRECISION}, "
          f"{DEVICE}, Python {platform.python_version()}, torch {torch.__version__}")
    for key in [key for key in runs if key not in done]:
        try:
            done[key] = {**runs[key](), "machine": on}
        except BaseException as stop:  # command_line.script prints `saved`
            count = sum(key in done for key in runs)
            stop.saved = f"{count} of {len(runs)} runs are recorded: the same command goes on"
            raise
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(run)}" for key, run in done.items())
        files.write(f"{{\n{lines}\n}}\n".encode(), f"results/{name}.json")
        print(f"{key} is recorded")


def report():
    """Draw figures/ and fill in the tables of report.md and appendix.md, from results/."""
    found, blocks, machines = {}, {"layers": layers()}, []
    for name, study in STUDIES.items():
        recorded = results(name)
        if study.runs.keys() - recorded.keys():
            raise UserError(f"results/{name}.json lacks runs: run python experiments.py {name}")
        found[name] = {key: recorded[key] for key in study.runs}
        used = dict.fromkeys(run["machine"].split(", Python")[0] for run in found[name].values())
        machines.append([f"`{name}`", len(study.runs), "; ".join(used)])
        blocks |= study.show(name, found[name])
    blocks["machines"] = table(["study", "runs", "machine"], machines)
    blocks["glance"] = glance(found)
    columns = ["unit", "ours", "before", "course", "ceiling", "1 thread", "oneDNN"]
    rows = [[name, *(row.get(key, "") for key in columns)]
            for name, row in results("benchmark").items()]
    blocks["benchmark"] = table(["", *columns], rows)
    for name in ("photos", "kills"):
        blocks |= show_records(name, results(name))

    def filled(match):
        name = match[1]
        return f"<!-- {name} -->\n{blocks.get(name) or source_of(name)}\n<!-- end -->"

    for path in ("report.md", "appendix.md"):
        text = Path(path).read_text(encoding="utf-8")
        text = re.sub(r"<!-- ([^\n]+) -->\n.*?<!-- end -->", filled, text, flags=re.S)
        files.write(text.encode(), path)


def glance(found):
    """A table and a figure of the main results: a point for each training."""
    def accuracies(study, key):
        return list(over_seeds(found[study], key).values())

    def shipped(path):
        confusion = torch.tensor(found["shipped"][path]["confusion"])
        return [100 * (confusion.trace() / confusion.sum()).item()]

    tutorial = [100 * run["curve"][1][1] for key, run in found["tutorial"].items()
                if key.startswith("as printed")]
    rows = [("CNN on MNIST", "`train.py`", 95, accuracies("seeds", "train.py")),
            ("CNN, model.pth", "`train.py --evaluate model.pth`", 95, shipped("model.pth")),
            ("ResNet18 on Fashion-MNIST", f"`fashion_mnist.py {BONUS}`", 90,
             accuracies("bonus", BONUS)),
            ("ResNet18, fashion_mnist.pth", "`fashion_mnist.py --evaluate fashion_mnist.pth`", 90,
             shipped("fashion_mnist.pth")),
            ("LeNet-5 on CIFAR10", "[the tutorial's](README.md#the-tutorial)", 57.23, tutorial)]
    figure, axis = figures.new()
    for y, (_, _, wanted, values) in enumerate(reversed(rows)):
        axis.plot([100 - value for value in values], [y] * len(values), "o", color=figures.BLUE)
        axis.plot([100 - wanted], [y], "|", color=figures.ORANGE, markersize=16)
    axis.set(xscale="log", xlabel="test error (%), logarithmic", ylim=(-0.5, len(rows) - 0.5),
             xticks=(1, 2, 5, 10, 20, 50), xticklabels=(1, 2, 5, 10, 20, 50),
             yticks=range(len(rows)),
             yticklabels=[name for name, *_ in reversed(rows)])
    figure.savefig("figures/glance.png")
    return table(["", "command", "hand-out (%)", "n", "test accuracy (%)"],
                 [[name, command, wanted, len(values), percent(values)]
                  for name, command, wanted, values in rows])


def source_of(name):
    """The source of "MODULE.FUNCTION" as Markdown, or, "MODULE.FUNCTION: START ... END", the lines
    of it from the one that begins with START to the one that begins with END.
    """
    name, _, part = name.partition(": ")
    module, function = name.split(".")
    source = inspect.getsource(getattr(importlib.import_module(module), function))
    if part:
        start, end = map(re.escape, part.split(" ... "))
        source = re.search(rf"^ *{start}.*?^ *{end}[^\n]*\n", source, re.M | re.S)[0]
    return f"```python\n{textwrap.dedent(source)}```"


def layers():
    """The table of question 1.1, found by running the network."""
    rows = [[row["number"] or "", row["layer"], list(row["input"]), list(row["output"]),
             row["formula"]] for row in layer_table(cnn(), (1, 28, 28), 16)]
    total = sum(parameter.numel() for parameter in cnn().parameters())
    return table(["", "layer", "input", "output", "trainable parameters"],
                 [*rows, ["", "total", "", "", f"{total:,}"]])


def main():
    parser = command_line.Parser(prog="experiments.py", description="The studies of report.md.")
    parser.add_argument("study", nargs="?", choices=[*STUDIES, "report"])
    name = parser.parse_args().study
    if name == "report":
        report()
    elif name:
        record(name)
    else:
        print("\n".join(f"{name:<16} {study.about}" for name, study in STUDIES.items()))


if __name__ == "__main__":
    command_line.script(main)
