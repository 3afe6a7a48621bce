"""Run the scripts as a user does, but from a fork server that has torch imported already.

A fresh interpreter takes seconds to import torch; a fork of one that has it takes none.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["fashion_mnist"])


def child(script, arguments, folder, environment, out, err):
    """What a fork becomes: the script, with the standard streams of a program."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.update(environment)
    for path, number in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1, errors="backslashreplace")
    sys.argv = [script, *arguments]
    runpy.run_path(os.path.join(ROOT, script), run_name="__main__")
    sys.stdout.flush()


class Script:
    """A script that runs in `folder`; `out` and `err` are what it has printed so far."""

    def __init__(self, folder, script, *arguments, **environment):
        self.folder = folder
        self.logs = [Path(folder, f".{script}-{time.monotonic_ns()}.{name}")
                     for name in ("out", "err")]
        for log in self.logs:
            log.touch()
        self.process = FORKS.Process(target=child, args=(
            script, list(map(str, arguments)), str(folder), environment, *self.logs), daemon=True)
        self.process.start()
        self.pid = self.process.pid

    @property
    def out(self):
        return self.logs[0].read_text(errors="backslashreplace")

    @property
    def err(self):
        return self.logs[1].read_text(errors="backslashreplace")

    def wait_for(self, text, seconds=120):
        """Wait until it has printed `text`."""
        end = time.monotonic() + seconds
        while text not in self.out:
            assert self.process.is_alive() and time.monotonic() < end, self.out + self.err
            time.sleep(0.01)

    def signal(self, number):
        os.kill(self.pid, number)

    def end(self, seconds=240):
        """Wait for its end: returncode (negative for a signal), stdout and stderr."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError("it hangs: " + self.out + self.err)
        return SimpleNamespace(returncode=self.process.exitcode, stdout=self.out, stderr=self.err)


def run(folder, script, *arguments, **environment):
    """Run a script in `folder` to its end."""
    return Script(folder, script, *arguments, **environment).end()
