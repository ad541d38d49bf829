"""Run folders in tests: their bytes and their seal, sweep files, deaths on the way, and what a command printed."""

import json
import os
import signal
import time

from cachegen.common.files import digest_file
from engine.runs.directory import HASHED
from engine.sweeps.timing import read_events


def bytes_of(folder):
    """File name -> bytes of one run."""
    return {name: (folder / name).read_bytes() for name in HASHED}


def all_bytes(folders):
    return [bytes_of(folder) for folder in folders]


def bytes_in(out):
    """run/file -> bytes of all finished runs of a sweep, seals included."""
    folders = sorted(path.parent for path in out.glob("*/DONE"))
    return {f"{folder.name}/{name}": (folder / name).read_bytes() for folder in folders for name in (*HASHED, "DONE")}


def seal(run):
    """Have DONE vouch for what now lies there."""
    hashes = {name: digest_file(run / name) for name in HASHED if (run / name).is_file()}
    (run / "DONE").write_text(json.dumps(hashes))


def places_of(study):
    return {name: str(getattr(study, name)) for name in ("dataset", "features", "lm")}


def sweep_file(path, defaults, text):
    """A file of a sweep or tuning: a table of defaults, then `text`."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in defaults.items()]
    path.write_text("\n".join(["[defaults]", *lines, text]))
    return path


def killed(work):
    """Run `work` in a fork that must end by SIGKILL, as a machine that is switched off ends it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def kill_on_call(monkeypatch, module, name, number, after=False):
    """SIGKILL this process when `module.name` is called for the `number`-th time, or is done with that call."""
    original, calls = getattr(module, name), []

    def wrapper(*args, **kwargs):
        calls.append(1)
        if len(calls) == number and after:
            original(*args, **kwargs)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, wrapper)


def wait_for(what, seconds=300):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.01)


def begun(out):
    return [event for event in read_events(out) if event["event"] == "begin"]


def last_json(stdout):
    return json.loads(stdout.strip().splitlines()[-1])
