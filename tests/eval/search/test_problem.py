"""What may be proposed: constraints, tables, and what is said when nothing is left."""

from pathlib import Path

import numpy as np
import pytest
from toy_search import SPACE

from architectures.spaces import SMASH, MLPSpace
from eval.ground_truth import GroundTruth, Tabulated
from eval.search.latency import Latency
from eval.search.problem import Constraints, Costs, Problem
from train.target_table import sample_classes

CELLS = sample_classes(SPACE, 40, 0)
TRUTH = GroundTruth(tuple(CELLS), np.array([SPACE.canonical(a) for a in CELLS]), np.linspace(0.5, 0.9, 40)[:, None], {})


def test_everything_proposed_keeps_to_constraints_and_table() -> None:
    table = Tabulated(TRUTH, SPACE)
    problem = Problem(SPACE, Constraints(parameters=150), table)
    rng = np.random.default_rng(0)
    start = problem.sample(rng)
    proposed = [start, *problem.neighbours(start)]
    proposed += [problem.mutate(start, rng) for _ in range(20)] + [problem.perturb(start, rng, 0.3) for _ in range(20)]
    assert all(a in table and SPACE.cost(a).parameters <= 150 and SPACE.connected(a) for a in proposed)
    assert not all(SPACE.cost(a).parameters <= 150 for a in CELLS)
    expected = {a for a in SPACE.neighbours(start) if a in table and SPACE.cost(a).parameters <= 150}
    assert set(problem.neighbours(start)) == expected


@pytest.mark.parametrize("space", [SPACE, SMASH(input_shape=(4, 4, 1), blocks=1), MLPSpace((4, 4, 1))])
def test_perturbations_change_something_in_any_space(space: object) -> None:
    problem = Problem(space)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    start = problem.sample(rng)
    others = [problem.perturb(start, rng, 0.05) for _ in range(10)]
    assert start not in others and len(set(others)) > 2


def test_isomorphic_cells_have_one_key_and_costs_count_two_operations_a_mac() -> None:
    one = SPACE.from_string("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|skip_connect~2|")
    two = SPACE.from_string("|skip_connect~0|+|none~0|nor_conv_3x3~1|+|none~0|none~1|skip_connect~2|")
    problem = Problem(SPACE)
    assert problem.key(one) == problem.key(two) != problem.key(SPACE.sample(1))
    own = SPACE.cost(one)
    assert problem.costs(one)[:2] == Costs(own.parameters, 2 * own.macs, 0.0)[:2]


def test_a_constraint_that_nothing_meets_says_what_there_is() -> None:
    with pytest.raises(
        ValueError, match=r"parameters <= 3: none of 5,000 .* the least seen were parameters \d+.*loosen"
    ):
        Problem(SPACE, Constraints(parameters=3)).sample(np.random.default_rng(0))
    with pytest.raises(ValueError, match="flops=-1"):
        Constraints(flops=-1)
    with pytest.raises(ValueError, match="latency"):
        Problem(SPACE, Constraints(latency_ms=1.0))


def test_latency_is_measured_once_and_bounds(tmp_path: Path) -> None:
    latency = Latency(SPACE, images=2, repeats=3)
    assert 0 < latency(CELLS[0]) < 1000
    asked: list[object] = []

    def counted(architecture: object) -> float:
        asked.append(architecture)
        return float(len(SPACE.to_string(architecture)) % 7)  # type: ignore[arg-type]

    problem = Problem(SPACE, Constraints(latency_ms=3.0), latency=counted)
    found = [problem.sample(np.random.default_rng(seed)) for seed in range(5)]
    assert all(problem.costs(a).latency_ms <= 3 for a in found)
    assert len(asked) == len(set(asked))
