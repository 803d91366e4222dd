"""Arrays in weight files: headers first, and never any code."""

import contextlib
import functools
import json
import math
import mmap
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np

_WEIGHTS_MEMBER = "model.weights.h5"
_SAFETENSORS_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
# Whole numbers and flags: known so that the error can name them.
_SAFETENSORS_OTHERS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
# Of JSON, which takes ten times its size in memory; ours has 2 KB.
_SAFETENSORS_HEADER_LIMIT = 1 << 20
_HEAP = b"GCOL\1"  # signature and version of a heap in HDF5
# Of groups in groups: a model in a model in the model takes seven.
_MAX_DEPTH = 7
_FORMATS = "`.keras`, `.h5`, `.weights.h5` or `.safetensors`"


class Array(NamedTuple):
    """The header of an array in a file, and how to read some of its rows."""

    shape: tuple[int, ...]
    dtype: str
    is_float: bool
    read: Callable[[slice], np.ndarray]

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Reads the values in blocks of whole rows, of about `size` numbers."""
        rows = self.shape[0] if self.shape else 1
        step = max(1, size // max(1, math.prod(self.shape[1:])))
        for start in range(0, max(1, rows), step):
            yield self.read(slice(start, min(start + step, rows)))


@contextlib.contextmanager
def open_weights(path: Path, order: dict[str, list[str]]) -> Iterator[dict[str, Array]]:
    """Opens a weight file and yields its headers by name, `layer/variable`.

    Args:
        path: A `.keras`, `.h5`, `.weights.h5` or `.safetensors` file.
        order: The names of the variables of each layer of the model, in order:
            Keras' own format numbers them.

    Yields:
        A dict of `Array`. Values can be read until the context ends.

    Raises:
        ValueError: If the file cannot be read, or holds links or data outside
            itself.

    Examples:
        >>> import keras
        >>> dense = keras.layers.Dense(2, name="d")
        >>> model = keras.Sequential([keras.Input((3,)), dense])
        >>> model.save_weights("example.weights.h5")
        >>> path = Path("example.weights.h5")
        >>> with open_weights(path, {"d": ["kernel", "bias"]}) as arrays:
        ...     print({name: array.shape for name, array in arrays.items()})
        {'d/kernel': (3, 2), 'd/bias': (2,)}
    """
    with contextlib.ExitStack() as stack:
        try:
            arrays = _open(path, order, stack)
        except Exception as error:  # h5py and zipfile raise all kinds here
            raise ValueError(f"Cannot read weights from {path}: {error}") from error
        yield arrays


def _open(
    path: Path, order: dict[str, list[str]], stack: contextlib.ExitStack
) -> dict[str, Array]:
    if path.suffix == ".safetensors":
        return _safetensors(stack.enter_context(path.open("rb")))
    if path.suffix in (".keras", ".h5"):
        require_sound_heaps(path)
    if path.suffix == ".keras":
        archive = stack.enter_context(zipfile.ZipFile(path))
        if archive.getinfo(_WEIGHTS_MEMBER).compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{_WEIGHTS_MEMBER} is compressed; Keras does not do that")
        member = stack.enter_context(archive.open(_WEIGHTS_MEMBER))
        return _keras_layout(_open_h5(member, stack), order)
    if path.suffix == ".h5":
        file = _open_h5(path, stack)
        if path.name.endswith(".weights.h5") or "layers" in file:
            return _keras_layout(file, order)
        return _legacy_layout(file)
    raise ValueError(f"the name must end in {_FORMATS}")


def require_sound_heaps(path: Path) -> None:
    """Refuses damaged heaps, in which HDF5 stores text and would loop forever.

    With an object of length zero, or of one beyond the end, HDF5 1.14 loops as
    soon as a text is read. A `.keras` file contains the same bytes.

    Source: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
    """
    if not path.stat().st_size:  # which mmap cannot take
        raise ValueError("it is empty")
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        start = data.find(_HEAP)
        while start >= 0:
            at, end = start + 16, start + struct.unpack_from("<Q", data, start + 8)[0]
            while at + 16 <= end:
                index, length = struct.unpack_from("<H6xQ", data, at)
                step = 16 + (length + 7) // 8 * 8 if index else length
                if step < 16 or at + step > end:
                    raise ValueError("one of its string heaps is damaged")
                at += step
            start = data.find(_HEAP, start + 1)


def _open_h5(source: Any, stack: contextlib.ExitStack) -> h5py.File:
    file = stack.enter_context(h5py.File(source, "r"))
    if file.id.get_create_plist().get_sizes() != (
        8,
        8,
    ):  # or heaps differ
        raise ValueError(
            "its addresses and lengths must have 8 bytes, as in files written by Keras"
        )
    return file


def _children(group: h5py.Group) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """The members of a group; links and data outside the file are refused."""
    for key in group:
        link = group.get(key, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{group.name}/{key} is a link ({type(link).__name__})")
        child = group[key]
        if isinstance(child, h5py.Dataset):
            _require_plain(child)
        yield key, child


def _require_plain(dataset: h5py.Dataset) -> None:
    """Refuses values that are outside the file, missing, or compressed."""
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{dataset.name} keeps its data outside the file")
    # A few compressed bytes can become gigabytes, whatever the header says. Keras
    # neither compresses arrays nor splits them into chunks.
    if dataset.chunks is not None:
        raise ValueError(f"{dataset.name} is compressed or split into chunks")
    if dataset.id.get_storage_size() < dataset.nbytes:
        raise ValueError(
            f"{dataset.name} declares {dataset.nbytes:,} bytes, more than the file has"
        )


def _layer_name(variables: h5py.Group, key: str) -> str:
    """The layer that a group `vars` says it belongs to."""
    if "name" not in variables.attrs:
        return key
    # Not an array of strings, which could all be the same large string.
    if variables.attrs.get_id("name").shape != ():
        raise ValueError(f"the attribute name of {variables.name} is not a string")
    name = variables.attrs["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def _h5_array(dataset: h5py.Dataset) -> Array:
    # HDF5 has no bfloat16: Keras stores it as two opaque bytes.
    opaque = dataset.dtype == np.dtype("V2")

    def read(rows: slice) -> np.ndarray:
        values = dataset[rows if dataset.shape else ()]
        return _from_bfloat16(values) if opaque else values

    dtype = "bfloat16" if opaque else str(dataset.dtype)
    return Array(dataset.shape, dtype, opaque or dataset.dtype.kind == "f", read)


def _from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """bfloat16 is the upper half of a float32."""
    widened = bits.view("<u2").astype("<u4") << np.uint32(16)
    return widened.view("<f4")


def _keras_layout(file: h5py.File, order: dict[str, list[str]]) -> dict[str, Array]:
    """`layers/<any>/vars/<number>`; the attribute `name` of vars names the layer.

    Keras stores the optimizer beside the layers. Any other array is listed by its
    path, such as `layers/<any>/layers/<layer>/<variable>` of a model in the model.
    """
    arrays: dict[str, Array] = {}
    for key, member in _children(file):
        if key == "optimizer":
            continue
        for path, array in _arrays_below(member, key, order):
            short = path.removeprefix("layers/")
            _add(arrays, short if short.count("/") == 1 else path, array)
    return arrays


def _arrays_below(
    item: h5py.Group | h5py.Dataset,
    path: str,
    order: dict[str, list[str]],
    depth: int = 0,
) -> Iterator[tuple[str, h5py.Dataset]]:
    """The arrays in an item by their paths, in which layers have their names."""
    if depth > _MAX_DEPTH:  # a group may be a member of itself
        raise ValueError(f"{path} is nested too deep")
    if not _is_group(item):
        yield path, item
        return
    names: list[str] = []
    folder, _, key = path.removesuffix("/vars").rpartition("/")
    if path.endswith("/vars") and (folder == "layers" or "name" in item.attrs):
        layer = _layer_name(item, key)
        path, names = f"{folder}/{layer}".lstrip("/"), order.get(layer, [])
    for key, child in _children(item):
        known = key.isdecimal() and int(key) < len(names)
        name = names[int(key)] if known else key
        yield from _arrays_below(child, f"{path}/{name}", order, depth + 1)


def _legacy_layout(file: h5py.File) -> dict[str, Array]:
    """`[model_weights/]<layer>/.../<variable>`, with `:0` from older versions.

    A model in the model is one of its layers: its arrays are listed as
    `<model>/<layer>/<variable>`.
    """
    members = dict(_children(file))
    layers = members.get("model_weights", file)
    arrays: dict[str, Array] = {}
    for layer_name, layer in _children(layers):
        # A file deeper than this is not one of Keras' and could be endless.
        groups = [("", layer)] if _is_group(layer) else []
        for _ in range(4):
            children = [
                (f"{folder}/{key}", child)
                for folder, group in groups
                for key, child in _children(group)
            ]
            for path, child in children:
                if isinstance(child, h5py.Dataset):
                    folder, _, key = path.removesuffix(":0").rpartition("/")
                    own = folder.rpartition("/")[2] in ("", layer_name)
                    name = f"{'' if own else folder}/{key}"
                    _add(arrays, layer_name + name, child)
            groups = [child for child in children if _is_group(child[1])]
    return arrays


def _is_group(item: Any) -> bool:
    return isinstance(item, h5py.Group)


def _add(arrays: dict[str, Array], name: str, dataset: Any) -> None:
    if name in arrays:
        raise ValueError(f"it holds {name} twice")
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{name} is not an array")
    arrays[name] = _h5_array(dataset)


def _safetensors(file: BinaryIO) -> dict[str, Array]:
    """A length, a JSON header and raw arrays.

    Source: https://github.com/huggingface/safetensors#format
    """
    size = file.seek(0, 2)
    file.seek(0)
    length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else 0
    if not 2 <= length <= min(size - 8, _SAFETENSORS_HEADER_LIMIT):
        raise ValueError("it is cut short or not a safetensors file")
    header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    header.pop("__metadata__", None)
    start = 8 + length
    arrays = {}
    for name, entry in header.items():
        try:
            dtype, shape = entry["dtype"], tuple(map(int, entry["shape"]))
            begin, end = map(int, entry["data_offsets"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"the header of {name} is malformed") from None
        kind = _SAFETENSORS_FLOATS.get(dtype)
        if kind is None and dtype not in _SAFETENSORS_OTHERS:
            raise ValueError(f"{name} has the unknown dtype {dtype}")
        expected = math.prod(shape) * np.dtype(kind or "u1").itemsize
        if min(shape, default=1) < 0 or not 0 <= begin <= end <= size - start:
            raise ValueError(f"{name} lies outside the file")
        if kind is not None and end - begin != expected:
            raise ValueError(f"{name} has {end - begin} bytes, not {expected}")
        read = functools.partial(_read_raw, file, start + begin, shape, kind or "u1")
        arrays[name] = Array(shape, dtype, kind is not None, read)
    return arrays


def _read_raw(
    file: BinaryIO, start: int, shape: tuple[int, ...], kind: str, rows: slice
) -> np.ndarray:
    count = rows.stop - rows.start
    width = math.prod(shape[1:]) * np.dtype(kind).itemsize
    file.seek(start + rows.start * width)
    values = np.frombuffer(file.read(count * width), kind)
    values = values.reshape(shape and (count, *shape[1:]))
    return _from_bfloat16(values) if kind == "<u2" else values
