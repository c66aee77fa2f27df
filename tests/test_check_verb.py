"""The verb check, and the same check at every load."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from mistakes import NEXT
from onnx import ModelProto
from programs import model, models

import rankwise
from rankwise.collectives import Communicator, local
from rankwise.models.errors import ModelError
from rankwise.models.sharding import shard
from rankwise.models.zoo import mlp
from rankwise.runtime.cli import main
from rankwise.runtime.execute import NodeError

RING = NEXT + "t = R.Send(x, next) y = R.Recv<FLOAT>(last)"
STUCK = NEXT + "y = R.Recv<FLOAT>(last) t = R.Send(y, next)"


def saved(directory: Path, *made: ModelProto) -> list[str]:
    paths = [str(directory / f"part{k}.onnx") for k in range(len(made))]
    for path, one in zip(paths, made, strict=True):
        onnx.save(one, path)
    return paths


def test_one_model_for_all_ranks_is_checked_for_as_many_as_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = saved(tmp_path, model(RING))
    assert main(["check", *paths, "-n", "5"]) == 0
    assert capsys.readouterr().out == "ok: 10 communications of 5 ranks fit\n"
    assert main(["check", *paths, "-n", "2", "--rendezvous"]) == 1
    assert capsys.readouterr().out.count("waits for rank") == 2


def test_the_models_of_all_ranks_are_checked_in_their_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bodies = ["y = R.AllReduce(x)", 'y = R.AllReduce<op="max">(x)', "y = Neg(x)"]
    assert main(["check", *saved(tmp_path, *models(bodies[:2]))]) == 1
    assert capsys.readouterr().out == (
        "rank 1, AllReduce 'y': expected op 'sum', as in AllReduce 'y' of rank 0, got 'max'\n"
    )


def test_an_annotated_file_is_checked_with_the_weights_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(mlp.build(), tmp_path / "mlp.onnx")
    shard(tmp_path / "mlp.onnx", tmp_path / "out", "tp=2", representation="annotated")
    assert main(["check", str(tmp_path / "out" / "model.onnx")]) == 0
    assert capsys.readouterr().out.startswith("ok: 2 communications of 2 ranks fit")


@pytest.mark.parametrize("representation", ["per-rank", "spmd"])
def test_what_shard_makes_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], representation: str
) -> None:
    onnx.save(mlp.build(), tmp_path / "mlp.onnx")
    shard(tmp_path / "mlp.onnx", tmp_path / "out", "tp=3", representation=representation)
    count = ["-n", "3"] if representation == "spmd" else []
    assert main(["check", str(tmp_path / "out"), *count]) == 0
    assert "of 3 ranks fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected -n with the number of ranks, which .* does not say"),
        (["-n", "0"], "expected -n of at least 1, got 0"),
        (
            ["{path}", "{path}", "-n", "2"],
            "there are models of 3 ranks, but -n is 2; leave it out",
        ),
        (["-n", "2", "--ranks"], "unrecognized arguments: --ranks"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (path,) = saved(tmp_path, model(RING))
    given = [argument.format(path=path) for argument in arguments]
    assert main(["check", path, *given]) == 2
    _refuses(capsys, message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y = R.AllReduce<groups=[0]>(x)", "AllReduce 'y': rank 1 is in none of the groups"),
        ("q = Abs(x) y = R.AllReduce(x, q)", "rank 0, AllReduce 'y': expected a token, a bool"),
        ("y = R.AllReduce<axis=1>(x)", "expected attributes of AllReduce among op, .* got 'axis'"),
        ("y = R.AllReduce<op=1>(x)", "expected the attribute op to be STRING, got 1"),
        ("y = R.AllGather<dim=[0]>(x)", "expected the attribute dim to be INT, got"),
        ('y = R.AllReduce<groups="0,1">(x)', "expected the attribute groups to be INTS, got"),
    ],
)  # fmt: skip
def test_a_bad_node_is_one_line_and_refused_at_load_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], body: str, message: str
) -> None:
    (path,) = saved(tmp_path, model(body))
    assert main(["check", path, "-n", "2"]) == 2
    _refuses(capsys, message)
    with pytest.raises(ModelError, match=message):
        local.run(2, lambda comm: rankwise.InferenceSession(path, comm=comm), timeout=20)


def _refuses(capsys: pytest.CaptureFixture[str], message: str) -> None:
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    with pytest.raises(ModelError, match=message):
        raise ModelError(printed.err)


def test_a_load_refuses_what_does_not_fit_on_every_rank() -> None:
    source = model(STUCK).SerializeToString()
    said = list[str]()

    def load(comm: Communicator) -> None:
        with pytest.raises(ModelError, match="do not fit: rank 0, Recv 'y': deadlock") as caught:
            rankwise.InferenceSession(source, comm=comm)
        said.append(str(caught.value))

    local.run(3, load, timeout=20)
    assert len(said) == 3 and len(set(said)) == 1


def test_a_load_refuses_groups_of_which_ranks_do_not_agree() -> None:
    sources = models(["y = R.AllReduce<groups=[0, 1]>(x)", *["y = R.AllReduce(x)"] * 2])
    bodies = [one.SerializeToString() for one in sources]
    with pytest.raises(ModelError, match=r"expected group \[0, 1\]"):
        local.run(
            3, lambda comm: rankwise.InferenceSession(bodies[comm.rank], comm=comm), timeout=20
        )


def test_what_a_proof_leaves_open_is_compared_as_it_runs() -> None:
    source = model("y = R.AllReduce(x)", "(float[n] x) => (float[k] y)").SerializeToString()

    def run(comm: Communicator) -> None:
        with rankwise.InferenceSession(source, comm=comm) as session:
            session.run(None, {"x": np.ones(8 + comm.rank, np.float32)})

    with pytest.raises(NodeError, match=r"rank \d, AllReduce 'y' on .* rank 0 calls allreduce"):
        local.run(2, run, timeout=20)


def test_what_may_go_wrong_is_left_to_the_run() -> None:
    body = """
        i = Constant<value_int=0>() e = Gather(x, i) f = Constant<value_float=0.5>()
        c = Greater(e, f)
        y = If (c) <then_branch = t () => (a) { a = R.AllReduce(x) },
                    else_branch = e () => (b) { b = Neg(x) }>
    """
    source = model(body).SerializeToString()

    def run(comm: Communicator) -> np.ndarray:
        with rankwise.InferenceSession(source, comm=comm) as session:
            return session.run(None, {"x": np.ones(4, np.float32)})[0]

    for result in local.run(2, run, timeout=20):
        np.testing.assert_array_equal(result, np.full(4, 2.0))
