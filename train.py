r"""Train LeNet-5 or the assignment's CNN on MNIST, Fashion-MNIST or CIFAR10.

    python train.py                          # the assignment: the CNN on MNIST, saves model.pth
    python train.py --optimizer adam --epochs 3 --validation 5000
    python train.py --evaluate model.pth     # test accuracy of a saved model, no training
    python train.py --resume                 # goes on with a training that was stopped
    torchrun --standalone --nproc-per-node=2 train.py    # two processes, each with half of every mini-batch
    python train.py --help

    # the tutorial: LeNet-5 on CIFAR10, as the hand-out trains it
    python train.py --dataset cifar10 --model lenet5 --optimizer momentum --lr 0.001 \
        --batch-size 4 --epochs 2 --milestones none --rotation 0 --shift 0 \
        --precision float32 --report-every 500 --save lenet5.pth

Prints a report line every 1,000 mini-batches and ends with a summary (test accuracy, train
accuracy, time, where the model and the pictures are) and a few predictions.

The engine is two functions, `fit` and `accuracy`; fashion_mnist.py and experiments.py call the same two.
"""

import argparse
import atexit
import contextlib
import glob
import io
import json
import math
import os
import re
import shutil
import signal
import sys
import time
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from torch import nn, optim
from tqdm import tqdm

from dataset import Augment, DataError, load_cifar10, load_fashion_mnist, load_mnist, preprocess_for
from model import MODELS

DATASETS = {"mnist": load_mnist, "fashion-mnist": load_fashion_mnist, "cifar10": load_cifar10}

# name: (class, its arguments, its learning rate for the CNN on MNIST): the best of six on 5,000 held-out
# training images (results/sweep.json, by experiments.py), or a third of it: with momentum and 0.1 one of ten trainings
# collapsed (results/optimizers.json), and Adam's best, 0.015, is 0.07 points ahead of 0.005
OPTIMIZERS = {
    "sgd": (optim.SGD, {}, 0.3),
    "momentum": (optim.SGD, {"momentum": 0.9}, 0.03),
    "nesterov": (optim.SGD, {"momentum": 0.9, "nesterov": True}, 0.03),
    "rmsprop": (optim.RMSprop, {}, 0.003),
    "adagrad": (optim.Adagrad, {}, 0.03),
    "adam": (optim.Adam, {}, 0.005),
    "adamw": (optim.AdamW, {}, 0.005),
    "nadam": (optim.NAdam, {}, 0.005),
}


class UserError(Exception):
    """A person's mistake: one line that names what is wrong and what is allowed; exit status 2."""


class CannotWrite(UserError):
    """A file that cannot be written: a full disk, no permission."""


class Diverged(Exception):
    """The training loss is no longer finite; exit status 1."""


class Terminated(BaseException):
    """SIGTERM, which a machine that is shut down sends; exit status 143."""


# ------------------------------------------------------------------ the engine


