"""Records: compact tables of a finished sweep, included in the package, against which a rerun can be verified.

| file | rows | columns |
|---|---|---|
| `<name>.parquet` | one per configuration | as `collection.parquet` of the run: means and `<column>_se` |
| `<name>-networks.parquet` | one per network | as `members.parquet` |
| `<name>-pairs.parquet` | one per pair of networks | as `pairs.parquet`, curves included |
| `<name>-history.parquet` | one per network and recorded epoch | as `history.parquet`; absent where none was recorded |

What made them stands in the first file's metadata (`Record.about`). Numbers are float32 where that loses nothing, and
in costs and standard errors; they are read back as float64.
"""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.files import one_sentence_on_write_failure, record_names, records_folder, write_atomically
from mdtree_jax.store.manifest import check_table, read_manifest
from mdtree_jax.store.parts import MEASURED, metrics_of, trainings_of
from mdtree_jax.store.tables import collect, read_part

_METADATA_KEY = b"mdtree_jax"
#: Columns that are kept in float32 whatever that rounds off.
_ROUNDED = ("_se", "_seconds", "_flops")
TABLES = {"collection": "", "networks": "-networks", "pairs": "-pairs"}
_HISTORY = "history"


class Record(NamedTuple):
    """A record's tables and what made them.

    Attributes:
        name: of the grid.
        collection: one row per configuration, in the order of the grid.
        networks: one row per network.
        pairs: one row per measured pair of networks.
        about: `config` and `measure` (every setting), `sessions` (code, packages and machine of every process that
            took part, with the cohorts it worked on), `executors` (pairs of an executor and the cohorts it trained; a
            cohort that was extended can have two), `compile_seconds`.
        history: the learning curves, None where none were recorded.
    """

    name: str
    collection: pd.DataFrame
    networks: pd.DataFrame
    pairs: pd.DataFrame
    about: dict[str, Any]
    history: pd.DataFrame | None = None

    def executor(self, cohort: str) -> dict[str, Any] | None:
        """Return how a cohort was executed, at first if it was extended; None if it is not in the record."""
        return next(iter(self.executors(cohort)), None)

    def executors(self, cohort: str) -> list[dict[str, Any]]:
        """Return the executors of a cohort: several if it was extended, and another was chosen then."""
        return [choice for choice, cohorts in self.about["executors"] if cohort in cohorts]


def record_path(name: str, table: str = "collection", folder: Path | None = None) -> Path:
    """Return where a table of a record lies, in the package's folder of records unless another is given."""
    return (folder or records_folder()) / f"{name}{TABLES.get(table, f'-{table}')}.parquet"


def read_record(name: str, folder: Path | None = None) -> Record:
    """Read a record; raises `UserError` if there is none of that name, or a file of it is missing or damaged."""
    import pyarrow
    import pyarrow.parquet

    if folder is None:
        check_choice("record", name, record_names())
    tables, about = {}, {}
    has_history = record_path(name, _HISTORY, folder).exists()
    for table in (*TABLES, *((_HISTORY,) if has_history else ())):
        path = record_path(name, table, folder)
        try:
            arrow = pyarrow.parquet.read_table(path)
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"the record '{path}' cannot be read: {str(error).splitlines()[0]}") from error
        frame = arrow.to_pandas()
        tables[table] = frame.astype({c: np.float64 for c in frame if frame[c].dtype == np.float32})
        if table == "collection":
            text = (arrow.schema.metadata or {}).get(_METADATA_KEY)
            if text is None:
                raise UserError(f"'{path}' is not a record: it has no provenance")
            about = json.loads(text)
    return Record(name, **tables, about=about)


def write_record(run: str | Path, folder: str | Path, name: str) -> Record:
    """Write the record of a run folder whose sweep is finished and measured, and return it as read back.

    Raises:
        UserError: no run folder, networks that are not trained or not measured yet, or a folder that cannot be written.
    """
    run, folder = Path(run).expanduser(), Path(folder).expanduser()
    manifest = read_manifest(run / "manifest.json")
    if manifest is None:
        raise UserError(f"'{run}' is not a run folder: it has no manifest.json")
    networks = _read_table(run, "members")
    _check_complete(run, manifest, networks)
    pairs = _read_table(run, "pairs")
    about = {"name": name, "config": manifest["config"], "measure": manifest["measure"], **_origin(run, networks)}
    tables = {"collection": collect(networks, pairs), "networks": networks, "pairs": pairs}
    if (run / f"{_HISTORY}.parquet").exists():
        tables[_HISTORY] = _read_table(run, _HISTORY)
    with one_sentence_on_write_failure(folder):
        record_path(name, _HISTORY, folder).unlink(missing_ok=True)  # of an earlier run
        for table, frame in tables.items():
            _write(record_path(name, table, folder), frame, about if table == "collection" else None)
    return read_record(name, folder)


