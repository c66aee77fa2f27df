"""Everyone to everyone, or everyone to one: few rounds, many messages."""

from __future__ import annotations

from collections.abc import Iterator

from ..schedule import Copy, Load, Recv, Round, Send, Side


def naive_allreduce(rank: int, size: int) -> Iterator[Round]:
    """Send the whole vector to everyone; each rank combines all vectors for itself.

    1 round and a local one, (p - 1) n bytes, with p n bytes of scratch memory. All combine from
    rank 0 to rank p - 1, so that all have the same bits.
    """
    mine, sums = tuple(range(size)), tuple(range(size, 2 * size))
    sends = [Send(peer, mine) for peer in range(size) if peer != rank]
    operands: list[Recv | Load] = []
    for peer in range(size):
        side: Side | None = "right" if peer else None
        own = Load(rank, mine, side, sums)
        operands.append(own if peer == rank else Recv(peer, sums, side))
    yield (*sends, *operands)
    yield (Copy(sums, mine),)


def driver_allreduce(rank: int, size: int) -> Iterator[Round]:
    """Reduce at rank 0, the driver, which then tells everyone: keeps the order of ranks.

    2 rounds, (p - 1) n bytes (the driver's, which receives as much). This is what a parameter
    server does.
    """
    yield from linear_reduce(rank, size, 0)
    yield from linear_broadcast(rank, size, 0)


def linear_reduce(rank: int, size: int, root: int) -> Iterator[Round]:
    """Send the vector to the root, which combines: keeps the order of ranks.

    1 round, n bytes; the root receives (p - 1) n bytes, all at once.
    """
    everything = tuple(range(size))
    if rank == root:
        lower = (Recv(peer, everything, "left") for peer in reversed(range(root)))
        upper = (Recv(peer, everything, "right") for peer in range(root + 1, size))
        yield (*lower, *upper)
    else:
        yield (Send(root, everything),)


def linear_broadcast(rank: int, size: int, root: int) -> Iterator[Round]:
    """Send the vector to everyone. 1 round, (p - 1) n bytes (the root's)."""
    everything = tuple(range(size))
    if rank == root:
        yield tuple(Send(peer, everything) for peer in range(size) if peer != root)
    else:
        yield (Recv(root, everything),)


def linear_gather(rank: int, size: int, root: int) -> Iterator[Round]:
    """Send the block to the root. 1 round, n/p bytes; the root receives (p - 1)/p n."""
    if rank == root:
        yield tuple(Recv(peer, (peer,)) for peer in range(size) if peer != root)
    else:
        yield (Send(root, (rank,)),)


def linear_scatter(rank: int, size: int, root: int) -> Iterator[Round]:
    """Send everyone its block. 1 round, (p - 1)/p n bytes (the root's)."""
    if rank == root:
        yield tuple(Send(peer, (peer,)) for peer in range(size) if peer != root)
    else:
        yield (Recv(root, (rank,)),)
