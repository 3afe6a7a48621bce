"""The three networks: LeNet-5, the assignment's CNN, and ResNet18 for one grey channel.

    python model.py                    # the layer tables that answer question 1.1
    python model.py --batch-size 64

    from model import LeNet5           # the ready-made network of the tutorial
    from model import lenet5, cnn, resnet18   # functions that build fresh ones

The script prints, for the CNN and LeNet-5, one row per layer (input shape, output shape, trainable
parameters by the hand-out's formula) and the total. It runs the networks to find the shapes.
"""

import itertools

# before torch: support/__init__.py says why
from support import command_line, files

import torch
from torch import nn


def lenet5():
    """LeNet-5, a line for each layer of the hand-out.

    Float [B, 3, 32, 32] in, logits [B, 10] out; 62,006 parameters.
    After LeCun et al., "Gradient-based learning applied to document recognition" (1998); among
    other changes ReLU and max pooling take the place of tanh and trainable subsampling.
    """
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, kernel_size=(5, 5)), nn.ReLU()),   # 456 parameters
        nn.MaxPool2d(kernel_size=(2, 2)),
        nn.Sequential(nn.Conv2d(6, 16, kernel_size=(5, 5)), nn.ReLU()),  # 2,416
        nn.MaxPool2d(kernel_size=(2, 2)),
        nn.Flatten(),
        nn.Sequential(nn.Linear(16 * 5 * 5, 120), nn.ReLU()),            # 48,120
        nn.Sequential(nn.Linear(120, 84), nn.ReLU()),                    # 10,164
        nn.Linear(84, 10),                                               # 850
    )


def cnn():
    """The assignment's CNN, a line for each layer of question 1.1.

    Float [B, 1, 28, 28] in, logits [B, 10] out; 31,898 parameters.
    """
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, kernel_size=(5, 5)), nn.ReLU()),   # 416 parameters
        nn.MaxPool2d(kernel_size=(2, 2)),
        nn.Sequential(nn.Conv2d(16, 32, kernel_size=(3, 3)), nn.ReLU()),  # 4,640
        nn.MaxPool2d(kernel_size=(2, 2)),
        nn.Sequential(nn.Conv2d(32, 16, kernel_size=(1, 1)), nn.ReLU()),  # 528
        nn.Flatten(),                                                     # 16 channels of 5x5
        nn.Sequential(nn.Linear(16 * 5 * 5, 64), nn.ReLU()),              # 25,664
        nn.Linear(64, 10),                                                # 650
    )


# Mean and deviation of Fashion-MNIST's training pixels, and of ImageNet's: red, green, blue.
MEAN, STD = 0.2860, 0.3530
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def resnet18(weights=None):
    """torchvision's ResNet18 with `conv1` for one grey channel and `fc` for ten classes.

    Float [B, 1, H, W] in (224x224 by design; any size from 32x32 up runs), logits [B, 10] out;
    11,175,370 parameters. After He et al., "Deep residual learning for image recognition" (2015).
    Its images are normalised: (image - 0.2860) / 0.3530.

    weights: None for random ones, or the state_dict of any ResNet18. Colour kernels are summed:
        but for its border, a grey image (R = G = B) gives what it gave the colour network. A last
        layer of other classes, or none, is replaced by a new one.
    Raises UserError for the weights of another network.
    """
    from torchvision import models  # here, not above: the two small networks do not need it

    model = models.resnet18()
    model.conv1 = nn.Conv2d(1, 64, kernel_size=(7, 7), stride=(2, 2), padding=(3, 3), bias=False)
    model.fc = nn.Linear(in_features=512, out_features=10, bias=True)
    if weights is not None:
        state = for_one_channel(weights, model.state_dict())
        files.check_fits(state, model)
        model.load_state_dict(state)
    return model


def for_one_channel(weights, own):
    """The state_dict `weights` with one grey channel in and ten classes out, as `own` has."""
    counts = {name: own[name] for name in own if name.endswith("num_batches_tracked")}
    state = counts | dict(weights)  # older files have no counts
    kernels = state.get("conv1.weight", own["conv1.weight"])
    if kernels.shape == (64, 3, 7, 7):
        # A pixel that is given as z = (x - MEAN) / STD was (x - mean) / std, for each colour:
        # z * scale + shift. The scale goes into the kernels, the sum of the shifts, which is the
        # same wherever the kernel meets no padding, into the mean that batch normalisation takes
        # off.
        scale, shift = STD / IMAGENET_STD, (MEAN - IMAGENET_MEAN) / IMAGENET_STD
        state["conv1.weight"] = (kernels * scale).sum(dim=1, keepdim=True)
        mean = state.get("bn1.running_mean", own["bn1.running_mean"])
        state["bn1.running_mean"] = mean - (kernels * shift).sum((1, 2, 3))
    for name in ("fc.weight", "fc.bias"):
        if name not in state or state[name].shape != own[name].shape:
            state[name] = own[name]
    return state


