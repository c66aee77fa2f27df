"""Memory that the processes of one node share: nameless files, mapped by every rank.

A rank makes one with memfd_create and tells its process id, the file's descriptor and a random
token; the others open /proc/PID/fd/FD, and know by the token that it is the right one. There is no
name to leave behind: the memory is gone with the last process that maps it, whatever kills them,
and the size of /dev/shm does not matter.
"""

from __future__ import annotations

import mmap
import os
import platform
import secrets
import select

# Flags and data are ordered by plain stores and loads, which only x86 sees in program order.
PROCESSORS = ("x86_64", "AMD64", "i686", "i386")
TOKEN_BYTES = 8  # at the start of every segment


def created(nbytes: int) -> tuple[int, mmap.mmap | None]:
    """A new segment of zeros but for its token, and its descriptor; (-1, None) if refused."""
    if platform.machine() not in PROCESSORS or not hasattr(os, "pidfd_open"):
        return -1, None
    try:
        fd = os.memfd_create("rankwise")
    except (AttributeError, OSError):  # not Linux, or forbidden
        return -1, None
    try:
        os.ftruncate(fd, nbytes)
        memory = mmap.mmap(fd, nbytes)
    except OSError:
        os.close(fd)
        return -1, None
    memory[:TOKEN_BYTES] = (secrets.randbits(62) + 1).to_bytes(TOKEN_BYTES, "little")
    return fd, memory


def opened(pid: int, fd: int, token: int, nbytes: int) -> mmap.mmap | None:
    """Another process's segment; None if that is forbidden, or it is not the one meant."""
    try:
        here = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR)
    except OSError:
        return None
    try:
        memory = mmap.mmap(here, nbytes)
    except (OSError, ValueError):  # ValueError: another file, shorter than ours
        return None
    finally:
        os.close(here)
    return memory if memory[:TOKEN_BYTES] == token.to_bytes(TOKEN_BYTES, "little") else None


def is_alive(pid: int) -> bool:
    """Whether a process has not ended. Unlike os.kill(pid, 0) it sees through zombies."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return not poll.poll(0)
    finally:
        os.close(fd)
