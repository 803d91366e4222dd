"""Hostile weight files: links, bombs, false headers, wrong arrays, code."""

import io
import json
import os
import struct
import zipfile
import zlib

import h5py
import numpy as np

BIAS = "layers/dense_2/vars/1"  # of the classifier: 3 values

KERNEL = "layers/dense/vars/0"


def replaced(name, make):
    """Replaces a dataset; `make(group, key, old values)` makes the new one."""

    def change(file):
        group, _, key = name.rpartition("/")
        values = file[name][()]
        del file[name]
        make(file[group], key, values)

    return change


def virtual(group, key, values):
    layout = h5py.VirtualLayout(values.shape, "float32")
    layout[:] = h5py.VirtualSource("other.h5", "x", values.shape)
    group.create_virtual_dataset(key, layout)


def expanding(group, key, values):
    """A chunk whose gzip stream expands to 512 MB."""
    made = group.create_dataset(
        key, values.shape, "float32", chunks=values.shape, compression="gzip"
    )
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(512))
    made.id.write_direct_chunk((0, 0), packed + packer.flush())


def claims(shape, **options):
    return lambda group, key, values: group.create_dataset(
        key, shape, "float32", **options
    )


def stored(values_of):
    def make(group, key, values):
        group[key] = values_of(values)

    return make


def many_names(file):
    """A name attribute of 2,000 times the same 1 MB string."""
    group = file["layers/dense/vars"]
    del group.attrs["name"]
    text = "x" * (1 << 20)
    kind = h5py.string_dtype()
    group.attrs.create("name", np.array([text] * 2, object), dtype=kind)


def with_nan(values):
    changed = values.copy()
    changed.flat[-1] = np.nan
    return changed


def hdf5_attacks():
    def add(name, values):
        return lambda file: file.__setitem__(name, values)

    def link(target):
        return lambda group, key, values: group.__setitem__(key, target)

    def cycle(file):
        file["layers/loop"] = file["layers"]

    return {
        "soft link": replaced(BIAS, link(h5py.SoftLink("/" + KERNEL))),
        "dangling link": replaced(BIAS, link(h5py.SoftLink("/nowhere"))),
        "link to another file": replaced(
            BIAS, link(h5py.ExternalLink("/etc/hostname", "/"))
        ),
        "link of a group": lambda file: (
            file.move("layers", "real")
            or file.__setitem__("layers", h5py.SoftLink("/real"))
        ),
        "virtual data": replaced(BIAS, virtual),
        "data in /etc/passwd": replaced(
            BIAS, claims((3,), external=[("/etc/passwd", 0, 12)])
        ),
        "1 GB claimed": replaced(KERNEL, claims((1 << 14, 1 << 14))),
        "right shape, no values": replaced(
            KERNEL, lambda g, key, values: g.create_dataset(key, values.shape, "f4")
        ),
        "chunk of 1 GB": replaced(
            BIAS, claims((3,), maxshape=(None,), chunks=(1 << 28,), compression="gzip")
        ),
        "gzip that expands to 512 MB": replaced(KERNEL, expanding),
        "NaN": replaced(BIAS, stored(with_nan)),
        "1e300, too large for float32": replaced(
            BIAS, stored(lambda v: np.full(3, 1e300))
        ),
        "infinity": replaced(BIAS, stored(lambda v: np.full_like(v, np.inf))),
        "integers": replaced(BIAS, stored(lambda v: v.astype("int32"))),
        "text": replaced(BIAS, stored(lambda v: "weights")),
        "complex numbers": replaced(BIAS, stored(lambda v: v.astype("complex64"))),
        "record": replaced(BIAS, stored(lambda v: np.zeros(3, [("a", "f4")]))),
        "object reference": replaced(
            BIAS, lambda g, k, v: g.create_dataset(k, data=g.ref, dtype=h5py.ref_dtype)
        ),
        "no dimension": replaced(BIAS, stored(lambda v: np.float32(1))),
        "one dimension more": replaced(BIAS, stored(lambda v: v[None])),
        "shape transposed": replaced(KERNEL, stored(lambda v: v.T.copy())),
        "one class more": replaced(BIAS, stored(lambda v: np.zeros(4, "f4"))),
        "array missing": lambda file: file.__delitem__(BIAS),
        "layer missing": lambda file: file.__delitem__("layers/dense"),
        "everything missing": lambda file: file.__delitem__("layers"),
        "extra array": add("layers/dense/vars/2", np.zeros(3, "f4")),
        "extra layer": add("layers/dense_9/vars/0", np.zeros(3, "f4")),
        "array in a group's place": lambda file: (
            file.__delitem__("layers"),
            file.__setitem__("layers", np.zeros(3)),
        ),
        "group in an array's place": replaced(
            BIAS, lambda group, key, values: group.create_group(key)
        ),
        "two layers of one name": lambda file: file[
            "layers/dense_1/vars"
        ].attrs.__setitem__("name", "fc1"),
        "name of another layer": lambda file: file[
            "layers/dense/vars"
        ].attrs.__setitem__("name", "../../etc"),
        "name that is no text": many_names,
        "group within itself, an array missing": lambda file: (
            cycle(file),
            file.__delitem__(BIAS),
        ),
    }


