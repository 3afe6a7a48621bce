"""Train LeNet-5 or the assignment's CNN on MNIST, Fashion-MNIST or CIFAR10.

    python train.py                          # the assignment: the CNN on MNIST, saves model.pth
    python train.py --optimizer sgd --epochs 3 --validation 5000
    python train.py --evaluate model.pth     # test accuracy of a saved model, no training
    python train.py --resume                 # goes on with a training that was stopped
    torchrun --standalone --nproc-per-node=2 train.py    # two processes share each mini-batch
    python train.py --help

Prints a report line every 1,000 mini-batches, and at the end

    test accuracy 99.21 %, train accuracy 99.31 %, 49.9 s of training
    GroundTruth: 7 - seven   2 - two     1 - one     0 - zero    4 - four    1 - one
    Prediction:  7 - seven   2 - two     1 - one     0 - zero    4 - four    1 - one
    52.4 s in all; model: model.pth; curves, predictions and history: runs/2026-11-28-...

The engine is `fit`, which trains, and `predict` and `accuracy`, which measure. The other scripts
call the same three.
"""

import math
import time
from functools import partial

# before torch: support/__init__.py says why
from support import UserError, command_line, files, machine, processes, runs

import torch
from torch import nn, optim

from dataset import Augment, load_cifar10, load_fashion_mnist, load_mnist, preprocess_for
from model import MODELS, described
from support.progress import Progress

DATASETS = {"mnist": load_mnist, "fashion-mnist": load_fashion_mnist, "cifar10": load_cifar10}

# name: (class, arguments, learning rate for the CNN on MNIST). Each rate is the best of six on
# 5,000 held-out training images (results/sweep.json), with two exceptions. Adam's best two are as
# good. Momentum at its best, 0.1, may collapse (results/optimizers.json); Nesterov follows it.
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

# ------------------------------------------------------------------ optimizer and schedule


def make_optimizer(name, parameters, lr=None, momentum=None, weight_decay=None):
    """The optimizer called `name` in OPTIMIZERS; None stands for its default value.

    Raises UserError for arguments that it does not take.
    """
    kind, arguments, default_lr = OPTIMIZERS[name]
    arguments = {**arguments, "lr": default_lr if lr is None else lr}
    if momentum is not None:
        if kind not in (optim.SGD, optim.RMSprop):
            raise UserError(f"--momentum goes with the kinds of SGD and RMSprop, not with {name}")
        arguments["momentum"] = momentum
    if weight_decay is not None:
        arguments["weight_decay"] = weight_decay
    if kind in (optim.SGD, optim.Adam, optim.AdamW):
        arguments["fused"] = True  # all parameters in one kernel, on the CPU as well
    try:
        return kind(parameters, **arguments)
    except ValueError as error:  # Nesterov without momentum, for one
        raise UserError(f"--optimizer {name}: {error}") from None


def make_schedule(optimizer, total, milestones=(0.6, 0.85)):
    """MultiStepLR that ends at 0.01 times the first learning rate, stepped once a mini-batch.

    total: mini-batches of the training; milestones: fractions of it at which the learning rate
    falls, each time by the same factor. With () it stays constant.
    """
    gamma = 0.01 ** (1 / len(milestones)) if milestones else 1.0
    steps = [int(total * fraction) for fraction in milestones]
    return optim.lr_scheduler.MultiStepLR(optimizer, steps, gamma)


# ------------------------------------------------------------------ measuring

PIXELS = 2_000_000  # that the network is given at once: 39 images of 224x224


def to_input(images, prepare):
    """What the network is given, in the memory layout that convolutions like best."""
    return prepare(images).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def predict(model, data, prepare=nn.Identity(), autocast=False):
    """The logits [N, classes] of all images of `data`, an ImageDataset, in order.

    prepare(images): makes the network's input from images [B, C, H, W] in [0, 1].
    Leaves `model` in eval mode.
    """
    model.eval()
    device = next(model.parameters()).device
    network, logits = machine.faster(model), []
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        for start in range(0, len(data), 1000):
            images, _ = data[start:start + 1000]
            images = to_input(images.to(device), prepare)
            at_once = max(1, PIXELS // images[0, 0].numel())
            logits += [network(part).float() for part in images.split(at_once)]
    return torch.cat(logits)


def accuracy(model, data, prepare=nn.Identity(), autocast=False):
    """The fraction of `data` that `model` classifies correctly; arguments as for `predict`."""
    predicted = predict(model, data, prepare, autocast).argmax(1)
    return (predicted == data.labels.to(predicted.device)).float().mean().item()


# ------------------------------------------------------------------ training


def random_numbers(seed, number):
    """A generator that depends on seed and number only, so that a resumed training draws the same.

    Epoch e draws the order of its images from number e, mini-batch s its augmentation from number
    epochs + s. The factor keeps the numbers of one seed from those of the next.
    """
    return torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**32)


