"""What executors cost: measured on jobs that do nothing, each of which must have been carried out."""

import pytest

from cachegen.errors import ConditionError
from engine.benchmark.scheduling import EXECUTORS, scheduling, scheduling_text
from engine.jobs import in_this_process


def none_here():
    raise ConditionError("there is no Slurm here")


def test_an_executor_that_is_not_there_is_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = scheduling(3, {"in this process": EXECUTORS["in this process"], "slurm": none_here})
    assert found["executors"]["slurm"] == {"not": "there is no Slurm here"}
    here = found["executors"]["in this process"]
    assert 0 <= here["each"] < 1
    assert list(tmp_path.iterdir()) == []
    text = scheduling_text(found)
    assert "not measured: there is no Slurm here" in text
    assert "from 1 and 3 jobs" in text


def test_a_job_that_was_left_out_is_no_measurement(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = scheduling(2, {"lazy": lambda: lambda jobs: in_this_process(jobs[1:]) if jobs[1:] else None})
    assert found["executors"]["lazy"] == {"not": "1 of 1 jobs were not carried out"}


@pytest.mark.slow
def test_jobs_in_processes_of_their_own_leave_nothing_behind(tmp_path, monkeypatch):
    """Submitit's write their results after the job's own end."""
    pytest.importorskip("submitit", reason="the extra crosstax[slurm] is not installed")
    monkeypatch.chdir(tmp_path)
    found = scheduling(2, {"submitit": EXECUTORS["submitit, without Slurm"]})
    assert found["executors"]["submitit"]["each"] > 0
    assert list(tmp_path.iterdir()) == []
