"""The effect of knobs in a training step: functions bound to their names (`KNOBS.bind(name, apply=…)`). JAX.

| the knob acts on | call of its function | return value |
|---|---|---|
| `loss` | `apply(per_example_loss, outputs, targets, value)` | per_example_loss, (batch,) |
| `inputs` | `apply(x, key, value)` | inputs, for images (batch, height, width, channels) |
| `gradients` | `apply(gradients, params, value)` | gradients, a pytree like params |

The value is a Python number for a static knob and a traced scalar for a batched one; the functions are called under
`vmap`. They act only in training: reported losses and errors use the unmodified data and objective. A knob that a grid
does not use does not appear in its programs.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mdtree_jax.checks import UserError
from mdtree_jax.registry.knobs import BY_FUNCTION, KNOBS

Values = Mapping[str, Any]


def smooth_labels(losses: jax.Array, logits: jax.Array, labels: jax.Array, value: Any) -> jax.Array:
    """Return the cross-entropy with targets (1 - value) · one-hot + value / classes (Szegedy et al., 2016).

    Args:
        losses: cross-entropy with the labels alone, (batch,).
        logits: (batch, classes), or (batch, time, classes) where a loss is the sum over the labels of a sequence.
        labels: (batch,), (batch, classes) or (batch, time); of a sequence, a negative one does not count.
        value: share of the target's probability that all classes have in equal parts.
    """
    uniform = -jax.nn.log_softmax(logits).mean(axis=-1)
    if logits.ndim == 3:
        uniform = jnp.where(labels >= 0, uniform, 0).sum(axis=1)
    return (1 - value) * losses + value * uniform


def shift_and_mirror(key: jax.Array, x: jax.Array, pixels: int = 4) -> jax.Array:
    """Return images (batch, height, width, channels) randomly shifted by up to `pixels` in both axes and mirrored."""
    batch, height, width, channels = x.shape
    shift_key, mirror_key = jax.random.split(key)
    corners = jax.random.randint(shift_key, (batch, 2), 0, 2 * pixels + 1, jnp.int32)
    padded = jnp.pad(x, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (corner[0], corner[1], jnp.int32(0)), (height, width, channels))

    x = jax.vmap(crop)(padded, corners)
    is_mirrored = jax.random.bernoulli(mirror_key, shape=(batch, 1, 1, 1))
    return jnp.where(is_mirrored, x[:, :, ::-1], x)


def augment(x: jax.Array, key: jax.Array, value: bool) -> jax.Array:
    """Return the images as training sees them: shifted by up to 4 pixels, zeros come in, and mirrored, each anew.

    Raises:
        UserError: inputs that are no images.
    """
    if value and np.ndim(x) != 4:
        raise UserError("augment=true crops and mirrors images, and the inputs are not images; set augment=false")
    return shift_and_mirror(key, x) if value else x


KNOBS.bind("label_smoothing", apply=smooth_labels)
KNOBS.bind("augment", apply=augment)


def acting(place: str, values: Values) -> Iterator[tuple[str, Callable[..., Any], Any]]:
    """Yield name, function and value of the knobs among `values` that act on a place, in the order of the table."""
    for name, knob in KNOBS.items():
        if name in values and knob.acts_on == place:
            apply = KNOBS.bound(name, "apply")
            if apply is None:
                raise UserError(f"the knob '{name}' acts on the {place}, but no function is bound to it as apply=")
            yield name, apply, values[name]


def by_function(values: Values) -> dict[str, Any]:
    """Return those of the values whose knobs act by a bound function, and not at their default, where they do nothing.

    Raises:
        UserError: an unknown knob.
    """
    found = {name: KNOBS.find(name) for name in values}
    return {n: values[n] for n, knob in found.items() if knob.acts_on in BY_FUNCTION and values[n] != knob.default}


def change_inputs(x: jax.Array, step_key: Callable[[], jax.Array], values: Values) -> jax.Array:
    """Return the images of a batch as the knobs change them; `step_key()` gives the step's key."""
    for name, apply, value in acting("inputs", values):
        x = apply(x, _key(step_key(), name), value)
    return x


def change_losses(losses: jax.Array, outputs: jax.Array, targets: jax.Array, values: Values) -> jax.Array:
    """Return the losses of a batch's examples as the knobs change them."""
    for _, apply, value in acting("loss", values):
        losses = apply(losses, outputs, targets, value)
    return losses


def change_gradients(gradients: Any, params: Any, values: Values) -> Any:
    """Return the gradients of a step as the knobs change them."""
    for _, apply, value in acting("gradients", values):
        gradients = apply(gradients, params, value)
    return gradients


def _key(step_key: jax.Array, name: str) -> jax.Array:
    # Augmentation keeps the random numbers that recorded runs were trained with; every other knob has its own.
    return step_key if name == "augment" else jax.random.fold_in(step_key, zlib.crc32(name.encode()))