def mini_batches(count, batch_size, epochs, seed, done):
    """(number, epoch, indices) of each mini-batch of `count` images, but for the first `done`."""
    step = 0
    for epoch in range(epochs):
        order = torch.randperm(count, generator=random_numbers(seed, epoch))
        for indices in order.split(batch_size):
            if step >= done:
                yield step, epoch, indices
            step += 1


def fit(model, trainset, testset, optimizer, scheduler, epochs, *, batch_size=64, seed=0,
        augment=Augment(), prepare=nn.Identity(), loss_fn=nn.CrossEntropyLoss(), autocast=False,
        report_every=1000, report_images=None, checkpoint=None, quiet=False):
    """Train `model` in place on `trainset`, an ImageDataset.

    testset: only measured; the test set, or held-out training images.
    scheduler: stepped once a mini-batch.
    augment(images, generator): done to training images [B, C, H, W] in [0, 1], never to others.
    prepare(images): makes the network's input, as for `predict`.
    autocast: forward passes in bfloat16 where PyTorch holds that to be safe.
    report_every: mini-batches between report lines; report_images: measure accuracy on the first
        so many images of each set, None for all.
    checkpoint: a file for the state of the training, written at each report and every two
        minutes; if it is there, the training goes on from it, on the CPU to bit-identical weights.

    Returns the history: "reports", a list of dicts (epoch, batch, loss, train_accuracy,
    test_accuracy, learning_rate, seconds with those of measuring), and "losses", one for each
    mini-batch. Raises Diverged where, every 100 mini-batches, a loss is not finite, or a weight at
    the end.
    """
    device = trainset.images.device
    total = epochs * math.ceil(len(trainset) / batch_size)
    to_measure = [data.subset(slice(report_images)) for data in (trainset, testset)]
    measure = partial(accuracy, prepare=prepare, autocast=autocast)
    # what the training has come to; with a checkpoint this loads all three parts from it
    progress = Progress(total, device, checkpoint,
                        model=model, optimizer=optimizer, scheduler=scheduler)
    batches = mini_batches(len(trainset), batch_size, epochs, seed, done=progress.step)
    network = processes.replicated(machine.faster(model))  # it shares model's weights
    with progress.bar(quiet) as bar:
        for step, epoch, indices in batches:
            images, labels = trainset[indices]
            images = augment(images, random_numbers(seed, epochs + step))
            # all of them, with weight 1; under torchrun this process's part
            mine, weight = processes.share(len(labels))
            images, labels = to_input(images[mine], prepare), labels[mine]

            model.train()  # a report leaves it in eval mode
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                loss = loss_fn(network(images), labels) * weight
            loss.backward()
            optimizer.step()
            progress.add(loss)  # counts the mini-batch; every 100 it looks at the losses
            bar.update()

            reporting = (step + 1) % report_every == 0 or step + 1 == total
            if reporting:
                train_accuracy, test_accuracy = (processes.measured(measure, model, data)
                                                 for data in to_measure)
                report = progress.report(epoch + 1, train_accuracy, test_accuracy,
                                         scheduler.get_last_lr()[0])
                if not quiet:
                    bar.write(report_line(report, total, testset.split))
            scheduler.step()  # after the report, which has the learning rate that was used
            progress.save(now=reporting)
    return progress.history()


def report_line(report, total, split):
    return (f"epoch {report['epoch']:>2}  batch {report['batch']:>6}/{total}  "
            f"loss {report['loss']:.4f}  "
            f"train accuracy {100 * report['train_accuracy']:6.2f} %  "
            f"{split} accuracy {100 * report['test_accuracy']:6.2f} %  "
            f"learning rate {report['learning_rate']:.3g}")


# ------------------------------------------------------------------ the command line


def splits(args, load, device):
    """(trainset, testset) for --data, --validation and --train-images, on `device`.

    With --validation N the second is N training images, the same whatever the seed.
    """
    trainset, testset = processes.from_first(lambda: load(args.data))
    if args.validation:
        trainset, testset = hold_out(trainset, args.validation)
    return trainset.subset(slice(args.train_images)).to(device), testset.to(device)


def hold_out(trainset, count):
    """(training part, validation part of `count` images)."""
    if count >= len(trainset):
        raise UserError(f"--validation {count}: of {len(trainset)} training images some must stay")
    order = torch.randperm(len(trainset), generator=torch.Generator().manual_seed(0))
    validation = trainset.subset(order[:count])
    validation.split = "validation"
    return trainset.subset(order[count:]), validation


