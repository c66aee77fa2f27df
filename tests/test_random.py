"""Random calls of all collectives, and messages, on 1 to 4 ranks, against numpy.

Plans are drawn here and sent to ranks that stay (pool.py). What a call must give is computed from
the operands of all ranks with numpy alone; what a mistake must raise, from `mistakes`. After each
plan the communicator must still work, and no result may have changed.

    pytest -m slow tests/test_random.py     # many more plans, other ones each time
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from pool import Pool
from random_draws import HOWS, calls, plans
from random_plans import Plan, verify, works

from rankwise.collectives.table import SPECIAL, TABLE

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(600)]  # hypothesis shrinks for 300 s

PLANS = 3  # that begin with a call of each algorithm
PLANS_OF_SHARED = 16  # where it matters in which memory arrays lie
MANY = 3000
NAMES = [(collective, name) for collective in TABLE for name in (*SPECIAL, *TABLE[collective])]

COMMON = settings(
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


@pytest.fixture(scope="module", params=[1, 2, 3, 4])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with Pool(request.param) as pool:
        yield pool


def run(pool: Pool, plan: Plan) -> None:
    # Time enough on a busy machine; less once it is known that ranks hang, to shrink the plan.
    answers = pool.ask(plan.jobs(pool.ranks), limit=3 if pool.losses else 15)
    if not all(works(answer) for answer in answers):
        pool.abandon()  # new ranks for the next plan
    verify(plan, pool.ranks, answers)


@pytest.mark.parametrize(("collective", "name"), [*NAMES, *(("messages", how) for how in HOWS)])
def test_random_calls_do_what_numpy_does(pool: Pool, collective: str, name: str) -> None:
    entry = TABLE.get(collective, {}).get(name)
    is_shared = name == "auto" or (entry is not None and entry.shared)

    # The same plans every time, other ones for every algorithm.
    @seed(zlib.crc32(f"{pool.ranks} {collective} {name}".encode()))
    @settings(COMMON, max_examples=PLANS_OF_SHARED if is_shared else PLANS)
    @given(plan=plans(pool.ranks, calls(collective, name)))
    def holds(plan: Plan) -> None:
        run(pool, plan)

    holds()


@pytest.mark.slow
def test_many_random_calls_do_what_numpy_does(pool: Pool) -> None:
    @settings(COMMON, max_examples=MANY)
    @given(plan=plans(pool.ranks))
    def holds(plan: Plan) -> None:
        run(pool, plan)

    holds()
