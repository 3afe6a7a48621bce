"""The engine and the command line of train.py, on real MNIST."""

import io
import itertools
import json
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from torch import nn

import fashion_mnist
import train
from conftest import DATA, digest, kill_at, read_until, run, start, torchrun, wait_for
from dataset import Augment
from model import cnn, lenet5


@pytest.fixture
def small(mnist):
    """6,400 training images (100 mini-batches of 64) and 1,000 test images."""
    return mnist[0].subset(slice(6400)), mnist[1].subset(slice(1000))


def fit(data, epochs=1, seed=0, optimizer="adam", lr=None, milestones=(0.6, 0.85), **options):
    torch.manual_seed(seed)
    model = cnn().to(memory_format=torch.channels_last)
    optimizer = train.make_optimizer(optimizer, model.parameters(), lr)
    batch_size = options.get("batch_size", 64)
    schedule = train.make_schedule(optimizer, epochs * math.ceil(len(data[0]) / batch_size), milestones)
    history = train.fit(model, *data, optimizer, schedule, epochs, seed=seed, progress=False, **options)
    return model, history


# ------------------------------------------------------------------ the engine


def test_a_short_training_on_real_mnist_beats_95_percent(mnist):
    """20,000 images, once: 96.9 to 97.8 % over seeds 0 to 4 when this was written."""
    data = mnist[0].subset(slice(20_000)), mnist[1]
    model, history = fit(data)
    assert history["reports"][-1]["test_accuracy"] > 0.95
    assert train.accuracy(model, mnist[1]) == pytest.approx(history["reports"][-1]["test_accuracy"])


def test_large_images_are_measured_fewer_at_a_time(small):
    class Mean(nn.Module):
        def forward(self, images):
            counts.append(len(images))
            return images.mean((2, 3))

    testset = small[1].subset(slice(300))
    counts, expected = [], testset[:][0].mean((2, 3))
    for size, parts in ((28, [250, 50]), (112, [250, 50]), (224, [62, 62, 62, 62, 2, 50])):
        counts.clear()
        enlarge = partial(nn.functional.interpolate, size=(size, size), mode="area")
        assert torch.allclose(train.predict(Mean(), testset, enlarge), expected, atol=1e-6)
        assert counts == parts


def test_only_a_part_of_each_set_is_measured_on_the_way(small, monkeypatch):
    measured = []
    monkeypatch.setattr(train, "accuracy_over_processes", lambda model, data, *_: measured.append(len(data)) or 0.5)
    fit(small, report_every=60, report_images=700)
    assert measured == [700, 700] * 2


def test_a_checkpoint_every_two_minutes(small, tmp_path, monkeypatch):
    saved, clock = [], itertools.count(0, 50)  # seconds: each look at the clock finds it 50 later
    monkeypatch.setattr(train, "save", lambda state, path: saved.append(state["step"]))
    monkeypatch.setattr(train.time, "perf_counter", lambda: next(clock))
    fit(small, report_every=1000, checkpoint=str(tmp_path / "checkpoint.pt"))
    assert saved[:3] == [3, 6, 9] and saved[-1] == 100


def test_a_model_is_saved_for_machines_without_a_gpu(tmp_path):
    class OnGPU:  # stands for a tensor there
        def cpu(self):
            return torch.ones(2)

    class Model:
        def state_dict(self):
            return {"weight": OnGPU()}

    train.save_model(Model(), tmp_path / "model.pth")
    assert torch.equal(torch.load(tmp_path / "model.pth")["weight"], torch.ones(2))


def test_accuracy_is_the_fraction_of_right_answers(small):
    class Always3(nn.Module):
        def forward(self, images):
            return nn.functional.one_hot(torch.full((len(images),), 3), 10).float()

    testset = small[1]
    assert train.accuracy(Always3(), testset) == pytest.approx(sum(int(y) == 3 for y in testset.targets) / len(testset))
    assert train.accuracy(Always3(), testset, batch_size=7) == train.accuracy(Always3(), testset)


def test_accuracy_measures_in_eval_mode_and_leaves_every_mode_as_it_was(small):
    seen = []

    class Spy(nn.Module):
        def forward(self, images):
            seen.append((self.training, torch.is_grad_enabled()))
            return torch.zeros(len(images), 10)

    model = nn.Sequential(Spy(), nn.BatchNorm1d(10).eval())  # one part frozen by its user
    model.train()
    model[1].eval()
    before = model[1].running_mean.clone()
    train.accuracy(model, small[1])
    assert seen and set(seen) == {(False, False)}
    assert model.training and model[0].training and not model[1].training
    assert torch.equal(model[1].running_mean, before)


