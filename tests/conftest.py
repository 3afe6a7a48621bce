"""What the test files share. Which promise is held by which test: README.md in this folder."""

import os
import signal
import sys
from multiprocessing import forkserver

os.environ["OMP_NUM_THREADS"] = "1"  # two processes of two threads each collapse on two cores
os.environ["MPLBACKEND"] = "agg"  # no window

import pytest
import torch
from torchvision import models

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import scripts  # noqa: F401: it sets what the fork server imports
from dataset import load_cifar10, load_fashion_mnist, load_mnist
from support import command_line

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as for a job in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
forkserver.ensure_running()  # now, while the current folder is the one to import from

DATA = os.path.abspath("data")


def pytest_sessionstart(session):
    """What is missing of the data is fetched once, before the two workers start."""
    if not hasattr(session.config, "workerinput"):
        for load in (load_mnist, load_fashion_mnist, load_cifar10):
            load()


@pytest.fixture(scope="session")
def mnist():
    return load_mnist()


@pytest.fixture(scope="session")
def fashion():
    return load_fashion_mnist()


@pytest.fixture(scope="session")
def cifar10():
    return load_cifar10()


@pytest.fixture
def folder(tmp_path):
    """An empty folder with the data at hand, to run a script in."""
    os.symlink(DATA, tmp_path / "data")
    return tmp_path


@pytest.fixture
def call(monkeypatch, capsys):
    """A function: run a script's main in this process; returns (exit status, stdout, stderr)."""
    def call(script, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, arguments)])
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        status = 0
        try:
            command_line.script(script.main)
        except SystemExit as end:
            status = end.code or 0
        assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return status, *capsys.readouterr()
    return call


@pytest.fixture
def refused(call, tmp_path, monkeypatch):
    """A function: a mistake is one line with these words, exit status 2, no file touched."""
    def files():
        return {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")
                if "data" not in path.relative_to(tmp_path).parts}

    def check(words, script, *arguments):
        monkeypatch.chdir(tmp_path)
        before = files()
        status, out, err = call(script, *arguments)
        assert (status, out) == (2, "")
        line, = err.splitlines()
        assert line.startswith(f"{script.__name__}.py: error: ")
        for word in words:
            assert word in line
        assert files() == before
    return check


@pytest.fixture
def stand_in_weights(tmp_path, monkeypatch):
    """Random weights in torch's cache, under the name of torchvision's ImageNet weights.

    The real ones are 45 MB behind a network that the tests must not need; what is tested is the
    real way there, from torchvision's enum to the file in the cache.
    """
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub/checkpoints" / os.path.basename(models.ResNet18_Weights.DEFAULT.url)
    path.parent.mkdir(parents=True)
    torch.manual_seed(1)
    torch.save(models.resnet18().state_dict(), path)
    return path