def make_optimizer(name, parameters, lr=None, momentum=None, weight_decay=None):
    """The optimizer called `name` in OPTIMIZERS; None stands for its default value.

    Raises UserError for an unknown name, or for a momentum given to an optimizer without one.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"unknown optimizer {name!r}: choose from {', '.join(OPTIMIZERS)}")
    cls, arguments, default_lr = OPTIMIZERS[name]
    arguments = dict(arguments)
    if momentum is not None:
        if cls not in (optim.SGD, optim.RMSprop):
            raise UserError(f"--momentum goes with sgd, momentum, nesterov and rmsprop, not with {name}")
        arguments["momentum"] = momentum
    if weight_decay is not None:
        arguments["weight_decay"] = weight_decay
    if cls in (optim.SGD, optim.Adam, optim.AdamW):
        arguments["fused"] = True  # all parameters in one kernel, on the CPU as well
    try:
        return cls(parameters, lr=default_lr if lr is None else lr, **arguments)
    except ValueError as error:  # Nesterov without momentum, for one
        raise UserError(f"--optimizer {name}: {error}") from None


def make_schedule(optimizer, total, milestones=(0.6, 0.85)):
    """MultiStepLR, stepped once a mini-batch, that ends at 0.01 times the first learning rate.

    total: mini-batches of the whole training; milestones: fractions of it at which the learning
    rate falls, each time by the same factor; with () it stays constant.
    """
    gamma = 0.01 ** (1 / len(milestones)) if milestones else 1.0
    steps = [min(int(total * fraction), total - 1) for fraction in milestones]
    return optim.lr_scheduler.MultiStepLR(optimizer, steps, gamma)


@contextlib.contextmanager
def evaluating(model):
    """Eval mode and no gradients inside; each module's own mode comes back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def predict(model, dataset, transform=None, batch_size=250, autocast=False):
    """The logits [N, classes] of every image of `dataset`, in order, in eval mode.

    batch_size: images at once, or fewer where they are larger than 112x112: 250 of 224x224 would take gigabytes.
    """
    device = dataset.images.device
    logits = []
    with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        for start in range(0, len(dataset), batch_size):
            images = to_input(dataset[start:start + batch_size][0], transform)
            logits += [model(part).float() for part in images.split(max(1, batch_size * 112**2 // max(112, images.shape[-1])**2))]
    return torch.cat(logits)


def accuracy(model, dataset, transform=None, batch_size=250, autocast=False):
    """The fraction of `dataset` that `model` classifies correctly, in eval mode; arguments as for `predict`."""
    return (predict(model, dataset, transform, batch_size, autocast).argmax(1) == dataset.labels).float().mean().item()


def to_input(images, transform):
    """What a network is given: the transformed images, in the memory layout that convolutions like best."""
    if transform is not None:
        images = transform(images)
    return images.contiguous(memory_format=torch.channels_last)


def random_numbers(seed, number):
    """The generator `number` of a seed, so that any run can go on from any step: in `fit`, the first ones are for the
    order of the images in each epoch, then there is one for the augmentation of each mini-batch.
    """
    return torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**32)


def fit(model, trainset, testset, optimizer, scheduler, epochs, *, batch_size=64, seed=0,
        train_transform=None, test_transform=None, loss_fn=None, autocast=False,
        report_every=1000, report_images=None, measured="test", costs=None, checkpoint=None, progress=True):
    """Train `model` in place on `trainset`; returns the history, a dict (below).

    trainset, testset: ImageDataset on the model's device. The test set is only measured.
    scheduler: stepped once a mini-batch.
    train_transform(images, generator, step): makes the network's input from a mini-batch
        [B, C, H, W] in [0, 1]; step counts the mini-batches from 0. None: as is.
    test_transform(images): the same for measuring accuracy, on either set.
    autocast: forward passes in bfloat16 where PyTorch holds that to be safe.
    report_every: mini-batches between report lines; report_images: measure accuracy on the first
        so many images of each set, None for all. measured: what the report line calls `testset`,
        "validation" where it is held-out training images.
    costs: how much work each mini-batch is, on any scale, for the time left; None: all the same.
    checkpoint: a file to which the state of the training goes at every report and every two
        minutes; if it is there already, the training goes on from it, on the CPU to bit-identical weights.
    Under torchrun every process trains on its part of each mini-batch (batch normalisation then has the
    statistics of a part), and measures its part of each set.

    The history: "reports", a list of dicts (epoch, batch, loss, train_accuracy, test_accuracy,
    learning_rate, seconds), and "losses", the loss of every mini-batch.
    Raises Diverged where the loss, or a weight in the end, is not finite.
    """
    device = trainset.images.device
    loss_fn = loss_fn or nn.CrossEntropyLoss()
    per_epoch = math.ceil(len(trainset) / batch_size)
    total = epochs * per_epoch
    losses = torch.zeros(total, device=device)  # on the device: reading a loss every step would stall a GPU
    reports, step, seconds_before = [], 0, 0.0
    state = from_first(lambda: load_checkpoint(checkpoint) if checkpoint and os.path.exists(checkpoint) else None)
    if state:
        try:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            scheduler.load_state_dict(state["scheduler"])
            losses.copy_(state["losses"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError):  # model.py was changed since, say
            raise UserError(f"{checkpoint}: the checkpoint of another network or optimizer; train anew, without --resume") from None
        reports, step, seconds_before = state["reports"], state["step"], state["seconds"]
    start = saved = time.perf_counter()
    heads = [data.subset(slice(report_images)) for data in (trainset, testset)]
    network = nn.parallel.DistributedDataParallel(model) if TORCHRUN else model  # averages the gradients
    model.train()
    costs = costs or [1] * total
    bar = tqdm(total=sum(costs), initial=sum(costs[:step]), leave=False, disable=not (progress and is_first() and sys.stderr.isatty()),
               bar_format="{percentage:3.0f}% |{bar}| {elapsed} gone, {remaining} left")
    with bar:
        while step < total:
            epoch = step // per_epoch
            order = torch.randperm(len(trainset), generator=random_numbers(seed, epoch)).to(device)
            for indices in order.split(batch_size)[step % per_epoch:]:
                images, labels = trainset[indices]
                if train_transform is not None:
                    images = train_transform(images, random_numbers(seed, epochs + step), step)
                mine, weight = own_part(len(labels))
                images, labels = to_input(images[mine], None), labels[mine]

                optimizer.zero_grad()
                with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                    loss = loss_fn(network(images), labels) * weight
                loss.backward()
                optimizer.step()
                losses[step] = mean_over_processes(loss.detach())
                bar.update(costs[step])
                step += 1

                report = step % report_every == 0 or step == total
                due = report or checkpoint and is_first() and time.perf_counter() - saved > 120
                if due or step % 100 == 0:
                    check_finite(losses[:step])
                if report:
                    first = reports[-1]["batch"] if reports else 0
                    train_accuracy, test_accuracy = (accuracy_over_processes(model, data, test_transform, autocast)
                                                     for data in heads)
                    reports.append({
                        "epoch": epoch + 1, "batch": step, "loss": losses[first:step].mean().item(),
                        "train_accuracy": train_accuracy, "test_accuracy": test_accuracy,
                        "learning_rate": scheduler.get_last_lr()[0],
                        "seconds": seconds_before + time.perf_counter() - start,
                    })
                    if progress and is_first():
                        bar.write(report_line(reports[-1], total, measured))
                scheduler.step()
                if checkpoint and due and is_first():
                    saved = time.perf_counter()
                    save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                          "scheduler": scheduler.state_dict(), "losses": losses, "reports": reports,
                          "step": step, "seconds": seconds_before + saved - start}, checkpoint)
    if not all(parameter.isfinite().all() for parameter in model.parameters()):  # by the last step; no loss has seen it
        raise Diverged("the weights are not finite: try a smaller learning rate (--lr); no model was saved")
    return {"reports": reports, "losses": losses.tolist()}


def check_finite(losses):
    """Raise Diverged, naming the first mini-batch whose loss is not finite, if there is one."""
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        raise Diverged(f"the loss is not finite from mini-batch {bad[0].item() + 1} on: "
                       "try a smaller learning rate (--lr); no model was saved")


def report_line(report, total, measured):
    return (f"epoch {report['epoch']:>2}  batch {report['batch']:>6}/{total}  loss {report['loss']:.4f}  "
            f"train accuracy {100 * report['train_accuracy']:6.2f} %  "
            f"{measured} accuracy {100 * report['test_accuracy']:6.2f} %  learning rate {report['learning_rate']:.3g}")


# ------------------------------------------------------------------ torchrun: more than one process

TORCHRUN = "TORCHELASTIC_RUN_ID" in os.environ  # without it, everything below does nothing


def is_first():
    """Whether this process is the one that prints and saves."""
    return not TORCHRUN or os.environ["RANK"] == "0"


def join_torchrun(device):
    """Meet the other processes; every one has to call this, and in the end they leave with the process."""
    if TORCHRUN:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        patience = timedelta(hours=1)  # while the first process of each machine downloads the data
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
        atexit.register(dist.destroy_process_group)  # else its threads may outlive the interpreter, which then aborts


def own_part(count):
    """(slice of `count` images that is this process's, its weight in the mean over the processes).

    A mini-batch with fewer images than processes has none for some of them: these get one at weight 0.
    """
    if not TORCHRUN:
        return slice(None), 1.0
    rank, processes = dist.get_rank(), dist.get_world_size()
    start, end = count * rank // processes, count * (rank + 1) // processes
    return slice(start, max(end, start + 1)), (end - start) * processes / count


def mean_over_processes(value):
    """The mean of a tensor that every process has one of."""
    if TORCHRUN:
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


def accuracy_over_processes(model, dataset, transform, autocast):
    """`accuracy`, with the work shared out; all processes measure the first one's model."""
    if TORCHRUN:
        for buffer in model.buffers():  # the statistics of batch normalisation, which each gathers on its own part
            dist.broadcast(buffer, 0)
    mine, weight = own_part(len(dataset))
    value = weight * accuracy(model, dataset.subset(mine), transform, autocast=autocast)
    return mean_over_processes(torch.tensor(value, dtype=torch.float64, device=dataset.images.device)).item()


def from_first(make):
    """What make() returns, or raises, in the first process, in all of them."""
    if not TORCHRUN:
        return make()
    result = [None, None]
    if is_first():
        try:
            result[0] = make()
        except (UserError, DataError, SystemExit) as error:
            result[1] = error
    dist.broadcast_object_list(result)
    if result[1] is not None:
        raise result[1]
    return result[0]


@contextlib.contextmanager
def first_of_the_machine_first():
    """What is inside is done by one process of each machine, then by its others: a download, which is then there."""
    others = TORCHRUN and os.environ["LOCAL_RANK"] != "0"
    if others:
        dist.barrier()
    yield
    if TORCHRUN and not others:
        dist.barrier()


# ------------------------------------------------------------------ files


def save(state, path):
    """torch.save to `path`, by `write`; raises CannotWrite where it cannot be written."""
    buffer = io.BytesIO()  # not to the file: then a full disk is an error in torch's own words
    torch.save(state, buffer)
    try:
        write(buffer.getbuffer(), path)
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror}") from None


