"""The bonus: train ResNet18 on Fashion-MNIST, test it at 224x224, save fashion_mnist.pth.

    python fashion_mnist.py                       # 2 minutes on a GPU (H200); on two CPU cores some 50 with AMX, 3 hours with AVX2 only (estimated)
    python fashion_mnist.py --quick               # one epoch at 64x64, 9 minutes with AVX2 only
    python fashion_mnist.py --image-size 64       # train and test at 64x64
    python fashion_mnist.py --evaluate fashion_mnist.pth
    python fashion_mnist.py --help

Prints report lines as train.py does and ends with the test accuracy, over all images and of each
class; the confusion matrix and the most confident mistakes go to runs/ as pictures.

What is special about ResNet18 and Fashion-MNIST is here; the engine is train.py's.
"""

import argparse
import ctypes
import itertools
import math
import os
import re
import socket
import time
from functools import partial

import torch
from matplotlib.figure import Figure
from torch import nn, optim
from torchvision import models, transforms

import train
from dataset import Augment, load_fashion_mnist
from model import resnet18
from train import UserError

MEAN, STD = 0.2860, 0.3530  # of the pixels of the training set, in [0, 1]; a test computes them
REPORT_IMAGES = 1000        # a whole set at 224x224 takes minutes on a CPU

# The default plan, (height and width, share of the mini-batches): a third of the mini-batches are images with
# a twelfth of the pixels, and then these grow in steps, for a network that has been trained at one size is of
# little use at another. Chosen among those of results/plans.json.
PLAN = "64:0.357,96:0.167,128:0.143,160:0.119,192:0.095,224:0.119"
EPOCHS, BATCH_SIZE = 6, 32

RANDOM = "random weights"  # what a network starts from; a file may have this name, but is not this object


def parse_plan(text):
    """An argparse type: "64" for [(64, 1.0)], "64:0.8,224:0.2" for [(64, 0.8), (224, 0.2)]; 40 pixels are two by
    two at the network's end, which batch normalisation needs for a last mini-batch of one image.
    """
    try:
        sizes = [(int(size), float(share or 1)) for size, _, share in (part.partition(":") for part in text.split(","))]
        if not all(40 <= size <= 512 and share > 0 for size, share in sizes):
            raise ValueError
        if abs(sum(share for _, share in sizes) - 1) > 1e-9:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError("must be a size from 40 to 512 or sizes with shares that add up to 1, such as "
                                         f"64:0.8,224:0.2, not {text!r}") from None
    return sizes


def parse_arguments():
    parser = train.Parser(description="Train ResNet18 on Fashion-MNIST, and save the model.")
    parser.add_argument("--quick", action="store_true",
                        help="ten minutes on two CPU cores: short for --image-size 64 --epochs 1")
    parser.add_argument("--image-size", type=parse_plan, metavar="PLAN",
                        help="height and width of the images, such as 64, or sizes in turn, each with its share of the "
                             f"mini-batches; the last is the size of the test (default: {PLAN})")
    parser.add_argument("--weights", default="auto", metavar="WHICH",
                        help="to start from: imagenet, none (random), a FILE saved by this script, or auto: ImageNet's "
                             "where they are to be had, else random ones (default: auto)")
    parser.add_argument("--first-layer", choices=["random", "patches"], default="random",
                        help="what the first layer of a network of random weights starts from: random weights too, or "
                             "principal components of image patches (default: %(default)s)")
    optimizer = parser.add_argument_group("optimizer: SGD with Nesterov momentum, one cycle of the learning rate")
    optimizer.add_argument("--lr", type=train.number(float, 0, 1_000_000, open_low=True), default=0.05, metavar="RATE",
                           help="highest learning rate (default: %(default)s)")
    optimizer.add_argument("--momentum", type=train.number(float, 0.01, 0.9999), default=0.9, metavar="M",
                           help="(default: %(default)s)")
    optimizer.add_argument("--weight-decay", type=train.number(float, 0, 1_000_000), default=5e-4, metavar="W",
                           help="of the kernels; biases and batch normalisation have none (default: %(default)s)")
    optimizer.add_argument("--label-smoothing", type=train.number(float, 0, 0.99), default=0.1, metavar="E",
                           help="(default: %(default)s)")
    train.common_arguments(parser, save="fashion_mnist.pth, or fashion_mnist_64.pth where the plan ends at 64, and so on",
                           epochs=EPOCHS, batch_size=BATCH_SIZE, report_every=1000, flip=0.5)
    parser.set_defaults(save=None, epochs=None)
    args = parser.parse_args()
    if args.quick:
        if args.image_size or args.epochs:
            parser.error("--quick has an image size and epochs of its own: leave out --image-size and --epochs")
        args.image_size, args.epochs = parse_plan("64"), 1
    if args.image_size is None:  # a model that this script saved is measured at the size in its name
        named = re.fullmatch(r"fashion_mnist_(\d+)\.pth", os.path.basename(args.evaluate or ""))
        args.image_size = parse_plan(named[1] if named and 40 <= int(named[1]) <= 512 else PLAN)
    args.epochs = args.epochs or EPOCHS
    size = args.image_size[-1][0]
    if args.save is None:  # a network that knows another size only would be a bad fashion_mnist.pth
        args.save = "fashion_mnist.pth" if size == 224 else f"fashion_mnist_{size}.pth"
    return args