def test_training_goes_on_in_train_mode_after_each_report(small):
    modes = []

    class Spy(nn.Module):
        def forward(self, images):
            modes.append(self.training)
            return images

    model = nn.Sequential(Spy(), cnn())
    optimizer = train.make_optimizer("sgd", model.parameters(), 0.01)
    train.fit(model, *small, optimizer, train.make_schedule(optimizer, 100), 1, report_every=30, progress=False)
    assert sum(modes) == 100  # every training step in train mode, whatever came before it
    assert modes[0] and modes[-1] is False


def test_report_lines(small):
    _, history = fit(small, epochs=2, report_every=30)
    assert [r["batch"] for r in history["reports"]] == [30, 60, 90, 120, 150, 180, 200]
    assert [r["epoch"] for r in history["reports"]] == [1, 1, 1, 2, 2, 2, 2]
    assert len(history["losses"]) == 200
    for report, (first, last) in zip(history["reports"], [(0, 30), (30, 60)]):
        assert report["loss"] == pytest.approx(sum(history["losses"][first:last]) / 30, rel=1e-5)


def test_every_image_once_an_epoch_the_last_batch_too(mnist):
    data = mnist[0].subset(slice(1000)), mnist[1].subset(slice(100))
    seen = []

    def spy(images, generator, step):
        seen.append((images, step))
        return images

    fit(data, epochs=2, batch_size=64, train_transform=spy)
    assert [len(images) for images, _ in seen] == ([64] * 15 + [40]) * 2
    assert [step for _, step in seen] == list(range(32))
    first, second = torch.cat([i for i, _ in seen[:16]]), torch.cat([i for i, _ in seen[16:]])
    whole = data[0][:][0]
    assert not torch.equal(first, second)  # another order in the second epoch
    for epoch in (first, second):
        assert torch.equal(epoch.flatten(1).sum(1).sort().values, whole.flatten(1).sum(1).sort().values)


@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
@pytest.mark.parametrize("marks", [(0.6, 0.85), (0.5,), (0.2, 0.5, 0.9)])
def test_the_last_learning_rate_is_a_hundredth_of_the_first(small, epochs, marks):
    data = small[0].subset(slice(640)), small[1].subset(slice(10))
    _, history = fit(data, epochs=epochs, lr=0.002, milestones=marks, report_every=1)
    rates = [r["learning_rate"] for r in history["reports"]]
    assert rates[0] == 0.002
    assert rates[-1] == pytest.approx(0.01 * 0.002, rel=1e-12)
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == len(marks) + 1
    assert rates.index(rates[-1]) == int(marks[-1] * 10 * epochs)


def test_a_constant_learning_rate(small):
    _, history = fit(small, milestones=(), lr=0.002, report_every=10)
    assert {r["learning_rate"] for r in history["reports"]} == {0.002}


@pytest.mark.parametrize("name", train.OPTIMIZERS)
def test_every_optimizer_learns(small, name):  # plain SGD is slow to start
    _, history = fit(small, optimizer=name, epochs=2)
    assert history["reports"][-1]["test_accuracy"] > 0.8


def test_optimizers_are_what_their_names_say():
    parameters = list(cnn().parameters())
    assert train.make_optimizer("sgd", parameters).defaults["momentum"] == 0
    assert train.make_optimizer("momentum", parameters).defaults["momentum"] == 0.9
    assert train.make_optimizer("nesterov", parameters).defaults["nesterov"]
    assert train.make_optimizer("sgd", parameters, 0.1, 0.5, 1e-4).defaults["momentum"] == 0.5
    assert train.make_optimizer("adamw", parameters).defaults["weight_decay"] == 0.01
    with pytest.raises(train.UserError, match="choose from sgd"):
        train.make_optimizer("adm", parameters)
    with pytest.raises(train.UserError, match="--momentum"):
        train.make_optimizer("adam", parameters, momentum=0.9)


def test_same_seed_same_weights_bit_for_bit(small):
    augment = Augment(shift=2, rotation=10)
    transform = lambda images, generator, step: augment(images, generator)
    first, again, other = (digest(fit(small, seed=seed, train_transform=transform)[0].state_dict()) for seed in (3, 3, 4))
    assert first == again != other


def test_the_same_order_and_first_weights_for_every_optimizer(small):
    """So that differences between optimizers are paired, seed by seed."""
    orders = []
    for name in ("sgd", "adam"):
        orders.append([])
        fit(small, optimizer=name, train_transform=lambda images, g, p: orders[-1].append(images) or images)
    assert all(torch.equal(a, b) for a, b in zip(*orders))


