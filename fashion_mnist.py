"""The bonus: fine-tune ResNet18 on Fashion-MNIST, from ImageNet weights; saves fashion_mnist.pth.

    python fashion_mnist.py                    # on a CPU at 64x64, on a GPU at 224x224
    python fashion_mnist.py --image-size 224   # hours on two CPU cores
    python fashion_mnist.py --weights none     # from random weights
    python fashion_mnist.py --evaluate fashion_mnist.pth
    python fashion_mnist.py --resume
    python fashion_mnist.py --help

Prints report lines as train.py does, but of 1,000 images of each set, and at the end the test
accuracy, over all images and of each class. Pictures and the record of the run go to runs/.

What is special about ResNet18 and Fashion-MNIST is here; the engine is train.py's.
"""

import copy
import math
import time
from functools import partial

# before torch: support/__init__.py says why
from support import UserError, command_line, downloads, files, machine, processes, runs

import torch
from torch import nn, optim

import train
from dataset import Augment, load_fashion_mnist
from model import MEAN, STD, resnet18
from support.convolution import FasterGradients

REPORT_IMAGES = 1000        # a whole set at 224x224 takes minutes on a CPU

# The default height and width of the images. ResNet18 was designed for 224x224; at 64x64 it trains
# more than ten times as fast, and a CPU has no time to waste.
SIZE, CPU_SIZE = 224, 64

LR = 0.03  # the highest learning rate; the best of those in results/bonus_settings.json

# ------------------------------------------------------------------ what the network is given


def prepare(images, size):
    """Images [B, 1, H, W] in [0, 1], normalised and resized, on the device that they are on."""
    from torchvision import transforms  # here, for it takes seconds to import
    # not transforms.Normalize, which has the CPU wait for a GPU
    return transforms.Resize((size, size))((images - MEAN) / STD)


# ------------------------------------------------------------------ network, optimizer, schedule


def start_weights(which, seed):
    """(network, what it starts from: "imagenet", "none" or a file) for --weights."""
    state = None
    if which in ("auto", "imagenet"):
        try:
            state = downloads.imagenet_weights()
        except UserError as error:
            if which == "imagenet":
                raise
            print(f"*** {error}. STARTING FROM RANDOM WEIGHTS ***")
        which = "none" if state is None else "imagenet"
    elif which != "none":
        state = files.read_weights(which)
    torch.manual_seed(seed)  # for what is new
    try:
        model = resnet18(state)
    except UserError as error:
        raise UserError(f"{which}: {error}") from None
    if state is not None:
        said = [f"weights: {which}"]
        if state["conv1.weight"].shape[1] == 3:
            said.append("the first layer is the sum over three colours")
        if len(state.get("fc.bias", [])) != 10:
            said.append("the last layer is new")
        print("; ".join(said))
    return model, which


def make_optimizer(model, lr=LR, momentum=0.9, weight_decay=5e-4):
    """SGD with Nesterov momentum; biases and batch normalisation have no weight decay."""
    kernels = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    return optim.SGD([{"params": kernels, "weight_decay": weight_decay}, {"params": others}],
                     lr=lr, momentum=momentum, nesterov=True, fused=True)


def make_schedule(optimizer, total, warm_up=0.05):
    """The learning rate climbs over the first 5 % of `total` mini-batches, then falls in a
    straight line; it is never lower than 0.01 times the highest.
    """
    def factor(step):
        fraction = step / total
        return max(0.01, min(fraction / warm_up, (1 - fraction) / (1 - warm_up)))

    return optim.lr_scheduler.LambdaLR(optimizer, factor)


def say_how_long(model, size, total, batch_size, autocast):
    """Print about how long the training will take here, by forward and backward passes."""
    minutes = {side: total * step_seconds(model, side, batch_size, autocast) / 60
               for side in {size, CPU_SIZE}}
    also = f"; with --image-size {CPU_SIZE} some {minutes[CPU_SIZE]:.0f}"
    print(f"some {minutes[size]:.0f} minutes of training on this machine"
          f"{also if size > CPU_SIZE else ''}")


def step_seconds(model, size, batch_size, autocast):
    """Seconds of a mini-batch, measured with 32 images of it and a copy of the model."""
    model, count = copy.deepcopy(model), min(batch_size, 32)
    device = next(model.parameters()).device
    images = train.to_input(torch.zeros(count, 1, 28, 28, device=device),
                            partial(prepare, size=size))
    for _ in range(2):  # the first is slow
        start = time.perf_counter()
        with FasterGradients(), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            loss = model(images).square().mean()
        loss.backward()
        loss.item()  # a GPU has then done it all
    return (time.perf_counter() - start) * batch_size / count


# ------------------------------------------------------------------ measuring


def class_accuracy(predicted, dataset):
    """(confusion matrix int64 [10, 10], row: true class; accuracy of each class [10])."""
    pairs = 10 * dataset.labels.cpu() + predicted.cpu()  # a number from 0 to 99 for each image
    confusion = torch.bincount(pairs, minlength=100).view(10, 10)
    return confusion, confusion.diag() / confusion.sum(1).clamp(min=1)


def test(model, dataset, size, autocast, what):
    """Print the accuracy and that of each class; returns (logits on the CPU, confusion matrix)."""
    logits = train.predict(model, dataset, partial(prepare, size=size), autocast=autocast).cpu()
    confusion, by_class = class_accuracy(logits.argmax(1), dataset)
    right = confusion.diag().sum().item()
    print(f"{what} accuracy at {size}x{size}: {100 * right / len(dataset):.2f} % "
          f"({right} of {len(dataset)} images)")
    for name, value in zip(dataset.classes, by_class.tolist()):
        print(f"  {name:<12} {100 * value:6.2f} %")
    return logits, confusion


