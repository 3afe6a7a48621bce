"""torchrun: what several processes share.

    torchrun --standalone --nproc-per-node=2 train.py

Every process trains on its share of each mini-batch, and DistributedDataParallel averages the
gradients. Process 0 prints and saves. Without torchrun there is one process, whose share is all.
"""

import contextlib
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

TORCHRUN = dist.is_available() and dist.is_torchelastic_launched()
RANK = int(os.environ["RANK"]) if TORCHRUN else 0
COUNT = int(os.environ["WORLD_SIZE"]) if TORCHRUN else 1
LOCAL_RANK = int(os.environ["LOCAL_RANK"]) if TORCHRUN else 0  # on this machine
LOCAL_COUNT = int(os.environ["LOCAL_WORLD_SIZE"]) if TORCHRUN else 1
FIRST = RANK == 0  # the process that prints and saves


@contextlib.contextmanager
def joined():
    """Meet the other processes, and leave them at the end."""
    if not TORCHRUN:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # an hour, for all wait while the first downloads the data
    dist.init_process_group(backend, timeout=timedelta(hours=1))
    try:
        yield
    finally:
        dist.destroy_process_group()


def replicated(model):
    """The model, with gradients that are averaged over the processes."""
    return nn.parallel.DistributedDataParallel(model) if TORCHRUN else model


def share(count):
    """(slice of `count` samples that is this process's, its weight in the mean over processes).

    With fewer samples than processes some have none: these get one sample, at weight 0.
    """
    start, end = count * RANK // COUNT, count * (RANK + 1) // COUNT
    return slice(start, max(end, start + 1)), (end - start) * COUNT / count


def mean(value):
    """The mean over the processes of a tensor that each of them has, in place."""
    if TORCHRUN:
        dist.all_reduce(value)
        value /= COUNT
    return value


def measured(measure, model, dataset):
    """measure(model, dataset), a mean over samples, with the samples shared out."""
    if TORCHRUN:  # each has gathered statistics for batch normalisation: the first's count
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
    mine, weight = share(len(dataset))
    value = weight * measure(model, dataset.subset(mine))
    return mean(torch.tensor(value, dtype=torch.float64)).item()


def from_first(make):
    """What make() returns or raises in the first process, in all of them."""
    if not TORCHRUN:
        return make()
    result = [None, None]
    if FIRST:
        try:
            result[0] = make()
        except (Exception, SystemExit) as error:
            result[1] = error
    dist.broadcast_object_list(result)
    if result[1] is not None:
        raise result[1]
    return result[0]