def test_augmentation_is_for_training_images_only(small):
    """Augmentation that blackens every image: the training learns nothing, and yet measuring sees real images."""
    testset = small[1]
    seen = []

    def spy(images):
        seen.append(images)
        return images

    fit(small, train_transform=lambda images, generator, step: torch.zeros_like(images), test_transform=spy)
    assert torch.equal(torch.cat(seen), torch.cat([small[0][:][0], testset[:][0]]))


def test_a_training_goes_on_from_its_checkpoint_to_the_same_weights(small, tmp_path):
    class Stop(Exception):
        pass

    def stop(images, generator, step):
        if step == 154:
            raise Stop
        return images

    whole, history = fit(small, epochs=2)
    path = str(tmp_path / "checkpoint.pt")
    with pytest.raises(Stop):
        fit(small, epochs=2, report_every=40, checkpoint=path, train_transform=stop)
    assert os.path.exists(path)
    model, resumed = fit(small, epochs=2, checkpoint=path)
    assert digest(model.state_dict()) == digest(whole.state_dict())
    assert resumed["losses"] == history["losses"]


def test_divergence_is_named_and_stops_the_training(small):
    with pytest.raises(train.Diverged, match=r"mini-batch \d+ .*--lr"):
        fit(small, optimizer="sgd", lr=1e6)
    with pytest.raises(train.Diverged, match="the weights are not finite"):  # by the only step
        fit([data.subset(slice(8)) for data in small], optimizer="sgd", lr=1e60)


@pytest.mark.parametrize("can, pays", [
    ({"amx_bf16": True, "avx512_bf16": True, "avx512_fp16": True}, True),  # an Intel Xeon with AMX
    ({"avx512_bf16": True, "avx512_fp16": True}, False),  # the same in a virtual machine that hides AMX
    ({"avx512_bf16": True, "avx512_fp16": False}, True),  # AMD's Zen 4
    ({}, False),
])
def test_where_bfloat16_pays(monkeypatch, can, pays):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can, raising=False)
    assert train.has_bfloat16() == pays


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_cuda(mnist):
    device = torch.device("cuda")
    trainset, testset = (data.subset(slice(20_000)).to(device) for data in mnist)
    model = cnn().to(device, memory_format=torch.channels_last)
    optimizer = train.make_optimizer("adam", model.parameters())
    history = train.fit(model, trainset, testset, optimizer, train.make_schedule(optimizer, 313), 1,
                        autocast=train.has_bfloat16(device), progress=False)
    assert history["reports"][-1]["test_accuracy"] > 0.95


# ------------------------------------------------------------------ files


def test_the_same_weights_give_the_same_file(tmp_path):
    torch.manual_seed(0)
    state = cnn().state_dict()
    train.save(state, tmp_path / "a.pth")
    train.save(state, tmp_path / "b.pth")
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.pth"
    train.save({"a": torch.ones(1)}, path)
    before = path.read_bytes()
    with pytest.raises(Exception):
        train.save({"a": lambda: 0}, path)  # cannot be pickled: fails half-way
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["model.pth"]


