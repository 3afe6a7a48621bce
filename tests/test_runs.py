"""The folder of a run: what is in it, stopping and resuming; torchrun; notebooks."""

import contextlib
import io
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch

import scripts
import train
from model import cnn, lenet5
from support import Diverged, UserError, command_line, figures, files, processes, runs
from support.progress import Progress

TINY = ["--train-images", 128, "--batch-size", 32, "--epochs", 1, "--report-every", 2,
        "--validation", 50]  # 4 mini-batches
SHORT = ["--train-images", 513, "--batch-size", 32, "--epochs", 2, "--report-every", 4,
         "--validation", 200, "--optimizer", "momentum", "--lr", 0.01]  # 34, two of one image
FINISHED = ["curves.png", "history.json", "predictions.png", "settings.json"]
GO_ON = "; its weights are in runs/.*/checkpoint.pt: go on with --resume"
FULL = OSError(28, "No space left on device", "model.pth")
SIGNALS = signal.SIGINT, signal.SIGTERM


def outcome(folder):
    """(the bytes of the model file, the losses) of the only finished run in `folder`."""
    [history] = folder.glob("runs/*/history.json")
    return (folder / "model.pth").read_bytes(), files.read_json(history)["losses"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder in which SHORT has run to its end, and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    os.symlink(os.path.abspath("data"), folder / "data")
    done = scripts.run(folder, "train.py", *SHORT)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


@pytest.fixture
def stopped(call, folder, monkeypatch):
    """A function: begin a training, stop it after mini-batch 2 of 4; returns its folder."""
    def begin(*options):
        def write_and_stop(state, path):
            write(state, path)
            raise command_line.Stopped(signal.SIGTERM)

        write = files.save
        with monkeypatch.context() as patch:
            patch.setattr(files, "save", write_and_stop)
            assert call(train, *TINY, *options)[0] == 143
        return os.path.join("runs", max(os.listdir("runs")))

    monkeypatch.chdir(folder)
    return begin


def test_a_whole_run(call, whole, monkeypatch):
    """Trains, saves, draws, records; --evaluate then says the same and touches nothing."""
    folder, out = whole
    monkeypatch.chdir(folder)
    assert "GroundTruth: 9 - nine" in out and "Prediction:" in out
    [run] = folder.glob("runs/*")
    assert sorted(os.listdir(run)) == FINISHED
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in run.glob("*.png"))
    settings, record = (files.read_json(run / name) for name in ("settings.json", "history.json"))
    expected = {"lr": 0.01, "milestones": [0.6, 0.85], "dataset": "mnist", "validation": 200}
    assert settings["options"].items() >= expected.items()
    assert set(settings["circumstances"]) >= {"torch", "device", "precision", "processes", "code"}
    assert record["settings"] == settings["options"] and len(record["losses"]) == 34
    right = f"validation accuracy {100 * record['reports'][-1]['test_accuracy']:.2f} %"
    assert f"\n{right}, train accuracy" in out
    cnn().load_state_dict(torch.load("model.pth"))  # the hand-out's own way
    before = sorted(folder.rglob("*"))
    status, out, err = call(train, "--evaluate", "model.pth", "--validation", 200)
    assert (status, err) == (0, "") and out.startswith(f"model.pth: {right} (")
    assert sorted(folder.rglob("*")) == before


def test_killed_at_any_moment_and_resumed_is_as_if_never_killed(folder, whole):
    for options, moment in ((SHORT, "batch      8/"), (["--resume"], "batch     20/")):
        script = scripts.Script(folder, "train.py", *options)
        script.wait_for(moment)
        script.signal(signal.SIGKILL)
        assert script.end().returncode == -signal.SIGKILL
    [run] = folder.glob("runs/*")
    (run / "checkpoint.pt.1.tmp").write_text("half a checkpoint, of one more kill")
    assert not (folder / "model.pth").exists()
    done = scripts.run(folder, "train.py", "--resume")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"going on with runs/{run.name}\ncnn on mnist")
    assert int(re.search(r"batch +(\d+)/", done.stdout)[1]) >= 20
    assert outcome(folder) == outcome(whole[0])
    assert sorted(os.listdir(run)) == FINISHED


@pytest.mark.parametrize("number, moment, status, every, words", [
    (signal.SIGINT, "batch      8/", 130, 4, "Ctrl-C" + GO_ON),
    (signal.SIGTERM, "batch      8/", 143, 4, "SIGTERM" + GO_ON),
    (signal.SIGTERM, "cnn on mnist", 143, 10_000, "SIGTERM(; .*nothing was saved)?")])
