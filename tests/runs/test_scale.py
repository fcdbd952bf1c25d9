"""What a cohort costs does not depend on how many there are: files and bytes are counted, not seconds."""

import collections
import os
from pathlib import Path

from tests.benchmarks import run_folder_scale as scale


def written(monkeypatch, path, number):
    """Return how many files of each kind a run writes per cohort, and how many bytes of records and manifests."""
    counts, sizes, replace = collections.Counter(), collections.Counter(), os.replace

    def count(source, target):
        kind = Path(target).relative_to(path).parts[0]
        counts[kind] += 1
        sizes[kind] += os.path.getsize(source)
        replace(source, target)

    cohorts = scale.cohorts_of(number)
    with monkeypatch.context() as patch, scale.no_networks():
        patch.setattr(os, "replace", count)
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr("mdtree_jax.runs.run._SHARE_FOR_TABLES", 1e-9)  # tables at the start and at the end
        scale.train(path, cohorts)
    return {kind: counts[kind] / number for kind in ("cohorts", "parts", "checkpoints")}, counts, sizes


def test_a_cohort_costs_as_many_files_among_many_as_among_few(monkeypatch, tmp_path):
    few, few_counts, few_sizes = written(monkeypatch, tmp_path / "few", 6)
    many, many_counts, many_sizes = written(monkeypatch, tmp_path / "many", 48)
    assert few == many == {"cohorts": 4.0, "parts": 4.0, "checkpoints": 1.0}
    assert many_sizes["cohorts"] / 48 < 1.1 * few_sizes["cohorts"] / 6
    for name in ("manifest.json", "members.parquet", "collection.parquet", "pairs.parquet"):
        assert few_counts[name] == many_counts[name]


def test_tables_are_written_as_often_as_takes_a_share_of_the_time(monkeypatch):
    from mdtree_jax.runs import run

    clock, writes = [0.0], []

    class Folder:
        def write_tables(self, csv, *, is_final):
            assert not is_final
            writes.append(clock[0])
            clock[0] += 0.001 * len(cohorts)  # as long as there are cohorts in them

    cohorts = []
    monkeypatch.setattr(run.time, "perf_counter", lambda: clock[0])
    tables = run._Tables(Folder(), csv=False)
    for number in range(10_000):
        cohorts.append(number)
        clock[0] += 0.01
        tables.write_if_time()
    assert len(writes) > 5
    assert clock[0] < 1.2 * 0.01 * 10_000  # where every cohort wrote them, 500 times
