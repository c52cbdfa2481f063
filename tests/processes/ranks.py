"""Two ranks on this machine, which find each other by what torchrun and mlx.launch set, and start warm."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from processes import Running, start_command


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_ranks(folder: Path, backend: str, *arguments: str) -> list[Running]:
    """`rir-mlx` with these arguments in two processes, in that folder."""
    ports = [free_port(), free_port()]
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]), encoding="utf-8")
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ports[0]), "WORLD_SIZE": "2"}
    environments: dict[str, list[dict[str, str]]] = {
        "torch": [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in (0, 1)],
        "mlx": [{"MLX_HOSTFILE": str(hosts), "MLX_RANK": str(rank)} for rank in (0, 1)],
    }
    return [start_command(folder, *arguments, **environment) for environment in environments[backend]]
