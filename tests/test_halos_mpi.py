"""An image cut along its places over real MPI."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import halos
import numpy as np
import pytest
import ranks
from test_halos import CASES

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(120)]

PROGRAM = """
import numpy as np
from mpi4py import MPI
import rankwise

world = MPI.COMM_WORLD
folder = {folder!r}
with np.load(folder + "/fed.npz") as fed, np.load(folder + "/made.npz") as made:
    with rankwise.InferenceSession(f"{{folder}}/rank{{world.rank}}.onnx", comm=world) as session:
        for _ in range(2):
            (y,) = session.run(None, dict(fed))
            np.testing.assert_allclose(y, made["y"], rtol=1e-4, atol=1e-5)
        assert session.trace.operators["Send"].bytes > 0
"""


@pytest.mark.parametrize("size", [2, 3])
def test_halos_go_from_process_to_process(
    mpirun: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, size: int
) -> None:
    model = CASES["there and back"]
    feeds = halos.fed(model)
    ranks.write(halos.cut(model, size), tmp_path)
    np.savez(tmp_path / "fed.npz", **feeds)
    np.savez(tmp_path / "made.npz", y=ranks.whole(model, feeds)[0])
    done = mpirun(size, PROGRAM.format(folder=str(tmp_path)))
    assert done.returncode == 0, done.stderr
