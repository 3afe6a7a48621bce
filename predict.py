"""What does the network say of my own picture?

    python predict.py photo.jpg scan.png pictures/           # digits, by model.pth
    python predict.py --model fashion_mnist.pth shirt.jpg    # garments
    python predict.py --model lenet5.pth cat.jpg             # CIFAR10's classes
    python predict.py --draw                                 # a window to draw digits in

A network knows only what it was trained on, so a picture is first made like that: `to_mnist`,
`to_fashion_mnist`, `to_cifar10`. Leave a margin; digits stand in one row, garments on a plain
ground. Prints a line for each picture, with the second guess in brackets,

    photo.jpg: 7 - seven 99.8 % (2 - two 0.1 %)
    scan.png: 4?: 4 - four 99.9 % (9 - nine 0.1 %), not sure: 1 - one 55.0 % (7 - seven 44.1 %)

and saves predictions.png: the pictures, what the network was given, its answers.
"""

import sys
from functools import partial

# before torch: support/__init__.py says why
from support import UserError, command_line, files, pictures, sources

import torch
import torch.nn.functional as F

import train
from dataset import preprocess_for
from model import MODELS, USUAL, described, resnet18
from support.pictures import digits, edge, ink, read, resized, tensor, with_a_thick_pen

SURE = 0.7  # a smaller probability is "not sure"
SHOWN = 40  # the figure has the first so many answers

# ------------------------------------------------------------------ pictures as the network's data


def to_mnist(picture):
    """The digits in a picture, a path or a PIL image, as MNIST has them: float [N, 1, 28, 28].

    Bright strokes on black, in a box of 20x20, laid into 28x28 by their centre of mass (LeCun,
    Cortes and Burges, "The MNIST database of handwritten digits"). What is like that already
    stays as it is. Raises UserError.
    """
    picture = tensor(read(picture))
    if is_mnists(picture):
        return picture[None, None]
    strokes = ink(picture)
    if strokes.max() < 0.1:
        raise UserError("nothing is drawn in it")
    found = [(strokes * part.mask)[part.top:part.bottom, part.left:part.right]
             for part in digits(strokes)]
    return torch.stack([in_mnists_form(digit) for digit in found])[:, None]


def is_mnists(picture):
    """Whether a picture has the form that MNIST's images have."""
    if picture.shape != (28, 28) or not picture.any():
        return False
    drawn = picture.nonzero()
    longest = (drawn.amax(0) - drawn.amin(0) + 1).max()
    return longest in (19, 20) and all(abs(c - 14) < 0.6 for c in centre_of_mass(picture))


def centre_of_mass(image):
    """(row, column), from 0."""
    rows, columns = image.sum(1), image.sum(0)
    return ((rows * torch.arange(len(rows))).sum().item() / rows.sum().item(),
            (columns * torch.arange(len(columns))).sum().item() / columns.sum().item())


def in_mnists_form(strokes):
    """One digit, float [28, 28]; strokes: its ink and nothing about it, float [H, W]."""
    digit = resized(with_a_thick_pen(strokes), 20)
    row, column = centre_of_mass(digit)
    return laid(digit / digit.max(), top=round(14 - row), left=round(14 - column))


def laid(image, top, left):
    """An image laid into a black one of 28x28, as near to (top, left) as it fits."""
    height, width = image.shape
    top, left = min(max(top, 0), 28 - height), min(max(left, 0), 28 - width)
    return F.pad(image, [left, 28 - left - width, top, 28 - top - height])