def parse_arguments():
    """(options, folder to resume or None), with every default in its place."""
    parser = command_line.Parser(prog="train.py",
                                 description="Train LeNet-5 or the assignment's CNN.")
    parser.add_argument("--dataset", choices=DATASETS,
                        help="what to train on (default: mnist; with --evaluate what the file's "
                             "network was trained on)")
    parser.add_argument("--model", choices=MODELS,
                        help="the network; images are resized and made grey or colour to fit "
                             "(default: cnn; with --evaluate the file's)")
    rates = ", ".join(f"{name} {lr:g}" for name, (_, _, lr) in OPTIMIZERS.items())
    add = parser.add_argument_group("optimizer").add_argument
    add("--optimizer", choices=OPTIMIZERS, default="adam", help="(default: %(default)s)")
    add("--lr", type=command_line.number(float, 0, 1_000_000, above=True), metavar="RATE",
        help=f"first learning rate (default: {rates})")
    add("--momentum", type=command_line.number(float, 0, 0.9999), metavar="M",
        help="of SGD and RMSprop (default: 0.9 for momentum and nesterov, else 0)")
    add("--weight-decay", type=command_line.number(float, 0, 1_000_000), metavar="W",
        help="(default: PyTorch's, 0.01 for adamw and 0 for the others)")
    add("--milestones", type=command_line.milestones, default=[0.6, 0.85], metavar="SHARES",
        help="shares of the training after which MultiStepLR lowers the learning rate, to 0.01 "
             "times the first in the end; none keeps it (default: 0.6,0.85)")
    command_line.add_shared_options(parser, save="model.pth", epochs=5, batch_size=128,
                                    rotation=10, shift=1)
    args, folder = runs.parse(parser)
    model, dataset = described(args.evaluate) if args.evaluate is not None else (None, None)
    args.model = args.model or (model if model in MODELS else "cnn")
    args.dataset = args.dataset or dataset or "mnist"
    if args.lr is None:
        args.lr = OPTIMIZERS[args.optimizer][2]
    return args, folder


def load_splits(args, device):
    """`splits`, in the shape that --model takes."""
    _, channels, size = MODELS[args.model]
    load = partial(DATASETS[args.dataset], preprocess=preprocess_for(channels, size))
    return splits(args, load, device)


def evaluate(args, device, autocast):
    """Print the accuracy of the saved model --evaluate."""
    model = MODELS[args.model][0]()
    files.load_weights(model, args.evaluate)
    testset = load_splits(args, device)[1]
    model = model.to(device, memory_format=torch.channels_last)
    right = accuracy(model, testset, autocast=autocast)
    print(f"{args.evaluate}: {testset.split} accuracy {100 * right:.2f} % "
          f"({round(right * len(testset))} of {len(testset)} images of {args.dataset})")


def main():
    started = time.perf_counter()
    args, folder = parse_arguments()
    device, autocast = machine.set_up(args)
    if args.evaluate is not None:
        return evaluate(args, device, autocast)

    torch.manual_seed(args.seed)
    model = MODELS[args.model][0]().to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(args.optimizer, model.parameters(), args.lr, args.momentum,
                               args.weight_decay)
    processes.from_first(lambda: files.check_can_write(args.save, files.size_of(model)))
    trainset, testset = load_splits(args, device)
    total = args.epochs * math.ceil(len(trainset) / args.batch_size)
    scheduler = make_schedule(optimizer, total, args.milestones)
    now = machine.circumstances(device, autocast)
    folder = processes.from_first(lambda: runs.open_folder(folder, args, "train.py", now))
    title = (f"{args.model} on {args.dataset}, {args.optimizer}, learning rate {args.lr:g}, "
             f"seed {args.seed}")
    print(f"{title}, {len(trainset)} training images, batch size {args.batch_size}, "
          f"{args.epochs} epochs, {device}")
    with runs.locked(folder), runs.saying_what_is_saved(folder):
        history = fit(model, trainset, testset, optimizer, scheduler, args.epochs,
                      batch_size=args.batch_size, seed=args.seed,
                      augment=Augment(args.flip, args.rotation, args.shift), autocast=autocast,
                      report_every=args.report_every, checkpoint=folder / "checkpoint.pt")
        if processes.FIRST:
            finish(args, model, testset, autocast, folder, title, history)
    print(f"{time.perf_counter() - started:.1f} s in all; model: {args.save}; "
          f"curves, predictions and history: {folder}")


def finish(args, model, testset, autocast, folder, title, history):
    """Save the model, draw the pictures, write the record, and show what it says."""
    from support import figures  # here, for matplotlib takes a second to import
    files.save_model(model, args.save, dataset=args.dataset)  # for predict.py
    predicted = predict(model, testset.subset(slice(16)), autocast=autocast).argmax(1)
    figures.curves(history, folder / "curves.png", title, testset.split)
    figures.predictions(testset, predicted, folder / "predictions.png")
    runs.finish(folder, {"settings": vars(args), **history})
    last = history["reports"][-1]
    print(f"\n{testset.split} accuracy {100 * last['test_accuracy']:.2f} %, "
          f"train accuracy {100 * last['train_accuracy']:.2f} %, "
          f"{last['seconds']:.1f} s of training")
    for name, classes in (("GroundTruth", testset.labels), ("Prediction", predicted)):
        print(f"{name + ':':<12} " + "  ".join(f"{testset.classes[c]:<10}" for c in classes[:6]))


if __name__ == "__main__":
    command_line.script(main)
