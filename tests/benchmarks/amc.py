"""AMC-9 and AMC-10 with the published agent: learning on MobileNetV1's costs, against a policy of random actions.

    python tests/benchmarks/amc.py [SEED ...]

Takes about half a minute per seed. The specification asks for z >= 1.7 in each of six seeds, a best of the agent above the
best of the random policy in four, and a budget use of 0.90 to 1.005 of the target. Measured: z 2.14, 2.23, 2.09, 2.26, 2.36,
2.46, the better best in six of six, 0.972 to 1.000 of the target. Other toys are less kind: with sensitivities and powers
drawn anew for each seed (``calibrated(problem, seed)``), z was 1.24 to 2.62 and the best was better in three of six.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.strategies.amc_toy import amc, calibrated, drive, ratio, v1_problem


def main(seeds: list[int]) -> None:
    """One line per seed."""
    torch.set_num_threads(1)
    print("seed      z  best   best of random  MACs/target")
    for seed in seeds:
        problem = v1_problem(0.5)
        score = calibrated(problem)
        learned = drive(amc(problem, seed=seed, patience=None), score, 400)
        control = drive(amc(problem, seed=seed + 100, warmup=400, hidden=1), score, 400)
        ours, random = (np.array([value for _, value in came], dtype=float) for came in (learned, control))
        used = np.mean([ratio(problem, p.candidate) for p, _ in learned[-50:]]) / 0.5
        z = (ours[-50:].mean() - random.mean()) / random.std()
        print(f"{seed:4d}  {z:5.2f}  {ours.max():.4f}  {random.max():.4f}  {used:.3f}", flush=True)


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or list(range(6)))
