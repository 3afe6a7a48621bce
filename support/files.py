"""Files that are whole or not there, and model files read without running their code."""

import contextlib
import errno
import io
import json
import os
import re
import shutil
import sys
import time
import uuid
import warnings

import torch
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from support import UserError, is_out_of_memory


def write(data, path):
    """Write bytes beside `path`, then move them into place: at every moment the file is whole.

    Raises OSError; what was there before is then untouched.
    """
    path = os.path.realpath(path)  # a link stays a link
    temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            try:
                os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system without fsync
                    raise
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def write_json(value, path):
    write(json.dumps(value).encode(), path)


def read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def save(state, path):
    """torch.save to `path` by way of `write`. Raises OSError."""
    buffer = io.BytesIO()  # to a full disk torch.save raises RuntimeError, not OSError
    torch.save(state, buffer)
    write(buffer.getbuffer(), path)


def save_model(model, path, **notes):
    """Save the state_dict of `model` on the CPU: a plain torch.load reads it on any machine.

    notes: small values that travel in the state_dict's own metadata, such as image_size=64.
    Hours of training went into it: what fails is tried again, for a minute. Raises OSError.
    """
    state = model.state_dict()
    for name, tensor in state.items():
        state[name] = tensor.cpu()
    state._metadata[""].update(notes)
    for wait in (1, 5, 20, 34):
        try:
            return save(state, path)
        except OSError as error:
            print(f"cannot save {path}: {error.strerror}; trying again in {wait} s",
                  file=sys.stderr)
            time.sleep(wait)
    save(state, path)


def size_of(model):
    """Bytes of the weights of `model`."""
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def check_can_write(path, size):
    """Raise UserError now, not after hours, where `path` cannot be a file of `size` bytes."""
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.basename(path) or os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"cannot save to {path!r}: name a file")
    if not os.path.isdir(folder):
        raise UserError(f"cannot save to {path}: there is no folder {folder}")
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(f"no room in {folder}: {free / 1e6:.1f} MB are free, "
                        f"{size / 1e6:.1f} MB are needed")
    trial = f"{os.path.realpath(path)}.{uuid.uuid4().hex[:8]}.try"
    try:
        write(b"", trial)
        os.remove(trial)
    except OSError as error:
        raise UserError(f"cannot save to {path}: {error.strerror}") from None


def read(path, what):
    """What torch.save wrote to `path`. Raises UserError, which calls the file `what`.

    Only tensors and plain values are read (weights_only=True): a hostile file runs no code.
    """
    if not os.path.isfile(path):
        what = "not a file" if os.path.isdir(path) else "there is no such file"
        raise UserError(f"{path or '(no name)'}: {what}")
    try:
        with open(path, "rb") as file:
            content = io.BytesIO(file.read())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of what it then refuses
            return torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises nearly anything on bytes that are not its own
        if is_out_of_memory(error):
            raise
        reason = "damaged, or not written by torch.save"
        name = re.search(r"GLOBAL (\S+)", str(error))
        if name:
            reason = (f"it holds a pickled object, {name[1]}, perhaps a whole model; where that "
                      "loads, say torch.save(model.state_dict(), FILE)")
        raise UserError(f"{path}: not a {what}: {reason}") from None


def read_weights(path):
    """The state_dict in a model file, without what other programs wrap around it.

    That is a dict, {"state_dict": ..., "epoch": ...}, and a prefix of all names: "module." of
    DataParallel, "_orig_mod." of torch.compile. Raises UserError for any other file.
    """
    content = read(path, "model file")
    values = content.values() if isinstance(content, dict) else []
    state = next(filter(is_state_dict, [content, *values]), None)
    if state is None:
        raise UserError(f"{path}: not a model file: it holds no state_dict")
    prefix, dot, _ = os.path.commonprefix(list(state)).rpartition(".")
    consume_prefix_in_state_dict_if_present(state, prefix + dot)
    return state


def load_weights(model, path):
    """Load a model file into `model`; returns its state_dict. Raises UserError."""
    state = read_weights(path)
    try:
        check_fits(state, model)
        model.load_state_dict(state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except RuntimeError:  # sparse tensors, say
        raise UserError(f"{path}: not a model file: its tensors cannot be copied") from None
    return state


def check_fits(state, model):
    """Raise UserError where a state_dict is of another network than `model`."""
    found, wanted = shapes(state), shapes(model.state_dict())
    for name in [*wanted, *found]:
        if found.get(name) != wanted.get(name):
            raise UserError(f"a model of another network: its {name} is "
                            f"{found.get(name, 'missing')}, not {wanted.get(name, 'missing')}")


def shapes(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def is_state_dict(value):
    """Whether it is a dict of named tensors and nothing else."""
    return isinstance(value, dict) and len(value) > 0 and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in value.items())


def note_in(state, name, default):
    """The note `name` that save_model put into a state_dict, of the type of `default`."""
    try:
        return type(default)(state._metadata[""][name])
    except (AttributeError, KeyError, TypeError, ValueError):
        return default
