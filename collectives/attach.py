"""The memory of another process of the node, read where it lies: Linux's cross-memory attach.

The kernel copies once, from any memory of that process into any of this one, and nobody lays
anything open before. It is refused where this process may not trace the other one (ptrace(2)): in
some containers, and by Yama between processes of which none is the other's parent.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any

from numpy.typing import NDArray

from .segment import TOKEN_BYTES

Array = NDArray[Any]

MOST = 1 << 30  # bytes of one call; Linux takes no 2 GiB at once


class Span(ctypes.Structure):
    """struct iovec: bytes from an address on."""

    _fields_ = (("address", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Attached:
    """Another process of this user, whose memory can be read. OSError where the system has none.

    One thread at a time may use it.
    """

    def __init__(self, pid: int) -> None:
        try:
            self._readv = ctypes.CDLL(None, use_errno=True).process_vm_readv
        except AttributeError as error:
            raise OSError(errno.ENOSYS, "no process_vm_readv here") from error
        self._readv.restype = ctypes.c_ssize_t
        self.pid = pid
        self._here, self._there = Span(), Span()
        one = ctypes.c_ulong(1)
        here, there = ctypes.byref(self._here), ctypes.byref(self._there)
        self._arguments = ctypes.c_int(pid), here, one, there, one, ctypes.c_ulong(0)

    def read(self, there: int, here: int, nbytes: int) -> None:
        """Copy bytes from an address of the process to one of this process.

        OSError where they cannot be read. A call takes 3 us before the first byte, and lets other
        threads run.
        """
        while nbytes:
            self._here.address, self._there.address = here, there
            self._here.length = self._there.length = min(nbytes, MOST)
            count = self._readv(*self._arguments)
            if count <= 0:
                number = ctypes.get_errno()
                text = f"cannot read {nbytes} B of process {self.pid}: {os.strerror(number)}"
                raise OSError(number, text)
            here, there, nbytes = here + count, there + count, nbytes - count


def address(x: Array) -> int:
    """Where an array begins in the memory of this process."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(x.data))  # in a third of the time
    except (TypeError, ValueError):  # it can only be read, or is empty
        found: int = x.__array_interface__["data"][0]
        return found


def attached(pid: int, address: int, token: int) -> Attached | None:
    """A process that has this token at an address; None where its memory cannot be read."""
    found = ctypes.c_uint64()
    try:
        process = Attached(pid)
        process.read(address, ctypes.addressof(found), TOKEN_BYTES)
    except OSError:
        return None
    return process if found.value == token else None
