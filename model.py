"""The three networks: LeNet-5, the assignment's CNN, and ResNet18 for one grey channel.

    python model.py                    # the layer table that answers question 1.1
    python model.py --batch-size 64

    from model import LeNet5           # the ready-made network of the tutorial
    from model import lenet5, cnn, resnet18   # functions that build fresh ones

The script prints one row a layer (input shape, output shape, trainable parameters with the
formula's numbers) and ends with the total; it runs the network to find them, nothing is typed in.
"""

import argparse

import torch
from torch import nn


def lenet5():
    """LeNet-5 as in the hand-out: float [B, 3, 32, 32] in, logits [B, 10] out; 62,006 parameters.

    After LeCun et al., "Gradient-based learning applied to document recognition" (1998), with
    ReLU and max pooling where the paper has tanh and trainable subsampling.
    """
    conv_layer1 = nn.Sequential(  # 456 parameters
        nn.Conv2d(in_channels=3, out_channels=6, kernel_size=(5, 5)),
        nn.ReLU(),
    )
    conv_layer2 = nn.Sequential(  # 2,416
        nn.Conv2d(in_channels=6, out_channels=16, kernel_size=(5, 5)),
        nn.ReLU(),
    )
    fc_layer1 = nn.Sequential(  # 48,120
        nn.Linear(in_features=16 * 5 * 5, out_features=120),
        nn.ReLU(),
    )
    fc_layer2 = nn.Sequential(  # 10,164
        nn.Linear(in_features=120, out_features=84),
        nn.ReLU(),
    )
    fc_layer3 = nn.Linear(in_features=84, out_features=10)  # 850
    return nn.Sequential(
        conv_layer1,
        nn.MaxPool2d(kernel_size=(2, 2)),
        conv_layer2,
        nn.MaxPool2d(kernel_size=(2, 2)),
        nn.Flatten(),
        fc_layer1,
        fc_layer2,
        fc_layer3,
    )


def cnn():
    """The assignment's CNN: float [B, 1, 28, 28] in, logits [B, 10] out; 31,898 parameters."""
    conv_layer1 = nn.Sequential(  # 28x28 -> 24x24; 416 parameters
        nn.Conv2d(in_channels=1, out_channels=16, kernel_size=(5, 5)),
        nn.ReLU(),
    )
    conv_layer2 = nn.Sequential(  # 12x12 -> 10x10; 4,640
        nn.Conv2d(in_channels=16, out_channels=32, kernel_size=(3, 3)),
        nn.ReLU(),
    )
    conv_layer3 = nn.Sequential(  # 5x5 -> 5x5; 528
        nn.Conv2d(in_channels=32, out_channels=16, kernel_size=(1, 1)),
        nn.ReLU(),
    )
    fc_layer1 = nn.Sequential(  # what is left of the image: 16 channels of 5x5; 25,664
        nn.Linear(in_features=16 * 5 * 5, out_features=64),
        nn.ReLU(),
    )
    fc_layer2 = nn.Linear(in_features=64, out_features=10)  # 650
    return nn.Sequential(
        conv_layer1,
        nn.MaxPool2d(kernel_size=(2, 2)),
        conv_layer2,
        nn.MaxPool2d(kernel_size=(2, 2)),
        conv_layer3,
        nn.Flatten(),
        fc_layer1,
        fc_layer2,
    )


def resnet18(weights=None):
    """torchvision's ResNet18 with `conv1` for one grey channel and `fc` for ten classes.

    Float [B, 1, H, W] in (224x224 by design; any size from 32x32 up runs), logits [B, 10] out;
    11,175,370 parameters. After He et al., "Deep residual learning for image recognition" (2015).

    weights: None for random weights, or one of torchvision's `ResNet18_Weights`, looked up in
        torch's cache and else downloaded. The one-channel kernel then starts as the sum of the
        three colour kernels: on a grey image (R = G = B) that gives the colour network's output.
    Raises OSError where the weights are neither cached nor to be had by download.
    """
    from torchvision import models  # here, not above: the two small networks do not need it

    model = models.resnet18(weights=weights)
    colour = model.conv1
    model.conv1 = nn.Conv2d(1, 64, kernel_size=(7, 7), stride=(2, 2), padding=(3, 3), bias=False)
    if weights is not None:
        with torch.no_grad():
            model.conv1.weight.copy_(colour.weight.sum(dim=1, keepdim=True))
    model.fc = nn.Linear(in_features=512, out_features=10, bias=True)
    return model


LeNet5 = lenet5()  # the tutorial says `from model import LeNet5; model = LeNet5`

# What a network expects: how to build it, its input channels, its input height and width.
MODELS = {"cnn": (cnn, 1, 28), "lenet5": (lenet5, 3, 32)}


def parameter_formula(layer):
    """The hand-out's formula filled in, such as "5x5x1x16 + 16 = 416"; "0" without parameters."""
    count = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            (h, w), c_in, c_out = module.kernel_size, module.in_channels, module.out_channels
            return f"{h}x{w}x{c_in}x{c_out} + {c_out} = {count:,}"
        if isinstance(module, nn.Linear):
            return f"{module.in_features}x{module.out_features} + {module.out_features} = {count:,}"
    return f"{count:,}"


def layer_table(model, image_shape, batch_size=16):
    """The rows of question 1.1, found by running `model` on a batch of zeros, top-level layer by layer.

    model: an nn.Sequential; image_shape: (C, H, W).
    Returns a list of dicts: number (int, None for Flatten, which the hand-out does not count),
    layer (str), input and output (tuples), parameters (int), formula (str).
    """
    rows, x, number = [], torch.zeros(batch_size, *image_shape), 0
    with torch.no_grad():
        for layer in model:
            y = layer(x)
            flatten = isinstance(layer, nn.Flatten)
            number += not flatten
            names = {nn.Conv2d: "Conv", nn.MaxPool2d: "Max pooling", nn.Linear: "FC", nn.Flatten: "(flatten)"}
            main, relu = (layer[0], " + ReLU") if isinstance(layer, nn.Sequential) else (layer, "")
            kernel = "x".join(map(str, main.kernel_size)) if hasattr(main, "kernel_size") else ""
            rows.append({
                "number": None if flatten else number,
                "layer": f"{names[type(main)]} {kernel}".strip() + relu,
                "input": tuple(x.shape),
                "output": tuple(y.shape),
                "parameters": sum(p.numel() for p in layer.parameters() if p.requires_grad),
                "formula": parameter_formula(layer),
            })
            x = y
    return rows


def print_table(name, batch_size):
    build, channels, size = MODELS[name]
    rows = layer_table(build(), (channels, size, size), batch_size)
    print(f"{name}, batch size {batch_size}: shapes are [batch, channels, height, width] or [batch, features]\n")
    print(f"{'':>2} {'layer':<18} {'input':<18} {'output':<18} trainable parameters")
    for row in rows:
        print(f"{row['number'] or '':>2} {row['layer']:<18} {str(list(row['input'])):<18} "
              f"{str(list(row['output'])):<18} {row['formula']}")
    print(f"{'':>2} {'total':<18} {'':<18} {'':<18} {sum(row['parameters'] for row in rows):,}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print the layer tables of question 1.1.")
    parser.add_argument("--batch-size", type=int, default=16, help="images in a batch (default: 16)")
    batch_size = parser.parse_args().batch_size
    if not 1 <= batch_size <= 10_000:  # which takes half a gigabyte
        parser.error("--batch-size must be from 1 to 10,000")
    for name in MODELS:
        print_table(name, batch_size)
