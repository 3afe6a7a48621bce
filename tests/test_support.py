"""Files, options, devices and pictures: support/, but for runs, processes and the data."""

import io
import os
import pickle
import shutil
import subprocess
import sys
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import fashion_mnist
import support
import train
from model import cnn, lenet5, resnet18
from support import UserError, command_line, convolution, figures, files, machine, processes


def raising(error):
    def fail(*_, **__):
        raise error
    return fail


@pytest.mark.parametrize("place, name", [(files, "open"), (os, "fsync"), (os, "replace")])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, place, name):
    path = tmp_path / "model.pth"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(place, name, raising(OSError(28, "full")), raising=False)
        files.write(b"new", path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["model.pth"]
    monkeypatch.setattr(os, "fsync", raising(OSError(22, "a file system without")))
    files.write(b"new", path)
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["model.pth"]


def test_where_nothing_can_be_written_is_said_before_the_training(tmp_path, monkeypatch):
    def check(path, size, words):
        with pytest.raises(UserError, match=words):
            files.check_can_write(path, size)

    monkeypatch.chdir(tmp_path)
    for path, words in (("", "name a file"), (".", "name a file"), ("no/a", "is no folder .*no")):
        check(path, 1, f"cannot save to .*{words}")
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=100_000))
    files.check_can_write("model.pth", 100_000)
    check("model.pth", 200_000, "no room in .*: 0.1 MB are free, 0.2 MB are needed")
    monkeypatch.setattr(files, "open", raising(OSError(30, "read-only")), raising=False)
    check("model.pth", 1, "cannot save to model.pth: read-only")
    assert os.listdir() == []


def test_a_model_file_is_plain_tensors_on_the_cpu_with_notes(tmp_path):
    state = OrderedDict(weight=SimpleNamespace(cpu=lambda: torch.ones(2)))  # as if on a GPU
    state._metadata, path = {"": {}}, tmp_path / "model.pth"
    files.save_model(SimpleNamespace(state_dict=lambda: state), path)
    assert torch.equal(torch.load(path)["weight"], torch.ones(2))
    network, contents = nn.Linear(2, 3), set()
    for _ in range(2):
        files.save_model(network, path, image_size=64)
        contents.add(path.read_bytes())
    state = torch.load(path, weights_only=True)
    nn.Linear(2, 3).load_state_dict(state)
    assert len(contents) == 1 and torch.equal(state["weight"], network.weight)
    assert files.note_in(state, "image_size", 224) == 64
    assert files.note_in(state, "colour", 3) == files.note_in({}, "image_size", 3) == 3


class Command:
    """Unpickling this runs a command."""

    def __reduce__(self):
        return os.mkdir, ("it-ran",)


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


STATE = cnn().state_dict()
MODEL_FILES = {  # name: (words, content)
    "empty": ("damaged, or not written by torch.save", b""), "cut": ("cut", saved(STATE)[:60_000]),
    "text": ("damaged, or not", b"text"), "zip": ("not a model file", b"PK\5\6" + bytes(18)),
    "whole": ("it holds a pickled object, torch.nn.modules.container.Sequential, perhaps a whole "
              "model; where that loads, say torch.save(model.state_dict(), FILE)", saved(cnn())),
    "pickle": ("not a model file", pickle.dumps(Command())),
    "inside": ("not a model file", saved({**STATE, "0.0.bias": Command()})),
    "list": ("no state_dict", saved([1])), "number": ("no state_dict", saved({"a": 1})),
    "lenet5": ("another network: its 0.0.weight is (6, 3, 5, 5), not (16, 1, 5, 5)",
               saved(lenet5().state_dict())),
    "resnet18": ("another network: its 0.0.weight is missing, not (16, 1, 5, 5)",
                 saved({"net": resnet18().state_dict()})),
    "other": ("another network: its 0.0.weight is (6, 1, 5, 5), not (16, 1, 5, 5)",
              saved({**STATE, "0.0.weight": torch.ones(6, 1, 5, 5)})),
    "keys": ("no state_dict", saved({1: torch.ones(1)})),
    "more": ("its x is (1,), not missing", saved({**STATE, "x": torch.ones(1)})),
    "sparse": ("cannot be copied", saved({name: STATE[name].to_sparse() for name in STATE})),
    "none": ("there is no such file", None), "folder": ("not a file", None),
}


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_file_that_is_no_model_is_one_line_and_harmless(folder, refused, name):
    words, content = MODEL_FILES[name]
    (folder / "folder").mkdir()
    if content is not None:
        (folder / name).write_bytes(content)
    refused([f"error: {name}: ", words], train, "--evaluate", name, "--model", "cnn")


