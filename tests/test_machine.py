"""The fastest dtype, freed memory, and whether oneDNN is used."""

import os
import platform
import subprocess
import sys

import keras
import pytest

from keras_tinyalex import machine

pytestmark = pytest.mark.backend


def test_fastest_dtype_returns_its_reason():
    policy, reason = machine.fastest_dtype()
    assert policy in ("float32", "mixed_bfloat16")
    assert "ms in bfloat16 and" in reason


def test_fastest_dtype_is_float32_where_bfloat16_fails(monkeypatch):
    """As in TensorFlow if oneDNN is limited to AVX2 on a processor with bfloat16."""
    convolve = keras.ops.conv

    def fails(x, kernel, **arguments):
        if keras.backend.standardize_dtype(x.dtype) == "bfloat16":
            raise RuntimeError("could not create a primitive")
        return convolve(x, kernel, **arguments)

    monkeypatch.setattr(keras.ops, "conv", fails)
    chosen = machine.fastest_dtype.__wrapped__()
    assert chosen == ("float32", "a convolution in bfloat16 fails (RuntimeError)")


@pytest.mark.parametrize(
    ("half", "rounds", "policy"),
    [
        ([10] * 12 + [5], 13, "mixed_bfloat16"),  # the machine was busy at first
        ([5], 7, "mixed_bfloat16"),
        ([20], 7, "float32"),
        ([9], 50, "float32"),
    ],
)
def test_fastest_dtype_measures_until_one_wins_clearly(
    monkeypatch, half, rounds, policy
):
    """In float32 a convolution takes 10 ms, in bfloat16 `half`, the last for ever."""
    clock, done = [0.0], []

    def perf_counter():
        calls = len(done)
        done.append(None)
        if calls % 2:  # the end of a convolution
            both, second = divmod(calls // 2, 2)
            clock[0] += half[min(both, len(half) - 1)] / 1e3 if second else 0.01
        return clock[0]

    monkeypatch.setattr(machine.time, "perf_counter", perf_counter)
    reason = f"a convolution took {half[-1]:.1f} ms in bfloat16 and 10.0 ms in float32"
    assert machine.fastest_dtype.__wrapped__() == (policy, reason)
    assert len(done) == 4 * rounds


@pytest.mark.parametrize(
    ("flags", "setting", "reported"),
    [
        ("fma avx2", None, True),
        ("fma avx2 avx512f avx512_vnni", None, False),  # TensorFlow switches it on
        ("fma avx2", "1", False),
        ("fma avx2", "0", False),  # the user's choice
        ("", None, False),  # unknown
    ],
)
def test_training_reports_that_onednn_is_off(
    quick, monkeypatch, capsys, flags, setting, reported
):
    monkeypatch.setattr(machine, "_cpuinfo", {"flags": flags, "model name": "A"}.get)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if setting is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", setting)
    quick(epochs=1, progress=True)
    tensorflow = keras.backend.backend() == "tensorflow"
    message = "set TF_ENABLE_ONEDNN_OPTS=1 before the import"
    assert (message in capsys.readouterr().err) == (reported and tensorflow)


# Fills and frees 64 MiB five times: 16,384 pages of 4 KiB.
PAGES = """
import resource
from keras_tinyalex.machine import keep_freed_memory
kept = keep_freed_memory()
faults = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [b"x" * (16 << 20) for _ in range(4)]
    del held
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, max(faults[1:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
@pytest.mark.parametrize(
    ("variables", "kept"), [({}, True), ({"MALLOC_TOP_PAD_": "131072"}, False)]
)
def test_freed_memory_is_kept_unless_malloc_variables_are_set(variables, kept):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PAGES],
        capture_output=True,
        text=True,
        check=True,
        env={**inherited, **variables},
    )
    printed, faults = done.stdout.split()
    assert printed == str(kept)
    assert (int(faults) < 1000) == kept


def test_freed_memory_is_not_kept_without_glibc(monkeypatch):
    monkeypatch.setattr(machine.platform, "libc_ver", lambda: ("", ""))
    assert machine.keep_freed_memory.__wrapped__() is False


@pytest.mark.parametrize(
    ("level", "notices"), [(None, False), ("3", False), ("0", True)]
)
def test_notices_of_tensorflow_are_hidden_unless_asked_for(level, notices):
    """Some of which it prints whatever its own variable says."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    variables |= {"KERAS_BACKEND": "tensorflow"}
    variables |= {} if level is None else {"TF_CPP_MIN_LOG_LEVEL": level}
    code = """
from keras_tinyalex.machine import load_keras
load_keras()
import keras
keras.ops.ones(1)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=variables, capture_output=True, check=True)
    assert bool(done.stderr) == notices


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collector_skips_what_is_imported_and_works_as_before(enabled):
    code = f"""
import gc
if not {enabled}:
    gc.disable()
from keras_tinyalex.machine import load_keras
load_keras()
found = [gc.isenabled(), gc.get_freeze_count() > 100_000]
gc.unfreeze()
load_keras()  # of a process that has Keras already
print([*found, gc.get_freeze_count()])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"[{enabled}, {enabled}, 0]\n"
