"""What several test files share."""

import hashlib
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torchvision import models

import train
from dataset import load_fashion_mnist, load_mnist

DATA = os.path.abspath("data")

# Where the tests run in the background of a shell, Ctrl-C is ignored, and by every program that they start
# too. With any handler here, these start as usual.
signal.signal(signal.SIGINT, signal.default_int_handler)


def run(*arguments, script="train.py", cwd=None, **options):
    """Run a script of this repository as a user does."""
    script = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), script)
    return subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, **options)


def torchrun(*arguments, processes=2, **options):
    """Run a script of this repository in several processes; arguments: the script, then its own."""
    script, *rest = arguments
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([*command, os.path.abspath(script), *map(str, rest)], capture_output=True, text=True,
                          timeout=300, **options)


@pytest.fixture
def assert_refused(tmp_path, monkeypatch, capsys):
    """A function: a person's mistake is one line that has these words, exit status 2, and no file is touched.

    In this process: importing torch anew for each of dozens of command lines would take minutes.
    """
    def check(words, script, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, arguments)])
        before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as end:
                train.script(script.main)
        finally:
            signal.signal(signal.SIGTERM, handler)
        out, err = capsys.readouterr()
        assert end.value.code == 2 and out == ""
        message, = err.splitlines()
        assert message.startswith(f"{script.__name__}.py: error: ")
        for word in words:
            assert word in message
        assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before
    return check


def start(folder, script, *arguments):
    """Start a script as a user does; its output can be read line by line."""
    return subprocess.Popen([sys.executable, os.path.abspath(script), *map(str, arguments)], cwd=folder,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def read_until(text, process):
    """Read a process's output up to the line with `text` in it."""
    try:
        while text not in process.stdout.readline():
            assert process.poll() is None, process.stderr.read()
    except BaseException:  # a test that fails or is stopped leaves no training behind
        process.kill()
        raise


def kill_at(text, folder, script, *arguments):
    """Run a script as a user does and kill it, with SIGKILL, when it prints a line with `text` in it."""
    process = start(folder, script, *arguments)
    read_until(text, process)
    process.kill()
    process.communicate()


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
