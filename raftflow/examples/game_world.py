"""A game world: regions that exchange their borders every round.

    python -m raftflow.examples.game_world --rounds 12

The world is Conway's Game of Life on a ring. It is cut into regions, one below the other. In each round every region
is a task: it takes the last row of the region above and the first row of the region below, and returns its new cells.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterable
from typing import Any

import raftflow

WIDTH = 64
ROWS = 8
"""Of a region."""
REGIONS = 6
ALIVE, DEAD = "#", "."


def first_world(seed: int) -> list[list[str]]:
    """Return the cells of every region before the first round."""
    draw = random.Random(seed)
    return [
        ["".join(draw.choice(ALIVE + DEAD * 2) for _ in range(WIDTH)) for _ in range(ROWS)] for _ in range(REGIONS)
    ]


@raftflow.task(retries=3, kind="region")
def advance(region: dict[str, Any]) -> list[str]:
    """Return the cells of a region after one round, given the row `above` it and the one `below`."""
    rows = [region["above"], *region["cells"], region["below"]]

    def next_cell(row: int, column: int) -> str:
        around = sum(
            rows[row + down][(column + right) % WIDTH] == ALIVE for down in (-1, 0, 1) for right in (-1, 0, 1)
        )
        alive = rows[row][column] == ALIVE
        return ALIVE if around == 3 or (alive and around == 4) else DEAD

    return ["".join(next_cell(row, column) for column in range(WIDTH)) for row in range(1, len(rows) - 1)]


def play(
    rounds: int, seed: int, run_all: Callable[[Callable[[dict[str, Any]], Any], list[dict[str, Any]]], Iterable[Any]]
) -> list[str]:
    """Play some rounds and return all rows. `run_all` says how regions run: on a cluster, or in this process."""
    world = first_world(seed)
    for _ in range(rounds):
        world = list(
            run_all(
                advance,
                [
                    {"cells": cells, "above": world[number - 1][-1], "below": world[(number + 1) % REGIONS][0]}
                    for number, cells in enumerate(world)
                ],
            )
        )
    return [row for region in world for row in region]


@raftflow.task(retries=3)
def main(ctx: raftflow.Context, rounds: int = 12, seed: int = 1) -> list[str]:
    """Play with a task for each region and round."""
    return play(rounds, seed, ctx.map)


def expected(rounds: int = 12, seed: int = 1) -> list[str]:
    """Do the same in this process."""
    return play(rounds, seed, lambda function, items: [function(item) for item in items])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=12)
    with raftflow.Client() as client:
        print("\n".join(client.run(main, parser.parse_args().rounds)))
