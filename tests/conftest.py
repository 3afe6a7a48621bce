"""What several test files share."""

import hashlib
import os
import subprocess
import sys

import pytest
import torch
from torchvision import models

from dataset import load_fashion_mnist, load_mnist


def run(*arguments, script="train.py", cwd=None, **options):
    """Run a script of this repository as a user does."""
    script = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), script)
    return subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, **options)


def assert_refused(words, folder, script, *arguments):
    """A person's mistake: one line that has these words, exit status 2, and no file in `folder` is touched."""
    before = sorted(folder.rglob("*"))
    done = run(*arguments, script=script, cwd=folder)
    assert done.returncode == 2
    message, = done.stderr.splitlines()
    assert message.startswith(f"{script}: error: ") and done.stdout == ""
    for word in words:
        assert word in message
    assert sorted(folder.rglob("*")) == before


def kill_at(text, folder, script, *arguments):
    """Run a script as a user does and kill it, with SIGKILL, when it prints a line with `text` in it."""
    process = subprocess.Popen([sys.executable, os.path.abspath(script), *map(str, arguments)], cwd=folder,
                               stdout=subprocess.PIPE, text=True)
    while text not in process.stdout.readline():
        assert process.poll() is None
    process.kill()
    process.wait()


def digest(state):
    """SHA-256 over all tensors of a state_dict."""
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values())).hexdigest()


@pytest.fixture(scope="session")
def mnist():
    return load_mnist()


@pytest.fixture(scope="session")
def fashion():
    return load_fashion_mnist()


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
