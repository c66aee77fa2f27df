"""Valid programs of several ranks run as numpy says; with one mistake in them they are refused."""

import numpy as np
import pytest
from mutants import mutant
from seed_programs import CONTROL, SEEDS
from verdicts import judge, run

PROGRAMS = {**SEEDS, **CONTROL}
MUTANTS = 3  # of each program; scripts/mutate_programs.py makes as many as are asked for


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_fits_gives_what_numpy_gives(name: str) -> None:
    program = PROGRAMS[name]
    assert judge(program, program.models) == run(program, program.models) == ("same", "")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_mistake_is_found_or_changes_nothing(name: str) -> None:
    rng = np.random.default_rng(sorted(PROGRAMS).index(name))
    for _ in range(MUTANTS):
        changed = mutant(PROGRAMS[name], rng)
        outcome = judge(PROGRAMS[name], changed.models)
        assert outcome.kind != "missed", (changed.text, outcome.text)
