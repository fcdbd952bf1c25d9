import contextlib
import csv
import json
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mdtree_jax import UserError, read_history
from mdtree_jax.collection.history_names import COLUMNS, VALUES, chosen_columns


def written(path, rows, fields):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def plain(table, names=None):
    """Return rows of name -> number, without what is not known."""
    names = names or {}
    return [
        {names.get(name, name): float(value) for name, value in row.items() if not np.isnan(value)}
        for row in table.to_dict("records")
    ]


def ours(table, folder):
    return written(folder / "own.csv", plain(table), COLUMNS)


def json_lines(table, folder):
    path = folder / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, plain(table))) + "\n")
    return path


def lightning(table, folder):
    """Epochs and steps from 0; training and validation in rows of their own, as `CSVLogger` writes them."""
    rows = []
    for row in plain(table):
        counts = {"epoch": int(row["epoch"]) - 1, "step": int(row["step"]) - 1}
        sides = {
            "lr-SGD": row.get("learning_rate"),
            "val_loss": row.get("validation_loss"),
            "val_acc": 1 - row["validation_error"] / 100 if "validation_error" in row else None,
            "train_loss": row.get("train_loss"),
            "train_acc": 1 - row["train_error"] / 100 if "train_error" in row else None,
        }
        for group in (("lr-SGD",), ("val_loss", "val_acc"), ("train_loss", "train_acc")):
            found = {name: sides[name] for name in group if sides[name] is not None}
            rows += [{**counts, **found}] if found else []
    fields = ["epoch", "lr-SGD", "step", "train_acc", "train_loss", "val_acc", "val_loss"]
    return written(folder / "metrics.csv", rows, fields)


KERAS = {"train_loss": "loss", "train_error": "accuracy", "validation_loss": "val_loss"}
KERAS |= {"validation_error": "val_accuracy", "learning_rate": "learning_rate"}


def keras_values(table):
    values = {keras: table[name].to_numpy() for name, keras in KERAS.items() if table[name].notna().any()}
    return {name: 1 - value / 100 if "accuracy" in name else value for name, value in values.items()}


def keras_json(table, folder):
    path = folder / "history.json"
    path.write_text(json.dumps({name: value.tolist() for name, value in keras_values(table).items()}))
    return path


def keras_csv(table, folder):
    values = keras_values(table)
    rows = [{"epoch": i, **{n: v[i] for n, v in values.items()}} for i in range(len(table))]
    return written(folder / "log.csv", rows, ["epoch", *values])


def hugging_face(table, folder):
    log = []
    for row in plain(table):
        counts = {"epoch": row["epoch"], "step": int(row["step"])}
        train = {"loss": row.get("train_loss"), "learning_rate": row.get("learning_rate"), "grad_norm": 1.5}
        held_out = {"eval_loss": row.get("validation_loss"), "eval_runtime": 2.5}
        if "validation_error" in row:
            held_out["eval_accuracy"] = 1 - row["validation_error"] / 100
        log += [{k: v for k, v in one.items() if v is not None} | counts for one in (train, held_out)]
    log.append({"train_loss": 99.0, "train_runtime": 3.5, "epoch": log[-1]["epoch"], "step": log[-1]["step"]})
    path = folder / "trainer_state.json"
    path.write_text(json.dumps({"best_metric": None, "global_step": log[-1]["step"], "log_history": log}))
    return path


def tensorboard(table, folder):
    event_pb2 = pytest.importorskip("tensorboard.compat.proto.event_pb2")
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder / "events"))
    names = {"train_loss": "Loss/train", "train_error": "Accuracy/train", "validation_loss": "Loss/val"}
    names |= {"validation_error": "Accuracy/val", "learning_rate": "lr", "epoch": "epoch"}
    for row in plain(table):
        for name in names.keys() & row.keys():
            value = 1 - row[name] / 100 if "error" in name else row[name]
            summary = Summary(value=[Summary.Value(tag=names[name], simple_value=value)])
            writer.add_event(event_pb2.Event(wall_time=1.0, step=int(row["step"]), summary=summary))
    writer.close()
    return folder / "events"


DIALECTS = {f.__name__: f for f in (ours, json_lines, lightning, keras_json, keras_csv, hugging_face, tensorboard)}
#: What a dialect cannot hold.
LACKS = {"keras_json": ["step"], "keras_csv": ["step"], "hugging_face": ["train_error"]}


@st.composite
def histories(draw):
    number = draw(st.integers(2, 6))
    per_epoch = draw(st.integers(2, 50))
    table = pd.DataFrame({"epoch": np.arange(1.0, number + 1), "step": per_epoch * np.arange(1.0, number + 1)})
    loss = st.floats(1e-6, 1e6)
    for name, values in (
        ("train_loss", loss),
        ("train_error", st.floats(0, 100)),
        ("validation_loss", loss),
        ("validation_error", st.floats(0, 100)),
        ("learning_rate", st.floats(1e-6, 10)),
    ):
        is_known = name == "train_loss" or draw(st.booleans())
        table[name] = draw(st.lists(values, min_size=number, max_size=number)) if is_known else np.nan
    return table


@pytest.mark.parametrize("name", DIALECTS)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=histories())
def test_a_history_reads_back_from_every_dialect(name, table, tmp_path_factory):
    expected = table.assign(**dict.fromkeys(LACKS.get(name, []), np.nan))[list(COLUMNS)]
    read = read_history(DIALECTS[name](table, tmp_path_factory.mktemp(name)))
    rtol = 1e-5 if name == "tensorboard" else 1e-12  # it holds float32
    np.testing.assert_allclose(read.to_numpy(), expected.to_numpy(), rtol=rtol, atol=100 * rtol)
    assert list(read) == list(COLUMNS)