def test_a_write_that_stops_half_way_leaves_the_old_file(tmp_path):
    """As on a full disk: the system refuses to write more than 10 kB of the 125 kB."""
    path = tmp_path / "model.pth"
    train.save({"a": torch.ones(1)}, path)
    before = path.read_bytes()
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(train.UserError, match="cannot write"):
            train.save(cnn().state_dict(), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["model.pth"]


# ------------------------------------------------------------------ the command line


def test_a_whole_run(tmp_path):
    """Trains, saves, draws, records; --evaluate then says the same; plain lines where nobody watches."""
    common = ["--train-images", "6400", "--epochs", "2", "--batch-size", "64", "--report-every", "50", "--data", DATA]
    done = run(*common, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress bar in a file
    lines = [line for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert [line.split()[3] for line in lines] == ["50/200", "100/200", "150/200", "200/200"]
    for words in ("loss", "train accuracy", "test accuracy", "learning rate"):
        assert all(words in line for line in lines)
    assert "GroundTruth: 7 - seven" in done.stdout and "Prediction:" in done.stdout
    [folder] = (tmp_path / "runs").iterdir()
    assert {"curves.png", "predictions.png", "history.json"} <= set(os.listdir(folder))
    record = json.loads((folder / "history.json").read_text())
    accuracy = 100 * record["reports"][-1]["test_accuracy"]
    assert f"test accuracy {accuracy:.2f} %" in done.stdout

    before = sorted(path for path in tmp_path.rglob("*"))
    measured = run("--evaluate", "model.pth", "--data", DATA, cwd=tmp_path)
    assert measured.returncode == 0 and f"test accuracy {accuracy:.2f} %" in measured.stdout
    assert sorted(path for path in tmp_path.rglob("*")) == before

    state = torch.load(tmp_path / "model.pth", weights_only=True)
    cnn().load_state_dict(state)  # the hand-out's own way to load it


def test_resume_goes_on_with_the_newest_run_of_the_same_settings(tmp_path):
    """Three runs: one that was killed, then a finished one with another seed, then one without a checkpoint."""
    common = ["--train-images", "6400", "--epochs", "1", "--report-every", "10", "--validation", "200",
              "--device", "cpu", "--data", DATA]
    kill_at("batch     30/", tmp_path, "train.py", *common)
    [folder] = os.listdir(tmp_path / "runs")
    time.sleep(1)  # the folders' names have seconds
    other = [*common, "--seed", "1", "--save", "other.pth"]
    assert run(*other, cwd=tmp_path).returncode == 0
    empty = tmp_path / "runs" / "9999-later"
    empty.mkdir()
    (empty / "settings.json").write_bytes((tmp_path / "runs" / folder / "settings.json").read_bytes())
    (tmp_path / "runs" / folder / "checkpoint.pt.1.tmp").write_text("half a checkpoint")

    done = run(*common, "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert leftovers(tmp_path) == []
    assert f"going on with runs/{folder}" in done.stdout
    assert int(re.search(r"batch +(\d+)/", done.stdout)[1]) > 20
    again = run(*other, "--resume", cwd=tmp_path)
    assert again.returncode == 0 and "is finished, its model was saved as other.pth" in again.stdout
    refused = run(*common, "--seed", "2", "--resume", cwd=tmp_path)
    assert refused.returncode == 2 and "has seed 0, not 2" in refused.stderr


SHORT = ["--train-images", 6400, "--epochs", 1, "--report-every", 10, "--validation", 200, "--device", "cpu", "--data", DATA]  # 50 mini-batches


@pytest.mark.parametrize("number, status, name", [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_stopped_by_a_signal(tmp_path, number, status, name):
    process = start(tmp_path, "train.py", *SHORT)
    read_until("batch     20/", process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    [folder] = os.listdir(tmp_path / "runs")
    assert process.returncode == status
    assert re.fullmatch(rf"train.py: stopped by {name}: runs/{folder} has the training up to mini-batch [1-5]0: "
                        "to go on from there, add --resume to the same command\n", err)
    assert not (tmp_path / "model.pth").exists() and leftovers(tmp_path) == []
    done = run(*SHORT, "--resume", cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "model.pth").exists()


def test_stopped_twice(tmp_path):
    """An impatient second Ctrl-C, or SIGTERM after it, still ends in one line that says what is saved."""
    process = start(tmp_path, "train.py", *SHORT)
    read_until("batch     20/", process)
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.02)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, 143) and len(err.splitlines()) == 1 and "has the training up to mini-batch" in err


def test_stopped_before_the_first_checkpoint(tmp_path):
    process = start(tmp_path, "train.py", *SHORT, "--epochs", 100, "--report-every", 100_000)
    read_until("cnn on mnist", process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "SIGTERM: " in err and "nothing was saved" in err and len(err.splitlines()) == 1


def test_a_checkpoint_of_another_network_is_refused(small, tmp_path):
    """As after a change of model.py, or of the optimizer's arguments."""
    path = str(tmp_path / "checkpoint.pt")
    fit(small, checkpoint=path)
    other = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    optimizer = train.make_optimizer("adam", other.parameters())
    with pytest.raises(train.UserError, match="checkpoint.pt: the checkpoint of another network or optimizer; train anew"):
        train.fit(other, *small, optimizer, train.make_schedule(optimizer, 100), 1, checkpoint=path, progress=False)


def test_stopped_after_the_last_mini_batch(tmp_path, monkeypatch):
    """While the pictures are drawn: the training is not lost, and it is said so."""
    def stop(*_):
        raise train.Terminated
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, SHORT)])
    monkeypatch.setattr(train, "plot_history", stop)
    monkeypatch.setattr(train.signal, "signal", lambda *_: None)  # else these tests could no longer be interrupted
    with pytest.raises(train.Terminated, match="up to mini-batch 50: to go on from there, add --resume"):
        train.main()
    monkeypatch.undo()
    done = run(*SHORT, "--resume", cwd=tmp_path)
    assert done.returncode == 0 and "curves" in done.stdout, done.stderr


def leftovers(folder):
    return list(folder.rglob("*.tmp"))


def test_a_training_that_diverges_leaves_the_old_model(tmp_path):
    (tmp_path / "model.pth").write_text("from before")
    done = run(*SHORT, "--optimizer", "sgd", "--lr", 1e6, cwd=tmp_path)
    assert done.returncode == 1 and re.fullmatch(r"train.py: the loss is not finite from mini-batch \d+ on: .*--lr.*\n", done.stderr)
    assert (tmp_path / "model.pth").read_text() == "from before"


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"3", b"\xff"])
def test_a_damaged_record_of_a_run_is_passed_over(tmp_path, assert_refused, damage):
    (tmp_path / "runs" / "2026").mkdir(parents=True)
    (tmp_path / "runs" / "2026" / "settings.json").write_bytes(damage)
    assert_refused(["no training of train.py in runs"], train, "--data", DATA, "--resume")


def test_a_damaged_checkpoint_is_named(tmp_path, monkeypatch):
    kill_at("batch     20/", tmp_path, "train.py", *SHORT)
    [path] = tmp_path.glob("runs/*/checkpoint.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, SHORT), "--resume"])
    for damaged in (b"", path.read_bytes()[:5000], saved({"step": 3})):
        path.write_bytes(damaged)
        with pytest.raises(train.UserError, match=f"{path.name}: not a checkpoint.*train anew, without --resume$"):
            train.main()


def test_no_room_is_said_before_the_training(tmp_path, monkeypatch, assert_refused):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=100_000))
    assert_refused(["no room in .", "0.1 MB are free"], train, "--data", DATA)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=300_000))  # room for two models
    assert_refused(["no room in runs", "0.3 MB are free"], train, "--data", DATA)


