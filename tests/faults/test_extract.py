"""Malicious archives: each one is refused, and nothing is extracted."""

import io
import os
import stat
import struct
import zipfile

import pytest

from keras_tinyalex.datasets import download as module

pytestmark = pytest.mark.faults

FOLDER = "tiny-imagenet-200"
GOOD = f"{FOLDER}/wnids.txt"


def archive(*members):
    """Returns a zip of a good file and members: (name or ZipInfo, content)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, content in ((GOOD, b"n01443537\n"), *members):
            written.writestr(name, content)
    return file.getvalue()


def entry(name, mode=stat.S_IFREG | 0o644, **fields):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def edited(change):
    """Returns a zip of two files, the directory of which `change` has changed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr(f"{FOLDER}/a", b"a" * 5000)
        written.writestr(f"{FOLDER}/b", b"b" * 5000)
        change(*written.infolist())
    return file.getvalue()


def count_changed(by):
    body = bytearray(archive((f"{FOLDER}/a", b"a"), (f"{FOLDER}/b", b"b")))
    at = body.rfind(b"PK\5\6")
    (count,) = struct.unpack_from("<H", body, at + 10)
    struct.pack_into("<HH", body, at + 8, count + by, count + by)
    return bytes(body)


def bomb(size):
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written,
        written.open(f"{FOLDER}/bomb", "w", force_zip64=True) as member,
    ):
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    return file.getvalue()


def liar(declared):
    """Returns a zip with a member that declares fewer bytes than it inflates to."""
    body = bytearray(bomb(8 << 20))
    for at in range(len(body) - 4):
        if body[at : at + 4] == b"PK\1\2":
            extra = body.find(struct.pack("<Q", 8 << 20), at)
            field = at + 24 if extra < 0 else extra
            struct.pack_into("<I" if extra < 0 else "<Q", body, field, declared)
    return bytes(body)


def cut(body, part):
    return body[: int(len(body) * part)]


def flipped(body, at):
    return body[:at] + bytes([body[at] ^ 0xFF]) + body[at + 1 :]


def attacks():
    noise = os.urandom(100_000)
    complete = archive((f"{FOLDER}/noise", noise))
    paths = {
        "zip-slip": f"{FOLDER}/../../outside",
        "zip-slip at once": "../outside",
        "absolute path": "/tmp/outside",
        "absolute path inside": f"{FOLDER}//etc/outside",
        "Windows path": f"{FOLDER}/..\\..\\outside",
        "drive letter": "C:/outside",
        "current folder": f"{FOLDER}/./outside",
        "another folder": "other/outside",
        "file in the folder's place": FOLDER,
        "file as a folder": f"{GOOD}/outside",
    }
    kinds = {
        "symbolic link": stat.S_IFLNK,
        "device": stat.S_IFCHR,
        "named pipe": stat.S_IFIFO,
        "socket": stat.S_IFSOCK,
    }
    found = {name: archive((path, b"x")) for name, path in paths.items()}
    for name, kind in kinds.items():
        found[name] = archive((entry(f"{FOLDER}/link", kind | 0o777), b"/etc"))
    found |= {
        "duplicate member": archive((GOOD, b"other")),
        "duplicate of a folder": archive((f"{FOLDER}/d/", b""), (f"{FOLDER}/d", b"")),
        "overlapping members": edited(
            lambda a, b: setattr(b, "header_offset", a.header_offset)
        ),
        "member that runs into the next": edited(
            lambda a, b: setattr(a, "compress_size", a.compress_size + 100)
        ),
        "encrypted member": edited(lambda a, b: setattr(b, "flag_bits", 1)),
        "unknown compression": edited(lambda a, b: setattr(b, "compress_type", 99)),
        "wrong checksum": edited(lambda a, b: setattr(b, "CRC", 1)),
        "header of another name": edited(
            lambda a, b: setattr(b, "filename", f"{FOLDER}/c")
        ),
        "one member too few declared": count_changed(-1),
        "one member too many declared": count_changed(+1),
        "bomb of 256 MB in 0.25 MB": bomb(256 << 20),
        "member larger than declared": liar(1000),
        "no member": b"PK\5\6" + bytes(18),
        "not a zip": b"<html>" + noise,
        "empty file": b"",
        "cut in the middle": cut(complete, 0.5),
        "cut at the end": complete[:-10],
        "flipped byte of the data": flipped(complete, len(complete) // 2),
        "flipped byte of the directory": flipped(
            complete, complete.rfind(b"PK\1\2") + 16
        ),
    }
    return found


def make_fetch(body):
    """Returns a replacement of the download that writes `body` to the disk."""

    def fetch(url, sha256, path):
        path.write_bytes(body)

    return fetch


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_attacks(tmp_path, monkeypatch, figure):
    found = attacks()
    for name, body in found.items():
        place = tmp_path / name.replace(" ", "-")
        cache = place / "deep" / "cache"
        monkeypatch.setattr(module, "_fetch", make_fetch(body))
        try:
            module.download(cache, "http://127.0.0.1/tiny.zip", None)
        except (ValueError, OSError) as error:
            text = str(error)
            assert "not safe" in text or "not a complete zip" in text, (name, text)
        else:
            pytest.fail(f"accepted: {name}")
        written = {
            path.relative_to(cache).as_posix()
            for path in place.rglob("*")
            if path.is_file()
        }
        assert written <= {f"{FOLDER}.zip", f"{FOLDER}.lock"}, (name, written)
        assert not (tmp_path / "outside").exists()
    count = len(found)
    result = f"{count} of {count} archives refused, 0 files outside, 0 left"
    figure("extract", "zip-slip, links, overlaps, bombs, wrong counts", result)


def test_a_good_archive_is_not_refused(tmp_path, monkeypatch):
    """Differs from the archives above only in that it does no harm."""
    body = archive((entry(f"{FOLDER}/a"), b"a"), (f"{FOLDER}/d/", b""))
    monkeypatch.setattr(module, "_fetch", make_fetch(body))
    folder = module.download(tmp_path, "http://127.0.0.1/tiny.zip", None)
    assert (folder / "a").read_bytes() == b"a"


def test_peak_bytes(tmp_path, peak_memory, figure):
    """Extraction streams: memory does not grow with the size of the members."""
    path = tmp_path / "cache" / f"{FOLDER}.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as written:
        written.writestr(f"{FOLDER}/large", os.urandom(1 << 20) * 64)
    size = path.stat().st_size
    grown = peak_memory(
        "import zipfile, filelock\n"
        "from keras_tinyalex.datasets import download as module\n"
        "module._fetch = lambda url, sha256, path: None",
        f"module.download({str(path.parent)!r}, 'http://127.0.0.1/x', None)",
    )
    assert grown < 8 << 20
    figure(
        "extract",
        f"memory to extract a file of {size >> 20} MB",
        f"{grown / 2**20:.1f} MB more",
    )


def test_peak_memory_measures_an_allocation(peak_memory):
    taken = peak_memory("", "x = b'x' * (50 << 20)")
    assert 50 << 20 <= taken < 52 << 20