def test_stopped_by_a_signal(folder, number, moment, status, every, words):
    script = scripts.Script(folder, "train.py", *SHORT, "--epochs", 100, "--report-every", every)
    script.wait_for(moment)
    script.signal(number)
    end = script.end()
    assert end.returncode == status
    assert re.fullmatch(f"train.py: stopped by {words}\n", end.stderr)
    assert not (folder / "model.pth").exists() and not list(folder.glob("runs/*/*.tmp"))


def test_stopped_by_an_impatient_person(call):
    def main():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            for number in SIGNALS:
                signal.raise_signal(number)

    status, _, err = call(SimpleNamespace(main=main, __name__="train"))
    assert (status, err) == (130, "train.py: stopped by Ctrl-C\n")


@pytest.mark.parametrize("place, name, error, status, words", [
    (files, "save_model", FULL, 1, "error: .*No space left on device: 'model.pth'" + GO_ON),
    (figures, "curves", command_line.Stopped(2), 130, "stopped by Ctrl-C" + GO_ON),
    (figures, "curves", MemoryError(), 1, "error: out of memory; .*--batch-size.*" + GO_ON),
    (Progress, "add", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), 1,
     "error: out of memory; a smaller --batch-size .*nothing was saved"),
    (Progress, "add", RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), 1,
     "error: out of memory; a smaller --batch-size .*nothing was saved"),
    (Progress, "history", Diverged("not finite"), 1, "error: not finite"),
    (runs.Path, "unlink", command_line.Stopped(15), 143,
     "stopped by SIGTERM; the training was finished, .* has its record")])
def test_what_ends_a_run_says_what_is_saved(call, folder, monkeypatch, place, name, error, status,
                                            words):
    def fail(*_, **__):
        raise error

    monkeypatch.chdir(folder)
    (folder / "model.pth").write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(place, name, fail)
        end, _, err = call(train, *TINY)
    assert end == status and re.fullmatch(f"train.py: {words}\n", err)
    old = (folder / "model.pth").read_bytes() == b"old"
    assert old == (name in ("save_model", "add", "history"))
    status, out, err = call(train, "--resume")
    if name == "add":
        assert status == 2 and "has come to a checkpoint" in err
    else:
        assert (status, err) == (0, "")
        assert ("has ended" if name == "history" else "predictions and history") in out


def test_an_option_that_contradicts_the_run_is_named(stopped, refused, call, folder):
    """With others it goes on, to the same weights; but not while another process trains it."""
    run = stopped()
    for option, was, now in (("--lr", "0.005", "0.1"), ("--seed", "0", "1"),
                             ("--epochs", "1", "3"), ("--rotation", "10", "5.0")):
        words = [f"{run} was begun with {option} {was}, not {now}"]
        refused(words, train, "--resume", option, now)
    with runs.locked(folder / run):
        assert "is being trained by another process" in call(train, "--resume")[2]
    status, out, err = call(train, "--resume", "--threads", 1, "--save", "other.pth",
                            "--report-every", 3, "--data", "./data/", "--lr", 0.005)
    assert (status, err) == (0, "") and out.startswith(f"going on with {run}\n")
    assert re.findall(r"batch +(\d+)/", out) == ["3", "4"] and call(train, *TINY)[0] == 0
    assert (folder / "other.pth").read_bytes() == (folder / "model.pth").read_bytes()


def test_a_run_that_another_process_has_ended_is_not_begun_anew(tmp_path):
    (tmp_path / "history.json").touch()
    with pytest.raises(UserError, match="has been ended by another process"):
        with runs.locked(tmp_path):
            pass


def test_which_run_is_resumed_and_what_has_changed(stopped, call, folder):
    """The one named; else the newest that is this script's, unfinished and not damaged."""
    first, second, third = (stopped("--seed", seed) for seed in range(3))
    settings = files.read_json(f"{first}/settings.json")
    now = settings["circumstances"]
    was = {"torch": "1.0", "precision": "x", "processes": 8, "code": "01234567"}
    files.write_json({**settings, "circumstances": now | was}, f"{first}/settings.json")
    changed = "; ".join(f"{name} is {now[name]}, was {was[name]}" for name in now if name in was)
    for number, content in enumerate((b"", b"{", b"[1]", b"3", b"\xff", b'{"lr": 0.1}',
                                      b'{"script": "fashion_mnist.py", "options": {"lr": 0.1}}')):
        os.mkdir(f"runs/z{number}")
        files.write(content, f"runs/z{number}/settings.json")
    for options, line in (([second], f"going on with {second}"), ([], f"going on with {third}"),
                          ([], f"going on with {first}; {changed}"),
                          ([], f"{third} has ended: there is nothing to resume"),
                          ([first], f"{first} has ended: there is nothing to resume")):
        status, out, err = call(train, "--resume", *options)
        assert (status, err) == (0, "") and out.splitlines()[0] == line
    status, _, err = call(train, "--resume", "runs/z6")
    assert status == 2 and "error: --resume: no run of train.py in runs/z6 " in err


