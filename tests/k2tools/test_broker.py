"""`import k2` inside python: the other tools, validated, budgeted, logged under the call."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from k2tools import python
from k2tools.results import Result
from k2tools.runlog import verify
from k2tools.settings import Settings
from k2tools.toolbox import Context, Pack, tool
from tests.k2tools import canaries
from tests.k2tools.conftest import Connect, text
from tests.k2tools.tiers import ANY_TIER

pytestmark = [pytest.mark.anyio, ANY_TIER]


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    with canaries.workspace() as workspace:
        yield Settings(workspace, tmp_path / "state", preload=(), warm_sandboxes=1)


async def test_other_tools_are_reached_and_logged_under_the_call(
    connect: Connect, settings: Settings
) -> None:
    (settings.workspace / "a.txt").write_text("alpha\n")
    async with connect() as client:
        code = (
            "import k2\nprint('a.txt' in k2.list_files(glob='*.txt'))\n"
            "try: k2.read_file(path='../etc/passwd')\nexcept k2.ToolError as e: print(e)\n"
            "try: k2.python(code='1')\nexcept k2.ToolError as e: print(e)\n"
            "try: k2.list_files(glo='x')\nexcept k2.ToolError as e: print(e)"
        )
        answer = await text(client, "python", code=code)
        assert answer.startswith("True\n'../etc/passwd' leads outside.")
        assert "python cannot call itself" in answer
        assert "did you mean 'glob'?" in answer
    (run,) = (settings.state / "runs").iterdir()
    verdict = verify(run)
    assert not verdict.problems
    parents = {r["tool"]: r["parent"] for r in verdict.records}
    assert parents["list_files"] == parents["read_file"] == "r1"
    assert parents["python"] == ""


async def test_files_of_the_other_tools_can_be_changed_and_theirs_read(
    connect: Connect, settings: Settings
) -> None:
    async with connect() as client:
        await text(client, "write_file", path="new/a.txt", text="one\n")
        code = "open('new/a.txt', 'a').write('two\\n')\nopen('new/b.txt', 'w').write('three')"
        assert "new/a.txt changed 8 B; new/b.txt new 5 B" in await text(client, "python", code=code)
        edit = {"path": "new/b.txt", "edits": [{"old": "three", "new": "four"}]}
        assert not (await client.call_tool("edit_file", edit)).is_error
        assert "two" in await text(client, "read_file", path="new/a.txt")


async def test_inner_calls_are_counted_in_the_budget_and_bounded_per_cell(
    connect: Connect, settings: Settings
) -> None:
    code = (
        "import k2\nfor i in range(9):\n    try: k2.list_files()\n"
        "    except k2.ToolError as e: print(i, e)"
    )
    async with connect(dataclasses.replace(settings, max_inner_calls=4)) as client:
        assert "4 a cell may make 4 calls of k2" in await text(client, "python", code=code)
    limited = dataclasses.replace(settings, budget_calls=3, run="budget")
    async with connect(limited) as client:
        assert "2 the budget of 3 calls is used up" in await text(client, "python", code=code)


async def test_k2_from_a_thread_that_outlives_its_cell_waits_for_the_next(
    connect: Connect,
) -> None:
    code = (
        "import k2, threading, time\ndef late():\n    time.sleep(0.2)\n    print(k2.list_files())\n"
        "t = threading.Thread(target=late)\nt.start()"
    )
    async with connect() as client:
        first = await text(client, "python", code=code, session="new")
        handle = first.split("\n")[0].removeprefix("session ")
        answer = await text(client, "python", code="time.sleep(0.3)\nt.join()", session=handle)
        assert "no file matches" in answer


async def large(cx: Context, size: int) -> Result:
    """Answer with data of a size."""
    return Result("large", data={"text": "x" * size, "none": None})


async def test_data_comes_as_values_and_too_much_of_it_is_refused(connect: Connect) -> None:
    packs = (python.PACK, Pack((tool(large, example={}, annotations=python.WRITE),)))
    code = (
        "import k2\nprint(k2.large(size=3))\n"
        "try: k2.large(size=2 << 20)\nexcept k2.ToolError as e: print(e)\n"
        "try: k2.large(size='a')\nexcept k2.ToolError as e: print(e)\n"
        "try: k2.large(size=object())\nexcept TypeError as e: print('not JSON')\n"
        "try: k2._secret\nexcept AttributeError as e: print(e)"
    )
    async with connect(packs=packs) as client:
        answer = await text(client, "python", code=code)
    lines = answer.split("\n")
    assert lines[0] == "{'text': 'xxx', 'none': None}"
    assert lines[1].startswith("large: a message of 2097")
    assert lines[1].endswith("ask for less")
    assert lines[2].startswith("large: size must be integer, got 'a'")
    assert lines[3:5] == ["not JSON", "module 'k2' has no attribute '_secret'"]


async def test_a_child_process_is_told_that_k2_is_not_for_it(connect: Connect) -> None:
    code = (
        "import k2, os\nif not os.fork():\n    try: k2.list_files()\n"
        "    except k2.ToolError as e: print(e)\n    os._exit(0)\nos.wait()[1]"
    )
    async with connect() as client:
        answer = await text(client, "python", code=code)
    assert answer.startswith("k2 works in the main process only, not in its children\n0\n")


async def test_an_interrupt_in_the_middle_of_an_inner_call_keeps_the_pipe_in_step(
    connect: Connect, settings: Settings
) -> None:
    many = 10**6
    free = dataclasses.replace(
        settings, max_inner_calls=many, rate_calls_per_s=float(many), rate_burst_calls=many
    )
    async with connect(free) as client:
        code = "import k2\nn = 0\nwhile True:\n    k2.list_files()\n    n += 1"
        first = await text(client, "python", code=code, session="new", timeout_s=1)
        handle = first.split("\n")[0].removeprefix("session ")
        assert "variables are kept" in first
        answer = await text(client, "python", code="k2.list_files(), n > 0", session=handle)
        assert "no file matches" in answer
        assert "True)" in answer
