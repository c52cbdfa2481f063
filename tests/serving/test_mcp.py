"""`rir-mlx mcp`, asked by the client of the `mcp` package."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import processes
import pytest
from commands import LABELS, Run
from processes.client import ADDRESS

from rir_mlx.classification.loading import arm_to_use
from rir_mlx.storage.layout import RunDir

pytest.importorskip("mcp")


async def _ask(folder: Path, *calls: dict[str, Any]) -> tuple[Any, list[Any]]:
    """The server's tools, and what it answers to calls of `classify`."""
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import get_default_environment, stdio_client

    command, *words = processes.client()
    environment = get_default_environment() | {ADDRESS: os.environ[ADDRESS]}
    server = StdioServerParameters(
        command=command, args=[*words, "mcp", "runs/small", "--offline"], env=environment, cwd=folder
    )
    async with stdio_client(server, errlog=sys.__stderr__) as streams, ClientSession(*streams) as session:
        await session.initialize()
        tools = await session.list_tools()
        return tools, [await session.call_tool("classify", call) for call in calls]


@pytest.mark.slow
def test_a_client_is_told_the_labels_and_gets_each_label_with_its_reason(evaluated_run: Path) -> None:
    tools, (found, without, wrong, empty, unknown) = asyncio.run(
        _ask(
            evaluated_run.parents[1],
            {"texts": ["i was sad", "i feel happy today"]},
            {"texts": ["i was sad"], "reason": "never"},
            {"texts": ["i was sad"], "reason": "perhaps"},
            {"texts": ["i was sad", " "]},
            {"texts": ["i was sad"], "threshold": 0.9},
        )
    )
    [tool] = tools.tools
    assert tool.name == "classify"
    assert all(label in tool.description for label in LABELS)
    assert f"The {arm_to_use(RunDir(evaluated_run))[0]} classifier of small, trained on " in tool.description
    assert not found.isError
    first, second = found.structuredContent["predictions"]
    assert json.loads(found.content[0].text) == found.structuredContent
    assert first["reasoning"]
    assert second["reasoning"]
    assert set(first["probabilities"]) == set(LABELS)
    assert sum(first["probabilities"].values()) == pytest.approx(1)
    assert without.structuredContent["predictions"][0]["reasoning"] is None
    assert wrong.isError
    assert empty.isError
    assert "texts[1]: the text is empty" in empty.content[0].text
    assert unknown.isError, "it was ignored"
    assert "threshold" in unknown.content[0].text
    assert tool.inputSchema["additionalProperties"] is False
    assert set(tool.inputSchema["properties"]) == {"texts", "reason"}


def test_without_the_extra_its_name_is_said(rir: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rir_cli.answering.mcp_server.find_spec", lambda name: None)
    result = rir("mcp")
    assert result.code == 2
    assert "[mcp]" in result.err
