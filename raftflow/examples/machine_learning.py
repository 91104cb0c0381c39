"""Machine learning: a sweep that grows around the best result.

    python -m raftflow.examples.machine_learning --rounds 4

A model is trained with each point of a coarse grid of two settings. Around the best one comes a finer grid, and so
on. Each training is a task of its own, and the sweep decides while it runs which tasks come next. Needs numpy.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np

import raftflow

POINTS = 400
DEGREE = 4
EPOCHS = 120

Settings: TypeAlias = dict[str, float]
"""`rate`: decimal logarithm of the learning rate; `decay`: that of the weight decay; `seed`: of the data."""


def two_moons(seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return points of two half-circles that reach into each other, with noise, and which one each belongs to."""
    draw = np.random.default_rng(seed)
    angle = draw.uniform(0, np.pi, POINTS)
    label = draw.integers(0, 2, POINTS)
    x = np.where(label == 0, np.cos(angle), 1 - np.cos(angle))
    y = np.where(label == 0, np.sin(angle), 0.5 - np.sin(angle))
    return np.stack([x, y], axis=1) + draw.normal(0, 0.2, (POINTS, 2)), label


def features(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the monomials of the coordinates up to a degree."""
    x, y = points[:, 0], points[:, 1]
    return np.stack([x**i * y**j for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i)], axis=1)


@raftflow.task(retries=3, kind="train")
def train(settings: Settings) -> dict[str, float]:
    """Train with these settings, and return the loss and the accuracy on points that were held back."""
    points, label = two_moons(int(settings["seed"]))
    inputs, half = features(points), POINTS // 2
    weights = np.zeros(inputs.shape[1])
    for _ in range(EPOCHS):
        chance = 1 / (1 + np.exp(-np.clip(inputs[:half] @ weights, -30, 30)))
        slope = inputs[:half].T @ (chance - label[:half]) / half + 10 ** settings["decay"] * weights
        weights -= 10 ** settings["rate"] * slope
    chance = np.clip(1 / (1 + np.exp(-np.clip(inputs[half:] @ weights, -30, 30))), 1e-9, 1 - 1e-9)
    held_back = label[half:]
    loss = -np.mean(held_back * np.log(chance) + (1 - held_back) * np.log(1 - chance))
    return {"loss": round(float(loss), 9), "accuracy": round(float(np.mean((chance > 0.5) == held_back)), 6)}


def sweep(
    rounds: int, seed: int, run_all: Callable[[Callable[[Settings], Any], list[Settings]], Iterable[Any]]
) -> dict[str, Any]:
    """Search the best settings. `run_all` says how trainings run: on a cluster, or one after the other here."""
    center, width, trained = {"rate": -1.0, "decay": -3.0}, 1.0, 0
    best: dict[str, Any] = {}
    for _ in range(rounds):
        grid = [
            {
                "rate": round(center["rate"] + i * width, 6),
                "decay": round(center["decay"] + j * width, 6),
                "seed": seed,
            }
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
        ]
        for settings, found in zip(grid, run_all(train, grid), strict=True):
            if not best or found["loss"] < best["loss"]:
                best = {**settings, **found}
        trained += len(grid)
        center, width = {"rate": best["rate"], "decay": best["decay"]}, width / 2
    return {**best, "trained": trained}


@raftflow.task(retries=3)
def main(ctx: raftflow.Context, rounds: int = 4, seed: int = 1) -> dict[str, Any]:
    """Search the best settings with a task for each training."""
    return sweep(rounds, seed, ctx.map)


def expected(rounds: int = 4, seed: int = 1) -> dict[str, Any]:
    """Do the same in this process."""
    return sweep(rounds, seed, lambda function, items: [function(item) for item in items])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=4)
    with raftflow.Client() as client:
        print(json.dumps(client.run(main, parser.parse_args().rounds), indent=2))