LeNet5 = lenet5()  # one network, made here, for the tutorial: `from model import LeNet5`

# What a network expects: how to build it, its input channels, its input height and width.
MODELS = {"cnn": (cnn, 1, 28), "lenet5": (lenet5, 3, 32)}

# ------------------------------------------------------------------ model files

# the dataset that a network is of, where its file does not say
USUAL = {"cnn": "mnist", "lenet5": "cifar10", "resnet18": "fashion-mnist"}


def described(path):
    """(network, dataset): the names of what a model file is of; None for a network from elsewhere.

    Raises UserError.
    """
    state = files.read_weights(path)
    name, dataset = network_of(state), files.note_in(state, "dataset", "")
    return name, dataset if dataset in USUAL.values() else USUAL.get(name)


def network_of(state):
    """The name of the function here whose network a state_dict fits; None if there is none."""
    for build in (cnn, lenet5, resnet18):
        with torch.device("meta"):  # shapes without memory
            network = build()
        if files.shapes(network.state_dict()) == files.shapes(state):
            return build.__name__
    return None


# ------------------------------------------------------------------ question 1.1


def parameter_formula(layer):
    """The hand-out's formula filled in, such as "5x5x1x16 + 16 = 416"; "0" without parameters."""
    # PyTorch has [out, in, height, width], [out, in] and, of a bias, [out]: here out goes last
    terms = ["x".join(map(str, reversed(parameter.shape))) for parameter in layer.parameters()]
    total = sum(parameter.numel() for parameter in layer.parameters())
    return f"{' + '.join(terms)} = {total:,}" if terms else "0"


def layer_table(model, image_shape, batch_size=16):
    """The rows of question 1.1, found by running `model` on a batch of zeros, layer by layer.

    model: an nn.Sequential; image_shape: (C, H, W).
    Returns a list of dicts: number (int, None for Flatten, which the hand-out does not count),
    layer (str), input and output (tuples), parameters (int), formula (str).
    """
    rows, x, numbers = [], torch.zeros(batch_size, *image_shape), itertools.count(1)
    for layer in model:
        y = layer(x)
        number = None if isinstance(layer, nn.Flatten) else next(numbers)
        rows.append({"number": number, "layer": layer_name(layer),
                     "input": tuple(x.shape), "output": tuple(y.shape),
                     "parameters": sum(p.numel() for p in layer.parameters()),
                     "formula": parameter_formula(layer)})
        x = y
    return rows


def layer_name(layer):
    """Such as "Conv 5x5 + ReLU" for a Sequential of the two."""
    if isinstance(layer, nn.Sequential):
        return " + ".join(layer_name(part) for part in layer)
    name = type(layer).__name__
    names = {"Conv2d": "Conv", "MaxPool2d": "Max pooling", "Linear": "FC", "Flatten": "(flatten)"}
    kernel = "x".join(map(str, getattr(layer, "kernel_size", ())))
    return f"{names.get(name, name)} {kernel}".strip()


def print_table(name, batch_size):
    build, channels, size = MODELS[name]
    rows = layer_table(build(), (channels, size, size), batch_size)
    print(f"{name}, batch size {batch_size}: shapes are [batch, channels, height, width] "
          "or [batch, features]\n")
    line = "{:>2} {:<18} {:<18} {:<18} {}"
    print(line.format("", "layer", "input", "output", "trainable parameters"))
    for row in rows:
        print(line.format(row["number"] or "", row["layer"], str(list(row["input"])),
                          str(list(row["output"])), row["formula"]))
    print(line.format("", "total", "", "", f"{sum(row['parameters'] for row in rows):,}\n"))


def main():
    parser = command_line.Parser(description="Print the layer tables of question 1.1.")
    parser.add_argument("--batch-size", type=command_line.number(int, 1, 10_000), default=16,
                        help="images in a batch (default: %(default)s)")
    args = parser.parse_args()
    for name in MODELS:
        print_table(name, args.batch_size)


if __name__ == "__main__":
    command_line.script(main)