def test_no_permission_and_that_the_command_above_would_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.load(io.BytesIO(saved(Command())), weights_only=False)
    assert os.listdir() == ["it-ran"]
    files.save(STATE, "model.pth")
    monkeypatch.setattr(files, "open", raising(PermissionError(13, "not yours")), raising=False)
    with pytest.raises(UserError, match="model.pth: cannot be read: not yours"):
        files.load_weights(cnn(), "model.pth")


def test_what_other_programs_wrap_around_a_state_dict_is_taken_off(tmp_path):
    path, network = tmp_path / "model.pth", cnn()
    compiled = torch.compile(nn.DataParallel(network)).state_dict()
    assert "_orig_mod.module.0.0.weight" in compiled
    for content in (nn.DataParallel(network).state_dict(), torch.compile(network).state_dict(),
                    compiled, {"state_dict": STATE}, {"model": STATE}, {"net": compiled},
                    {"epoch": 3, "optimizer": {"lr": 0.1}, "model_state_dict": STATE}):
        files.save(content, path)
        loaded = cnn()
        files.load_weights(loaded, path)
        expected = STATE if STATE in content.values() else network.state_dict()
        assert all(map(torch.equal, loaded.state_dict().values(), expected.values()))


def test_the_final_model_is_tried_again_for_a_minute(tmp_path, monkeypatch, capsys):
    """A virus scanner holds a file, a disk is full for a moment."""
    path, waits, replace = tmp_path / "model.pth", [], os.replace
    monkeypatch.setattr(os, "replace", raising(PermissionError(13, "in use")))
    monkeypatch.setattr(files.time, "sleep", waits.append)
    with pytest.raises(PermissionError, match="in use"):
        files.save_model(cnn(), path)
    assert sum(waits) == 60 and len(waits) == 4 and os.listdir(tmp_path) == []
    monkeypatch.setattr(files.time, "sleep", lambda _: monkeypatch.setattr(os, "replace", replace))
    files.save_model(cnn(), path)
    files.load_weights(cnn(), path)
    line = f"cannot save {path}: in use; trying again in 1 s\n"
    assert capsys.readouterr().err.endswith(" 34 s\n" + line)


@pytest.mark.parametrize("script, words", [
    (train, "default:5) default:128) default:mnist; adam0.005 MultiStepLR"),
    (fashion_mnist, "default:5) default:64) default:auto) default:0.03) default:224,onaCPU64;")])
def test_help_shows_defaults(call, script, words):
    status, out, err = call(script, "--help")
    assert (status, err) == (0, "")
    assert all(word in "".join(out.split()) for word in words.split())


@pytest.mark.parametrize("can, pays", [
    ("amx_bf16 avx512_bf16 avx512_fp16", True),  # Intel with AMX
    ("avx512_bf16 avx512_fp16", False),          # where a virtual machine hides AMX
    ("avx512_bf16", True),                       # AMD's Zen 4
    ("avx512_f", False)])