def test_validation_every_second_epoch_keeps_the_points_between(tmp_path):
    table = pd.DataFrame({"epoch": [1, 2, 3, 4], "step": [5, 10, 15, 20], "train_loss": [4.0, 3, 2, 1]})
    table["validation_loss"] = [np.nan, 3.5, np.nan, 3.0]
    table = table.reindex(columns=COLUMNS).astype(float)
    for name in ("ours", "json_lines", "lightning", "hugging_face", "tensorboard"):
        read = read_history(DIALECTS[name](table, tmp_path))
        np.testing.assert_allclose(read.to_numpy(), table.to_numpy())


def test_a_loss_that_became_nan_is_a_point_and_a_row_of_other_things_is_none(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,grad_norm,train_loss\n0,4,,2.0\n0,4,1.0,\n1,9,,nan\n1,12,3.0,\n")
    read = read_history(path)
    np.testing.assert_array_equal(read[["epoch", "step", "train_loss"]], [[1, 5, 2.0], [2, 10, np.nan]])


def test_epoch_zero_of_our_own_format_is_before_training(tmp_path):
    path = tmp_path / "h.csv"
    path.write_text("epoch,step,train_loss\n0,0,2.3\n1,50,1.1\n")
    assert read_history(path)["epoch"].tolist() == [0, 1]


def test_keras_writes_tensors_in_two_folders(tmp_path):
    event_pb2 = pytest.importorskip("tensorboard.compat.proto.event_pb2")
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    for side, loss in (("train", [2.0, 1.0]), ("validation", [2.5, 1.5])):
        writer = EventFileWriter(str(tmp_path / side))
        for epoch, value in enumerate(loss):
            tensor = make_tensor_proto(np.float32(value))
            summary = Summary(value=[Summary.Value(tag="epoch_loss", tensor=tensor)])
            writer.add_event(event_pb2.Event(wall_time=1.0, step=epoch, summary=summary))
        writer.close()
    read = read_history(tmp_path)
    np.testing.assert_array_equal(read[["epoch", "train_loss", "validation_loss"]], [[1, 2, 2.5], [2, 1, 1.5]])


@pytest.mark.parametrize(
    ("content", "column", "expected"),
    [
        ("epoch,val_acc\n1,0.5\n2,1.0\n", "validation_error", [50, 0]),
        ("epoch,val_acc\n1,50\n2,100\n", "validation_error", [50, 0]),
        ("epoch,acc,val_acc\n1,40,0.9\n2,90,1.0\n", "validation_error", [99.1, 99]),  # one scale for both
        ("epoch;val err\n1;0.5\n2;0.25\n", "validation_error", [50, 25]),
        ("epoch,validation_error\n1,0.5\n2,0.25\n", "validation_error", [0.5, 0.25]),  # ours is in percent
        ("epoch,loss,test_acc\n1,3,0.5\n2,2,1\n", "validation_error", [50, 0]),
        ("epoch,train_loss_step,train_loss_epoch\n1,9,2\n2,9,1\n", "train_loss", [2, 1]),
        ("loss\n3\n2\n", "epoch", [1, 2]),
    ],
)
def test_names_and_scales(content, column, expected, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(content)
    np.testing.assert_allclose(read_history(path)[column], expected)


def test_other_quantities_are_not_taken_for_errors():
    names = ["epoch", "val_mean_squared_error", "sparse_top_k_categorical_accuracy", "val_acc5", "grad_norm"]
    assert set(chosen_columns(names)) == {"epoch"}
    assert set(VALUES) <= set(COLUMNS)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('the pickle was run')",)


REFUSED = {
    "nothing.csv": (None, "cannot be read: No such file"),
    "empty.csv": (b" \n", "is empty"),
    "evil.pkl": (pickle.dumps(Evil()), "is a pickle, which could run code"),
    "a.bin": (b"\x00\x01\xff", "binary file"),
    "other.csv": (b"time,memory\n1,2\n", "has time, memory; expected one of the columns train_loss"),
    "word.csv": (b"epoch,train_loss\n1,high\n", "has 'high' as train_loss; expected a number"),
    "ragged.csv": (b"epoch,train_loss\n1,2,3\n", "line 2 of .* has 3 cells"),
    "lines.jsonl": (b'{"loss": 1}\n{"loss": \n', "line 2 of .* is not JSON"),
    "list.json": (b"[1, 2]", "entry 1 of .* is a int"),
    "uneven.json": (b'{"loss": [1, 2], "val_loss": [1]}', "lists of 1 to 2 values"),
    "nested.json": (b'{"loss": [[1], [2]]}', r"has '\[1\]' as loss"),
    "deep.json": (b"[" * 100_000, "nested too deeply|not JSON"),
    "none.json": (b"{}", "has no values; expected"),
    "two.csv": (b"configuration,seed,epoch,train_loss\n0,0,1,2\n0,1,1,2\n", "is of 2 networks"),
    "percent.csv": (b"epoch,acc\n1,150\n", "an accuracy of 150"),
    "events.out.tfevents.1": (b"no records", "events.out.tfevents.1' (has no values|is not an event file)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_sentence(name, tmp_path):
    content, message = REFUSED[name]
    if "tfevents" in name:
        pytest.importorskip("tensorboard")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_history(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_log_is_refused(tmp_path):
    (tmp_path / "model.pt").touch()
    with pytest.raises(UserError, match=r"is a folder without a log \(model.pt\)"):
        read_history(tmp_path)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=80) | st.text('0123456789.,;{}[]":\nepochlstrain_', max_size=80).map(str.encode))
@example(content=b'"\n"')
def test_any_file_is_read_or_refused(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        assert list(read_history(path)) == list(COLUMNS)