def to_fashion_mnist(picture):
    """The garment in a picture as Fashion-MNIST has it: float [1, 1, 28, 28].

    Trimmed, the longer side 28 pixels, in the middle, bright on black (Xiao, Rasul and Vollgraf
    2017, arXiv:1708.07747, section 2). The ground must be plain. What is 28x28 on black stays as
    it is. Raises UserError.
    """
    image = read(picture, "RGB")
    colour, grey = tensor(image), tensor(image.convert("L"))
    ground = edge(colour).median(dim=-1).values
    if grey.shape == (28, 28) and not ground.any():
        return grey[None, None]
    garment = (colour - ground[:, None, None]).abs().amax(0) > 0.1
    rows = (garment.float().mean(1) > 0.01).nonzero()[:, 0]
    columns = (garment.float().mean(0) > 0.01).nonzero()[:, 0]
    if not len(rows) or not len(columns):
        raise UserError("nothing is in it but its ground")
    bright = (grey - edge(grey).median()).abs() * garment
    bright = resized(bright[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1], 28)
    height, width = bright.shape
    bright = bright / bright.max().clamp(min=1e-9)
    return laid(bright, (28 - height) // 2, (28 - width) // 2)[None, None]


def to_cifar10(picture):
    """The middle of a picture as CIFAR10 has it: float [1, 3, 32, 32]. Raises UserError."""
    colour = tensor(read(picture, "RGB"))
    height, width = colour.shape[-2:]
    top, left, side = max(0, height - width) // 2, max(0, width - height) // 2, min(height, width)
    square = colour[None, :, top:top + side, left:left + side]
    return F.interpolate(square, (32, 32), mode="bilinear", antialias=True).clamp(0, 1)


# ------------------------------------------------------------------ what the network says

# data: (how a picture is made like them, their classes)
FORMS = {"mnist": (to_mnist, sources.MNIST.classes),
         "fashion-mnist": (to_fashion_mnist, sources.FASHION.classes),
         "cifar10": (to_cifar10, sources.CIFAR10.classes)}


class Network:
    """The network in a model file of this project. Raises UserError.

    classes: the names of what it tells apart.
    form(picture): makes its images, float [N, C, H, W], of a path or a PIL image.
    """

    def __init__(self, path="model.pth"):
        name, dataset = described(path)
        if name is None:
            raise UserError(f"{path}: a model of none of the networks {', '.join(USUAL)}")
        self.model = resnet18() if name == "resnet18" else MODELS[name][0]()
        state = files.load_weights(self.model, path)
        if name == "resnet18":
            import fashion_mnist  # here, for digits do not need it
            size = files.note_in(state, "image_size", 224)
            self.prepare = partial(fashion_mnist.prepare, size=size)
        else:
            self.prepare = preprocess_for(*MODELS[name][1:])
        self.model.eval()
        self.form, self.classes = FORMS[dataset]

    def probabilities(self, images):
        """Float [N, 10] of images as `form` makes them."""
        with torch.inference_mode():
            return self.model(train.to_input(images, self.prepare)).softmax(1)

    def classify(self, picture):
        """The probabilities, float [N, 10], of what is in a picture, a path or a PIL image."""
        return self.probabilities(self.form(picture))


def sentence(probabilities, classes):
    """What is printed of the probabilities [N, 10] of one picture."""
    said, number = [], ""
    for row in probabilities:
        (first, second), (best, next_best) = (values.tolist() for values in row.topk(2))
        sure = "" if first >= SURE else "not sure: "
        said.append(f"{sure}{classes[best]} {100 * first:.1f} % "
                    f"({classes[next_best]} {100 * second:.1f} %)")
        number += str(best) if first >= SURE else "?"
    return (f"{number}: " if len(said) > 1 else "") + ", ".join(said)


# ------------------------------------------------------------------ the command line


def parse_arguments():
    parser = command_line.Parser(description="What a network says of your own pictures.")
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", help="or a folder of pictures")
    parser.add_argument("--model", default="model.pth", metavar="FILE",
                        help="a model that was trained here (default: %(default)s)")
    parser.add_argument("--output", default="predictions.png", metavar="FILE",
                        help="where the figure goes (default: %(default)s)")
    parser.add_argument("--draw", action="store_true",
                        help="open a window to draw digits in; c clears, z takes back a stroke")
    args = parser.parse_args()
    if bool(args.pictures) == args.draw:
        raise UserError("name pictures, or a folder of them, or say --draw")
    if not args.output.lower().endswith((".png", ".jpg", ".pdf", ".svg")):
        raise UserError(f"--output {args.output}: its name ends in .png, .jpg, .pdf or .svg")
    return args


def main():
    args = parse_arguments()
    network = Network(args.model)
    if args.draw:
        if network.form is not to_mnist:
            raise UserError(f"--draw is for digits; {args.model} is of another kind")
        from support import drawing  # here, for a window takes a while
        return drawing.open_window(network)
    files.check_can_write(args.output, 1_000_000)
    shown, failed = [], False
    for path in [path for name in args.pictures for path in pictures.paths(name)]:
        try:
            picture = read(path, "RGB")
            images = network.form(picture)
        except UserError as error:  # a line, and on with the others
            print(f"predict.py: {path}: {error}", file=sys.stderr)
            failed = True
            continue
        probabilities = network.probabilities(images)
        print(f"{path}: {sentence(probabilities, network.classes)}")
        shown.append((path, picture, images, probabilities))
        del shown[SHOWN:]
    if shown:
        from support import figures  # here, for matplotlib takes a while
        figures.answers(shown, network.classes, args.output, SHOWN)
        print(f"figure: {args.output}")
    if failed:
        sys.exit(2)


if __name__ == "__main__":
    command_line.script(main)
