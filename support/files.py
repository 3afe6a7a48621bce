"""Files that are whole or not there, and model files read without running their code."""

import contextlib
import errno
import io
import json
import os
import shutil
import uuid
import warnings

import torch

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
    buffer = io.BytesIO()  # to a full disk torch.save raises a RuntimeError
    torch.save(state, buffer)
    write(buffer.getbuffer(), path)


def save_model(model, path, **notes):
    """Save the state_dict of `model` on the CPU: a plain torch.load reads it on any machine.

    notes: small values that travel in the state_dict's own metadata, such as image_size=64.
    """
    state = model.state_dict()
    for name, tensor in state.items():
        state[name] = tensor.cpu()
    state._metadata[""].update(notes)
    save(state, path)


def size_of(model):
    """Bytes of the weights of `model`."""
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def check_can_write(path, size):
    """Raise UserError now, not after hours, where `path` cannot be a file of `size` bytes."""
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.basename(path) or os.path.lexists(path) and not os.path.isfile(path):
        raise UserError(f"cannot save to {path!r}: name a file")
    if not os.path.isdir(folder):
        raise UserError(f"cannot save to {path}: there is no folder {folder}")
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(f"no room in {folder}: {free / 1e6:.1f} MB are free, "
                        f"{size / 1e6:.1f} MB are needed")
    trial = f"{path}.{uuid.uuid4().hex[:8]}.try"
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
        raise UserError(f"{path or '(no name)'}: there is no such file")
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
        if "GLOBAL" in str(error):  # the name of a class
            reason = "it holds more than tensors, a whole model perhaps: save model.state_dict()"
        raise UserError(f"{path}: not a {what}: {reason}") from None


def read_weights(path):
    """The state_dict in a model file. Raises UserError for any other file."""
    state = read(path, "model file")
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path}: not a model file: it holds no state_dict")
    if not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path}: not a model file: its state_dict holds more than tensors")
    return state


def note_in(state, name, default):
    """The note `name`, a whole number, that save_model put into a state_dict."""
    try:
        return int(state._metadata[""][name])
    except (AttributeError, KeyError, TypeError, ValueError):
        return default


def load_weights(model, path):
    """Load a model file into `model` and return its state_dict. Raises UserError."""
    state = read_weights(path)
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in [*wanted, *found]:
        if found.get(name) != wanted.get(name):
            raise UserError(f"{path}: the model of another network: its {name} is "
                            f"{found.get(name, 'missing')}, not {wanted.get(name, 'missing')}")
    try:
        model.load_state_dict(state)
    except RuntimeError:  # sparse tensors, say
        raise UserError(f"{path}: not a model file: its tensors cannot be copied") from None
    return state