def save_model(model, path):
    """Save the weights of `model`, as tensors on the CPU, so that a plain torch.load reads them where there is no GPU."""
    state = model.state_dict()
    for name, tensor in state.items():
        state[name] = tensor.cpu()
    save(state, path)


def write(data, path):
    """Write bytes beside `path`, then move them into place: at every moment it is a whole file, or none.

    Raises OSError; what was there before is then untouched.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def write_json(value, path):
    write(json.dumps(value).encode(), path)


def check_can_save(path, model, runs):
    """Raise UserError now, rather than after the training, where `path` cannot hold the weights of `model`; its folder has
    to be there, but for `runs`, which the training makes anyway.
    """
    folder = os.path.dirname(path) or "."
    if os.path.normpath(folder) == os.path.normpath(runs):
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)
    if not path or os.path.lexists(path) and not os.path.isfile(path):
        raise UserError(f"cannot save to {path or 'nothing'}: name a file")
    if not os.path.isdir(folder):
        raise UserError(f"cannot save to {path}: there is no folder {folder}")
    check_room(folder, model, 1)
    trial = f"{path}.{os.getpid()}.try"
    try:
        write(b"", trial)
        os.remove(trial)
    except OSError as error:
        raise UserError(f"cannot save to {path}: {error.strerror}") from None


def check_room(folder, model, copies):
    """Raise UserError where `folder` has no room for so many copies of the weights of `model`."""
    needed = copies * sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(f"no room in {folder}: {free / 1e6:.1f} MB are free, {needed / 1e6:.1f} MB are needed")


def read(path, what):
    """What torch.save wrote to `path`; raises UserError, calling the file `what`, where it did not.

    Only tensors and plain values are read (`weights_only=True`): a hostile file runs no code.
    """
    if not os.path.exists(path):
        raise UserError(f"{path or '(no name)'}: there is no such file")
    if not os.path.isfile(path):
        raise UserError(f"{path}: not a file")
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of what it then refuses
            return torch.load(file, map_location="cpu", weights_only=True)
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None
    except Exception:  # torch.load raises nearly anything on bytes that are not its own
        raise UserError(f"{path}: not a {what} (damaged, or not written by torch.save)") from None


def load_weights(model, path):
    """Load the weights that `save_model` wrote; raises UserError for any other file."""
    state = read(path, "model file")
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise UserError(f"{path}: not a model file (no state_dict)")
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if found != wanted:
        name = next(n for n in [*wanted, *found] if found.get(n) != wanted.get(n))
        raise UserError(f"{path}: the model of another network: its {name} is {found.get(name, 'missing')}, "
                        f"where this one's is {wanted.get(name, 'missing')}")
    try:
        model.load_state_dict(state)
    except RuntimeError:  # tensors without data, say
        raise UserError(f"{path}: not a model file (its tensors cannot be copied)") from None


def load_checkpoint(path):
    """The state that `fit` saved; raises UserError for any other file."""
    try:
        state = read(path, "checkpoint")
        if not isinstance(state, dict) or state.keys() != {"model", "optimizer", "scheduler", "losses", "reports", "step", "seconds"}:
            raise UserError(f"{path}: not a checkpoint of this script")
        return state
    except UserError as error:
        raise UserError(f"{error}; train anew, without --resume") from None


def run_folder(args, model):
    """The folder for the checkpoint, the pictures and the record of a training: a new one, or with --resume an older.

    Raises UserError where it cannot be made, has no room, or is not found.
    """
    settings = {"script": os.path.basename(sys.argv[0]),
                **{name: value for name, value in vars(args).items() if name not in ("resume", "runs", "evaluate")}}
    settings = json.loads(json.dumps(settings))  # as it will be read back
    if args.resume:
        return find_folder(args.runs, settings)
    folder = os.path.join(args.runs, time.strftime("%Y-%m-%d-%H%M%S-") + str(os.getpid()))
    try:
        os.makedirs(args.runs, exist_ok=True)
        check_room(args.runs, model, 6)  # a checkpoint and its successor, each with the two averages that Adam keeps
        os.makedirs(folder)
        write_json(settings, os.path.join(folder, "settings.json"))
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from None
    return folder


def find_folder(runs, settings):
    """The folder of the newest training with these settings.

    Ends the process where that training is finished; raises UserError where there is none, naming what is
    different in the newest training of this script.
    """
    refused = None
    paths = glob.glob(os.path.join(glob.escape(runs), "*", "settings.json"))
    for path in sorted(paths, reverse=True):  # their names begin with the time
        folder = os.path.dirname(path)
        try:
            with open(path) as file:
                before = dict(json.load(file))
        except (OSError, ValueError, TypeError):  # damaged: nobody's
            continue
        if before == settings and os.path.exists(os.path.join(folder, "history.json")):
            print(f"{folder} is finished, its model was saved as {settings['save']}")
            sys.exit(0)
        if before == settings and os.path.exists(os.path.join(folder, "checkpoint.pt")):
            print(f"going on with {folder}")
            return folder
        if before.get("script") == settings["script"] and refused is None:
            name = next((name for name in settings if before.get(name) != settings[name]), None)
            refused = (f"{folder} has {name.replace('_', '-')} {before.get(name)}, not {settings[name]}" if name
                       else f"{folder} was stopped before its first checkpoint: train anew")
    nothing = f"no training of {settings['script']} in {runs}"
    raise UserError(f"--resume: {refused or nothing}")


@contextlib.contextmanager
def saying_what_is_saved(folder):
    """Have the message of Ctrl-C, SIGTERM, a file that cannot be written or memory that is out say what is saved, and
    how to go on.
    """
    def what_is_saved():
        path = os.path.join(folder, "checkpoint.pt")
        if os.path.exists(os.path.join(folder, "history.json")):
            return f"the training was finished, the model is saved, and {folder} has its record"
        if not os.path.exists(path):
            return "the training had not come to its first checkpoint, nothing was saved"
        try:
            until = f" up to mini-batch {load_checkpoint(path)['step']}"
        except UserError:  # no memory to read it, say
            until = ""
        return f"{folder} has the training{until}: to go on from there, add --resume to the same command"

    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second one would only cut the message short
            signal.signal(number, signal.SIG_IGN)
        stop.args = (what_is_saved(),)
        raise
    except BrokenPipeError:  # nobody reads what is printed any more
        raise
    except (OSError, CannotWrite) as error:  # of a picture, say, or of the model
        raise CannotWrite(f"{error}; {what_is_saved()}") from None
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            error.saved = f"; {what_is_saved()}"
        raise


def finish(folder, record):
    """Write the record of a finished training; its checkpoint has served, and so has what a kill left half-written."""
    write_json(record, os.path.join(folder, "history.json"))
    for name in ("checkpoint.pt", "*.tmp"):
        for path in glob.glob(os.path.join(glob.escape(folder), name)):
            with contextlib.suppress(FileNotFoundError):  # the same training was resumed twice at once
                os.remove(path)


# ------------------------------------------------------------------ pictures


def plot_history(history, path, title, measured):
    """Loss and accuracy against mini-batches, from what `fit` returned; measured: as in `fit`."""
    reports, losses = history["reports"], torch.tensor(history["losses"])
    window = max(1, len(losses) // 200)
    means = losses[:len(losses) // window * window].reshape(-1, window).mean(1)
    batches = [r["batch"] for r in reports]
    figure = Figure(figsize=(9, 3.5), layout="constrained")  # not by pyplot: no window, whatever its backend
    left, right = figure.subplots(1, 2)
    left.semilogy(range(window, len(means) * window + 1, window), means.tolist(), color="#0072B2")
    left.set(xlabel="mini-batches", ylabel=f"training loss (mean of {window})")
    for key, name, colour, style in (("train_accuracy", "training set", "#0072B2", "o-"),
                                     ("test_accuracy", f"{measured} set", "#D55E00", "s--")):
        right.plot(batches, [100 * r[key] for r in reports], style, color=colour, label=name)
    right.set(xlabel="mini-batches", ylabel="accuracy (%)")
    right.legend(loc="lower right")
    figure.suptitle(title.encode(errors="backslashreplace").decode(), parse_math=False)  # it may name a file
    figure.savefig(path, dpi=120)


def plot_predictions(dataset, predicted, path, measured, count=16):
    """The first `count` images of `dataset`, each with its predicted class, and the true one where they differ."""
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    for i, axis in enumerate(figure.subplots(2, count // 2).flat):
        axis.axis("off")
        if i >= len(dataset):
            continue
        image, label = dataset[i]
        guess = predicted[i].item()
        axis.imshow(image.cpu().permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray_r")
        names = [dataset.classes[c] for c in (guess, label)]
        axis.set_title(names[0] if guess == label else f"{names[0]}\n(is {names[1]})", fontsize=8,
                       color="black" if guess == label else "#D55E00")
    figure.suptitle(f"Predictions on the first images of the {measured} set")
    figure.savefig(path, dpi=120)


# ------------------------------------------------------------------ the command line


class Parser(argparse.ArgumentParser):
    """argparse, with UserError for a mistake (argparse prints the whole usage)."""

    def error(self, message):
        raise UserError(message)


def number(kind, low, high=math.inf, open_low=False):
    """An argparse type: a number between two limits, which the error message names."""
    def parse(text):
        try:
            value = kind(text)
            if value < low or value > high or (open_low and value == low) or not math.isfinite(value):
                raise ValueError
            return value
        except (ValueError, OverflowError):
            name = "a whole number" if kind is int else "a number"
            limits = (f"above {low}" if open_low else f"from {low}") + ("" if high == math.inf else f" to {high}")
            limits += " up" if high == math.inf and not open_low else ""
            raise argparse.ArgumentTypeError(f"must be {name} {limits}, not {text!r}") from None
    return parse


def milestones(text):
    """An argparse type: "none" for (), or "6,8.5" for (6.0, 8.5), in epochs."""
    if text == "none":
        return ()
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (0.0,)
    if not all(0 < a < b < math.inf for a, b in zip(values, values[1:] + (values[-1] + 1,))):
        raise argparse.ArgumentTypeError(f"must be 'none' or rising epochs such as 6,8.5, not {text!r}")
    return values


def common_arguments(parser, save, epochs, batch_size, report_every, flip=0.0, rotation=0.0, shift=0):
    """The options that do not depend on the network; the arguments are defaults."""
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=number(int, 1, 10_000), default=epochs, metavar="N",
                          help=f"times that the whole training set is seen (default: {epochs})")
    training.add_argument("--batch-size", type=number(int, 1, 60_000), default=batch_size, metavar="N",
                          help="images in a mini-batch (default: %(default)s)")
    training.add_argument("--seed", type=number(int, 0, 2**31 - 1), default=0, metavar="N",
                          help="of the first weights, the order of the images, and augmentation (default: %(default)s)")
    augmentation = parser.add_argument_group("augmentation, drawn anew for every training image")
    augmentation.add_argument("--flip", type=number(float, 0, 1), default=flip, metavar="P",
                              help="probability of a horizontal flip (default: %(default)s)")
    augmentation.add_argument("--rotation", type=number(float, 0, 180), default=rotation, metavar="DEGREES",
                              help="rotate by up to so many degrees either way (default: %(default)s)")
    augmentation.add_argument("--shift", type=number(int, 0, 16), default=shift, metavar="PIXELS",
                              help="shift by up to so many pixels in each direction (default: %(default)s)")
    measuring = parser.add_argument_group("measuring")
    measuring.add_argument("--report-every", type=number(int, 1), default=report_every, metavar="N",
                           help="mini-batches between report lines (default: %(default)s)")
    measuring.add_argument("--validation", type=number(int, 0), default=0, metavar="N",
                           help="hold out N training images, always the same, and measure on them; the test set "
                                "is then not used at all: for choosing settings (default: %(default)s)")
    measuring.add_argument("--train-images", type=number(int, 1), metavar="N",
                           help="train on the first N images only (default: all)")
    measuring.add_argument("--evaluate", metavar="FILE", help="measure a saved model on the test set and stop")
    machine = parser.add_argument_group("machine and files")
    machine.add_argument("--device", default="auto", metavar="NAME",
                         help="auto, cpu, cuda or cuda:N (default: auto, CUDA where there is one)")
    machine.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto",
                         help="of forward passes (default: auto, bfloat16 where the processor gains by it)")
    machine.add_argument("--threads", type=number(int, 1, 1024), metavar="N", help="CPU threads (default: one a core)")
    machine.add_argument("--data", default="data", metavar="FOLDER", help="where the datasets are (default: data)")
    machine.add_argument("--save", default=save, metavar="FILE", help=f"where the model goes (default: {save})")
    machine.add_argument("--runs", default="runs", metavar="FOLDER",
                         help="where the checkpoint, pictures and the record of the run go (default: runs)")
    machine.add_argument("--resume", action="store_true",
                         help="go on with the newest run of the same options, from its checkpoint (written at every report line and "
                              "every two minutes)")


def pick_device(name):
    """The torch.device that --device names; raises UserError for one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and TORCHRUN:
        processes, devices = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if processes > devices:  # seen by all of them, so that the first one can say it
            raise UserError(f"{processes} processes on a machine with {devices} CUDA devices: each needs one of its own, or --device cpu")
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    elif name.startswith("cuda:") and TORCHRUN:
        raise UserError(f"--device {name} would be the same for every process: with torchrun say cuda, and each gets its own")
    match = re.fullmatch(r"cpu|cuda(?::(0|[1-9][0-9]*))?", name)
    if not match:
        raise UserError(f"--device must be auto, cpu, cuda or cuda:N, not {name!r}")
    if name != "cpu" and int(match[1] or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)