def _read_table(run: Path, name: str) -> pd.DataFrame:
    """Return a table of a run folder; raises `UserError` if it is not there or cannot be read."""
    check_table(run / f"{name}.parquet")
    try:
        return pd.read_parquet(run / f"{name}.parquet")
    except (OSError, ValueError) as error:
        raise UserError(f"{run / name}.parquet cannot be read: {str(error).splitlines()[0]}") from error


def _check_complete(run: Path, manifest: dict[str, Any], networks: pd.DataFrame) -> None:
    config = manifest["config"]
    # The lists of a grid are its axes; a run can be recorded where a knob of it is not known.
    wanted = math.prod(len(value) for value in config.values() if isinstance(value, list)) * config["num_seeds"]
    if len(networks) != wanted:
        raise UserError(f"{run} holds {len(networks)} of the {wanted} networks of its grid; finish the sweep first")
    sizes = networks["cohort"].value_counts(sort=False)
    missing = [key for key, size in sizes.items() if not _is_measured(run, str(key), size, manifest["measure"])]
    if missing:
        raise UserError(f"{run}: {len(missing)} of {len(sizes)} cohorts are not measured; finish the sweep first")


def _is_measured(run: Path, cohort: str, num_networks: int, measure: dict[str, Any]) -> bool:
    """Return whether all networks of a cohort are measured with all metrics: the run may have been extended since."""
    path = run / "parts" / MEASURED[-1] / f"{cohort}.parquet"
    if not path.exists():
        return False
    rows, metadata = read_part(path, MEASURED[-1])
    return len(rows) == num_networks and metrics_of(metadata["measure"]) >= metrics_of(measure)


def _origin(run: Path, networks: pd.DataFrame) -> dict[str, Any]:
    """Return which processes made the parts of a run, how each cohort was executed, and what compiling took."""
    sessions, executors, seconds = {}, {}, 0.0
    for cohort in networks["cohort"].unique():
        for kind, place in (("trained", "."), (MEASURED[-1], MEASURED[-1])):
            for metadata in trainings_of(read_part(run / "parts" / place / f"{cohort}.parquet", kind)[1]):
                seconds += metadata["compile_seconds"]
                for session in metadata["made_by"]:
                    sessions.setdefault(session["started"], session | {"cohorts": []})["cohorts"].append(cohort)
                if kind == "trained":
                    executors.setdefault(json.dumps(metadata["executor"]), []).append(cohort)
    for session in sessions.values():
        session["cohorts"] = list(dict.fromkeys(session["cohorts"]))
    executors = {choice: list(dict.fromkeys(cohorts)) for choice, cohorts in executors.items()}
    return {
        "sessions": [sessions[start] for start in sorted(sessions)],
        "executors": [[json.loads(choice), cohorts] for choice, cohorts in executors.items()],
        "compile_seconds": seconds,
    }


def _write(path: Path, frame: pd.DataFrame, about: dict[str, Any] | None) -> None:
    import pyarrow
    import pyarrow.parquet

    arrow = pyarrow.Table.from_pandas(frame.assign(**_narrow(frame)), preserve_index=False)
    if about is not None:
        arrow = arrow.replace_schema_metadata({**arrow.schema.metadata, _METADATA_KEY: json.dumps(about).encode()})
    repeated = [c for c in frame if frame[c].dtype != object and frame[c].nunique() < 200]
    options = {"compression": "zstd", "compression_level": 19, "use_dictionary": repeated}
    write_atomically(path, functools.partial(pyarrow.parquet.write_table, arrow, **options))


def _narrow(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the float64 columns that are kept in float32."""
    out = {}
    for column in frame.select_dtypes(np.float64).columns:
        narrow = frame[column].astype(np.float32)
        if column.endswith(_ROUNDED) or np.array_equal(narrow.astype(np.float64), frame[column], equal_nan=True):
            out[column] = narrow
    return out
