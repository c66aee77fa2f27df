"""An inference session over ranks, shaped as onnxruntime's own class."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import onnxruntime

from ..collectives import Communicator
from ..models.mesh import Mesh
from ..models.plan import Compute, Plan, build_plan, outline
from ..models.sharding.hints import Hint, to_hints
from ..models.sharding.search import Terms
from . import kernels
from .agreement import gathered, together
from .environment import scratch_folder
from .execute import Program
from .flow import Types
from .fragment import Fragment, open_session, take_weights_from
from .groups import Groups
from .loading import Functions, Loaded, load_rank, settled
from .local_states import LocalStates
from .prepare import Setting, prepare
from .proof import prove
from .signature import Value, check_feeds, signature
from .threads import fair_share, with_threads
from .trace import Trace

if TYPE_CHECKING:
    from mpi4py import MPI

DEFAULT_PROVIDERS = ("CPUExecutionProvider",)


class InferenceSession:
    """A model on all ranks of a communicator.

    Every rank makes it and runs it. A model without communication is sharded: feeds and results
    are then those of the whole model, whole, on every rank. A model with communication takes each
    rank's own inputs, and may be another one on each rank.
    """

    def __init__(
        self,
        path_or_bytes: str | Path | bytes,
        sess_options: onnxruntime.SessionOptions | None = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
        *,
        comm: Communicator | MPI.Comm | None = None,
        mesh: str | Mapping[str, int] | Mesh | None = None,
        functions: Functions = "native",
        hints: Mapping[str, Any] | tuple[Hint, ...] = (),
        memory: int | tuple[int, ...] | None = None,
        batch_dim: str | None = None,
    ) -> None:
        """Load this rank's part; collective.

        The communicator (all ranks, if None) is duplicated. Threads are this rank's share of its
        node's cores, unless `sess_options` has intra_op_num_threads; options that are given get
        the entry that says where the weights lie. onnxruntime repacks weights that are multiplied
        with, and lets go of the file; "session.disable_prepacking" keeps them mapped, which saves
        memory where ranks read the same file, and 5 % of the time for one row; for a few rows it
        more than doubles the time.

        Args:
            mesh: ranks by axis, as in "tp=2,pp=2"; "auto" for what is predicted to be the fastest;
                None for tp alone, or what the model was sharded to
            hints: patterns of names of tensors or nodes, each with `whole` or `{"dim": 1}`, of a
                model that is sharded as it loads; all ranks give the same
            memory: bytes of weights that a rank of such a model may hold, or those of each stage
            batch_dim: the dim of all its inputs that replicas split, or "x=1,y=0"; None for what
                is found

        `functions` says how calls of functions run that `rankwise lower` has made of collectives:
        "native", as the operators that they were, by the algorithm that they spell out, or
        "literal", by Send and Recv as they are written.

        Raises ModelError, MeshError, HintError, NothingToShard: on every rank, if on one.
        """
        start = time.perf_counter()
        kernels.install()
        if isinstance(comm, Communicator):
            comm = comm.group(range(comm.size))
        self._comm = comm if isinstance(comm, Communicator) else Communicator(comm)
        self._groups = Groups(self._comm)
        share = fair_share(self._comm)
        options = sess_options or onnxruntime.SessionOptions()
        if options.intra_op_num_threads == 0:
            options = with_threads(options, share)
        self.threads: int = options.intra_op_num_threads
        scratch_files = tempfile.TemporaryDirectory(prefix="rankwise-", dir=scratch_folder())
        with self._groups.freed_if_refused(), scratch_files as scratch:
            given = together(self._comm, lambda: _with_options(providers, provider_options))
            terms = together(
                self._comm,
                lambda: Terms(memory=memory, hints=to_hints(hints), batch_dim=batch_dim),
            )
            place = self._comm.rank, self._comm.size, Path(scratch)
            loaded = together(
                self._comm,
                lambda: load_rank(path_or_bytes, mesh, *place, terms),
            )
            loaded = together(
                self._comm, lambda: settled(loaded, functions, self._comm.rank, self._comm.size)
            )
            plan = together(self._comm, lambda: build_plan(loaded.model))
            # Before there are groups, which are checked as the whole is.
            if not prove(self._comm, plan, loaded):
                self._comm.checked = True
            self._groups.make(plan, loaded.mesh)
            outlines = gathered(self._comm, outline(plan))
            self._program: Program | None = together(
                self._comm, lambda: self._prepare(loaded, plan, outlines, options, given)
            )
            self.weight_bytes: int = loaded.weight_bytes
            """bytes of the initializers that this rank holds"""
            # onnxruntime has mapped the weights by now: the scratch files may go.
        self.mesh: Mesh = loaded.mesh or Mesh(tp=self._comm.size)
        self._notes = loaded.notes
        self._rows: int | None = None
        self._running = threading.Lock()
        self.trace = Trace()
        """where the time of the latest run went"""
        self.is_traced: bool = False
        """whether a run keeps the times of each step, as session.trace.spans"""
        self.load_seconds: float = time.perf_counter() - start

    def _prepare(
        self,
        loaded: Loaded,
        plan: Plan,
        outlines: Sequence[str],
        options: onnxruntime.SessionOptions,
        providers: Sequence[Any],
    ) -> Program:
        graph = plan.model.graph
        match plan.instructions:
            case (Compute() as all_nodes,) if loaded.is_plain:
                take_weights_from(None, options)  # they lie beside the model
                session = open_session(loaded.source, options, providers)
                # It wants all of its inputs, those that no node reads among them.
                whole = replace(all_nodes, inputs=plan.inputs)
                program = Program(
                    plan.without_weights(), [Fragment.of(session, whole)], {}, self._groups
                )
                types = Types()
            case _:
                setting = Setting(loaded.folder, options, providers, self._groups, outlines)
                program, types = prepare(plan, setting)
        self._inputs = signature([v for v in graph.input if v.name in plan.inputs], types)
        self._outputs = signature(graph.output, types)
        self._states = LocalStates(plan.model, self._inputs, self._outputs, types)
        return program

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person ought to know: of replicas that were idle in the latest run, or ever."""
        if self._rows is None or self._rows >= self.mesh.dp:
            return self._notes
        idle = f"{self.mesh.dp - self._rows} of {self.mesh.dp} replicas were idle"
        return (*self._notes, f"{idle}, since the batch is of {self._rows}")

    def get_inputs(self) -> list[Value]:
        """Describe what a run is fed."""
        return self._inputs

    def get_outputs(self) -> list[Value]:
        """Describe what a run gives."""
        return self._outputs

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: onnxruntime.RunOptions | None = None,
    ) -> list[Any]:
        """Run the model; collective. Return the outputs of these names, all if None.

        Runs follow one another: ranks could not agree on the order of two at once. One that is
        asked for while another is under way, from another thread, is refused; on one rank it runs.

        Raises ValueError for feeds or names that do not fit, before anything is computed, and
        NodeError for what fails on the way; other ranks then wait until they are stopped.
        """
        program, names = self._opened(), self._names(output_names)
        outputs = self._run(program, check_feeds(input_feed, self._inputs), run_options)
        return [outputs[name] for name in names]

    def run_local(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: onnxruntime.RunOptions | None = None,
    ) -> list[Any]:
        """Run the model, and leave states on their ranks; collective.

        A state is an output that the next run is fed, found by its name: present.0.key becomes
        past.0.key. Of those that are sharded a rank gets its part, and gives it back to the next
        call; an empty array stands for one of which it has no part, as those of another stage.
        The first call may be fed all of them whole, as `run` is; all else is whole always.

        Raises what `run` raises.
        """
        if not self._states:
            return self.run(output_names, input_feed, run_options)
        program, names = self._opened(), self._names(output_names)
        wanted, feeds = self._states.outputs(names), self._states.feeds(input_feed)
        here = [name for name in wanted if name]
        outputs = self._run(program.between(feeds.keys(), here), feeds, run_options)
        return [
            outputs[local] if local else self._states.nothing(name)
            for name, local in zip(names, wanted, strict=True)
        ]

    def _opened(self) -> Program:
        if self._program is None:
            raise ValueError("expected an open session, but this one is closed")
        return self._program

    def _names(self, wanted: Sequence[str] | None) -> list[str]:
        known = [value.name for value in self._outputs]
        names = known if wanted is None else list(wanted)
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"expected outputs among {known}, got {unknown}")
        return names

    def _run(
        self,
        program: Program,
        feeds: Mapping[str, Any],
        run_options: onnxruntime.RunOptions | None,
    ) -> Mapping[str, Any]:
        is_alone = self._comm.size == 1
        self._rows = self._states.rows(feeds)
        if not is_alone and not self._running.acquire(blocking=False):
            raise RuntimeError("expected one run at a time, but another thread is in one")
        try:
            outputs, self.trace = program.run(feeds, run_options, is_traced=self.is_traced)
        finally:
            if not is_alone:
                self._running.release()
        return outputs

    def close(self) -> None:
        """Let the sessions go, and free the communicators; collective."""
        if self._program is not None:
            self._program = None
            self._groups.free()

    def __enter__(self) -> InferenceSession:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        # After an error the others may never come to close with us.
        if error is None:
            self.close()


def _with_options(
    providers: Sequence[Any] | None, options: Sequence[Mapping[str, Any]] | None
) -> list[Any]:
    """Return the providers, each with its options; ValueError for another number of those."""
    given = list(providers or DEFAULT_PROVIDERS)
    return given if options is None else list(zip(given, options, strict=True))