def test_a_damaged_checkpoint_is_named(stopped, call, folder):
    path = folder / stopped() / "checkpoint.pt"
    state, damaged = torch.load(path), [b"", path.read_bytes()[:5000]]
    for other in ({"step": 3}, [1], {**state, "model": lenet5().state_dict()},
                  {**state, "losses": torch.zeros(7)}):
        torch.save(other, path)
        damaged.append(path.read_bytes())
    for content in damaged:
        path.write_bytes(content)
        status, _, err = call(train, "--resume")
        assert status == 2 and path.read_bytes() == content
        assert re.fullmatch(r"train.py: error: runs/.*/checkpoint.pt: \w+ .*\n", err)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="writes to Linux's /dev/full")
@pytest.mark.parametrize("name, words", [("/dev/full", ".*No space left on device\n"),
                                         ("a pipe whose reader goes away", "")])
def test_where_the_output_cannot_go_is_no_traceback(folder, name, words):
    os.mkfifo(folder / "a pipe whose reader goes away")
    options = list(map(str, SHORT)), str(folder), {}, str(folder / name), str(folder / "err")
    process = scripts.FORKS.Process(target=scripts.child, args=("train.py", *options))
    process.start()
    with open(folder / name) as output:
        assert name == "/dev/full" or "cnn on mnist" in output.readline()
    process.join(60)
    assert process.exitcode == 1 and re.fullmatch(words, (folder / "err").read_text())


def test_in_a_notebook_twice_in_a_row_and_in_a_thread(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, TINY)])
    handlers = list(map(signal.getsignal, SIGNALS))
    for _ in range(2):
        monkeypatch.setattr(sys, "stdout", io.StringIO())  # it has no reconfigure
        runpy.run_path(os.path.join(scripts.ROOT, "train.py"), run_name="__main__")
        assert "curves, predictions and history" in sys.stdout.getvalue()
    assert handlers == list(map(signal.getsignal, SIGNALS))
    output = io.TextIOWrapper(io.BytesIO(), "ascii", "strict")
    monkeypatch.setattr(sys, "stdout", output)
    main = lambda: print("m\udce8.pth, å", sys.stdout.line_buffering)
    thread = threading.Thread(target=command_line.script, args=(main,))
    thread.start()
    thread.join()
    assert output.buffer.getvalue().decode().rstrip() == r"m\udce8.pth, \xe5 True"
    assert (output.line_buffering, output.errors) == (False, "strict")


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_the_shares_of_the_processes_are_every_sample_once(monkeypatch, count, number):
    """The mean over processes of each one's weighted mean is the mean over all samples."""
    samples, shared, means = torch.randn(count, dtype=torch.float64), [], []
    monkeypatch.setattr(processes, "COUNT", number)
    for rank in range(number):
        monkeypatch.setattr(processes, "RANK", rank)
        mine, weight = processes.share(count)
        assert len(samples[mine]) >= 1  # also where there are fewer samples than processes
        shared += samples[mine].tolist() if weight else []
        means.append(samples[mine].mean() * weight)
    assert shared == samples.tolist() and sum(means) / number == pytest.approx(samples.mean())


def torchrun(folder, *options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.Popen([*command, os.path.join(scripts.ROOT, "train.py"), *map(str, options)],
                            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="finds processes in /proc")
def test_two_processes_train_as_one_and_end_as_one(folder, whole):
    """One is killed on the way, so that this is also the test that they go on."""
    process = torchrun(folder, *SHORT)
    while "batch     12/" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        children = file.read().split()
    os.kill(int(children[1]), signal.SIGKILL)
    err = process.communicate(timeout=60)[1]
    assert process.returncode != 0 and "train.py\", line" not in err
    assert len(children) == 2 and not any(os.path.exists(f"/proc/{pid}") for pid in children)
    assert not (folder / "model.pth").exists()
    out, err = torchrun(folder, "--resume").communicate(timeout=120)
    assert out.count("cnn on mnist") == 1 and int(re.search(r"batch +(\d+)/", out)[1]) >= 12, err
    assert outcome(folder)[1] == pytest.approx(outcome(whole[0])[1], abs=1e-5)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_mistake_under_torchrun_is_one_line_of_one_process(call, monkeypatch, rank):
    """Without the others: a real one was seen to end so, but takes half a minute."""
    for name, value in (("TORCHRUN", True), ("LOCAL_RANK", rank), ("FIRST", rank == 0),
                        ("joined", contextlib.nullcontext)):
        monkeypatch.setattr(processes, name, value)
    status, out, err = call(train, "--lr", 0)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1 - rank
