"""What several test files share."""

import os

import pytest
import torch
from torchvision import models


@pytest.fixture
def stand_in_weights(tmp_path, monkeypatch):
    """A checkpoint of random weights in torch's cache, under the name of torchvision's ImageNet weights.

    ImageNet's own weights are 45 MB behind a network that the tests must not need; what is tested
    is the real loading path, from torchvision's enum to the file in the cache.
    """
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = models.ResNet18_Weights.IMAGENET1K_V1.url
    path = tmp_path / "hub" / "checkpoints" / os.path.basename(url)
    path.parent.mkdir(parents=True)
    torch.manual_seed(1)
    torch.save(models.resnet18().state_dict(), path)
    return path