def test_where_bfloat16_pays(monkeypatch, can, pays):
    has = dict.fromkeys(can.split(), True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    for precision, expected in (("auto", pays), ("float32", False), ("bfloat16", True)):
        args = SimpleNamespace(threads=None, device="cpu", precision=precision)
        assert machine.set_up(args) == (torch.device("cpu"), expected)


@pytest.mark.parametrize("looks, expected", [("1", False), ("0", False), ("2221", False),
                                             ("22322", True)])
def test_threads_sleep_where_another_program_runs(monkeypatch, looks, expected):
    texts = [io.StringIO(f"0.52 1.29 1.91 {count}/206 4711") for count in looks]
    monkeypatch.setattr(support, "open", lambda path: texts.pop(0), raising=False)
    assert support.others_run() == expected and texts == []


def test_threads_are_for_one_run(capsys):
    args = SimpleNamespace(threads=2, device="cpu", precision="float32")
    command_line.script(lambda: machine.set_up(args) and print(torch.get_num_threads()))
    assert capsys.readouterr().out == "2\n" and torch.get_num_threads() == 1


def test_a_faster_network_gives_the_same_to_the_last_bit():
    images = torch.randn(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    network, results = cnn(), []
    for forward in (network, machine.faster(network)):
        network.zero_grad()
        out = forward(images)
        out.square().sum().backward()
        results.append([out, *(parameter.grad.clone() for parameter in network.parameters())])
    assert all(map(torch.equal, *results)) and len(results[0]) == 11
    kinds = [type(layer).__name__ for layer in machine.faster(network)]
    assert kinds == ["Conv2d", "MaxPool2d", "ReLU", "Conv2d", "MaxPool2d", "ReLU", "Conv2d",
                     "ReLU", "Flatten", "Linear", "ReLU", "Linear"]
    block = nn.TransformerEncoderLayer(8, 2)  # no Sequential: what is in it is its own
    assert list(machine.faster(nn.Sequential(block)))[0] is block
    assert machine.faster(block) is block


@pytest.mark.parametrize("size, layer, used", [
    ((5, 5), nn.Conv2d(3, 64, 3, padding=1, bias=False), True),
    ((8, 6), nn.Conv2d(3, 64, (3, 2), stride=(2, 1), padding=(1, 0), bias=False), True),
    ((7, 7), nn.Conv2d(3, 64, 1, stride=2, bias=False), True),
    ((9, 9), nn.Conv2d(3, 64, 3, bias=False), False),  # 81 positions
    ((5, 5), nn.Conv2d(3, 64, 3), False),
    ((5, 5), nn.Conv2d(3, 63, 3, groups=3, bias=False), False),
    ((5, 5), nn.Conv2d(3, 64, 3, dilation=2, bias=False), False),
    ((5, 5), nn.Conv2d(3, 64, 3, padding="same", bias=False), False)])
def test_the_faster_gradients_of_a_convolution(size, layer, used, monkeypatch):
    calls, apply = [], convolution.Convolution.apply
    monkeypatch.setattr(convolution.Convolution, "apply", lambda *a: calls.append(a) or apply(*a))
    layer, images = layer.double(), torch.randn(2, 3, *size).double().requires_grad_()
    layer.zero_grad(), layer(images).sin().sum().backward()
    expected = images.grad.clone(), layer.weight.grad.clone()
    images.grad = layer.weight.grad = None
    with convolution.FasterGradients():
        layer(images).sin().sum().backward()
        assert len(calls) == used
        with torch.autocast("cpu", torch.bfloat16):
            layer(images)
        F.conv2d(images, layer.weight.detach(), None, 2, 1, 1, layer.groups)  # with plain numbers
    assert len(calls) == used and torch.allclose(images.grad, expected[0])
    assert torch.allclose(layer.weight.grad, expected[1])


def test_nothing_is_imported_that_is_not_needed(folder):
    """torchvision, its compiler and matplotlib take longer to import than torch."""
    shutil.copy("model.pth", folder)
    code = """if True:
        import contextlib, os, runpy, sys
        for line in sys.stdin.read().splitlines():
            sys.argv, status = line.split(), 0
            try:
                with contextlib.redirect_stdout(None):
                    runpy.run_path(f"{os.environ['PYTHONPATH']}/{sys.argv[0]}", None, "__main__")
            except SystemExit as end:
                status = end.code or 0
            print(status, *{"torchvision", "matplotlib", "torch._dynamo"} & set(sys.modules))
        """
    lines = {"train.py --help": 0, "fashion_mnist.py --help": 0, "fashion_mnist.py --lr 0": 2,
             "model.py": 0, "train.py --lr 0": 2, "train.py --evaluate model.pth": 0}
    (folder / "script.py").write_text(code)
    done = subprocess.run([sys.executable, "script.py"], input="\n".join(lines), text=True,
                          cwd=folder, env={**os.environ, "PYTHONPATH": os.path.abspath(".")},
                          capture_output=True, timeout=120)
    assert done.stdout.split() == list(map(str, lines.values())), done.stderr


def test_device_names(monkeypatch):
    def check(available, table):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: available)
        for name, expected in table.items():
            if " " not in expected:
                assert machine.pick_device(name) == torch.device(expected)
            else:
                with pytest.raises(UserError, match=f"^--device .*{expected}"):
                    machine.pick_device(name)

    for version, words in ((None, "a build for the CPU alone"), ("12.6", "has no cuda")):
        monkeypatch.setattr(torch.version, "cuda", version)
        check(False, {"cuda": words})
    check(False, {"auto": "cpu", "cpu:0": "cpu", "mps": "has no mps",
                  "gpu": "say auto", "cuda:x": "say auto", "": "say auto"})
    for name, value in (("current_accelerator", torch.device("cuda")), ("device_count", 2),
                        ("set_device_index", None)):
        monkeypatch.setattr(torch.accelerator, name, lambda *_, value=value: value)
    check(True, {"auto": "cuda:0", "cuda:1": "cuda:1", "cuda:2": "has 2", "mps": "has no mps"})
    monkeypatch.setattr(processes, "TORCHRUN", True)
    monkeypatch.setattr(processes, "LOCAL_RANK", 1)
    check(True, {"auto": "cuda:1", "cuda": "cuda:1", "cuda:0": "with torchrun say cuda"})
    monkeypatch.setattr(machine, "has_bfloat16", lambda device: False)
    with pytest.raises(UserError, match="bfloat16: cuda:1 has no bfloat16; say float32"):
        machine.set_up(SimpleNamespace(threads=None, device="cuda", precision="bfloat16"))


def test_the_pictures_show_what_was_measured_under_any_name(tmp_path, monkeypatch, mnist):
    drawn, write = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *given, **options: (
        drawn.append(figure), write(figure, *given, **options)))
    history = {"losses": [2.0] * 400 + [1.0] * 400, "reports": [
        {"batch": 400, "train_accuracy": 0.5, "test_accuracy": 0.25},
        {"batch": 800, "train_accuracy": 0.75, "test_accuracy": 0.5}]}
    for title in ("a$^$b.pth", os.fsdecode(b"m\xe8.pth")):
        figures.curves(history, tmp_path / "curves.png", title, "validation")
    assert [figure.get_suptitle() for figure in drawn] == ["a$^$b.pth", r"m\udce8.pth"]
    left, right = drawn[0].axes
    assert list(left.lines[0].get_ydata()) == [2.0] * 100 + [1.0] * 100
    assert [(line.get_label(), *line.get_ydata()) for line in right.lines] == [
        ("train set", 50, 75), ("validation set", 25, 50)]

    testset = mnist[1].subset(slice(10))  # 7 2 1 0 4 1 4 9 5 9
    figures.predictions(testset, torch.tensor([7, 3]), tmp_path / "predictions.png")
    titles = [(text.get_text(), text.get_color()) for text in drawn[2].axes[0].texts]
    assert titles == [("7 - seven", figures.BLACK), ("3 - three\n(is 2 - two)", figures.ORANGE)]
    axis, = figures.confusion(torch.tensor([[3, 0], [2, 5]]), ["a", "b"], "test").axes
    texts = {(text.get_position()[::-1], text.get_text()) for text in axis.texts}
    assert texts == {((0, 0), "3"), ((1, 0), "2"), ((1, 1), "5")}
    shown = [(os.fsdecode(b"m\xe8.png"), Image.new("RGB", (9, 9)), torch.zeros(1, 1, 28, 28),
              torch.full((1, 10), 0.1))]
    figures.answers(shown, testset.classes, tmp_path / "answers.png", 1)
    assert drawn[3].axes[0].texts[0].get_text() == r"m\udce8.png"
