"""model.py: the networks' shapes and parameters, and the layer table of question 1.1."""

import pytest
import torch
from torchvision import models, transforms

import model
from support import UserError


def parameters(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("build, shape, layers", [
    (model.lenet5, (3, 32, 32), [456, 0, 2416, 0, 48120, 10164, 850]),
    (model.cnn, (1, 28, 28), [416, 0, 4640, 0, 528, 25664, 650])])
def test_layers_and_formulas(build, shape, layers):
    network = build()
    rows = [row for row in model.layer_table(network, shape) if row["number"]]
    assert network.training  # it is left as it was
    assert [row["number"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["parameters"] for row in rows] == layers
    for row in rows:  # the formula's own numbers, worked out, give what PyTorch counts
        left, _, right = row["formula"].rpartition(" = ")
        assert int(right.replace(",", "")) == row["parameters"]
        assert eval(left.replace("x", "*") or "0") == row["parameters"]
    assert parameters(network) == sum(layers) == {3: 62_006, 1: 31_898}[shape[0]]
    assert network(torch.zeros(5, *shape)).shape == (5, 10)
    assert network[0][0].weight.data_ptr() != build()[0][0].weight.data_ptr()  # a fresh one


def test_the_ready_made_network_of_the_tutorial():
    assert str(model.LeNet5) == str(model.lenet5())


def test_resnet18():
    network = model.resnet18().eval()
    assert parameters(network) == 11_175_370
    assert network.conv1.in_channels == 1 and network.fc.out_features == 10
    for size in (32, 224):
        assert network(torch.zeros(2, 1, size, size)).shape == (2, 10)


def test_a_colour_networks_weights_see_a_grey_image_as_it_does():
    """But for the border: black is 0 to the one, to the other each colour's mean."""
    torch.manual_seed(0)
    colour = models.resnet18().eval()
    with torch.no_grad():
        colour.bn1.running_mean.uniform_(-1, 1)
        colour.bn1.running_var.uniform_(0.5, 2)
    grey = model.resnet18(colour.state_dict()).eval()
    image = torch.rand(2, 1, 64, 64)
    normalised = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    theirs = colour.bn1(colour.conv1(normalised(image.expand(-1, 3, -1, -1))))
    ours = grey.bn1(grey.conv1((image - model.MEAN) / model.STD))
    torch.testing.assert_close(ours[..., 2:-2, 2:-2], theirs[..., 2:-2, 2:-2], atol=1e-4, rtol=0)
    assert torch.equal(grey.layer4[1].conv2.weight, colour.layer4[1].conv2.weight)
    assert grey.fc.out_features == 10


def test_weights_of_any_resnet18_fit():
    state = model.resnet18().state_dict()
    same = model.resnet18(state).state_dict()
    assert all(torch.equal(same[name], state[name]) for name in state)
    fewer = {name: state[name] for name in state
             if not name.startswith("fc.") and "num_batches" not in name}  # as in older files
    loaded = model.resnet18(fewer)
    assert torch.equal(loaded.conv1.weight, state["conv1.weight"])
    assert not torch.equal(loaded.fc.weight, state["fc.weight"])
    for wrong in (model.cnn().state_dict(), models.resnet34().state_dict(),
                  {**state, "layer4.1.conv2.weight": torch.ones(1)}):
        with pytest.raises(UserError, match="^a model of another network: its .* is .*, not .*$"):
            model.resnet18(wrong)


def test_script_prints_the_table(call):
    status, out, err = call(model)
    assert (status, err) == (0, "")
    for words in ("5x5x1x16 + 16 = 416", "400x64 + 64 = 25,664", "31,898", "62,006",
                  "[16, 1, 28, 28]    [16, 16, 24, 24]", "[16, 32, 10, 10]   [16, 32, 5, 5]",
                  "[16, 16, 5, 5]     [16, 400]", "[16, 64]           [16, 10]"):
        assert words in out
    assert "[64, 1, 28, 28]" in call(model, "--batch-size", 64)[1]
    status, out, err = call(model, "--batch-size", 0)
    assert (status, out) == (2, "") and "--batch-size" in err and err.count("\n") == 1
