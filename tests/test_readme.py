"""What README.md and appendix.md state is what the files of this repository give."""

import json
import re
import statistics
import subprocess
from functools import partial
from pathlib import Path

import pytest

import fashion_mnist
import train
from experiments import BONUS
from model import cnn, resnet18
from support import files

README = Path("README.md").read_text()


def results(name):
    return json.loads(Path(f"results/{name}.json").read_text())


def row(words):
    """The result in the row of the table that has these words."""
    line, = (line for line in README.splitlines() if line.startswith("|") and words in line)
    return line.split("|")[2].strip()


def test_the_readme_is_for_somebody_with_two_minutes():
    assert len(README.splitlines()) <= 130
    rows = [line for line in README.splitlines() if re.match(r"\| .* \| .* \| `", line)]
    assert 5 <= len(rows) <= 12


def test_the_table_is_what_was_recorded():
    seeds = results("seeds").values()
    accuracy = statistics.mean(run["accuracy"] for run in seeds)
    times = [run["seconds"] for run in seeds]
    assert row("mean test accuracy of five seeds") == f"{100 * accuracy:.2f} %"
    assert row("the whole process") == f"{min(times)} to {max(times)} s"

    steps = results("benchmark")["CNN, step"]["ours_over"]["course"]
    assert row("against the course's plain loop") == f"{steps:.2f} times"

    bonus = [run for name, run in results("bonus").items() if name.startswith(f"{BONUS} seed")]
    accuracy = statistics.mean(run["accuracy"] for run in bonus)
    assert row("fine-tuned, mean of three seeds") == f"{100 * accuracy:.2f} %" and len(bonus) == 3
    assert row("the first of these") == f"{bonus[0]['seconds'] / 60:.0f} minutes"

    after_two = [run["curve"][1][1] for name, run in results("tutorial").items()
                 if name.startswith("as printed")]
    assert row("tutorial's two epochs") == f"{100 * statistics.mean(after_two):.2f} %"

    photos = [run for name, run in results("photos").items() if "made here" in name]
    read, of = (sum(run[key] for run in photos) for key in ("predict.py", "pictures"))
    assert row("photos of digits") == f"{read} of {of}"

    kills = results("kills").values()
    whole, trainings = (sum(run[key] for run in kills) for key in ("as_never_killed", "trainings"))
    assert row("trainings killed") == f"{whole} of {trainings}"


def test_model_pth_has_the_accuracy_that_the_readme_states(mnist):
    """Or nearly: `python train.py` replaces it, and another processor rounds otherwise."""
    model = cnn()
    files.load_weights(model, "model.pth")
    stated = float(row("| `model.pth`").removesuffix(" %"))
    assert 100 * train.accuracy(model, mnist[1]) == pytest.approx(stated, abs=0.2)


def test_fashion_mnist_pth_is_what_was_measured(fashion):
    """On the recorded mistakes, for the whole set takes minutes."""
    recorded = results("shipped")["fashion_mnist.pth"]
    right = sum(line[i] for i, line in enumerate(recorded["confusion"]))
    assert row("| `fashion_mnist.pth`") == f"{right / 100:.2f} %"
    command = ["git", "diff", "--quiet", "HEAD", "--", "fashion_mnist.pth"]
    changed = subprocess.run(command, stderr=subprocess.DEVNULL)
    if changed.returncode == 1:
        pytest.skip("fashion_mnist.pth has been trained anew here")
    model = resnet18()
    size = files.note_in(files.load_weights(model, "fashion_mnist.pth"), "image_size", 224)
    worst = fashion[1].subset([index for index, _, _ in recorded["mistakes"]])
    prepare = partial(fashion_mnist.prepare, size=size)
    predicted = train.predict(model, worst, prepare).argmax(1).tolist()
    same = [mine == guess for mine, (_, guess, _) in zip(predicted, recorded["mistakes"])]
    assert sum(same) >= 22 and len(same) == 24  # of the surest mistakes; rounding may turn one


def test_what_the_programs_print_was_recorded():
    recorded = [*results("outputs").values(), *results("bonus").values()]
    printed = {line.rstrip() for run in recorded for line in run["output"]} | {"", "..."}
    blocks = re.findall(r"^```\n(.*?)^```", README, re.M | re.S)
    assert len(blocks) >= 2
    for line in "".join(blocks).splitlines():
        assert line.rstrip() in printed


def test_the_code_of_the_readme_runs(capsys):
    code, = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    exec(code, {})
    predicted, labels = re.findall(r"tensor\(\[(.*?)\]", capsys.readouterr().out)
    assert predicted == labels  # eight easy ones


def test_every_file_that_is_named_exists_and_ci_runs_the_readmes_commands():
    for name in ("README.md", "appendix.md"):
        text = Path(name).read_text()
        for path in re.findall(r"\]\(([^)#:]+)\)", text):
            assert Path(path).exists(), path
        for path in re.findall(r"`((?:results|tests|figures|support)/[\w.]*)`", text):
            assert Path(path.replace("NAME", "seeds")).exists(), path
    ci = Path(".ci/run").read_text()
    for command in ("pip install -r requirements.txt", "python -m pytest"):
        assert command in README
        assert command.replace("pip install", "pip install --quiet") in ci.replace(
            '"$environment/bin/', "").replace('"', "")
