"""Works on one shard of a grid of 64 cohorts, and notes what it trains: `python -m tests.runs.many FOLDER NUMBER`."""

import sys
import time
from pathlib import Path

from mdtree_jax import files
from mdtree_jax.runs.shards import chosen_cohorts
from tests.runs.growing import Lab, plan

NUM_SHARDS = 2
WANTED = plan(width=tuple(range(1, 33)), batch_size=(16, 32))


class Noting(Lab):
    """Notes every cohort before it is trained, and takes some time for it."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def train(self, recipe, cohort, data, **options):
        time.sleep(0.01)
        trained = super().train(recipe, cohort, data, **options)
        with open(self.path, "a") as stream:
            stream.write(f"{cohort.key}\n")
        return trained


if __name__ == "__main__":
    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    files.os.fsync = lambda descriptor: None
    shard = chosen_cohorts(WANTED.cohorts, f"{number}/{NUM_SHARDS}")
    Noting(folder / "trained.txt").run(folder / f"part{number}", WANTED, only=shard, keep="metrics_only")