def start_weights(which, seed):
    """(network, what it starts from) for --weights; says so loudly where auto has to do with random weights."""
    if which in ("auto", "imagenet"):
        socket.setdefaulttimeout(20)  # seconds; a network that swallows packets would hold the download for ever
        torch.manual_seed(seed)  # for the last layer, which is new
        weights = models.ResNet18_Weights.IMAGENET1K_V1
        try:
            return resnet18(weights), "ImageNet weights"
        except Exception as error:  # no network, a full disk, a damaged file in the cache: nearly any type
            cached = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(weights.url))
            reason, *_ = str(getattr(error, "reason", error)).strip().splitlines() or [type(error).__name__]
            reason = f"{cached} is damaged, delete it" if os.path.exists(cached) and not isinstance(error, (OSError, MemoryError)) else reason
            if which == "imagenet":
                raise UserError(f"--weights imagenet: cannot be had: {reason}") from None
            print(f"*** ImageNet weights cannot be had ({reason}): STARTING FROM RANDOM WEIGHTS ***", flush=True)
    torch.manual_seed(seed)  # here: what failed above has drawn random numbers
    model = resnet18()
    if which in ("auto", "none"):
        return model, RANDOM
    train.load_weights(model, which)
    return model, which


def whiten(layer, images):
    """Start a convolution with filters that whiten the patches of `images` [B, C, H, W]: their principal components,
    each scaled to an output of variance 1 (the least of them, which are noise, to less), and each with both signs, since
    ReLU keeps one. Enlarged images are smooth: random filters all but repeat the brightness of a patch.

    After Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (2024), whose filters stay as they are and have no batch
    normalisation behind them. Here they are trained, the large ones, those of the small components, slowly.
    """
    patches = nn.functional.unfold(images, layer.kernel_size, stride=max(1, images.shape[-1] // 16)).transpose(1, 2).flatten(0, 1)
    variances, components = torch.linalg.eigh((patches.T @ patches / len(patches)).double().cpu())  # in ascending order
    filters = (components / (variances + 1e-3 * variances[-1]).sqrt()).T[-(layer.out_channels // 2):]
    with torch.no_grad():
        layer.weight.copy_(torch.cat([filters, -filters]).view_as(layer.weight))


def run_folder(args, model, source):
    """(train.run_folder, what its training started from): with --resume not what it would start from today."""
    folder = train.run_folder(args, model)
    path = os.path.join(folder, "weights.txt")
    try:
        if not args.resume:
            train.write(os.fsencode(source), path)
        with open(path, "rb") as file:
            return folder, os.fsdecode(file.read())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def sizes_of(plan, total):
    """The image size of each of `total` mini-batches: [(size, share), ...] rolled out."""
    sizes, until = [], 0.0
    for size, share in plan:
        until += share
        sizes += [size] * (round(until * total) - len(sizes))
    return sizes


class Input:
    """What the network is given, at the size of the moment; sizes: that of each mini-batch of the training."""

    def __init__(self, augment, sizes):
        self.augment, self.sizes, self.size = augment, sizes, sizes[0]

    def train(self, images, generator, step):
        self.size = self.sizes[step]
        return to_network(self.augment(images, generator), self.size)

    def test(self, images):
        return to_network(images, self.size)


def make_optimizer(model, lr=0.05, momentum=0.9, weight_decay=5e-4):
    """SGD with Nesterov momentum; biases and batch normalisation have no weight decay."""
    kernels, others = ([p for p in model.parameters() if (p.dim() > 1) == wanted] for wanted in (True, False))
    return optim.SGD([{"params": kernels, "weight_decay": weight_decay}, {"params": others}], lr=lr, momentum=momentum,
                     nesterov=True, fused=True)


def make_schedule(optimizer, costs, warm_up=0.05):
    """The learning rate climbs over the first 5 % of the work, then falls in a straight line to 0.01 times the highest.

    costs: the work that each mini-batch is. By mini-batches instead of work, the learning rate would
    be all but gone when the few large, slow images at the end come.
    """
    done = [0, *itertools.accumulate(costs)]

    def factor(step):
        fraction = done[min(step, len(costs) - 1)] / done[-1]
        return max(0.01, min(fraction / warm_up, (1 - fraction) / (1 - warm_up)))

    return optim.lr_scheduler.LambdaLR(optimizer, factor)


def to_network(images, size):
    """Normalised and resized, on the device the images are on: only 28x28 pixels travel."""
    return transforms.Resize((size, size))((images - MEAN) / STD)  # transforms.Normalize would have the CPU wait for a GPU


def keep_freed_memory():
    """Have glibc keep freed memory for the next mini-batch instead of giving it back page by page.

    Activations are tens of megabytes each, and faulting their pages in anew costs time: keeping them
    makes training steps 1.12 times as fast at 224x224 and 1.05 times at 64x64 on two CPU cores in
    bfloat16, and 1.51 and 1.05 times in float32 (results/benchmark.json and benchmark_float32.json,
    by tests/benchmark.py). Elsewhere than on glibc: no effect.
    """
    M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 * 2**20)


def class_accuracy(predicted, dataset):
    """(confusion matrix int64 [10, 10], row: true class, column: predicted; accuracy of each class [10])."""
    confusion = torch.bincount(10 * dataset.labels.cpu() + predicted.cpu(), minlength=100).view(10, 10)
    return confusion, confusion.diag() / confusion.sum(1).clamp(min=1)


def draw_confusion(confusion, classes, measured):
    """A figure of the confusion matrix: how many images of a class (row) were taken for which (column)."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axis = figure.subplots()
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    axis.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axis.grid(False)
    for row in range(10):
        for column in range(10):
            if confusion[row, column]:
                axis.text(column, row, confusion[row, column].item(), ha="center", va="center", fontsize=8,
                          color="white" if shares[row, column] > 0.5 else "black")
    axis.set(xticks=range(10), yticks=range(10), yticklabels=classes, xlabel="predicted class", ylabel="true class",
             title=f"Number of {measured} images")
    axis.set_xticklabels(classes, rotation=45, ha="right")
    return figure


def confident_mistakes(probabilities, dataset, count=16):
    """Up to `count` of the images that the network got wrong, those that it was surest of first: a list of
    [index, predicted class, its probability].
    """
    sure, predicted = probabilities.max(1)
    sure[predicted == dataset.labels] = -1
    return [[i, predicted[i].item(), round(sure[i].item(), 4)]
            for i in sure.argsort(descending=True)[:count].tolist() if sure[i] >= 0]


def draw_mistakes(mistakes, dataset, measured):
    """A figure of the images of `confident_mistakes`, each with the predicted class, its probability, and the label."""
    rows = max(1, math.ceil(len(mistakes) / 8))
    figure = Figure(figsize=(10, 0.4 + 1.6 * rows), layout="constrained")
    for axis in (axes := figure.subplots(rows, 8)).flat:
        axis.axis("off")
    for axis, (i, predicted, sure) in zip(axes.flat, mistakes):
        image, label = dataset[i]
        axis.imshow(image[0].numpy(), cmap="gray_r")
        axis.set_title(f"{dataset.classes[predicted]} {100 * sure:.1f} %\n(is {dataset.classes[label]})", fontsize=8)
    figure.suptitle(f"{measured.capitalize()} set, most confident mistakes: predicted class, its probability, (label)")
    return figure


def test(model, dataset, size, autocast, what):
    """Print the accuracy, with `what` in front, and that of each class; returns (logits, accuracy, confusion matrix)."""
    logits = train.predict(model, dataset, partial(to_network, size=size), autocast=autocast).cpu()
    confusion, by_class = class_accuracy(logits.argmax(1), dataset)
    right = confusion.diag().sum().item()
    print(f"{what} accuracy at {size}x{size}: {100 * right / len(dataset):.2f} % ({right} of {len(dataset)} images)")
    for name, value, count in zip(dataset.classes, by_class.tolist(), confusion.sum(1).tolist()):
        print(f"  {name:<12} {100 * value:6.2f} %" if count else f"  {name:<12} no images")
    return logits, right / len(dataset), confusion


def main():
    started = time.perf_counter()
    args = parse_arguments()
    device, autocast = train.set_up(args)
    keep_freed_memory()
    model, source = resnet18(), None
    if args.evaluate is not None:
        train.load_weights(model, args.evaluate)
    else:
        train.from_first(lambda: train.check_can_save(args.save, model, args.runs))
        if not args.resume:
            with train.first_of_the_machine_first():
                model, source = start_weights(args.weights, args.seed)
    model = model.to(device, memory_format=torch.channels_last)

    trainset, testset, measured = train.splits(args, load_fashion_mnist, device)
    test_size = args.image_size[-1][0]
    if args.evaluate is not None:
        test(model, testset, test_size, autocast, f"{args.evaluate}: {measured}")
        return

    if source is RANDOM and args.first_layer == "patches":
        whiten(model.conv1, to_network(trainset[:1000][0], args.image_size[0][0]))
        source += ", first layer from image patches"
    folder, source = train.from_first(lambda: run_folder(args, model, source))
    sizes = sizes_of(args.image_size, args.epochs * math.ceil(len(trainset) / args.batch_size))
    network_input = Input(Augment(args.flip, args.rotation, args.shift), sizes)
    costs = [size ** 2 for size in sizes]
    optimizer = make_optimizer(model, args.lr, args.momentum, args.weight_decay)
    title = f"ResNet18 on Fashion-MNIST from {source}, seed {args.seed}"
    print(f"{title}, {len(trainset)} training images, batch size {args.batch_size}, {args.epochs} epochs, {device}")
    print("image sizes: " + ", ".join(f"{size} for {len(list(same))} batches" for size, same in itertools.groupby(sizes)))
    print(f"accuracies on the way: at the size of the moment, on the first {REPORT_IMAGES} images of each set")
    with train.saying_what_is_saved(folder):
        history = train.fit(model, trainset, testset, optimizer, make_schedule(optimizer, costs), args.epochs,
                            batch_size=args.batch_size, seed=args.seed, train_transform=network_input.train,
                            test_transform=network_input.test,
                            loss_fn=nn.CrossEntropyLoss(label_smoothing=args.label_smoothing), autocast=autocast,
                            report_every=args.report_every, report_images=REPORT_IMAGES, measured=measured,
                            costs=costs, checkpoint=os.path.join(folder, "checkpoint.pt"))
        if not train.is_first():
            return
        train.save_model(model, args.save)
        print(f"\n{history['reports'][-1]['seconds']:.0f} s of training")

        logits, test_accuracy, confusion = test(model, testset, test_size, autocast, measured)
        testset = testset.to("cpu")
        train.plot_history(history, os.path.join(folder, "curves.png"), title, measured)
        draw_confusion(confusion, testset.classes, measured).savefig(os.path.join(folder, "confusion.png"))
        mistakes = confident_mistakes(logits.softmax(1), testset)
        draw_mistakes(mistakes, testset, measured).savefig(os.path.join(folder, "mistakes.png"))
        train.finish(folder, {"settings": vars(args), "weights": source, "test_accuracy": test_accuracy,
                              "confusion": confusion.tolist(), **history})
    print(f"{time.perf_counter() - started:.0f} s in all; model: {args.save}; pictures and history: {folder}")


if __name__ == "__main__":
    train.script(main)
