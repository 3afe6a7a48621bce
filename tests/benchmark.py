"""Side by side in one run: this bundle, the course's loop, and the ceiling; ratios, not boasts.

    python tests/benchmark.py                # results/benchmark.json; hours without a GPU or AMX
    python tests/benchmark.py --only mnist   # a few minutes

The contestants take turns, round after round, so that a machine that slows down slows all of
them; each rate is the median over the rounds, each ratio the median of the rounds' ratios.
ResNet18's each have a process of their own, for the memory settings of fashion_mnist.py are the
process's. Run it on a quiet machine: a second busy process upsets every OpenMP program's timing.
"""

import json
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

ROOT = Path(__file__).absolute().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from torch import nn, optim
from torch.utils.data import DataLoader, Subset
from torchvision import __version__, datasets, transforms

import fashion_mnist
import train
from dataset import Augment, load_cifar10, load_fashion_mnist, load_mnist
from experiments import PROCESSOR, script
from model import cnn, resnet18
from support import UserError, command_line, files, machine

DEVICE = machine.pick_device("auto")
AUTOCAST, ON_CPU = machine.has_bfloat16(DEVICE), DEVICE.type == "cpu"
BATCH = 64
TO_90 = 66_000  # images that fashion_mnist.py sees on its way to 90 %
FLIP, FLIP_AND_TURN = Augment(flip=0.5), Augment(flip=0.5, rotation=10)


def rounds(contestants, count):
    """contestants: {name: function that returns items a second}; "ours" is one of them."""
    for contest in contestants.values():
        contest()  # warm up
    rates = {name: [] for name in contestants}
    for turn in range(count):
        for name in list(contestants)[::1 if turn % 2 else -1]:  # who follows whom must not matter
            rates[name].append(contestants[name]())
    ratios = {name: [ours / other for ours, other in zip(rates["ours"], rates[name])]
              for name in contestants if name != "ours"}
    return {"rounds": count,
            "per_second": {name: float(f"{median(rate):.3g}") for name, rate in rates.items()},
            "ours_over": {name: round(median(ratio), 3) for name, ratio in ratios.items()}}


def seconds(task):
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


# network: (its function, ours that loads the data, the course's class of them, its optimizer, and
# what it does to each image)
NETWORKS = {
    "cnn": (cnn, load_mnist, datasets.MNIST, optim.Adam, [
        transforms.Grayscale(), transforms.Resize((28, 28))]),
    "resnet18": (resnet18, load_fashion_mnist, datasets.FashionMNIST,
                 partial(optim.SGD, lr=0.01, momentum=0.9), [
        transforms.RandomHorizontalFlip(), transforms.RandomRotation(10)])}


@cache
def data(network):
    return [part.to(DEVICE) for part in NETWORKS[network][1]()]


def resized(images, step=None, size=224):
    return fashion_mnist.prepare(images, size)


def set_up(network, size, keep=True):
    """(model, optimizer, loss function, prepare) of train.py or fashion_mnist.py."""
    model = NETWORKS[network][0]().to(DEVICE, memory_format=torch.channels_last)
    if network == "cnn":
        optimizer = train.make_optimizer("adam", model.parameters())
        return model, optimizer, nn.CrossEntropyLoss(), train.as_it_is
    if keep:
        machine.keep_freed_memory()
    loss_fn = nn.CrossEntropyLoss(label_smoothing=0.1)
    return model, fashion_mnist.make_optimizer(model), loss_fn, partial(resized, size=size)


def ours(network, size, steps, augment=Augment(), autocast=AUTOCAST, keep=True):
    """Training steps a second of train.py or fashion_mnist.py."""
    model, optimizer, loss_fn, prepare = set_up(network, size, keep)
    trainset, testset = data(network)

    def fit(count):
        train.fit(model, trainset.subset(slice(BATCH * count)), testset.subset(slice(1)),
                  optimizer, train.make_schedule(optimizer, count), 1, batch_size=BATCH,
                  augment=augment, prepare=prepare, loss_fn=loss_fn, autocast=autocast,
                  report_images=1, quiet=True)

    fit(1)
    return steps / seconds(lambda: fit(steps))