# ------------------------------------------------------------------ the command line


def parse_arguments():
    """(options, folder to resume or None)."""
    parser = command_line.Parser(prog="fashion_mnist.py",
                                 description="Train ResNet18 on Fashion-MNIST.")
    # smaller than 40x40 its last layers see little but padding
    parser.add_argument("--image-size", type=command_line.number(int, 40, 512), metavar="PIXELS",
                        help=f"height and width of the images (default: {SIZE}, on a CPU "
                             f"{CPU_SIZE}; with --evaluate the size that the file names)")
    parser.add_argument("--weights", default="auto", metavar="WHICH",
                        help="to start from: imagenet, none (random), a FILE of any ResNet18, or "
                             "auto: ImageNet's, random where these cannot be had "
                             "(default: %(default)s)")
    group = "optimizer: SGD with Nesterov momentum, one cycle of the learning rate"
    add = parser.add_argument_group(group).add_argument
    number = command_line.number
    add("--lr", type=number(float, 0, 1_000_000, above=True), default=LR, metavar="RATE",
        help="highest learning rate (default: %(default)s)")
    add("--momentum", type=number(float, 0.01, 0.9999), default=0.9, metavar="M",
        help="(default: %(default)s)")
    add("--weight-decay", type=number(float, 0, 1_000_000), default=5e-4, metavar="W",
        help="of the kernels (default: %(default)s)")
    add("--label-smoothing", type=number(float, 0, 0.99), default=0.1, metavar="E",
        help="(default: %(default)s)")
    command_line.add_shared_options(parser, save="fashion_mnist.pth", epochs=5, batch_size=64,
                                    flip=0.5)
    return runs.parse(parser)


def evaluate(args, device, autocast):
    """Print the accuracy of the saved model --evaluate, at --image-size or the file's own size."""
    model = resnet18()
    state = files.load_weights(model, args.evaluate)
    size = args.image_size or files.note_in(state, "image_size", SIZE)
    testset = train.splits(args, load_fashion_mnist, device)[1]
    test(model.to(device, memory_format=torch.channels_last), testset, size, autocast,
         f"{args.evaluate}: {testset.split}")


def main():
    started = time.perf_counter()
    args, folder = parse_arguments()
    device, autocast = machine.set_up(args)
    if args.evaluate is not None:
        return evaluate(args, device, autocast)

    args.image_size = args.image_size or (CPU_SIZE if device.type == "cpu" else SIZE)
    model = resnet18()
    processes.from_first(lambda: files.check_can_write(args.save, files.size_of(model)))
    if folder is None:  # else fit loads the checkpoint's weights
        model, args.weights = processes.from_first(lambda: start_weights(args.weights, args.seed))
    model = model.to(device, memory_format=torch.channels_last)
    trainset, testset = train.splits(args, load_fashion_mnist, device)
    now = machine.circumstances(device, autocast)
    folder = processes.from_first(lambda: runs.open_folder(folder, args, "fashion_mnist.py", now))

    total = args.epochs * math.ceil(len(trainset) / args.batch_size)
    optimizer = make_optimizer(model, args.lr, args.momentum, args.weight_decay)
    names = {"none": "random weights", "imagenet": "ImageNet weights"}
    start = names.get(args.weights, args.weights)
    title = f"ResNet18 on Fashion-MNIST from {start}, seed {args.seed}"
    print(f"{title}, {len(trainset)} training images of {args.image_size}x{args.image_size}, "
          f"batch size {args.batch_size}, {args.epochs} epochs, {device}")
    if args.resume is None:
        say_how_long(model, args.image_size, total, math.ceil(args.batch_size / processes.COUNT),
                     autocast)
    print(f"accuracies on the way: on the first {REPORT_IMAGES} images of each set")
    with runs.locked(folder), runs.saying_what_is_saved(folder), FasterGradients():
        history = train.fit(
            model, trainset, testset, optimizer, make_schedule(optimizer, total), args.epochs,
            batch_size=args.batch_size, seed=args.seed,
            augment=Augment(args.flip, args.rotation, args.shift),
            prepare=partial(prepare, size=args.image_size),
            loss_fn=nn.CrossEntropyLoss(label_smoothing=args.label_smoothing), autocast=autocast,
            report_every=args.report_every, report_images=REPORT_IMAGES,
            checkpoint=folder / "checkpoint.pt")
        if processes.FIRST:
            finish(args, model, testset, autocast, folder, title, history)
    print(f"{time.perf_counter() - started:.0f} s in all; model: {args.save}; "
          f"pictures and history: {folder}")


def finish(args, model, testset, autocast, folder, title, history):
    """Save the model, test it, draw the pictures, write the record."""
    from support import figures  # here, for matplotlib takes a second to import
    files.save_model(model, args.save, image_size=args.image_size)
    print(f"\n{history['reports'][-1]['seconds']:.0f} s of training")
    logits, confusion = test(model, testset, args.image_size, autocast, testset.split)
    testset = testset.to("cpu")
    figures.curves(history, folder / "curves.png", title, testset.split)
    drawn = figures.confusion(confusion, testset.classes, testset.split)
    drawn.savefig(folder / "confusion.png", dpi=120)
    worst = figures.confident_mistakes(logits.softmax(1), testset)
    figures.mistakes(worst, testset).savefig(folder / "mistakes.png", dpi=120)
    test_accuracy = confusion.diag().sum().item() / len(testset)
    runs.finish(folder, {"settings": vars(args), "test_accuracy": test_accuracy,
                         "confusion": confusion.tolist(), **history})


if __name__ == "__main__":
    command_line.script(main)
