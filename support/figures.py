"""The pictures of a training. No window is opened: each is drawn into a file."""

import itertools
import math

import torch
from matplotlib.figure import Figure

# Okabe and Ito's colours, which people of any colour vision tell apart
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, YELLOW, GREY, BLACK = "#56B4E9", "#E69F00", "#666666", "#000000"


def new(columns=1, height=3.2, width=8):
    """A figure and its axes: one, or an array of `columns`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def curves(history, path, title, split):
    """Loss and accuracy against mini-batches, from what `train.fit` returned."""
    reports, losses = history["reports"], torch.tensor(history["losses"])
    window = max(1, len(losses) // 200)
    means = losses[:len(losses) // window * window].reshape(-1, window).mean(1)
    figure, (left, right) = new(2, height=3.5, width=9)
    left.semilogy(range(window, len(means) * window + 1, window), means.tolist(), color=BLUE)
    left.set(xlabel="mini-batches", ylabel=f"training loss (mean of {window})")
    batches = [report["batch"] for report in reports]
    for key, name, colour, look in (("train_accuracy", "train", BLUE, "o-"),
                                    ("test_accuracy", split, ORANGE, "s--")):
        right.plot(batches, [100 * report[key] for report in reports], look, color=colour,
                   label=f"{name} set")
    right.set(xlabel="mini-batches", ylabel="accuracy (%)")
    right.legend(loc="lower right")
    figure.suptitle(printable(title), parse_math=False)
    figure.savefig(path, dpi=120)


def printable(name):
    """A text that may name a file, of any bytes."""
    return name.encode(errors="backslashreplace").decode()


def images(pictures, titles, columns, heading):
    """A figure of grey or colour images [C, H, W], each under its title, (text, colour)."""
    rows = max(1, math.ceil(len(pictures) / columns))
    figure = Figure(figsize=(1.2 * columns, 0.4 + 1.5 * rows))
    axis = figure.add_axes((0, 0, 1, 1))  # one for all; one each would take a second to draw
    axis.axis("off")
    for i, (picture, (text, colour)) in enumerate(zip(pictures, titles)):
        left, top = 1.2 * (i % columns) + 0.1, 1.5 * (i // columns) + 0.8  # in inches
        axis.imshow(picture.cpu().permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray_r",
                    extent=(left, left + 1, top + 1, top))
        axis.text(left + 0.5, top - 0.05, text, fontsize=8, color=colour, ha="center")
    axis.set(xlim=(0, 1.2 * columns), ylim=(0.4 + 1.5 * rows, 0))
    figure.suptitle(heading, y=0.98)
    return figure


def predictions(dataset, predicted, path):
    """The first images of `dataset`, each with its predicted class; a wrong one in orange."""
    titles = []
    for guess, label in zip(predicted.tolist(), dataset.labels.tolist()):
        text = dataset.classes[guess]
        if guess != label:
            text += f"\n(is {dataset.classes[label]})"
        titles.append((text, BLACK if guess == label else ORANGE))
    heading = f"Predictions on the first images of the {dataset.split} set"
    images(dataset.images[:len(titles)], titles, 8, heading).savefig(path, dpi=120)


def confusion(counts, classes, split):
    """A figure of how many images of a class (row) were taken for which (column), int [C, C]."""
    figure, axis = new(height=6, width=7)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    axis.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axis.grid(False)
    for row, column in counts.nonzero().tolist():
        colour = "white" if shares[row, column] > 0.5 else "black"
        axis.text(column, row, counts[row, column].item(), ha="center", va="center", fontsize=8,
                  color=colour)
    axis.set(xticks=range(len(classes)), yticks=range(len(classes)), yticklabels=classes,
             xlabel="predicted class", ylabel="true class", title=f"Number of {split} images")
    axis.set_xticklabels(classes, rotation=45, ha="right")
    return figure


def confident_mistakes(probabilities, dataset, count=16):
    """[[index, predicted class, its probability], ...] of wrong predictions, the surest first."""
    sure, predicted = probabilities.max(1)
    wrong = (predicted != dataset.labels).nonzero()[:, 0]
    worst = wrong[sure[wrong].argsort(descending=True)][:count].tolist()
    return [[index, predicted[index].item(), round(sure[index].item(), 4)] for index in worst]


def mistakes(worst, dataset, columns=8):
    """A figure of the images in `worst`: a list of (index, predicted class, its probability)."""
    titles = [(f"{dataset.classes[guess]} {100 * sure:.1f} %\n"
               f"(is {dataset.classes[dataset.labels[index]]})", BLACK)
              for index, guess, sure in worst]
    heading = (f"{dataset.split.capitalize()} set, surest mistakes: "
               "prediction, probability, (label)")
    return images(dataset.images[[index for index, _, _ in worst]], titles, columns, heading)


def answers(shown, classes, path, most):
    """The figure of predict.py: a row for each image of (name, picture, images, probabilities)."""
    rows = [(name if i == 0 else "", picture if i == 0 else None, image, values.tolist())
            for name, picture, images, probabilities in shown
            for i, (image, values) in enumerate(zip(images, probabilities))][:most]
    figure = Figure(figsize=(7, 0.4 + 1.5 * len(rows)))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.axis("off")
    for top, (name, picture, image, values) in zip(itertools.count(0.6, 1.5), rows):  # in inches
        if picture is not None:
            axis.imshow(picture, extent=fitted(picture.width, picture.height, 0.2, top))
            axis.text(0.2, top - 0.05, printable(name)[-60:], fontsize=8, parse_math=False)
        axis.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1,
                    extent=(1.7, 2.9, top + 1.2, top))
        centres = [top + 0.06 + 0.12 * i for i in range(10)]
        axis.barh(centres, [2 * value for value in values], 0.1, left=4.2, color=BLUE)
        for centre, name, value in zip(centres, classes, values):
            axis.text(4.15, centre, name, fontsize=7, ha="right", va="center")
            if value >= 0.001:
                axis.text(4.25 + 2 * value, centre, f"{100 * value:.1f} %", fontsize=7,
                          va="center")
    axis.set(xlim=(0, 7), ylim=(0.4 + 1.5 * len(rows), 0))
    figure.text(0.24, 1 - 0.2 / figure.get_figheight(), "as the network is given it", fontsize=8)
    figure.text(0.6, 1 - 0.2 / figure.get_figheight(), "its probabilities", fontsize=8)
    figure.savefig(path, dpi=120)


def fitted(width, height, left, top):
    """imshow's extent of an image of that size, in the middle of a square of 1.2 inches."""
    scale = 1.2 / max(width, height)
    x, y = (1.2 - scale * width) / 2 + left, (1.2 - scale * height) / 2 + top
    return x, x + scale * width, y + scale * height, y
