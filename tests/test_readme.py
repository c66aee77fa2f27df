"""The README: what it says that commands print is what they print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from rankwise.runtime import cli

README = (Path(__file__).parents[1] / "README.md").read_text()


def block(command: str) -> list[str]:
    """Return the lines that stand below a command, up to the next one or the end of the block."""
    _, _, rest = README.partition(f"    $ {command}")
    found = []
    for line in rest.splitlines()[1:]:
        if line.startswith("    $") or (line and not line.startswith("    ")):
            break
        found.append(line.removeprefix("    "))
    return "\n".join(found).strip("\n").splitlines()


def printed(command: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert cli.main(command.split()[1:]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    "command",
    [
        "rankwise schedule allreduce ring -n 4",
        "rankwise shard model.onnx --mesh tp=2 --dry-run",
    ],
)
def test_commands_print_what_stands_below_them(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "$ python -m rankwise.models.zoo cnn -o model.onnx" in README
    make = [sys.executable, "-m", "rankwise.models.zoo", "cnn", "-o", "model.onnx"]
    subprocess.run(make, check=True, timeout=60)
    expected = block(command)
    assert len(expected) > 5
    assert printed(command, capsys)[: len(expected)] == expected


def test_its_graph_is_a_program_of_several_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model("\n".join(block("cat mean.txt"))), "mean.onnx")
    for command in (
        "rankwise check mean.onnx -n 3",
        "rankwise lower mean.onnx -o ring.onnx --collective AllReduce=ring",
        "rankwise check ring.onnx -n 3",
    ):
        assert command.partition(" ring.onnx -n")[0] in README
        assert printed(command, capsys)