def course_loader(network, size, images, train_split=True):
    """The data as course solutions load them: every image through PIL, one by one."""
    kind, before = NETWORKS[network][2], [transforms.Resize((size, size)), *NETWORKS[network][4]]
    every = kind("data", train_split, transforms.Compose([*before, transforms.ToTensor()]))
    return DataLoader(Subset(every, range(images)), batch_size=BATCH, shuffle=train_split)


def course(network, size, steps):
    """The same of the course's loop, in float32 and PyTorch's own memory layout."""
    model = NETWORKS[network][0]().to(DEVICE)
    loss_fn, optimizer = nn.CrossEntropyLoss(), NETWORKS[network][3](model.parameters())
    running_loss = 0.0
    for step, (images, labels) in enumerate(course_loader(network, size, BATCH * (steps + 1))):
        optimizer.zero_grad()
        loss = loss_fn(model(images.to(DEVICE)), labels.to(DEVICE))
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
        if step == 0:  # the first is slow in every contestant
            start = time.perf_counter()
    return steps / (time.perf_counter() - start)


def ceiling(network, size, steps):
    """The same of one mini-batch that stays where it is."""
    model, optimizer, loss_fn, prepare = set_up(network, size)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # not to learn it by heart: that is other work
    images, labels = data(network)[0][:BATCH]
    images = train.to_input(images, prepare)
    for step in range(steps + 1):
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=AUTOCAST):
            loss = loss_fn(model(images), labels)
        loss.backward()
        optimizer.step()
        if step in (0, steps):
            loss.item()  # a GPU has then done it all
        if step == 0:
            start = time.perf_counter()
    return steps / (time.perf_counter() - start)


def training(network, size, steps, count):
    contestants = {"course": (course,), "ceiling": (ceiling,), "ours": (ours,),
                   "ours, augmented": (ours, Augment(rotation=10, shift=1))}
    if network == "resnet18":
        other = "float32" if AUTOCAST else "bfloat16"
        contestants = {"course": (course,), "ceiling": (ceiling,), "ours": (ours, FLIP),
                       "ours, augmentation off": (ours,),
                       "ours, flip and rotation": (ours, FLIP_AND_TURN),
                       f"ours, {other}": (ours, FLIP, not AUTOCAST)}
        if ON_CPU:  # a GPU's memory is PyTorch's to keep, not glibc's
            contestants["ours, freed memory not kept"] = ours, FLIP, AUTOCAST, False
    with ExitStack() as stack:
        def apart(kind, *how):
            pool = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
            return lambda: pool.submit(kind, network, size, steps, *how).result()
        return rounds({name: apart(*what) for name, what in contestants.items()}, count)


@torch.no_grad()
def course_accuracy(model, loader):
    model.eval()
    correct, total = 0, 0
    for images, labels in loader:
        _, predicted = torch.max(model(images.to(DEVICE)).data, 1)
        total += labels.size(0)
        correct += (predicted == labels.to(DEVICE)).sum().item()
    return correct / total


def mnist_evaluation(count):
    testset, model = data("cnn")[1], cnn().to(DEVICE)
    loader = course_loader("cnn", 28, len(testset), train_split=False)
    ours_model = cnn().to(DEVICE, memory_format=torch.channels_last)
    tasks = {"ours": lambda: train.accuracy(ours_model, testset, autocast=AUTOCAST),
             "course": lambda: course_accuracy(model, loader)}
    return rounds({name: lambda task=task: len(testset) / seconds(task)
                   for name, task in tasks.items()}, count)


