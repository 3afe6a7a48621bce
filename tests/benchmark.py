"""Side by side in one run: this bundle, the course's loop, an earlier version, the ceiling.

    python tests/benchmark.py               # some ten minutes; results/benchmark.json
    python tests/benchmark.py --only step   # the rows whose name has this word

The contestants of a row take turns, each in a fresh process, so that a machine that slows down
slows all of them. There are few turns: differences of some per cent mean nothing. Nothing else
may run beside it. Steps are of mini-batches of 64, without augmentation.

    ours       the scripts as they are; in the rows of steps, train.fit
    before     those of an earlier commit, `--before`
    course     a plain loop: DataLoader, every image through PIL, float32, loss.item() every step
    ceiling    one mini-batch that stays where it is: no loading, no augmentation, no measuring
    1 thread   ours, with --threads 1
    oneDNN     ours, with PyTorch's own gradients (support/convolution.py)
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from statistics import median

ROOT = Path(__file__).absolute().parents[1]
CHILD = len(sys.argv) > 1 and sys.argv[1] == "--child"
if not CHILD:  # a child finds the version that it measures in PYTHONPATH
    sys.path.insert(0, str(ROOT))
ENVIRONMENT = dict(os.environ)  # what the children get: importing train may set OMP_WAIT_POLICY

import train  # first, as in the scripts

import torch
from torch import nn, optim

import fashion_mnist
from dataset import load_fashion_mnist, load_mnist
from model import cnn, resnet18

BATCH = 64
AUTOCAST = getattr(train, "machine", train).has_bfloat16()  # an earlier version has it in train

# ------------------------------------------------------------------ measured in a child: rates


def set_up(network):
    """(model, optimizer, loss function, training set, test set) of train.py, fashion_mnist.py."""
    if hasattr(train, "machine"):  # an earlier version does not
        train.machine.keep_freed_memory()
    if network == "cnn":
        model = cnn().to(memory_format=torch.channels_last)
        optimizer = train.make_optimizer("adam", model.parameters())
        return model, optimizer, nn.CrossEntropyLoss(), *load_mnist()
    model = resnet18().to(memory_format=torch.channels_last)
    loss_fn = nn.CrossEntropyLoss(label_smoothing=0.1)
    return model, fashion_mnist.make_optimizer(model), loss_fn, *load_fashion_mnist()


def ours(network, size, steps):
    """Training steps a second, by train.fit."""
    model, optimizer, loss_fn, trainset, testset = set_up(network)
    more = {}
    if network == "resnet18":
        more["prepare"] = partial(fashion_mnist.prepare, size=size)

    def fit(count):
        return train.fit(model, trainset.subset(slice(BATCH * count)), testset.subset(slice(1)),
                         optimizer, train.make_schedule(optimizer, count), 1, batch_size=BATCH,
                         loss_fn=loss_fn, autocast=AUTOCAST, report_images=1, **more)

    with fashion_mnist.FasterGradients():
        fit(1)
        return steps / fit(steps)["reports"][-1]["seconds"]


def onednn(network, size, steps):
    fashion_mnist.FasterGradients = nullcontext
    return ours(network, size, steps)


def course_data(network, size, train_split=True):
    """The data as course solutions load them: every image through PIL, one by one."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms
    kind = datasets.MNIST if network == "cnn" else datasets.FashionMNIST
    transform = transforms.Compose([transforms.Grayscale(), transforms.Resize((size, size)),
                                    transforms.ToTensor()])
    return DataLoader(kind("data", train_split, transform), batch_size=BATCH, shuffle=train_split)


