"""Files of PyTorch's and Hugging Face's weights as names and arrays: `.safetensors`, and pickles of tensors. NumPy.

`.safetensors` is a header of JSON, then the bytes of the arrays. It is read here and not by the package of that name:
NumPy's side of it lacks bfloat16 and 8-bit floats. Of a pickle only tensors and plain values are read
(`weights_only=True`); a file that holds other objects is refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.files import parse_json

_TYPES = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32,
    "I32": np.int32, "U64": np.uint64, "I64": np.int64, "F16": np.float16, "F32": np.float32, "F64": np.float64,
    "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a `.safetensors` file by name; raises `UserError` for a damaged one."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            header = parse_json(file.read(length))
        header.pop("__metadata__", None)
        data = np.memmap(path, np.uint8, "r", 8 + length) if header else np.empty(0, np.uint8)
        return {name: _array(data, **about) for name, about in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError, struct.error) as error:
        why = " ".join(str(error).split())[:100]
        raise UserError(f"weights '{path}' are damaged or not a safetensors file ({why})") from error


def _array(data: np.ndarray, dtype: str, shape: list[int], data_offsets: tuple[int, int]) -> np.ndarray:
    kind, (begin, end) = np.dtype(_TYPES[dtype]), data_offsets
    if end > len(data) or end - begin != kind.itemsize * math.prod(shape):
        raise ValueError("an array reaches beyond the file or is of another size than its shape")
    return np.array(data[begin:end]).view(kind).reshape(shape)


def read_pickle(path: Path) -> Mapping[str, Any]:
    """Return the content of a file of `torch.save` with tensors as arrays.

    Raises:
        UserError: PyTorch is not installed; a file that is damaged, holds more than tensors, or is no mapping.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"reading '{path}' needs PyTorch: pip install 'mdtree-jax[torch]', or save the weights with "
            f"safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere in the reader
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"weights '{path}' are damaged or hold more than tensors, which is not read "
            f"({lines[0][:120].rstrip('. ')}); save them with torch.save(model.state_dict(), PATH)"
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(f"a state dict of names and arrays is needed, not a {type(content).__name__}")
    return _as_arrays(content)


def _as_arrays(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(name): _as_arrays(value) for name, value in content.items()}
    return as_numpy(content) if hasattr(content, "detach") else content


def as_numpy(tensor: Any) -> np.ndarray:
    """Return a tensor, or an array, as an array of its type; NumPy's bfloat16 is that of `ml_dtypes`."""
    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":
        return tensor.float().numpy().astype(ml_dtypes.bfloat16)
    return tensor.numpy() if not str(tensor.dtype).startswith("torch.float8") else tensor.float().numpy()