def time_to_90(_):
    """Seconds to 90 % on 5,000 held-out images at 224x224, from random weights.

    Ours is the whole process of fashion_mnist.py, on as few images as will do. The course's loop
    would take hours: our engine trains in its stead, with its optimizer, flips and rotations, and
    is looked at every 6,400 images; its time is the images over the images a second that its own
    loop makes here. It ends at 90 %, or, "reached" being false, at four times ours.
    """
    run = script("fashion_mnist.py", "--weights", "none", "--epochs", "2", "--train-images",
                  str(TO_90 // 2), "--validation", "5000", "--save", "runs/benchmark.pth")
    if run["test_accuracy"] < 0.9:
        raise UserError(f"{run['test_accuracy']} with {TO_90} images: TO_90 has to be larger")
    per_second = BATCH * course("resnet18", 224, 10)
    machine.keep_freed_memory()
    trainset, validation = train.hold_out(data("resnet18")[0], 5000)
    torch.manual_seed(0)
    model = resnet18().to(DEVICE, memory_format=torch.channels_last)
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    constant = optim.lr_scheduler.ConstantLR(optimizer, factor=1)
    how = {"prepare": resized, "autocast": AUTOCAST}
    looks, images, reached = [], 0, False
    while not reached and images / per_second < 4 * run["seconds"]:
        part = trainset.subset(torch.arange(images, images + BATCH * 100) % len(trainset))
        train.fit(model, part, validation, optimizer, constant, 1, batch_size=BATCH, seed=images,
                  augment=FLIP_AND_TURN, report_images=1, quiet=True, **how)
        images += BATCH * 100
        for count in (1000, 5000):
            accuracy = train.accuracy(model, validation.subset(slice(count)), **how)
            if accuracy < 0.89:  # not near: the first 1,000 will do
                break
        reached = accuracy >= 0.9 and count == 5000
        looks.append({"images": images, "accuracy": round(accuracy, 4), "of": count})
        print(f"course: {looks[-1]}, {per_second:.1f} images a second", flush=True)
    needed = images / per_second
    return {"ours": {"accuracy": run["test_accuracy"], "seconds": round(run["seconds"])},
            "course": {"looks": looks, "images_per_second": round(per_second, 1),
                       "seconds": round(needed), "reached": reached},
            "ours_over": {"course": round(needed / run["seconds"], 2)}}


def loading(count):
    """Seconds to load a whole dataset whose files are there, checked by SHA-256."""
    return {name: round(median(seconds(load) for _ in range(count)), 3)
            for name, load in (("mnist", load_mnist), ("cifar10", load_cifar10))}


def peak(*command):
    """In MiB."""
    return script(*command, "--save", "runs/benchmark.pth")["mib"]


def resnet_memory(_):
    return {"train_mib": peak("fashion_mnist.py", "--weights", "none", "--train-images", "320",
                              "--validation", "500")}  # all its image sizes, few mini-batches


def mnist_memory(_):
    imports = peak("-c", "import torch, torchvision, matplotlib.pyplot")
    whole = peak("train.py", "--epochs", "1")
    return {"imports_mib": imports, "train_mib": whole, "above_mib": whole - imports}


SMALL = partial(training, "resnet18", 64, 12 if ON_CPU else 100)
LARGE = partial(training, "resnet18", 224, 3 if ON_CPU else 50)
STUDIES = {"mnist training, steps": partial(training, "cnn", 28, 300),
           "mnist evaluation, images": mnist_evaluation,
           "loading, seconds": loading, "mnist memory": mnist_memory,
           "resnet18 training at 64, steps": SMALL, "resnet18 training at 224, steps": LARGE,
           "resnet18 memory": resnet_memory, "resnet18 to 90 %, seconds": time_to_90}


def this_machine():
    device = "" if ON_CPU else f"{torch.cuda.get_device_name(DEVICE)}, "
    return (f"{device}{PROCESSOR}, {os.cpu_count()} cores, "
            f"{torch.get_num_threads()} used, {'bfloat16' if AUTOCAST else 'float32'}, "
            f"Python {platform.python_version()}, torch {torch.__version__}, "
            f"torchvision {__version__}")


def main():
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=command_line.number(int, 1), default=7,
                        help="rounds in turn (default: %(default)s)")
    parser.add_argument("--only", default="", help="the studies whose name contains this")
    parser.add_argument("--results", default=ROOT / "results/benchmark.json", metavar="FILE",
                        help="gets what is measured, in place of the same studies' last results")
    args = parser.parse_args()
    path = Path(args.results).absolute()
    os.chdir(ROOT)
    os.makedirs("runs", exist_ok=True)
    chosen = [name for name in STUDIES if args.only in name]
    if not chosen:
        parser.error(f"--only {args.only}: name a part of one of {', '.join(STUDIES)}")
    for name in chosen:
        results = files.read_json(path) if path.exists() else {}
        results[name] = {**STUDIES[name](args.rounds), "machine": this_machine()}
        print(name, json.dumps(results[name], indent=2), flush=True)
        files.write((json.dumps(results, indent=2) + "\n").encode(), path)


if __name__ == "__main__":
    command_line.script(main)