def course(network, size, steps):
    model = cnn() if network == "cnn" else resnet18()
    optimizer = (optim.Adam(model.parameters()) if network == "cnn" else
                 optim.SGD(model.parameters(), lr=0.01, momentum=0.9))
    loss_fn = nn.CrossEntropyLoss()
    for step, (images, labels) in enumerate(course_data(network, size)):
        optimizer.zero_grad()
        loss = loss_fn(model(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()
        if step == 0:  # the first is slow in every contestant
            start = time.perf_counter()
        if step == steps:
            return steps / (time.perf_counter() - start)


def ceiling(network, size, steps):
    from support.convolution import FasterGradients  # here, for an earlier version has none
    model, optimizer, loss_fn, trainset, _ = set_up(network)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # one mini-batch learned by heart has other activations
    images, labels = trainset[:BATCH]
    images = fashion_mnist.prepare(images, size) if network == "resnet18" else images
    images = images.contiguous(memory_format=torch.channels_last)
    forward = train.machine.faster(model)
    for step in range(steps + 1):
        optimizer.zero_grad()
        with FasterGradients(), torch.autocast("cpu", torch.bfloat16, enabled=AUTOCAST):
            loss = loss_fn(forward(images), labels)
        loss.backward()
        optimizer.step()
        if step == 0:
            start = time.perf_counter()
    return steps / (time.perf_counter() - start)


def evaluation():
    """Images a second, by train.accuracy, in the second of two goes."""
    model, _, _, data, _ = set_up("cnn")
    for _ in range(2):
        start = time.perf_counter()
        train.accuracy(model, data, autocast=AUTOCAST)
    return len(data) / (time.perf_counter() - start)


@torch.no_grad()
def course_evaluation():
    model, count, right = cnn().eval(), 0, 0
    loader = course_data("cnn", 28, train_split=False)
    start = time.perf_counter()
    for images, labels in loader:
        right += (model(images).argmax(1) == labels).sum().item()
        count += len(labels)
    return count / (time.perf_counter() - start)


# ------------------------------------------------------------------ measured from outside: seconds


def child(what, *arguments, tree=ROOT):
    """What a function above returns in a fresh process, with the scripts of `tree`."""
    command = [sys.executable, __file__, "--child", what, json.dumps(arguments)]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    return float(done.stdout.split()[-1])


def process(*command, tree=ROOT, busy=0):
    """Seconds of a whole script, with so many endless loops beside it."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        os.symlink(ROOT / "data", f"{folder}/data")
        for _ in range(busy):
            loop = [sys.executable, "-c", "while True: pass"]
            stack.callback(subprocess.Popen(loop).kill)
        start = time.perf_counter()
        subprocess.run([sys.executable, tree / command[0], *command[1:]], cwd=folder, check=True,
                       env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - start


def rows(old):
    """{name of a row: (unit, turns, {contestant: function that returns a figure})}."""
    both = {"ours": {}, "before": {"tree": old}}

    def steps(network, size, count, turns, more=()):
        return "steps a second", turns, {name: partial(child, name.lower(), network, size, count)
                                         for name in ("ours", "course", "ceiling", *more)}

    def seconds(turns, *command, busy=0, one_thread=False):
        contestants = {name: partial(process, *command, busy=busy, **where)
                       for name, where in both.items()}
        if one_thread:
            contestants["1 thread"] = partial(process, *command, "--threads", "1", busy=busy)
        return "seconds", turns, contestants

    short = "train.py", "--epochs", "1", "--train-images", "12800"
    evaluations = {name: partial(child, "evaluation", **where) for name, where in both.items()}
    evaluations["course"] = partial(child, "course_evaluation")
    return {
        "CNN, step": steps("cnn", 28, 200, 4),
        "CNN, evaluation": ("images a second", 4, evaluations),
        "python train.py --help": seconds(2, "train.py", "--help"),
        "python train.py --evaluate model.pth": seconds(2, "train.py", "--evaluate",
                                                        str(ROOT / "model.pth")),
        "python train.py --epochs 2": seconds(2, "train.py", "--epochs", "2"),
        "python train.py": seconds(1, "train.py"),
        "shared: 100 steps alone": seconds(1, *short, one_thread=True),
        "shared: beside one program": seconds(1, *short, busy=1, one_thread=True),
        "shared: beside two programs": seconds(1, *short, busy=2, one_thread=True),
        "ResNet18 at 64, step": steps("resnet18", 64, 6, 4, ["oneDNN"]),
        "ResNet18 at 224, step": steps("resnet18", 224, 2, 2, ["oneDNN"])}


def race(unit, turns, contestants):
    """The figures of a row: the medians, and ours divided by each other contestant's."""
    figures = {name: [] for name in contestants}
    for turn in range(turns):
        for name in list(contestants)[::1 if turn % 2 else -1]:  # who follows whom must not matter
            figures[name].append(contestants[name]())
    medians = {name: median(values) for name, values in figures.items()}
    return {"unit": unit, "turns": turns,
            **{name: float(f"{value:.3g}") for name, value in medians.items()},
            "ours_over": {name: round(medians["ours"] / value, 2)
                          for name, value in medians.items() if name != "ours"}}


def main():
    from experiments import PROCESSOR
    from support import UserError, command_line, files
    parser = command_line.Parser(prog="benchmark.py", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="the rows whose name contains this")
    parser.add_argument("--before", default="e68fba4", metavar="COMMIT",
                        help="the version to compare with (default: %(default)s)")
    parser.add_argument("--results", default=ROOT / "results/benchmark.json", metavar="FILE")
    args = parser.parse_args()
    load_mnist(ROOT / "data"), load_fashion_mnist(ROOT / "data")  # fetched, if they have to be
    with tempfile.TemporaryDirectory() as old:
        pack = ["git", "archive", "--output", f"{old}/before.tar", args.before]
        packed = subprocess.run(pack, cwd=ROOT, capture_output=True)
        if packed.returncode:
            raise UserError(f"--before {args.before}: {packed.stderr.decode().strip()}")
        shutil.unpack_archive(f"{old}/before.tar", old)
        chosen = {name: row for name, row in rows(Path(old)).items() if args.only in name}
        if not chosen:
            raise UserError(f"--only {args.only}: name a part of {', '.join(rows(Path(old)))}")
        for name, row in chosen.items():
            result = race(*row)
            results = files.read_json(args.results) if os.path.exists(args.results) else {}
            result["machine"] = f"{PROCESSOR}, {os.cpu_count()} cores, torch {torch.__version__}"
            text = json.dumps({**results, name: result}, indent=2)
            files.write((text + "\n").encode(), args.results)
            print(f"{name:38} {json.dumps(result)}", flush=True)


if __name__ == "__main__":
    if CHILD:
        print(globals()[sys.argv[2]](*json.loads(sys.argv[3])))
    else:
        from support import command_line
        command_line.script(main)
