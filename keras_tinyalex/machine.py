"""What this machine is, and the settings in which it trains fastest.

Keras is imported by the functions that need it, so that `load_keras` can prepare the
process first.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Of `fastest_dtype`: comparisons, and the ratio of times from which one wins clearly.
MIN_ROUNDS, MAX_ROUNDS = 7, 50
CLEARLY = 1.3


def load_keras(compute: bool = True) -> None:
    """Imports Keras and initializes its backend for a command, or a quiet script.

    TensorFlow gets oneDNN, unless the environment says otherwise. Its notices about
    the processor and drivers are shown only if the import fails, or if
    `TF_CPP_MIN_LOG_LEVEL` is 0. (It prints some of them whatever that says.)

    Args:
        compute: Whether to initialize the backend, too. JAX must not compute before
            it connects several processes.
    """
    verbose = os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Off by default on processors without AVX-512, where it trains this network about
    # 1.3 times as fast.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as notices:
        if not verbose:
            os.dup2(notices.fileno(), 2)
        try:
            with _imports_kept():
                import keras

                if compute:
                    keras.ops.zeros(1)
        except BaseException:
            notices.seek(0)
            os.write(stderr, notices.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


@contextlib.contextmanager
def _imports_kept() -> Iterator[None]:
    """Tells the garbage collector that what is imported here stays.

    Keras and its backend are hundreds of thousands of objects. To look through them
    again and again, and once more at exit, takes as long as a third of their import.
    """
    if "keras" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


@contextlib.contextmanager
def channels_last() -> Iterator[None]:
    """Lets Keras make layers for channels last, as images are here.

    Keras' configuration may say `"image_data_format": "channels_first"`. Layers
    keep the format that they were made with.

    Examples:
        >>> import keras
        >>> with channels_last():
        ...     keras.config.image_data_format()
        'channels_last'
    """
    import keras

    configured = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_image_data_format(configured)


def environment() -> dict[str, Any]:
    """Returns the content of `environment.json` for this machine."""
    import keras

    backend = keras.backend.backend()
    packages = ["keras_tinyalex", "keras", "numpy", backend]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _cpuinfo("model name") or platform.processor(),
        "cores": os.cpu_count(),
        "backend": backend,
        "keeps_freed_memory": keep_freed_memory(),
        "versions": {name: sys.modules[name].__version__ for name in packages},
    }


def onednn_is_off() -> bool:
    """Whether TensorFlow computes without oneDNN although nobody asked for that."""
    import keras

    if keras.backend.backend() != "tensorflow" or "TF_ENABLE_ONEDNN_OPTS" in os.environ:
        return False
    # TensorFlow switches it on by itself on processors with one of these.
    on_by_default = {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile"}
    flags = set(_cpuinfo("flags").split())
    return bool(flags) and not flags & on_by_default


def _cpuinfo(key: str) -> str:
    """The value of a key for the first processor, empty where it is not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    values = (line.split(":", 1)[1] for line in lines if line.startswith(key))
    return next(values, "").strip()


@functools.cache
def keep_freed_memory() -> bool:
    """Lets this process keep the memory that a training step frees.

    Every step allocates and frees tensors of the same sizes. glibc returns most of
    that memory to the system, which clears each page before the next step gets it: a
    third of the time of a step of 128 images on torch, a quarter of one of 16 images
    on JAX (`tests/benchmarks/memory.py`). On TensorFlow it is little.

    Environment variables such as `MALLOC_TRIM_THRESHOLD_` take precedence.

    Returns:
        Whether freed memory is kept until the process ends. `False` with
        another C library than glibc.
    """
    variables = ("MALLOC_", "GLIBC_TUNABLES")
    configured = any(name.startswith(variables) for name in os.environ)
    if configured or platform.libc_ver()[0] != "glibc":
        return False
    # The numbers of `malloc.h`. Blocks above the mmap threshold (on JAX a step of more
    # than 64 images is one) would be in memory twice if they were kept.
    arenas, mmap_threshold, trim_threshold, top_pad = -8, -3, -1, -2
    settings = {
        arenas: 1,
        mmap_threshold: 2**29,
        trim_threshold: 2**31 - 1,
        top_pad: 2**26,
    }
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(name, value) for name, value in settings.items())


@functools.cache
def fastest_dtype() -> tuple[str, str]:
    """Chooses the dtype policy in which this machine trains fastest.

    Times a convolution of the network in float32 and in bfloat16, alternating.
    bfloat16 has to win clearly, as it does on processors that multiply in it. Where
    neither wins clearly, it is tried again for up to a second. On some machines it
    fails.

    Returns:
        `"float32"` or `"mixed_bfloat16"`, and the reason as a sentence.

    Examples:
        >>> policy, reason = fastest_dtype()
        >>> policy in ("float32", "mixed_bfloat16")
        True
    """
    import keras
    import numpy as np

    generator = np.random.default_rng(0)
    images = generator.standard_normal((16, 16, 16, 128)).astype(np.float32)
    kernel = generator.standard_normal((3, 3, 128, 128)).astype(np.float32)

    def convolve(dtype: str) -> float:
        x, w = (keras.ops.convert_to_tensor(a, dtype) for a in (images, kernel))
        started = time.perf_counter()
        y = keras.ops.conv(x, w, padding="same", data_format="channels_last")
        keras.ops.convert_to_numpy(y[0, 0, 0])
        return time.perf_counter() - started

    single = half = math.inf
    for done in range(MAX_ROUNDS):
        single = min(single, convolve("float32"))
        try:
            half = min(half, convolve("bfloat16"))
        except Exception as error:  # each backend has its own
            reason = f"a convolution in bfloat16 fails ({type(error).__name__})"
            return "float32", reason
        # On a busy machine even the shortest of a few may have waited.
        if done + 1 >= MIN_ROUNDS and not 1 / CLEARLY < half / single < CLEARLY:
            break
    policy = "mixed_bfloat16" if CLEARLY * half < single else "float32"
    return policy, (
        f"a convolution took {1000 * half:.1f} ms in bfloat16 and "
        f"{1000 * single:.1f} ms in float32"
    )