def pick_autocast(precision, device):
    """Whether forward passes run in bfloat16, for --precision; raises UserError for a GPU that cannot."""
    if precision == "bfloat16" and device.type == "cuda" and not has_bfloat16(device):
        raise UserError(f"--precision bfloat16: {device} has no bfloat16; say float32")
    return has_bfloat16(device) if precision == "auto" else precision == "bfloat16"


def has_bfloat16(device=torch.device("cpu")):
    """Whether the processor multiplies bfloat16 numbers itself, so that autocast gains time.

    Of the processors without AMX but with AVX512-BF16, AMD's gain. Intel's that also have AVX512-FP16 are made for
    AMX; where a virtual machine hides that from them, float32 trains ResNet18 faster (results/benchmark_float32.json).
    """
    if device.type == "cuda":
        with torch.cuda.device(device):  # it answers for the current one
            return torch.cuda.is_bf16_supported(including_emulation=False)
    can = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell
    return can.get("amx_bf16", False) or can.get("avx512_bf16", False) and not can.get("avx512_fp16", False)


def set_up(args):
    """(device, whether to compute in bfloat16) for --device, --threads and --precision; joins torchrun's processes."""
    device = pick_device(args.device)
    join_torchrun(device)
    if args.threads:
        torch.set_num_threads(args.threads)
    return device, pick_autocast(args.precision, device)