def heap_attacks(body):
    """Files with a string heap on which HDF5 would loop forever."""
    start = body.index(b"GCOL\1")
    at = start + 16
    while body[at : at + 2] != b"\0\0":  # the object of the free space
        at += 16 + (struct.unpack_from("<Q", body, at + 8)[0] + 7) // 8 * 8
    return {
        "heap in circles": body[: at + 8] + bytes(8) + body[at + 16 :],
        "heap that walks back": (
            body[: start + 24] + struct.pack("<Q", -64 % (1 << 64)) + body[start + 32 :]
        ),
    }


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def as_safetensors(arrays):
    header, data = {}, b""
    for name, values in arrays.items():
        offsets = [len(data), len(data) + values.nbytes]
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": offsets}
        data += values.tobytes()
    return header, data


def safetensors_attacks(arrays):
    header, data = as_safetensors(arrays)
    bias = "predictions/bias"

    def changed(**fields):
        return safetensors({**header, bias: {**header[bias], **fields}}, data)

    total = len(data)
    nan = data[:-4] + struct.pack("<f", np.nan)
    return {
        "header of 2**63 bytes": struct.pack("<Q", 1 << 63) + data,
        "header of 2 MB": safetensors(b"[" * (2 << 20), data),
        "header 100,000 deep": safetensors(b"[" * 100_000, data),
        "header that is a list": safetensors([], data),
        "header that is no JSON": safetensors(b"\xff" * 50, data),
        "entry that is a number": safetensors({**header, bias: 5}, data),
        "shape of texts": changed(shape=["a"]),
        "shape below 0": changed(shape=[-3]),
        "shape of 2**70": changed(shape=[1 << 70]),
        "shape of another size": changed(shape=[4]),
        "offset beyond the end": changed(data_offsets=[total, total + 12]),
        "offset below 0": changed(data_offsets=[-12, 0]),
        "offsets exchanged": changed(data_offsets=header[bias]["data_offsets"][::-1]),
        "unknown dtype": changed(dtype="F8"),
        "pickled dtype": changed(dtype="O"),
        "integers": changed(dtype="I32"),
        "NaN": safetensors(header, nan),
        "array missing": safetensors({k: header[k] for k in header if k != bias}, data),
        "extra array": safetensors({**header, "evil/kernel": header[bias]}, data),
        "data missing": safetensors(header, data[:100]),
    }


def keras_file(weights, method=zipfile.ZIP_STORED, name="model.weights.h5", **members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, weights)
        for member, content in members.items():
            archive.writestr(member.replace("_json", ".json"), content)
    return file.getvalue()


def corpus(good, folder):
    """Yields name and path of every hostile file."""
    _, body, arrays = good
    for name, change in hdf5_attacks().items():
        path = folder / "attack.weights.h5"
        path.write_bytes(body)
        with h5py.File(path, "r+") as file:
            change(file)
        content = path.read_bytes()
        yield f"{name} (.weights.h5)", path
        inside = folder / "attack.keras"
        inside.write_bytes(keras_file(content))
        yield f"{name} (.keras)", inside
    for name, content in heap_attacks(body).items():
        for path in (folder / "attack.weights.h5", folder / "attack.keras"):
            path.write_bytes(content if path.suffix == ".h5" else keras_file(content))
            yield f"{name} ({path.suffix})", path
    for name, content in safetensors_attacks(arrays).items():
        path = folder / "attack.safetensors"
        path.write_bytes(content)
        yield f"{name} (.safetensors)", path
    bomb = bytes(1 << 28)
    files = {
        "packed bomb of 256 MB": keras_file(bomb, zipfile.ZIP_DEFLATED),
        "no weights inside": keras_file(body, name="weights.txt"),
        "weights in another folder": keras_file(body, name="../model.weights.h5"),
        "not a zip": b"PK\3\4" + body,
        "weights cut short": keras_file(body[: len(body) // 2]),
        "weights are text": keras_file(b"hello"),
        "empty": b"",
    }
    for name, content in files.items():
        path = folder / "attack.keras"
        path.write_bytes(content)
        yield f"{name} (.keras)", path
    for suffix in ("h5", "weights.h5", "safetensors"):
        for name, content in (("empty", b""), ("noise", os.urandom(5000))):
            path = folder / f"attack.{suffix}"
            path.write_bytes(content)
            yield f"{name} (.{suffix})", path
    for name in ("model.pkl", "model.pt", "model.npz", "model.ckpt"):
        path = folder / name
        path.write_bytes(b"\x80\x04cposix\nsystem\n(S'touch /tmp/pwned'\ntR.")
        yield f"code ({name})", path
