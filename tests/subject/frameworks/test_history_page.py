"""The page on histories: every callback trains, and what it wrote is what its two checkpoints are."""

import importlib.util
import os
import re
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mdtree_jax.collection.history import read_history
from mdtree_jax.subject.adapted import subject_of
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "how-to" / "history.md").read_text()
SECTIONS = [(part.partition("\n")[0], part) for part in PAGE.split("\n## ")[1:]]
BLOCKS = {title.split()[0].strip(","): re.findall(r"^```py\n(.*?)^```$", part, re.S | re.M) for title, part in SECTIONS}
FOLDER = "runs/seed0"
EPOCHS, CLASSES = 8, 3


def make_data(seed, rows):
    """Inputs, and labels half of which are random: a network that learns them all is worse on others."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, rows)
    x = (np.eye(6)[y] + 0.6 * rng.standard_normal((rows, 6))).astype(np.float32)
    return x, np.where(rng.random(rows) < 0.5, rng.integers(0, CLASSES, rows), y)


X, Y = make_data(0, 48)
X_VALIDATION, Y_VALIDATION = make_data(1, 64)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def history_of(name, **known):
    """Run a section's first block and return what it defines."""
    found = dict(known)
    exec(compile(BLOCKS[name][0], name, "exec"), found)
    return found


def needs(*packages):
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")


def measured(subject, x=X_VALIDATION, y=Y_VALIDATION):
    """Loss and error in percent, in NumPy."""
    outputs = np.asarray(subject.model.apply(subject.variables[0], x, False)[0], np.float64)
    chosen = outputs[np.arange(len(y)), y]
    return np.mean(np.log(np.exp(outputs).sum(1)) - chosen), 100 * np.mean(outputs.argmax(1) != y)


def check(model, suffix, x=X_VALIDATION, steps=True):
    table = read_history(f"{FOLDER}/history.csv")
    assert table["epoch"].tolist() == list(range(1, EPOCHS + 1))
    assert table["step"].tolist() == [6 * epoch for epoch in range(1, EPOCHS + 1)] or not steps
    assert table["train_loss"].iloc[-1] < 0.95 * table["train_loss"].iloc[0]
    best = table["validation_loss"].idxmin()
    assert best < EPOCHS - 1
    for name, row in (("last", table.iloc[-1]), ("best", table.loc[best])):
        loss, error = measured(subject_of(model, [f"{FOLDER}/{name}{suffix}"], x), x)
        assert row["validation_loss"] == pytest.approx(loss, rel=1e-4)
        assert row["validation_error"] == pytest.approx(error, abs=1e-3)


def test_every_callback_has_at_most_20_lines():
    assert set(BLOCKS) == {"Flax", "Keras", "Lightning", "Hugging"}
    for blocks in BLOCKS.values():
        assert all(len([line for line in block.splitlines() if line.strip()]) <= 20 for block in blocks)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(nn.relu(nn.Dense(64)(x)))


def test_flax():
    optimizer = optax.adam(0.03)
    variables = Net().init(jax.random.key(0), X)
    states = [optimizer.init(variables)]

    def loss(variables, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(Net().apply(variables, x), y).mean()

    @jax.jit
    def step(variables, state, x, y):
        value, gradient = jax.value_and_grad(loss)(variables, x, y)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(variables, updates), state, value

    def train_epoch(variables):
        values = []
        for start in range(0, len(X), 8):
            rows = slice(start, start + 8)
            variables, states[0], value = step(variables, states[0], X[rows], Y[rows])
            values.append(float(value))
        return variables, np.mean(values)

    def evaluate(variables):
        outputs = Net().apply(variables, X_VALIDATION)
        return float(loss(variables, X_VALIDATION, Y_VALIDATION)), 100 * float(
            jnp.mean(outputs.argmax(1) != Y_VALIDATION)
        )

    known = {"variables": variables, "train_epoch": train_epoch, "evaluate": evaluate, "epochs": EPOCHS}
    found = history_of("Flax", **known, steps_per_epoch=6)
    exec(compile(BLOCKS["Flax"][1], "Flax", "exec"), found)
    check(Net(), ".msgpack")


@pytest.mark.frameworks
def test_keras():
    needs("keras")
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.Input((6,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(CLASSES)]
    model = keras.Sequential(layers)
    model.compile(
        keras.optimizers.Adam(0.03), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    history = history_of("Keras")["History"](FOLDER)
    held_out = (X_VALIDATION, Y_VALIDATION)
    model.fit(X, Y, batch_size=8, epochs=EPOCHS, validation_data=held_out, callbacks=[history], verbose=0)
    check(model, ".weights.h5", steps=False)


def torch_network():
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 64), torch.nn.ReLU(), torch.nn.Linear(64, CLASSES))


@pytest.mark.frameworks
def test_lightning():
    needs("torch", "torchax", "lightning")
    from tests.subject.frameworks.torch_cases import allow_torchvision

    allow_torchvision()
    import lightning.pytorch as lightning
    import torch

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch_network()

        def training_step(self, batch):
            loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch):
            outputs = self.net(batch[0])
            self.log("val_loss", torch.nn.functional.cross_entropy(outputs, batch[1]))
            self.log("val_acc", (outputs.argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 0.03)

    def loader(x, y):
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.as_tensor(x), torch.as_tensor(y)), 8)

    trainer = lightning.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[history_of("Lightning")["History"](FOLDER)],
    )  # fmt: skip
    trainer.fit(Module(), loader(X, Y), loader(X_VALIDATION, Y_VALIDATION))
    check(torch_network(), ".ckpt")


