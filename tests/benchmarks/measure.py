"""Fair pairs: ours and theirs by turns in one process, medians of the ratio."""

import json
import os
import platform
import statistics
import time
from pathlib import Path

ROUNDS = int(os.environ.get("BENCHMARK_ROUNDS", "9"))


def paired(what, against, ours, theirs, target=None, repeat=1, rounds=ROUNDS):
    """Times `ours()` and `theirs()` by turns and prints one row as JSON.

    `ratio` is the median over the rounds of their time by ours: above 1 we
    are the faster. Each is called once before, to trace and compile.
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


def machine():
    """What the figures were measured on."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(
        [part.strip() for part in line.split(":", 1)]
        for line in text.splitlines()
        if ":" in line
    )
    flags = fields.get("flags", "").split()
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "processor": fields.get("model name", platform.processor()),
        "model": f"family {fields.get('cpu family')}, model {fields.get('model')}",
        "cores": os.cpu_count(),
        "vector": [flag for flag in wanted if flag in flags],
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }
