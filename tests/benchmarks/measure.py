"""Compares two programs that alternate (A B A B) in one process."""

import json
import os
import statistics
import time

from keras_tinyalex import machine

ROUNDS = int(os.environ.get("BENCHMARK_ROUNDS", "9"))


def paired(what, against, ours, theirs, target=None, repeat=1, rounds=ROUNDS):
    """Times `ours()` and `theirs()`, alternating, and prints one row as JSON.

    `ratio` is their time divided by ours, median over the rounds: above 1 ours is
    faster. Each is called once before that, to trace and compile.
    """
    ours()
    theirs()
    times = [(seconds(ours, repeat), seconds(theirs, repeat)) for _ in range(rounds)]
    row(
        what,
        against,
        ratio=statistics.median(b / a for a, b in times),
        ours_ms=statistics.median(a for a, _ in times) * 1e3,
        theirs_ms=statistics.median(b for _, b in times) * 1e3,
        rounds=rounds,
        target=target,
    )


def seconds(function, repeat=1):
    start = time.perf_counter()
    for _ in range(repeat):
        function()
    return (time.perf_counter() - start) / repeat


def row(what, against, ratio, target=None, **figures):
    figures = {
        k: float(f"{v:.4g}") if v is not None else None for k, v in figures.items()
    }
    values = {"what": what, "against": against, "ratio": round(ratio, 3), **figures}
    print("ROW " + json.dumps({**values, "target": target}), flush=True)


def environment():
    """Returns the machine and the versions, as JSON-ready values."""
    found = machine.environment()
    del found["keeps_freed_memory"]  # a choice of each benchmark
    flags = machine._cpuinfo("flags").split()
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        **found,
        "cpu_family": machine._cpuinfo("cpu family"),
        "cpu_model": machine._cpuinfo("model\t"),
        "vector_instructions": [flag for flag in wanted if flag in flags],
        "load": round(os.getloadavg()[0], 2),
    }