@pytest.mark.frameworks
def test_lightning_by_a_trainer_that_calls_the_hooks_in_its_order(monkeypatch):
    """For where Lightning is not installed: validation runs within the training epoch, before its end."""
    needs("torch", "torchax")
    import torch

    class Callback:
        def __getattr__(self, name):
            if name.startswith("on_"):
                return lambda *arguments: None
            raise AttributeError(name)

    stand_in = types.ModuleType("lightning.pytorch")
    stand_in.Callback = Callback
    monkeypatch.setitem(sys.modules, "lightning", types.ModuleType("lightning"))
    monkeypatch.setitem(sys.modules, "lightning.pytorch", stand_in)
    history = history_of("Lightning")["History"](FOLDER)
    net, entropy = torch_network(), torch.nn.functional.cross_entropy
    optimizer = torch.optim.Adam(net.parameters(), 0.03)
    x, y, held_out = torch.as_tensor(X), torch.as_tensor(Y), torch.as_tensor(X_VALIDATION)

    def save(path):
        torch.save({"epoch": 0, "state_dict": {f"net.{name}": p for name, p in net.state_dict().items()}}, path)

    trainer = types.SimpleNamespace(
        callback_metrics={}, current_epoch=0, global_step=0, is_global_zero=True, save_checkpoint=save
    )
    history.on_fit_start(trainer, net)
    for epoch in range(EPOCHS):
        trainer.current_epoch = epoch
        history.on_train_epoch_start(trainer, net)
        losses = []
        for start in range(0, len(X), 8):
            loss = entropy(net(x[start : start + 8]), y[start : start + 8])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            trainer.global_step += 1
        with torch.no_grad():
            outputs = net(held_out)
        trainer.callback_metrics |= {"val_loss": entropy(outputs, torch.as_tensor(Y_VALIDATION))}
        trainer.callback_metrics |= {"val_acc": (outputs.argmax(1) == torch.as_tensor(Y_VALIDATION)).float().mean()}
        history.on_validation_epoch_end(trainer, net)
        trainer.callback_metrics["train_loss"] = torch.stack(losses).mean()
        history.on_train_epoch_end(trainer, net)
    history.on_fit_end(trainer, net)
    check(torch_network(), ".ckpt")


@pytest.mark.frameworks
def test_hugging_face():
    needs("torch", "torchax", "transformers", "accelerate")
    from tests.subject.frameworks.torch_cases import allow_torchvision

    allow_torchvision()
    import torch
    import transformers

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    small |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(vocab_size=9, max_position_embeddings=8, num_labels=CLASSES, **small)

    def tokens(x):
        return np.clip(np.round(2 * x) + 3, 0, 8).astype(np.int64)

    def rows(x, y):
        return [
            {"input_ids": one, "labels": int(label)} for one, label in zip(torch.as_tensor(tokens(x)), y, strict=True)
        ]

    torch.manual_seed(0)
    arguments = transformers.TrainingArguments(
        "trainer",
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=8,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        transformers.BertForSequenceClassification(config),
        arguments,
        train_dataset=rows(X, Y),
        eval_dataset=rows(X_VALIDATION, Y_VALIDATION),
        compute_metrics=lambda found: {"accuracy": np.mean(found.predictions.argmax(1) == found.label_ids)},
        callbacks=[history_of("Hugging")["History"](FOLDER)],
    )
    trainer.train()
    check(transformers.BertForSequenceClassification(config), "", {"input_ids": tokens(X_VALIDATION)})
