"""Pictures such as people take of their digits, made from MNIST's test set, and how predict.py
reads them.

    python tests/photos.py           # 77 photos of each of 13 kinds, 1,001 in all
    python tests/photos.py FOLDER    # other people's: FOLDER/index.csv has their file, label, kind

Writes results/photos.json, which `python experiments.py report` puts into the appendix, and
figures/photo.png.
"""

import argparse
import csv
import io
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

import predict
from dataset import load_mnist
from support import UserError, figures, files, pictures

KINDS = ("size", "on black", "gradient", "shadow", "noise", "jpeg", "turned", "corner", "thin",
         "frame", "ruled", "transparent", "16 bit")


def photo(digit, kind, chance):
    """A photo, a PIL image, of an MNIST digit, uint8 [28, 28]; chance: a numpy Generator."""
    side = int(chance.integers(28, 2001) if kind == "size" else chance.integers(80, 400))
    share = chance.uniform(0.3, 0.5) if kind == "corner" else chance.uniform(0.5, 0.95)
    strokes = placed(thinned(digit) if kind == "thin" else Image.fromarray(digit), side,
                     round(share * side), chance if kind == "corner" else None)
    if kind == "transparent":
        pen = Image.new("L", strokes.size, int(chance.choice([0, 255])))
        return Image.merge("LA", (pen, strokes))
    paper, pen = chance.uniform(0.6, 1), chance.uniform(0, 0.3)
    if kind == "on black":
        paper, pen = pen / 3, paper
    ground = np.full((side, side), paper)
    y, x = np.mgrid[:side, :side] / side
    if kind == "gradient":
        ground = paper * (0.5 + 0.5 * (x if chance.random() < 0.5 else 1 - y))
    if kind == "shadow":  # of the phone, with a soft edge
        edge = chance.uniform(0.2, 0.8) + chance.uniform(-0.5, 0.5) * y
        ground = paper * (1 - 0.5 / (1 + np.exp((x - edge) * 40)))
    if kind == "ruled":
        ground = ruled(ground, chance)
    alpha = np.asarray(strokes) / 255
    strokes = pen if kind == "on black" else np.minimum(ground, pen)
    image = ground * (1 - alpha) + strokes * alpha
    if kind == "noise":
        image = image + chance.normal(0, 0.06, image.shape)
    image = image.clip(0, 1)
    if kind == "16 bit":
        return Image.fromarray(np.uint16(65535 * image))
    return as_file(Image.fromarray(np.uint8(255 * image)), kind, chance)


