"""The protocol side: both eras, strict arguments, one text block, every call logged."""

import pytest

from k2tools.runlog import verify
from k2tools.settings import Settings
from tests.k2tools.conftest import ERAS, Connect, text

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("mode", ERAS)
async def test_a_misspelt_argument_is_answered_with_the_right_name_and_an_example(
    connect: Connect, mode: str
) -> None:
    async with connect(mode=mode) as client:
        answer = await client.call_tool("list_files", {"glo": "*"})
        assert answer.is_error
        assert "did you mean 'glob'?" in answer.content[0].text
        assert "Example: list_files(" in answer.content[0].text


@pytest.mark.parametrize("mode", ERAS)
async def test_every_call_is_logged_and_the_log_verifies(
    connect: Connect, settings: Settings, mode: str
) -> None:
    (settings.workspace / "a.txt").write_text("x")
    async with connect(mode=mode) as client:
        assert await text(client, "list_files") == "a.txt\t1\n[r1]"
        assert "no tool 'nope'" in await text(client, "nope")
    (run,) = (settings.state / "runs").iterdir()
    verdict = verify(run)
    assert not verdict.problems
    assert [(r["ref"], r["status"]) for r in verdict.records] == [("r1", "ok"), ("r2", "error")]


async def test_every_call_is_a_span_with_the_name_of_its_tool(connect: Connect) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    async with connect() as client:
        await text(client, "list_files")
    spans = {
        span.name: span for span in exporter.get_finished_spans() if span.kind.name == "SERVER"
    }
    assert spans["tools/call list_files"].attributes["gen_ai.tool.name"] == "list_files"