def test_a_disk_that_is_full_before_the_training(tmp_path, monkeypatch, assert_refused):
    (tmp_path / "model.pth").write_text("from before")

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(train.os, "fsync", full)
    assert_refused(["cannot save to model.pth: No space left on device"], train, "--data", DATA)


def test_a_disk_that_gets_full_during_the_training(tmp_path):
    """The system refuses to write more than 100 kB in one file: the model file is 130 kB, a checkpoint more."""
    resource = pytest.importorskip("resource")
    (tmp_path / "model.pth").write_text("from before")
    done = run(*SHORT, cwd=tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert re.match(r"train.py: error: cannot write runs/.*checkpoint.pt: File too large; .* nothing was saved", done.stderr)
    assert (tmp_path / "model.pth").read_text() == "from before" and leftovers(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "curves.png"), train.CannotWrite("cannot write model.pth: full")])
def test_a_disk_that_is_full_at_the_end_says_how_to_go_on(tmp_path, mnist, error):
    data = [split.subset(slice(128)) for split in mnist]
    model = cnn()
    optimizer = train.make_optimizer("sgd", model.parameters())
    with pytest.raises(train.CannotWrite) as end, train.saying_what_is_saved(str(tmp_path)):
        history = train.fit(model, *data, optimizer, train.make_schedule(optimizer, 2), 1, checkpoint=str(tmp_path / "checkpoint.pt"))
        raise error
    assert str(end.value) == (f"{error}; {tmp_path} has the training up to mini-batch 2: to go on from there, "
                              "add --resume to the same command")
    train.finish(str(tmp_path), history)
    with pytest.raises(train.CannotWrite, match="the training was finished, the model is saved"), train.saying_what_is_saved(str(tmp_path)):
        raise error


# ------------------------------------------------------------------ torchrun

TWO = [*SHORT, "--train-images", 6401, "--optimizer", "momentum", "--lr", 0.01, "--precision", "float32"]  # one image in the last mini-batch


def record(folder):
    [path] = folder.glob("runs/*/history.json")
    return json.loads(path.read_text())


def test_one_gpu_for_every_process_is_refused(monkeypatch):
    monkeypatch.setattr(train, "TORCHRUN", True)
    with pytest.raises(train.UserError, match="--device cuda:0 .* with torchrun say cuda"):
        train.pick_device("cuda:0")


