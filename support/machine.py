"""The machine: its device, its precision, its memory; what a run depends on apart from options."""

import contextlib
import ctypes
import hashlib
from pathlib import Path

import torch
from torch import nn

from support import UserError, processes

def set_up(args):
    """(device, whether forward passes are in bfloat16) for --device, --precision, --threads."""
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    if args.precision == "auto":
        return device, has_bfloat16(device)
    if args.precision == "bfloat16" and device.type == "cuda" and not has_bfloat16(device):
        raise UserError(f"--precision bfloat16: {device} has no bfloat16; say float32")
    return device, args.precision == "bfloat16"


def pick_device(name):
    """The torch.device called `name`; raises UserError where it is not here."""
    here = None
    if torch.accelerator.is_available():
        here = torch.accelerator.current_accelerator()
    if name == "auto":
        name = here.type if here else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name!r}: say auto, cpu, cuda, cuda:1, mps, ...") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if here is None or device.type != here.type:
        raise UserError(f"--device {name}: {why_none(device)}")
    if processes.TORCHRUN and device.index is not None:
        raise UserError(f"--device {name}: with torchrun say {device.type}, and each process "
                        "gets a device of its own")
    index = device.index or processes.LOCAL_RANK
    needed = max(index + 1, processes.LOCAL_COUNT)  # the same for all, for only the first says it
    if needed > torch.accelerator.device_count():
        raise UserError(f"--device {name}: this machine has {torch.accelerator.device_count()}, "
                        f"{needed} are needed")
    torch.accelerator.set_device_index(index)
    return torch.device(device.type, index)


def why_none(device):
    """Why there is no such device."""
    if device.type == "cuda" and torch.version.cuda is None and torch.version.hip is None:
        return "this PyTorch is a build for the CPU alone; pytorch.org says how to get another"
    return f"this machine, or this build of PyTorch, has no {device.type}"


def has_bfloat16(device=torch.device("cpu")):
    """Whether `device` multiplies bfloat16 numbers itself, so that autocast saves time.

    Intel's processors with AVX512-FP16 are made for AMX; where a virtual machine hides that,
    float32 is faster (results/benchmark_float32.json).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if has.get("avx512_fp16"):
        return bool(has.get("amx_bf16"))
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


def circumstances(device, autocast):
    """What a run's numbers depend on, apart from its options."""
    root = Path(__file__).parents[1]
    scripts = [root / f"{name}.py" for name in ("dataset", "model", "train", "fashion_mnist")]
    code = b"".join(path.read_bytes() for path in scripts + sorted(root.glob("support/*.py")))
    return {"torch": torch.__version__, "device": device.type,
            "precision": "bfloat16" if autocast else "float32",
            "threads": torch.get_num_threads(), "processes": processes.COUNT,
            "code": hashlib.sha256(code).hexdigest()[:8]}


def keep_freed_memory():
    """Have glibc keep freed memory for the next mini-batch; without effect elsewhere.

    Activations are tens of megabytes each. A step at 224x224 takes 1.5 times as long where their
    pages are faulted in anew (in float32; results/benchmark_float32.json).
    """
    M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 64 * 2**20)


def faster(model):
    """The same layers for less work: each ReLU after the max pooling that follows it.

    max(relu(x)) is relu(max(x)), so results and gradients are the same to the last bit, but ReLU
    has fewer numbers to look at. Only in an nn.Sequential.
    """
    if type(model) is not nn.Sequential:
        return model
    layers = []
    for layer in model:
        layers += layer if type(layer) is nn.Sequential else [layer]
    for i in range(1, len(layers)):
        if isinstance(layers[i - 1], nn.ReLU) and isinstance(layers[i], nn.MaxPool2d):
            layers[i - 1], layers[i] = layers[i], layers[i - 1]
    return nn.Sequential(*layers)
