"""What this machine has: memory, the part of it that a GPU may take, and room on the disk. No framework is imported."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from rir_mlx.backends import on_apple_silicon

_CGROUP = Path("/sys/fs/cgroup/memory.max")
_SYSCTL_SECONDS = 2


def physical_memory() -> int:
    """Bytes of memory, or what a container is limited to."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # "max", or no such file
        total = min(total, int(_CGROUP.read_text(encoding="utf-8")))
    return total


def free_memory() -> int | None:
    """Bytes that programs can still take (Linux); None elsewhere."""
    with suppress(OSError, StopIteration, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        return min(int(found.split()[1]) * 1024, physical_memory())
    return None


def wired_limit() -> int | None:
    """Bytes that the GPU of Apple silicon may keep in memory, as `sysctl iogpu.wired_limit_mb` says; 0 is the system's
    own limit, None another machine."""
    if not on_apple_silicon():
        return None
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        done = subprocess.run(
            ["sysctl", "-n", "iogpu.wired_limit_mb"],
            capture_output=True,
            text=True,
            timeout=_SYSCTL_SECONDS,
            check=True,
        )
        return int(done.stdout) * 2**20
    return 0


def free_disk(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, or of the nearest one above it that exists."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(place).free


def machine_name() -> str:
    """The system and the kind of processor."""
    release = platform.mac_ver()[0] if sys.platform == "darwin" else platform.release()
    return f"{platform.system()} {release}, {platform.machine()}, {os.cpu_count() or 1} processor cores"


def bytes_of_a_weight() -> int:
    """How wide a frozen weight is with `dtype: auto`: two bytes where this machine is fast in bfloat16."""
    if on_apple_silicon() or Path("/proc/driver/nvidia").exists():
        return 2
    with suppress(OSError):
        return 2 if " amx_tile" in Path("/proc/cpuinfo").read_text(encoding="utf-8") else 4
    return 4