def test_two_processes_train_as_one(tmp_path):
    """51 mini-batches, the last one of an odd number of images; float32 rounds sums in another order."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    assert run(*TWO, "--threads", 1, cwd=one).returncode == 0
    done = torchrun("train.py", *TWO, "--threads", 1, cwd=two)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cnn on mnist") == 1 and len(re.findall("^epoch", done.stdout, re.M)) == 6
    alone, together = record(one), record(two)
    assert len(together["losses"]) == 51
    assert together["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    for a, b in zip(alone["reports"], together["reports"], strict=True):
        for key in ("train_accuracy", "test_accuracy"):  # over the whole set: an image or two may sit on the fence
            assert a[key] == pytest.approx(b[key], abs=0.011)
    states = [torch.load(folder / "model.pth") for folder in (one, two)]
    for name in states[0]:
        assert torch.allclose(states[0][name], states[1][name], atol=1e-4)


def test_torchrun_goes_on_from_a_checkpoint(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir(), stopped.mkdir()
    assert torchrun("train.py", *TWO, "--threads", 1, cwd=whole).returncode == 0
    kill_at("batch     20/", stopped, "train.py", *TWO, "--threads", 1)
    done = torchrun("train.py", *TWO, "--threads", 1, "--resume", cwd=stopped)
    assert done.returncode == 0, done.stderr
    assert "going on with" in done.stdout and int(re.search(r"batch +(\d+)/", done.stdout)[1]) >= 20
    assert record(stopped)["losses"] == pytest.approx(record(whole)["losses"], abs=1e-5)
    again = torchrun("train.py", *TWO, "--threads", 1, "--resume", cwd=stopped)
    assert again.returncode == 0 and again.stdout.count("is finished, its model was saved as model.pth") == 1


def test_a_mistake_under_torchrun_is_one_line_of_ours(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for arguments in (["--lr", 0], ["--data", tmp_path / "file"]):
        done = torchrun("train.py", "--data", DATA, *arguments, cwd=tmp_path)
        assert done.returncode != 0
        assert done.stderr.count("train.py: error: ") == 1 and "File \"" + os.path.abspath("train.py") not in done.stderr


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="finds the processes in Linux's /proc")
def test_when_one_process_dies_all_end(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               os.path.abspath("train.py"), *map(str, SHORT), "--epochs", "1000"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    read_until("batch     20/", process)
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        children = [int(pid) for pid in file.read().split()]
    assert len(children) == 2
    os.kill(children[1], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0 and "File \"" + os.path.abspath("train.py") not in err
    for pid in children:
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"))


def test_a_reader_that_goes_away_is_no_traceback(tmp_path):
    command = f"'{sys.executable}' '{os.path.abspath('train.py')}' --train-images 6400 --report-every 5 --data '{DATA}'"
    done = subprocess.run(f"{command} | head -2", shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert len(done.stdout.splitlines()) == 2 and done.stderr == ""


def test_pictures_need_no_display(tmp_path):
    done = run("--train-images", 640, "--epochs", 1, "--data", DATA, cwd=tmp_path,
               env={**os.environ, "MPLBACKEND": "TkAgg", "DISPLAY": ""})
    assert done.returncode == 0, done.stderr
    [folder] = (tmp_path / "runs").iterdir()
    assert (folder / "curves.png").stat().st_size > 10_000


@pytest.mark.parametrize("dataset, network", [("cifar10", "cnn"), ("mnist", "lenet5"), ("cifar10", "lenet5"),
                                              ("fashion-mnist", "cnn")])
def test_any_dataset_for_any_model(tmp_path, dataset, network):
    done = run("--dataset", dataset, "--model", network, "--train-images", 640, "--epochs", 1, "--device", "cpu",
               "--data", DATA, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{network} on {dataset}" in done.stdout


def test_validation_images_are_the_same_for_every_seed_and_never_trained_on(mnist):
    trainset, held_out = train.hold_out(mnist[0], 5000)
    assert (len(trainset), len(held_out)) == (55_000, 5_000)
    both = torch.cat([trainset.images, held_out.images]).flatten(1).sum(1)
    assert torch.equal(both.sort().values, mnist[0].images.flatten(1).sum(1).sort().values)
    torch.manual_seed(5)
    assert torch.equal(train.hold_out(mnist[0], 5000)[1].images, held_out.images)


@pytest.mark.parametrize("script, options", [(train, []), (fashion_mnist, ["--weights", "none", "--image-size", "40"])])
def test_validation_never_touches_the_test_set(tmp_path, monkeypatch, mnist, fashion, capsys, script, options):
    """With a test set that cannot be used for anything."""
    monkeypatch.setitem(train.DATASETS, "mnist", lambda *_: (mnist[0], None))
    monkeypatch.setattr(fashion_mnist, "load_fashion_mnist", lambda *_: (fashion[0], None))
    monkeypatch.chdir(tmp_path)
    for arguments in (["--train-images", "128", "--epochs", "1", "--save", "model.pth"], ["--evaluate", "model.pth"]):
        monkeypatch.setattr(sys, "argv", ["script.py", "--validation", "300", *options, *arguments])
        script.main()
        printed = capsys.readouterr().out
        assert re.search(r"validation accuracy .*\d", printed) and "test accuracy" not in printed
    assert "of 300 images" in printed


@pytest.mark.parametrize("arguments, words", [
    (["--dataset", "mnits"], ["--dataset", "mnits", "fashion-mnist"]),
    (["--model", "resnet"], ["--model", "cnn", "lenet5"]),
    (["--optimizer", "adm"], ["--optimizer", "adamw", "rmsprop"]),
    (["--lr", "0"], ["--lr", "above 0"]),
    (["--lr", "fast"], ["--lr", "number", "fast"]),
    (["--lr", "nan"], ["--lr", "number"]),
    (["--lr", "1e38"], ["--lr", "1000000"]),
    (["--momentum", "1.5"], ["--momentum", "from 0"]),
    (["--momentum", "0.9"], ["--momentum", "adam", "sgd"]),
    (["--optimizer", "nesterov", "--momentum", "0"], ["nesterov"]),
    (["--epochs", "0"], ["--epochs", "whole number from 1"]),
    (["--epochs", "1.5"], ["--epochs", "whole number"]),
    (["--batch-size", "-4"], ["--batch-size"]),
    (["--milestones", "6,5"], ["--milestones", "rising"]),
    (["--milestones", "12"], ["--milestones", "5 epochs"]),
    (["--seed", "-1"], ["--seed"]),
    (["--device", "gpu"], ["--device", "cuda:N"]),
    (["--device", "cuda:99"], ["cuda:99"]),
    (["--device", "cuda:128"], ["cuda:128"]),
    (["--device", "cuda:-1"], ["--device", "cuda:N"]),
    (["--threads", "0"], ["--threads"]),
    (["--flip", "2"], ["--flip", "from 0 to 1"]),
    (["--validation", "60000"], ["--validation", "60000"]),
    (["--save", "no/such/folder.pth"], ["no/such"]),
    (["--save", "."], ["cannot save", "name a file"]),
    (["--save", ""], ["name a file"]),
    (["--save", "/dev/null"], ["/dev/null", "name a file"]),
    (["--resume"], ["--resume", "no training of train.py in runs"]),
    (["--frobnicate"], ["--frobnicate"]),
    (["--data", "text.pth"], ["text.pth", "not a folder"]),
    (["--runs", "text.pth"], ["text.pth", "cannot make the folder"]),
    (["--precision", "float16"], ["--precision", "float16", "bfloat16"]),
    (["--weight-decay", "-1"], ["--weight-decay", "from 0"]),
    (["--rotation", "181"], ["--rotation", "from 0 to 180"]),
    (["--shift", "1.5"], ["--shift", "whole number"]),
    (["--train-images", "0"], ["--train-images", "from 1"]),
    (["--report-every", "0"], ["--report-every", "from 1"]),
    (["--report-every", "9" * 400], ["--report-every", "from 1"]),
    (["--validation", "-1"], ["--validation", "from 0"]),
    (["--epochs"], ["--epochs", "expected one argument"]),
    (["model.pth"], ["unrecognized arguments: model.pth"]),
])
def test_a_mistake_is_one_line_and_status_2(tmp_path, assert_refused, arguments, words):
    (tmp_path / "text.pth").write_text("not a folder")
    assert_refused(words, train, "--data", DATA, *arguments)


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried to allocate 2 GiB", "[enforce fail at alloc_cpu.cpp] . "
                                   "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", "not enough memory: 9 bytes", ""])
def test_out_of_memory_is_one_line_that_says_what_helps(tmp_path, capsys, monkeypatch, words):
    monkeypatch.setattr(train.signal, "signal", lambda *_: None)

    def main():
        raise torch.OutOfMemoryError(words) if "CUDA" in words else RuntimeError(words) if words else MemoryError

    def main_that_trains():
        with train.saying_what_is_saved(str(tmp_path)):
            main()

    for ending, begin in (("", main), ("; .* nothing was saved", main_that_trains)):
        with pytest.raises(SystemExit) as end:
            train.script(begin)
        assert end.value.code == 1 and re.fullmatch(rf"\S+: error: out of memory: .*--batch-size need less{ending}\n", capsys.readouterr().err)


def test_out_of_memory_does_not_condemn_a_checkpoint_that_there_is_no_memory_to_read(tmp_path, monkeypatch):
    def no_memory(path):
        raise train.UserError("damaged; train anew, without --resume")

    (tmp_path / "checkpoint.pt").write_bytes(b"good")
    monkeypatch.setattr(train, "load_checkpoint", no_memory)
    with pytest.raises(MemoryError) as error, train.saying_what_is_saved(str(tmp_path)):
        raise MemoryError
    assert error.value.saved == f"; {tmp_path} has the training: to go on from there, add --resume to the same command"


def test_a_gpu_without_bfloat16_is_refused(monkeypatch):
    monkeypatch.setattr(train, "has_bfloat16", lambda device: False)
    with pytest.raises(train.UserError, match="--precision bfloat16: cuda:1 has no bfloat16; say float32"):
        train.pick_autocast("bfloat16", torch.device("cuda:1"))
    assert train.pick_autocast("auto", torch.device("cuda:1")) is False
    assert train.pick_autocast("bfloat16", torch.device("cpu")) is True


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="writes to Linux's /dev/full")
def test_standard_output_on_a_full_disk_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, os.path.abspath("train.py"), "--evaluate", os.path.abspath("model.pth"), "--device", "cpu",
                               "--data", DATA], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and re.fullmatch(r"train.py: error: .*No space left on device\n", done.stderr)


@pytest.mark.skipif(sys.platform != "linux", reason="a file name that is no UTF-8")
def test_a_name_that_cannot_be_printed(tmp_path):
    done = run(*SHORT, "--save", os.fsdecode(b"m\xe8.pth"), cwd=tmp_path)
    assert done.returncode == 0 and r"model: m\udce8.pth;" in done.stdout, done.stderr
    assert b"m\xe8.pth" in os.listdir(os.fsencode(tmp_path))


def test_a_mistake_as_a_user_makes_it(tmp_path):
    done = run("--lr", 0, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "train.py: error: argument --lr: must be a number above 0 to 1000000, not '0'\n"
    assert os.listdir(tmp_path) == []


class Command:
    """Unpickling this runs a command."""

    def __reduce__(self):
        return os.system, ("touch it-ran",)


MODEL_FILES = {  # name: (words of the message, what to write there)
    "none.pth": ("no such file", lambda path: None),
    "folder.pth": ("not a file", lambda path: path.mkdir()),
    "empty.pth": ("not a model file", lambda path: path.write_bytes(b"")),
    "text.pth": ("not a model file", lambda path: path.write_text("not a model")),
    "cut.pth": ("not a model file", lambda path: path.write_bytes(saved(cnn().state_dict())[:60_000])),
    "bit.pth": ("not a model file", lambda path: path.write_bytes(b"\1" + saved(cnn().state_dict())[1:])),
    "lenet5.pth": ("another network", lambda path: path.write_bytes(saved(lenet5().state_dict()))),
    "more.pth": ("another network", lambda path: path.write_bytes(saved({**cnn().state_dict(), "x": torch.ones(1)}))),
    "list.pth": ("no state_dict", lambda path: path.write_bytes(saved([1, 2]))),
    "number.pth": ("no state_dict", lambda path: path.write_bytes(saved({"a": 1}))),
    "model.pth": ("not a model file", lambda path: path.write_bytes(saved(cnn()))),  # the network, not its weights
    "pickle.pth": ("not a model file", lambda path: path.write_bytes(pickle.dumps(Command()))),
    "torch.pth": ("not a model file", lambda path: path.write_bytes(saved(Command()))),
    "inside.pth": ("not a model file", lambda path: path.write_bytes(saved({**cnn().state_dict(), "0.0.bias": Command()}))),
}


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_file_that_is_no_model_is_one_line_and_harmless(tmp_path, assert_refused, name):
    words, make = MODEL_FILES[name]
    make(tmp_path / name)
    assert_refused([f"{name}: ", words], train, "--data", DATA, "--evaluate", name)


def test_the_pickles_commands_would_run(tmp_path, monkeypatch):
    """Else the test above would show nothing."""
    monkeypatch.chdir(tmp_path)
    torch.load(io.BytesIO(saved(Command())), weights_only=False)
    assert os.listdir() == ["it-ran"]


def test_no_permission_to_read_a_model(monkeypatch, tmp_path):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")
    path = tmp_path / "model.pth"
    path.write_bytes(saved(cnn().state_dict()))
    monkeypatch.setattr("builtins.open", refuse)  # the superuser, who may run the tests, may read everything
    with pytest.raises(train.UserError, match="no permission to read it"):
        train.load_weights(cnn(), str(path))


@pytest.mark.parametrize("script, defaults", [
    ("train.py", ["default: 5)", "default: 128)", "default: mnist", "adam 0.005", "MultiStepLR"]),
    ("fashion_mnist.py", ["default: 6)", "default: 32)", "default: auto", "default: 0.05)", "64:0.357"])])
def test_help_shows_defaults(script, defaults):
    done = run("--help", script=script)
    assert done.returncode == 0 and done.stderr == ""
    for words in defaults:
        assert words in done.stdout
