"""The network within what a checkpoint holds: state dicts in wrappers, training states, averaged weights. NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mdtree_jax.checks import UserError, nearest

#: Where training code keeps the network.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "ema", "weights")
#: Where it keeps averaged weights.
AVERAGED = (
    "ema",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema_model",
    "ema_params",
    "params_ema",
    "swa",
    "swa_state_dict",
    "swa_model",
    "swa_params",
)
#: What a training state holds beside the network.
NOT_A_NETWORK = ("opt_state", "optimizer", "optimizer_state", "step", "epoch", "rng", "key", "tx", "ema", *AVERAGED)
#: Counters within the state dicts of averaged models.
_COUNTERS = ("n_averaged", "num_updates", "decay")


class Loaded(NamedTuple):
    """A network from a checkpoint.

    Attributes:
        network: what an adapter's `variables` takes: names and arrays, mostly.
        notes: sentences on what was chosen.
        format: name of the entry of `FORMATS`.
    """

    network: Any
    notes: tuple[str, ...] = ()
    format: str = ""


def choose(content: Any, weights: str | None, path: str) -> Loaded:
    """Return the network within the content of a checkpoint.

    Args:
        content: of the file; what is no mapping is the network itself.
        weights: `ema`, the name of a part, or None.
        path: for messages.

    Raises:
        UserError: there are no averaged weights, or no part of that name.
    """
    if not isinstance(content, Mapping):
        if weights:
            raise UserError(f"weights={weights}: '{path}' holds one network and nothing else")
        return Loaded(content)
    if weights:
        return Loaded(*_averaged(content, weights, path))
    there = [name for name in AVERAGED if isinstance(content.get(name), Mapping)]
    wrapper = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
    if wrapper is None or "params" in content:
        return Loaded(_network(content), _unused(there))
    inner = choose(content[wrapper], None, path)
    return inner._replace(notes=(*inner.notes, *_unused([name for name in there if name != wrapper])))


def _unused(there: list[str]) -> tuple[str, ...]:
    return (f"the checkpoint also holds averaged weights ('{there[0]}'), which weights=ema chooses",) if there else ()


def _averaged(content: Mapping[str, Any], weights: str, path: str) -> tuple[Any, tuple[str, ...]]:
    names = AVERAGED if weights in ("ema", "swa") else (weights,)
    if weights == "swa":
        names = tuple(sorted(names, key=lambda name: not name.startswith("swa")))
    for where in (content, *(content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping))):
        for name in names:
            if isinstance(where.get(name), Mapping):
                return _with_state(where, name), (f"the weights are those under '{name}' of the checkpoint",)
    parts = [name for name, value in content.items() if isinstance(value, Mapping)]
    listed = f"; it has {', '.join(map(repr, parts[:8]))}" if parts else ""
    raise UserError(f"weights={weights}: '{path}' has no such weights{nearest(weights, parts)}{listed}")


def _with_state(where: Mapping[str, Any], name: str) -> Any:
    """Return averaged weights, with the state beside them if they are the parameters only."""
    found = choose(where[name], None, "").network
    if "params" not in where or "params" in found:
        return found
    kept = {key: value for key, value in _network(where).items() if key not in ("params", name)}
    return {**kept, "params": found}


def _network(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what has arrays, without the rest of a training state."""
    kept = {
        str(name): value
        for name, value in content.items()
        if name not in (*NOT_A_NETWORK, *_COUNTERS) and (isinstance(value, (Mapping, list, tuple)) or _is_array(value))
    }
    return kept


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")
