"""How often do 95 % intervals hold the truth? `python benchmarks/interval_coverage.py [--trials 400]`, two minutes.

Answers are drawn from a probit model with effects of seeds and of examples, so that the accuracy it tends to is known.
Beside the interval of `compare`: scipy's BCa bootstrap of the few scores alone, and of the examples of one seed alone.
"""

import argparse

import numpy as np
from scipy import stats

from concept_encoder.evaluation.resampling import weighted_scores
from concept_encoder.evaluation.statistics import interval

# seeds, examples, effect of a seed, effect of an example (standard deviations on the probit scale)
SETTINGS = [
    *((5, 200, 0.3, 0.5), (5, 200, 0.0, 1.0), (5, 1000, 0.5, 0.2), (10, 200, 0.3, 0.5)),
    *((2, 200, 0.3, 0.5), (3, 200, 0.3, 0.5), (2, 1000, 0.5, 0.2), (3, 1000, 0.5, 0.2)),  # the t interval
]
EASE = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=400)
    trials = parser.parse_args().trials
    rng = np.random.default_rng(0)
    print("| seeds | examples | effect of seeds | of examples | compare | scores alone | one seed's examples |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for seeds, examples, of_seeds, of_examples in SETTINGS:
        truth = stats.norm.cdf(EASE / np.sqrt(of_seeds**2 + of_examples**2 + 1))
        held = np.mean([_held(rng, seeds, examples, of_seeds, of_examples, truth) for _ in range(trials)], axis=0)
        shares = " | ".join(f"{share:.3f}" for share in held)
        print(f"| {seeds} | {examples} | {of_seeds} | {of_examples} | {shares} |", flush=True)


def _held(
    rng: np.random.Generator, seeds: int, examples: int, of_seeds: float, of_examples: float, truth: float
) -> list[bool]:
    latent = EASE + of_seeds * rng.normal(size=(seeds, 1)) + of_examples * rng.normal(size=examples)
    right = (latent + rng.normal(size=(seeds, examples)) > 0).astype(int)
    ours = interval(*weighted_scores("accuracy", list(right), np.ones(examples, int)))
    plain = [
        stats.bootstrap((values,), np.mean, n_resamples=1000, rng=rng).confidence_interval
        for values in (right.mean(1), right[0])
    ]
    return [bounds.low <= truth <= bounds.high for bounds in (ours, *plain)]


if __name__ == "__main__":
    main()