def as_file(image, kind, chance):
    """The picture in a frame, or as it comes from a JPEG file, if that is its kind."""
    if kind == "frame":
        inset = int(chance.integers(0, image.width // 40 + 1))
        box = (inset, inset, image.width - 1 - inset, image.height - 1 - inset)
        ImageDraw.Draw(image).rectangle(box, outline=0, width=max(1, image.width // 100))
    if kind not in ("jpeg", "turned"):
        return image
    exif, file = Image.Exif(), io.BytesIO()
    if kind == "turned":  # as it is stored; exif says how to hold it
        turn, exif[0x0112] = [(Image.Transpose.ROTATE_90, 6), (Image.Transpose.ROTATE_180, 3),
                              (Image.Transpose.ROTATE_270, 8)][chance.integers(3)]
        image = image.transpose(turn)
    image.convert("RGB").save(file, "JPEG", quality=int(chance.integers(20, 80)), exif=exif)
    return Image.open(file)


def placed(digit, side, size, chance):
    """Grey strokes on black: the digit, its longer side `size`, on a square of `side` pixels, in
    the middle, or with `chance` anywhere.
    """
    digit = digit.crop(digit.point(lambda value: 255 * (value > 60)).getbbox())
    scale = size / max(digit.size)
    digit = digit.resize([max(1, round(scale * length)) for length in digit.size],
                         Image.Resampling.BICUBIC)
    room = side - digit.width - 2, side - digit.height - 2
    x, y = [1 + max(0, int(chance.random() * space) if chance else space // 2) for space in room]
    strokes = Image.new("L", (side, side))
    strokes.paste(digit, (x, y))
    return strokes


def thinned(digit):
    """As with a thin pen: strokes eroded as far as they stay in one piece."""
    large = Image.fromarray(digit).resize((112, 112), Image.Resampling.BICUBIC)
    large = large.point(lambda value: 255 * (value > 100))
    while True:
        thinner = large.filter(ImageFilter.MinFilter(3))
        if pieces(thinner) != pieces(large):
            return large
        large = thinner


def pieces(image):
    mask = torch.from_numpy(np.array(image)) > 0
    return len(pictures.connected(mask)[mask].unique())


def ruled(ground, chance):
    """Lines or squares in grey or light blue, as on a writing pad."""
    distance, width = int(len(ground) / chance.uniform(3, 8)), max(1, len(ground) // 150)
    start, shade = int(chance.integers(distance)), chance.uniform(0.6, 0.85)
    lines = np.zeros(len(ground), bool)
    for first in range(width):
        lines[start + first::distance] = True
    squared = chance.random() < 0.5
    return np.where(lines[:, None] | (squared & lines), shade * ground, ground)


# ------------------------------------------------------------------ measuring


def whole_resized(picture):
    """What people do first: float [1, 1, 28, 28] in [0, 1]."""
    return pictures.tensor(pictures.read(picture).resize((28, 28)))[None, None]


def measure(network, pairs):
    """How many of the (picture, label) are read: resized to 28x28, inverted too, by predict.py."""
    forms = {"resized": whole_resized,
             "resized, inverted": lambda picture: 1 - whole_resized(picture),
             "predict.py": network.form}
    found = {"pictures": 0} | dict.fromkeys(forms, 0)
    for picture, label in pairs:
        found["pictures"] += 1
        for name, form in forms.items():
            try:
                answers = network.probabilities(form(picture)).argmax(1).tolist()
                found[name] += answers == [label]
            except UserError:  # nothing found
                pass
    return found


def of_kind(kind, count=77):
    """`count` photos of a kind, with their labels."""
    testset, chance = load_mnist()[1], np.random.default_rng(KINDS.index(kind))
    for index in chance.integers(0, len(testset), count):
        yield photo(testset.images[index, 0].numpy(), kind, chance), testset.labels[index].item()


def other_peoples(folder, begin):
    """{kind: [(path, label), ...]} of the rows of index.csv whose file begins with `begin`."""
    found = {}
    for row in csv.DictReader((folder / "index.csv").open()):
        if row["file"].startswith(begin):
            pair = folder / row["file"], int(row["label"])
            found.setdefault(f"of other people: {row['kind']}", []).append(pair)
    return found


def draw_steps(path):
    """A figure of what is done to one photo."""
    digit = load_mnist()[1].images[0, 0].numpy()
    image = pictures.read(photo(digit, "shadow", np.random.default_rng(2)))
    strokes = pictures.ink(pictures.tensor(image))
    part = max(pictures.parts(strokes), key=lambda part: part.height)
    steps = [("photo", np.asarray(image)), ("ink: what is darker\nthan the ground", strokes),
             ("its connected part", strokes * part.mask),
             ("trimmed", (strokes * part.mask)[part.top:part.bottom, part.left:part.right]),
             ("20x20, laid into 28x28\nby its centre of mass", predict.to_mnist(image)[0, 0])]
    figure, axes = figures.new(len(steps), height=2.3, width=9)
    for axis, (title, values) in zip(axes, steps):
        axis.imshow(values, cmap="gray", vmin=0)
        axis.set_title(title, fontsize=8)
        axis.set_axis_off()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", nargs="?", help="of pictures, with index.csv")
    parser.add_argument("--only", default="", metavar="NAME", help="the files that begin so")
    parser.add_argument("--model", default="model.pth", help="in this project's folder")
    args = parser.parse_args()
    folder = Path(args.folder or "").absolute()
    os.chdir(ROOT)  # for data/ and results/
    network = predict.Network(args.model)
    if args.folder:
        pairs = other_peoples(folder, args.only)
    else:
        pairs = {f"made here: {kind}": of_kind(kind) for kind in KINDS}
        draw_steps("figures/photo.png")
    path = Path("results/photos.json")
    found = files.read_json(path) if path.exists() else {}
    for name, those in pairs.items():
        found[f"{args.model}, {name}"] = measure(network, those)
        print(name, found[f"{args.model}, {name}"], flush=True)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in found.items())
    files.write(f"{{\n{lines}\n}}\n".encode(), path)


if __name__ == "__main__":
    main()
