"""The networks: their shapes, their parameters, and the layer table of question 1.1."""

import subprocess
import sys

import pytest
import torch
from torchvision import models

import model


def parameters(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("build, shape, layers", [
    (model.lenet5, (3, 32, 32), [456, 0, 2416, 0, 48120, 10164, 850]),
    (model.cnn, (1, 28, 28), [416, 0, 4640, 0, 528, 25664, 650]),
])
def test_layers(build, shape, layers):
    network = build()
    rows = [row for row in model.layer_table(network, shape) if row["number"]]
    assert [row["number"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["parameters"] for row in rows] == layers
    assert parameters(network) == sum(layers)
    assert network(torch.zeros(5, *shape)).shape == (5, 10)


def test_layer_table_of_the_cnn():
    rows = model.layer_table(model.cnn(), (1, 28, 28), batch_size=16)
    assert [(row["input"], row["output"]) for row in rows] == [
        ((16, 1, 28, 28), (16, 16, 24, 24)),
        ((16, 16, 24, 24), (16, 16, 12, 12)),
        ((16, 16, 12, 12), (16, 32, 10, 10)),
        ((16, 32, 10, 10), (16, 32, 5, 5)),
        ((16, 32, 5, 5), (16, 16, 5, 5)),
        ((16, 16, 5, 5), (16, 400)),
        ((16, 400), (16, 64)),
        ((16, 64), (16, 10)),
    ]
    assert rows[0]["formula"] == "5x5x1x16 + 16 = 416"
    assert rows[6]["formula"] == "400x64 + 64 = 25,664"


def test_formulas_add_up():
    """The formula's own numbers, worked out, give the parameters that PyTorch counts."""
    for build, channels, size in model.MODELS.values():
        for row in model.layer_table(build(), (channels, size, size)):
            left, _, right = row["formula"].rpartition(" = ")
            assert int(right.replace(",", "")) == row["parameters"]
            if left:
                assert eval(left.replace("x", "*")) == row["parameters"]


def test_fresh_networks_and_the_ready_made_one():
    one, other = model.cnn(), model.cnn()
    assert one[0][0].weight.data_ptr() != other[0][0].weight.data_ptr()
    assert isinstance(model.LeNet5, torch.nn.Sequential) and parameters(model.LeNet5) == 62_006


def test_resnet18():
    network = model.resnet18().eval()
    assert parameters(network) == 11_175_370
    assert network.conv1.in_channels == 1 and network.fc.out_features == 10
    for size in (32, 64, 224):
        assert network(torch.zeros(2, 1, size, size)).shape == (2, 10)


def test_resnet18_with_pretrained_weights_sees_a_grey_image_as_the_colour_network_does(stand_in_weights):
    colour = models.resnet18()
    colour.load_state_dict(torch.load(stand_in_weights, weights_only=True))
    grey = model.resnet18(models.ResNet18_Weights.IMAGENET1K_V1)
    image = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(grey.conv1(image), colour.conv1(image.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4)
    assert torch.equal(grey.layer4[1].conv2.weight, colour.layer4[1].conv2.weight)
    assert grey.fc.out_features == 10


def test_script_prints_the_table():
    done = subprocess.run([sys.executable, "model.py"], capture_output=True, text=True, check=True)
    assert "5x5x1x16 + 16 = 416" in done.stdout and "31,898" in done.stdout and "62,006" in done.stdout
    assert "[16, 1, 28, 28]    [16, 16, 24, 24]" in done.stdout
    wrong = subprocess.run([sys.executable, "model.py", "--batch-size", "0"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "--batch-size" in wrong.stderr
