"""A real Slurm on this machine, from Debian's packages slurmctld, slurmd, slurm-client and munge."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

# A job that is put back into the queue waits there until its credential has surely expired, two minutes by default.
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CryptoType=crypto/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def slurm_of_one_node(folder, monkeypatch):
    """For a fixture: this machine as a Slurm of its own munged, slurmctld and slurmd; skips where they cannot start.

    Its jobs see it, since they inherit the environment; when it ends, no process of it is left.
    """
    programs = {name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in
                ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")}  # fmt: skip
    if lacking := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"{', '.join(lacking)} not installed")
    if os.geteuid() != 0:
        pytest.skip("slurmd needs root")
    host = socket.gethostname()
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    facts = {"host": host, "user": "root", "folder": folder, "ports": free_ports(2), "cpus": os.cpu_count()}
    conf = folder / "slurm.conf"
    conf.write_text(SLURM_CONF.format(**facts))
    monkeypatch.setenv("SLURM_CONF", str(conf))
    munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("key-file", "pid-file", "log-file")]
    commands = [
        [programs["munged"], "--foreground", "--force", *munge, f"--socket={folder}/munge.sock",
         f"--seed-file={folder}/munge.seed"],
        [programs["slurmctld"], "-D", "-f", conf],
        [programs["slurmd"], "-D", "-f", conf, "-N", host],
    ]  # fmt: skip
    started = []
    try:
        for command in commands:
            log = (folder / f"{Path(command[0]).name}.out").open("w")
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
            time.sleep(1)
        for _ in range(20):
            said = subprocess.run([programs["sinfo"], "-h", "-o", "%T"], capture_output=True, text=True, check=False)
            if said.stdout.strip() == "idle":
                break
            time.sleep(1)
        else:
            pytest.skip(f"Slurm did not start here: {said.stdout.strip()} {said.stderr.strip()}")
        yield
    finally:
        # A job outlives its last file by a moment, and slurmd: its steps would stay behind.
        subprocess.run(["scancel", "--partition", "main"], capture_output=True, check=False)
        until = time.monotonic() + 30
        while subprocess.run(["squeue", "-h"], capture_output=True, check=False).stdout and time.monotonic() < until:
            time.sleep(0.5)
        for process in reversed(started):
            process.terminate()
            process.wait(30)
