"""Random small graphs, sharded in random ways, against the whole graph on onnxruntime.

values    what a tensor holds, at two settings of the open dims and with noise on it
draft     a graph while it grows
schemas   a node of any operator, as far as its schema tells what it takes
special   nodes of operators whose schema does not tell enough
inside    a graph as the body of an If or of a Loop
grow      where a graph starts, and which nodes it grows
ranks     random layouts of a graph, run on the ranks of one process and compared
"""

from .draft import Drawn
from .grow import draw
from .ranks import Checked, check

__all__ = ["Checked", "Drawn", "check", "draw"]
