"""AMC-9 and AMC-10: what AMC's agent learns, against a policy of random actions."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from automl_prune.strategies._walk import FloatArray
from automl_prune.testing.strategy import toy_problem, toy_score
from tests.strategies.amc_toy import amc, calibrated, drive, ratio, v1_problem

SEEDS = 6


def test_it_learns_in_a_few_episodes_what_a_random_policy_does_not() -> None:
    """AMC-9 and AMC-10 on a short chain, by a small agent that learns faster."""
    problem = toy_problem()
    agent = amc(problem, hidden=48, actor_lr=1e-3, warmup=40, patience=None)
    learned = drive(agent, lambda c: toy_score(problem, c), 140)
    control = drive(amc(problem, warmup=140, hidden=1), lambda c: toy_score(problem, c), 140)
    ours, random = (np.array([value for _, value in came], dtype=float) for came in (learned, control))
    assert (ours[-30:].mean() - random.mean()) / random.std() >= 1.5
    assert abs(random[-30:].mean() - random.mean()) / random.std() < 0.8
    assert 0.9 * 0.5 <= np.mean([ratio(problem, p.candidate) for p, _ in learned[-30:]]) <= 0.5


@dataclass
class Lesson:
    """Scores of 400 episodes and what they used of the target, by the published agent and by a random policy."""

    ours: FloatArray
    random: FloatArray
    used: FloatArray
    used_at_random: FloatArray

    def z(self, scores: FloatArray) -> float:
        """By how many deviations of the random policy the last 50 are better than its mean."""
        return float((scores[-50:].mean() - self.random.mean()) / self.random.std())


@cache
def lesson(seed: int) -> Lesson:
    """Half a minute."""
    problem = v1_problem(0.5)
    score = calibrated(problem)
    runs = (amc(problem, seed=seed, patience=None), amc(problem, seed=seed + 100, warmup=400, hidden=1))
    learned, control = (drive(agent, score, 400) for agent in runs)
    scores = (np.array([value for _, value in came], dtype=float) for came in (learned, control))
    return Lesson(*scores, *(np.array([ratio(problem, p.candidate) / 0.5 for p, _ in came]) for came in (learned, control)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_it_learns_what_a_random_policy_does_not(seed: int) -> None:
    """AMC-9 and AMC-10: the last 50 of 400 episodes are far better than random ones, and use the budget that those leave."""
    found = lesson(seed)
    assert len(found.ours) == len(found.random) == 400
    assert found.z(found.ours) >= 1.7
    assert abs(found.z(found.random)) < 0.5, "a random policy fails this test"
    assert 0.9 <= found.used[-50:].mean() <= 1.005
    assert found.used_at_random.mean() == pytest.approx(0.6, abs=0.03)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_its_best_is_better_than_the_best_of_as_many_random_ones() -> None:
    """AMC-9: in four of six seeds or more."""
    better = [lesson(seed).ours.max() > lesson(seed).random.max() for seed in range(SEEDS)]
    assert sum(better) >= 4, better
