"""Annotated files and the command line, on ranks of MPI."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from annotated import annotate, model, split
from case import normal
from conftest import MpiRun

TEXT = """g (float[n, 8] x, float[8, 12] w, float[12, 6] v) => (float[n, 6] y) {
  h = MatMul (x, w)
  r = Relu (h)
  y = MatMul (r, v)
}"""


@pytest.mark.mpi
def test_as_many_ranks_as_devices_run_a_file(mpirun: MpiRun, tmp_path: Path) -> None:
    made = model(TEXT, 3)
    annotate(made, "h", {"w": split(1, 2, 0, 1)})
    annotate(made, "y", {"y": split(0, 0, 1)})
    path, feeds = tmp_path / "annotated.onnx", tmp_path / "in.npz"
    onnx.save(made, path)
    np.savez(feeds, x=normal(5, 8), w=normal(8, 12), v=normal(12, 6))
    done = mpirun(3, ["-m", "rankwise", "run", str(path), "--inputs", str(feeds), "--compare"])
    assert done.returncode == 0, done.stderr
    assert "compare  equal" in done.stdout
