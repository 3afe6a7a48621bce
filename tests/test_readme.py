"""What README.md states is what the files of this repository give."""

import json
import os
import re

import pytest
import torch

import fashion_mnist
import train
from dataset import Augment, load_fashion_mnist, load_mnist
from model import cnn, resnet18

README = open("README.md").read()


def test_model_pth_has_the_accuracy_that_the_readme_states():
    """In float32, which every machine has; the README's figure may come from bfloat16: two images' worth of room."""
    stated = float(re.search(r"`model.pth` \(seed 0\) \| ([\d.]+) %", README).group(1))
    model = cnn()
    train.load_weights(model, "model.pth")
    measured = 100 * train.accuracy(model, load_mnist()[1])
    assert measured == pytest.approx(stated, abs=0.021)
    assert measured > 99


def test_the_seeds_of_the_readme():
    runs = json.load(open("results/seeds.json")).values()
    accuracies = [100 * run["test_accuracy"] for run in runs]
    assert len(accuracies) == 5
    assert f"{sum(accuracies) / 5:.2f} % (from {min(accuracies):.2f} to {max(accuracies):.2f})" in README


def test_the_bonus_of_the_readme():
    """The figures are those of results/bonus.json, and fashion_mnist.pth is the model that they speak of.

    On the first 500 test images: the whole set at 224x224 takes minutes. Their accuracy is the whole
    set's within three standard errors, 3.5 %.
    """
    runs = json.load(open("results/bonus.json"))
    for run in runs.values():
        assert f"{100 * run['test_accuracy']:.2f} %" in README
    model = resnet18().to(memory_format=torch.channels_last)
    train.load_weights(model, "fashion_mnist.pth")
    network_input = fashion_mnist.Input(Augment(), [224])
    measured = train.accuracy(model, load_fashion_mnist()[1].subset(slice(500)), network_input.test,
                              autocast=train.has_bfloat16(torch.device("cpu")))
    assert measured == pytest.approx(runs["default"]["test_accuracy"], abs=0.035)


def test_the_kills_of_the_readme():
    for script, result in json.load(open("results/kills.json")).items():
        figures = [result[key] for key in ("kills", "while_writing", "trainings", "as_never_killed")]
        assert f"| `{script}` | {' | '.join(map(str, figures))} |" in README
        assert result["as_never_killed"] == result["trainings"]


def test_files_that_the_readme_shows_exist():
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert os.path.exists(path), path
    assert "python -m pytest" in README and "python -m pytest" in open(".ci/run").read().replace('"$environment/bin/python"', "python")