def splits(args, load, device):
    """(trainset, testset, what the report line calls the second) for --data, --validation and --train-images."""
    with first_of_the_machine_first():
        trainset, testset = load(args.data)
    if args.validation:
        trainset, testset = hold_out(trainset, args.validation)
    return trainset.subset(slice(args.train_images)).to(device), testset.to(device), "validation" if args.validation else "test"


def hold_out(trainset, count):
    """(training part, validation part): the same `count` images are held out whatever the seed."""
    if count >= len(trainset):
        raise UserError(f"--validation {count}: only {len(trainset)} training images, and some must be left")
    order = torch.randperm(len(trainset), generator=torch.Generator().manual_seed(0))
    return trainset.subset(order[count:]), trainset.subset(order[:count])


def is_out_of_memory(error):
    """Whether that is what Python, or PyTorch on a GPU, on Linux or on Windows, says of memory that is out."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def script(main):
    """Run `main()`; what people and machines do to it ends it with one line on stderr, and no traceback."""
    def terminate(*_):
        raise Terminated

    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # a file shows how far it is; any name can be printed
    if not is_first():
        sys.stdout = open(os.devnull, "w")
    signal.signal(signal.SIGTERM, terminate)
    try:
        main()
        return
    except (UserError, DataError) as error:
        status, message = 2, f"error: {error}"
    except Diverged as error:
        status, message = 1, error
    except BrokenPipeError:  # whoever read the output has gone
        status, message = 1, None
    except OSError as error:  # of the standard output, say, to a file on a full disk
        status, message = 1, f"error: {error}"
    except KeyboardInterrupt as stop:
        status, message = 130, f"stopped by Ctrl-C: {str(stop) or 'nothing was saved'}"
    except Terminated as stop:
        status, message = 143, f"stopped by SIGTERM: {str(stop) or 'nothing was saved'}"
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            saved = getattr(error, "saved", "")
            status, message = 1, f"error: out of memory: smaller images or a smaller --batch-size need less{saved}"
        elif TORCHRUN and any(word in str(error) for word in ("gloo", "Connection", "NCCL", "socket")):
            status, message = 1, f"error: another process has ended ({str(error).splitlines()[0]})"
        else:
            raise
    # torchrun sends SIGTERM to all as soon as one process has ended: ignored, and the others wait for the first to say why
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if TORCHRUN and os.environ["LOCAL_RANK"] != "0":
        time.sleep(3)
    elif message is not None:  # on every machine, for each may have reasons of its own
        print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # what is left has nowhere to go; else the interpreter would try again, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def parse_arguments():
    parser = Parser(description="Train LeNet-5 or the assignment's CNN, and save the model.")
    parser.add_argument("--dataset", choices=DATASETS, default="mnist", help="what to train on (default: mnist)")
    parser.add_argument("--model", choices=MODELS, default="cnn",
                        help="the network; images are resized and made grey or colour to fit (default: cnn)")
    optimizer = parser.add_argument_group("optimizer")
    optimizer.add_argument("--optimizer", choices=OPTIMIZERS, default="adam", help="(default: adam)")
    optimizer.add_argument("--lr", type=number(float, 0, 1_000_000, open_low=True), metavar="RATE",
                           help="first learning rate (default: " +
                                ", ".join(f"{name} {lr:g}" for name, (_, _, lr) in OPTIMIZERS.items()) + ")")
    optimizer.add_argument("--momentum", type=number(float, 0, 0.9999), metavar="M",
                           help="of the three kinds of SGD and of RMSprop (default: 0.9 for momentum and nesterov, else 0)")
    optimizer.add_argument("--weight-decay", type=number(float, 0, 1_000_000), metavar="W",
                           help="(default: PyTorch's, 0.01 for adamw and 0 for the others)")
    optimizer.add_argument("--milestones", type=milestones, metavar="EPOCHS",
                           help="epochs after which MultiStepLR lowers the learning rate, such as 6,8.5; the last is "
                                "0.01 times the first; 'none' keeps it constant (default: 60%% and 85%% of --epochs)")
    common_arguments(parser, save="model.pth", epochs=5, batch_size=128, report_every=1000, rotation=10, shift=1)
    return parser.parse_args()


def main():
    started = time.perf_counter()
    args = parse_arguments()
    device, autocast = set_up(args)
    fractions = (0.6, 0.85) if args.milestones is None else tuple(m / args.epochs for m in args.milestones)
    if any(fraction >= 1 for fraction in fractions):
        raise UserError(f"--milestones must lie before the end of the training, {args.epochs} epochs")
    torch.manual_seed(args.seed)
    build, channels, size = MODELS[args.model]
    model = build().to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(args.optimizer, model.parameters(), args.lr, args.momentum, args.weight_decay)
    if args.evaluate is not None:
        load_weights(model, args.evaluate)
    else:
        from_first(lambda: check_can_save(args.save, model, args.runs))

    trainset, testset, measured = splits(args, lambda root: DATASETS[args.dataset](root, preprocess_for(channels, size)), device)
    if args.evaluate is not None:
        right = accuracy(model, testset, autocast=autocast)
        print(f"{args.evaluate}: {measured} accuracy {100 * right:.2f} % "
              f"({round(right * len(testset))} of {len(testset)} images of {args.dataset})")
        return

    scheduler = make_schedule(optimizer, args.epochs * math.ceil(len(trainset) / args.batch_size), fractions)
    augment = Augment(args.flip, args.rotation, args.shift)
    folder = from_first(lambda: run_folder(args, model))
    lr = optimizer.param_groups[0]["lr"]
    title = f"{args.model} on {args.dataset}, {args.optimizer}, learning rate {lr:g}, seed {args.seed}"
    print(f"{title}, {len(trainset)} training images, batch size {args.batch_size}, {args.epochs} epochs, {device}")
    with saying_what_is_saved(folder):
        history = fit(model, trainset, testset, optimizer, scheduler, args.epochs, batch_size=args.batch_size,
                      seed=args.seed, train_transform=lambda images, generator, step: augment(images, generator),
                      autocast=autocast, report_every=args.report_every, measured=measured,
                      checkpoint=os.path.join(folder, "checkpoint.pt"))
        if not is_first():
            return
        save_model(model, args.save)

        predicted = predict(model, testset.subset(slice(16)), autocast=autocast).argmax(1)
        plot_history(history, os.path.join(folder, "curves.png"), title, measured)
        plot_predictions(testset, predicted, os.path.join(folder, "predictions.png"), measured)
        finish(folder, {"settings": vars(args), **history})
    last = history["reports"][-1]
    print(f"\n{measured} accuracy {100 * last['test_accuracy']:.2f} %, "
          f"train accuracy {100 * last['train_accuracy']:.2f} %, "
          f"{last['seconds']:.1f} s of training, {time.perf_counter() - started:.1f} s in all")
    print(f"model: {args.save}; curves, predictions and history: {folder}")
    for name, classes in (("GroundTruth", testset.labels), ("Prediction", predicted)):
        print(f"{name + ':':<12} " + "  ".join(f"{testset.classes[c]:<10}" for c in classes[:6]))


if __name__ == "__main__":
    script(main)
