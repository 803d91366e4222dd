"""Children that are killed, small disks, and the table of measured figures."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

CHANGES = {"open", "os.link", "os.symlink", "os.rename", "os.remove", "os.mkdir",
           "os.rmdir", "os.truncate"}  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def pytest_terminal_summary(terminalreporter, config):
    rows = [
        {**dict(value), "outcome": report.outcome}
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == "figure"
    ]
    if not rows:
        return
    terminalreporter.section("faults survived")
    for row in sorted(rows, key=lambda row: row["part"]):
        failed = "" if row["outcome"] == "passed" else "  FAILED"
        terminalreporter.line(
            f"{row['part']:<12} {row['fault']:<58} {row['figure']}{failed}"
        )
    if path := config.getoption("--faults-json"):
        Path(path).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


@pytest.fixture
def figure(record_property):
    """Records a measured figure: `figure(part, fault, text)`."""

    def record(part, fault, text):
        record_property("figure", {"part": part, "fault": fault, "figure": text})

    return record


# ------------------------------------------------------------------ children


def run_forked(function, timeout=120):
    """Runs a function in a forked child; returns exit status or -signal."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            signal.alarm(timeout)  # a child that hangs ends, and fails the test
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def on_change(action):
    """Calls `action(event, path)` before each change to the file system."""
    busy = False

    def hook(event, arguments):
        nonlocal busy
        if busy or event not in CHANGES:
            return
        if event == "open" and not (arguments[2] & WRITING):
            return
        busy = True
        action(event, arguments[0])
        busy = False

    sys.addaudithook(hook)  # for good: only in a child


def kill_before_change(k, torn):
    """SIGKILL before the k-th change; `torn` leaves the file half written."""
    left = k

    def count(event, path):
        nonlocal left
        if left == 0:
            if torn and event == "open" and isinstance(path, str | os.PathLike):
                # An empty one where bytes are taken up later: they must be right.
                half = b"" if str(path).endswith(".part") else b"half of"
                with contextlib.suppress(OSError):
                    Path(path).write_bytes(half)
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    on_change(count)


@pytest.fixture
def forked():
    return run_forked


@pytest.fixture
def kill_at_every_change():
    """Kills `run(place)` at its change 0, 1, 2, ... until it ends by itself.

    Each time in a new `place` made by `prepare`; `check` is called after the
    kill, and again after another run that is left alone. Returns the kills.
    """

    def start(folder, prepare, run, check, torn=False, step=1):
        for k in range(0, 100_000, step):
            place = folder / f"{k}{'-torn' * torn}"
            place.mkdir(parents=True)
            prepare(place)

            def killed(k=k, place=place):
                kill_before_change(k, torn)
                run(place)

            status = run_forked(killed)
            if status == 0:
                return k // step
            assert status == -signal.SIGKILL, status
            check(place, False)
            run(place)
            check(place, True)
            shutil.rmtree(place)
        raise AssertionError("the run never ended")

    return start


@pytest.fixture
def changes_of(tmp_path):
    """Counts the changes which a function makes below a folder."""

    def count(function, folder):
        log = tmp_path / "changes.log"
        log.touch()

        def child():
            number = os.open(log, os.O_WRONLY | os.O_APPEND)

            def note(event, path):
                if str(path).startswith(f"{folder}/"):
                    os.write(number, b"x")

            on_change(note)
            function()

        assert run_forked(child) == 0
        return log.stat().st_size

    return count


@pytest.fixture
def peak_memory():
    """Bytes by which a Python program's peak grows between two marks.

    The code has two parts; what the first one needs is taken off. Runs in a
    process of its own. The system must be Linux.
    """
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux to tell the peak of memory")

    def measure(before, measured):
        code = (
            "def memory(name):\n"
            "    lines = open('/proc/self/status').read().splitlines()\n"
            "    return next(int(x.split()[1]) for x in lines if x.startswith(name))\n"
            f"{before}\n"
            "open('/proc/self/clear_refs', 'w').write('5')  # forget earlier peaks\n"
            "first = memory('VmRSS')\n"
            f"{measured}\n"
            "print('grown', (memory('VmHWM') - first) * 1024)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return int(done.stdout.split("grown")[-1])

    return measure


# --------------------------------------------------------------------- disks


@pytest.fixture
def disk(tmp_path):
    """Mounts a small disk: `disk(size_in_kilobytes, read_only=False)`."""
    mounted = []

    def mount(kilobytes):
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", place]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("may not mount a tmpfs here")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(name="wait_for")
def wait_for_fixture():
    return wait_for
