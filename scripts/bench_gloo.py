"""Time allreduce beside that of PyTorch's Gloo: mpirun -n 4 python scripts/bench_gloo.py

The table is that of bench_allreduce.py, and so is the way of measuring: both alternate on the same
ranks and the same arrays, in place. Needs torch==2.13.0, of which Gloo is a part. It connects
over the address that the host's name stands for, or GLOO_SOCKET_IFNAME.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from bench_allreduce import SIZES, heading, line, measured
from mpi4py import MPI
from numpy.typing import ArrayLike, NDArray
from torch import distributed

from rankwise.collectives import Communicator

NAMES = ["auto here", "gloo"]


class WithGloo(Communicator):
    """A communicator that has "gloo" among the algorithms of allreduce, for a sum in place."""

    def allreduce(
        self, x: ArrayLike, *args: Any, algorithm: str = "auto", **options: Any
    ) -> NDArray[Any]:
        if algorithm != "gloo":
            return super().allreduce(x, *args, algorithm=algorithm, **options)
        array = np.asarray(x)
        distributed.all_reduce(torch.from_numpy(array))
        return array


@contextmanager
def gloo(comm: MPI.Intracomm) -> Iterator[None]:
    """Let the ranks of `comm` be Gloo's process group; they meet in a file."""
    with tempfile.TemporaryDirectory() as own:
        place = f"file://{comm.bcast(own)}/store"
        distributed.init_process_group("gloo", place, rank=comm.rank, world_size=comm.size)
        yield
        distributed.destroy_process_group()
        comm.Barrier()  # the folder is rank 0's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each call and size")
    seconds = parser.parse_args().seconds
    with gloo(MPI.COMM_WORLD), WithGloo.world() as comm:
        for name in ("auto", "gloo"):
            x = np.full(3, comm.rank, np.float32)
            comm.allreduce(x, out=x, algorithm=name)
            assert (x == sum(range(comm.size))).all(), (name, x)
        if comm.rank == 0:
            print(heading(comm.size) + f"\nGloo of torch {torch.__version__}\n")
            print("| bytes | auto here | gloo | gloo / auto |\n|---|---|---|---|")
        for nbytes in SIZES:
            times = measured(comm, NAMES, nbytes, seconds)
            if comm.rank == 0:
                print(line(nbytes, times), flush=True)


if __name__ == "__main__":
    main()
