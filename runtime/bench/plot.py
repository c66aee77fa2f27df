"""bench --plot: latency and bus bandwidth over size, one line for each algorithm.

MPI's own call is dashed, the lower bound dotted; "auto" is a wide shade behind what it takes.
matplotlib is imported here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ...collectives.origin import Origin
from .options import UNITS, BenchOptions
from .result import BOUND, Result, bandwidths

# Markers tell apart what colours do not, in grey above all.
COLORS = (
    "#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#882255", "#999933",
    "#44AA99", "#DDAA77", "#332288",
)  # fmt: skip
MARKERS = "osD^v<>Ph*"
STYLES: dict[str, dict[str, Any]] = {
    "mpi": {"color": "black", "linestyle": "--", "linewidth": 1.6, "zorder": 4},
    "auto": {"color": "0.75", "linestyle": "-", "linewidth": 5, "zorder": 1.5},
    BOUND: {"color": "0.4", "linestyle": ":", "linewidth": 1.6, "zorder": 2},
}
LABELS = {"mpi": "MPI", BOUND: "lower bound"}
LOOK: dict[Any, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}


def draw(
    path: str, options: BenchOptions, ranks: int, results: Sequence[Result], origin: Origin
) -> None:
    """Write the picture in the format that the name of the file ends in."""
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(7.2, 3.9), layout="constrained")
        latency, bandwidth = figure.subplots(1, 2)
        names = list(dict.fromkeys(result.algorithm for result in results))
        plain = [name for name in names if name not in STYLES]
        for name in names:
            style = STYLES.get(name) or _style(plain.index(name))
            mine = [result for result in results if result.algorithm == name]
            _line(options, ranks, mine, latency, bandwidth, style)
        _axes(latency, "time (us)")
        _axes(bandwidth, "bus bandwidth (GB/s)")
        figure.suptitle(
            f"{options.collective}, {ranks} ranks, {options.datatype}, out of place, "
            f"median of {options.iters} calls\n{origin}",
            fontsize=8,
        )
        figure.legend(
            *latency.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=5,
            frameon=False,
        )
        figure.savefig(path, dpi=200)


def _style(index: int) -> dict[str, Any]:
    return {
        "color": COLORS[index % len(COLORS)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 3,
        "linewidth": 1,
    }


def _line(
    options: BenchOptions,
    ranks: int,
    results: Sequence[Result],
    latency: Axes,
    bandwidth: Axes,
    style: dict[str, Any],
) -> None:
    sizes = [result.nbytes for result in results]
    seconds = [result.out_of_place.seconds for result in results]
    label = LABELS.get(results[0].algorithm, results[0].algorithm)
    latency.plot(sizes, [1e6 * s for s in seconds], label=label, **style)
    rates = [
        bandwidths(options, ranks, nbytes, s)[1] / 1e9
        for nbytes, s in zip(sizes, seconds, strict=True)
    ]
    bandwidth.plot(sizes, rates, **style)


def _axes(axes: Axes, title: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("size (bytes)")
    axes.set_ylabel(title)
    axes.xaxis.set_major_locator(LogLocator(base=4, numticks=9))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(int(value))))


def short(nbytes: int) -> str:
    """Write a size as it is read on the command line.

    >>> short(8), short(65536)
    ('8', '64K')
    """
    for unit, factor in reversed(UNITS.items()):
        if nbytes >= factor:
            return f"{nbytes / factor:g}{unit}"
    return str(nbytes)
