"""The tool `python`, end to end: a client, the server, a real sandbox."""

import dataclasses
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from k2tools.runlog import verify
from k2tools.sandbox import ladder
from k2tools.sandbox.inside import worker
from k2tools.sandbox.jail import Tier
from k2tools.sandbox.launcher import descendants
from k2tools.settings import Settings
from tests.k2tools import canaries
from tests.k2tools.conftest import Connect, text
from tests.k2tools.played import Played
from tests.k2tools.tiers import ANY_TIER, TIERS

pytestmark = [pytest.mark.anyio, ANY_TIER]


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    with canaries.workspace() as workspace:
        yield Settings(workspace, tmp_path / "state", preload=(), warm_sandboxes=1)


async def test_the_last_expression_is_shown_and_nothing_is_kept_between_fresh_processes(
    connect: Connect,
) -> None:
    async with connect() as client:
        assert await text(client, "python", code="x = 6\nx * 7") == "42\n[r1]"
        assert "NameError: name 'x' is not defined" in await text(client, "python", code="x")
        assert await text(client, "python", code="y = 1") == "(no output)\n[r3]"


async def test_a_session_keeps_variables_classes_and_imports(connect: Connect) -> None:
    async with connect() as client:
        first = await text(
            client, "python", code="import math\nclass P:\n    z = 3\nmath.pi", session="new"
        )
        line, value, _ = first.split("\n")
        handle = line.removeprefix("session ")
        assert len(handle) >= len("py_") + 22
        assert value == "3.141592653589793"
        code = "import pickle\npickle.loads(pickle.dumps(P())).z + _ + math.floor(2.5)"
        assert (await text(client, "python", code=code, session=handle)).startswith("8.14159")


async def test_output_comes_in_the_order_it_was_printed_then_value_then_error(
    connect: Connect,
) -> None:
    async with connect() as client:
        code = (
            "import sys, subprocess\nprint('one')\nprint('two', file=sys.stderr)\n"
            "subprocess.run(['echo', 'three'])\ndef f():\n    return {}['key']\nf()"
        )
        answer = await text(client, "python", code=code)
        answer = answer.replace("    ~^^\n", "")  # Python 3.13 points at calls too
        assert answer == (
            "one\ntwo\nthree\n"
            "Traceback (most recent call last):\n"
            '  File "<cell 1>", line 7, in <module>\n    f()\n'
            "  File \"<cell 1>\", line 6, in f\n    return {}['key']\n           ~~^^^^^^^\n"
            "KeyError: 'key'\n[r1]"
        )


async def test_long_output_keeps_head_and_tail_and_the_rest_is_behind_the_ref(
    connect: Connect,
) -> None:
    async with connect() as client:
        answer = await text(client, "python", code="for i in range(5000): print('line', i)")
        assert answer.startswith("line 0\n")
        assert "line 4999\n[r1]" in answer
        assert 'open(id="r1", line=' in answer
        assert len(answer) <= 4_100


async def test_changed_files_are_named_and_the_workspace_is_importable(
    connect: Connect, settings: Settings
) -> None:
    (settings.workspace / "mine.py").write_text("def g():\n    raise ValueError('mine')\n")
    (settings.workspace / "old.txt").write_text("x")
    os.chown(settings.workspace / "old.txt", *canaries.owner.sandbox_owner(settings.workspace))
    async with connect() as client:
        code = "import os, mine\nos.remove('old.txt')\nopen('new.txt', 'w').write('12')\nmine.g()"
        answer = await text(client, "python", code=code)
        assert '  File "mine.py", line 2, in g\n' in answer
        assert "[files: new.txt new 2 B; old.txt removed]" in answer


async def test_a_cell_over_its_time_is_interrupted_and_the_session_lives_on(
    connect: Connect,
) -> None:
    async with connect() as client:
        first = await text(client, "python", code="kept = 1", session="new")
        handle = first.split("\n")[0].removeprefix("session ")
        code = "print('begun')\nwhile True: pass"
        answer = await text(client, "python", code=code, session=handle, timeout_s=1)
        assert answer.startswith("begun\n")
        assert "KeyboardInterrupt" in answer
        assert "[interrupted after 1 s; variables are kept]" in answer
        assert (await text(client, "python", code="kept", session=handle)).startswith("1\n")


async def test_a_cell_that_ignores_the_interrupt_is_killed_and_says_what_is_lost(
    connect: Connect,
) -> None:
    async with connect() as client:
        code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint(1)\nwhile 1: 0"
        first = await text(client, "python", code="0", session="new")
        handle = first.split("\n")[0].removeprefix("session ")
        answer = await text(client, "python", code=code, session=handle, timeout_s=1)
        assert answer.startswith("1\n[killed: it did not stop when interrupted; its variables")
        again = await text(client, "python", code="1", session=handle)
        assert "unknown or expired" in again
        assert 'session="new" starts another' in again


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os\nos._exit(3)", "its process died: exit status 3"),
        ("import ctypes\nctypes.string_at(0)", "its process died: segmentation fault"),
        ("import os\nos.closerange(3, 64)\nimport time\ntime.sleep(9)", "its process died"),
    ],
)
async def test_the_death_of_the_process_is_told(connect: Connect, code: str, why: str) -> None:
    async with connect() as client:
        answer = await text(client, "python", code=code)
        assert answer.startswith(f"[killed: {why}"), answer


@pytest.mark.parametrize(
    "frame",
    [
        'b"\\xff\\xff\\xff\\xff" + b"x" * 100',
        'b"\\x00\\x00\\x00\\x02[]"',
        'b"\\x00\\x00\\x00\\x04nope"',
        'b"\\x00\\x00\\x90\\x00" + b"[" * 0x9000',
        "packed({'kind': 'done', 'id': 99, 'value': '', 'error': ''})",
        "packed({'kind': 'done', 'id': 1, 'value': 7, 'error': ''})",
        "packed({'kind': 'call', 'id': 1, 'tool': ['search'], 'args': {}})",
        "packed({'kind': 'ready'})",
    ],
)
async def test_a_forged_frame_ends_the_session_and_nothing_else(
    connect: Connect, frame: str
) -> None:
    code = f"""
import gc, json, os, struct, time
def packed(m):
    b = json.dumps(m).encode()
    return struct.pack('>I', len(b)) + b
import k2_inside.bridge
link = next(o for o in gc.get_objects() if type(o) is k2_inside.bridge.Bridge)
os.write(link._outcomes, {frame})
time.sleep(9)
"""
    async with connect() as client:
        answer = await text(client, "python", code=code)
        assert "[killed: it broke the protocol" in answer
        assert await text(client, "python", code="1") == "1\n[r2]"


async def test_a_forged_answer_with_broken_text_stays_an_answer(connect: Connect) -> None:
    async with connect() as client:
        answer = await text(client, "python", code="print('\\x00')\n'\\ud800\\x00'")
        assert answer.endswith("'\\ud800\\x00'\n[r1]")


async def test_floods_of_output_are_bounded(connect: Connect, settings: Settings) -> None:
    async with connect() as client:
        code = "import os\nb = b'x' * (1 << 20)\nfor _ in range(256): os.write(1, b)\nprint('end')"
        answer = await text(client, "python", code=code, timeout_s=30)
        assert "bytes of output dropped from the middle]" in answer
    (run,) = (settings.state / "runs").iterdir()
    assert verify(run).records[0]["out_len"] <= settings.body_chars


async def test_one_call_runs_one_waits_and_more_are_refused(
    connect: Connect, settings: Settings
) -> None:
    answers: list[str] = []
    async with connect() as client:
        first = await text(client, "python", code="import os, time", session="new")
        handle = first.split("\n")[0].removeprefix("session ")

        wait = "while not os.path.exists('go'): time.sleep(0.01)\nprint('went')"

        async def call() -> None:
            answers.append(await text(client, "python", code=wait, session=handle))

        with anyio.fail_after(25):
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(call)
                while len(answers) < 2:
                    await anyio.sleep(0.01)
                (settings.workspace / "go").touch()
    assert sum("is busy and one call waits already" in a for a in answers) == 2
    assert sum(a.startswith("went\n") for a in answers) == 2


async def test_a_guessed_handle_opens_nothing_and_the_end_leaves_no_process(
    connect: Connect,
) -> None:
    before = set(descendants(os.getpid()))
    async with connect() as client:
        await text(client, "python", code="token = 1", session="new")
        assert set(descendants(os.getpid())) > before
        guess = await text(client, "python", code="token", session="py_" + "A" * 22)
        assert "unknown or expired" in guess
    assert set(descendants(os.getpid())) <= before


async def test_the_least_used_session_makes_room(connect: Connect, settings: Settings) -> None:
    async with connect(dataclasses.replace(settings, max_sessions=1)) as client:
        first = await text(client, "python", code="1", session="new")
        await text(client, "python", code="1", session="new")
        handle = first.split("\n")[0].removeprefix("session ")
        assert "unknown or expired" in await text(client, "python", code="1", session=handle)


async def test_a_cancelled_call_stops_and_its_session_keeps_its_variables(
    connect: Connect, settings: Settings
) -> None:
    async with connect() as client:
        first = await text(client, "python", code="n = 0\nimport time", session="new")
        handle = first.split("\n")[0].removeprefix("session ")
        code = "while True:\n    n += 1\n    open('runs', 'w').close()\n    time.sleep(0.01)"
        with anyio.fail_after(25):
            async with anyio.create_task_group() as group:
                group.start_soon(client.call_tool, "python", {"code": code, "session": handle})
                while not (settings.workspace / "runs").exists():
                    await anyio.sleep(0.01)
                group.cancel_scope.cancel()
            answer = await text(client, "python", code="time.sleep(0.1)\nn", session=handle)
            again = await text(client, "python", code="n", session=handle)
        assert answer.split("\n")[0] == again.split("\n")[0] != "0"


@pytest.mark.slow
async def test_figures_become_files_that_the_text_describes(
    connect: Connect, settings: Settings
) -> None:
    pytest.importorskip("matplotlib")
    code = (
        "import matplotlib.pyplot as plt\nplt.plot([1, 2, 4])\nplt.title('growth')\nplt.show()\n"
        "print('then')\nplt.bar(['a', 'b'], [1, 2])\nplt.gcf()"
    )
    async with connect() as client:
        answer = await text(client, "python", code=code, timeout_s=50)
    first, then, second, files, _ = answer.split("\n")
    assert first == "[figure: outputs/figure_1.png; 'growth', 1 lines]"
    assert then == "then"
    assert second == "[figure: outputs/figure_2.png; 2 patches]"
    assert files.startswith("[files: outputs/figure_1.png new ")
    data = (settings.workspace / "outputs/figure_1.png").read_bytes()
    assert data.startswith(b"\x89PNG")


@pytest.mark.slow
async def test_a_table_that_is_not_shown_whole_is_saved(
    connect: Connect, settings: Settings
) -> None:
    pytest.importorskip("pandas")
    code = "import pandas as pd\ndisplay(pd.Series([7], name='s'))\npd.DataFrame({'a': range(200)})"
    async with connect() as client:
        answer = await text(client, "python", code=code, timeout_s=50)
    assert "Name: s, dtype: int64" in answer
    assert "[200 rows x 1 columns]\n[table: outputs/table_1.csv]" in answer
    assert len((settings.workspace / "outputs/table_1.csv").read_text().split()) == 201


async def test_magics_are_refused_with_the_way_to_say_it(connect: Connect) -> None:
    async with connect() as client:
        answer = await text(client, "python", code="!ls")
        assert "no ! or % commands here: use subprocess.run" in answer


async def test_await_works_at_the_top_and_a_semicolon_keeps_quiet(connect: Connect) -> None:
    code = "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 5\nawait f()"
    async with connect() as client:
        assert await text(client, "python", code=code) == "5\n[r1]"
        assert await text(client, "python", code="7;  # a comment") == "(no output)\n[r2]"


async def test_a_full_workspace_ends_the_call_and_lets_code_remove_but_not_write(
    connect: Connect, settings: Settings
) -> None:
    write = "for i in range(64):\n    open(f'big{i}', 'wb').write(bytes(2**20))\nwhile 1: 0"
    async with connect(dataclasses.replace(settings, workspace_growth_bytes=2**24)) as client:
        answer = await text(client, "python", code=write)
        assert re.search(r"killed: the workspace grew by \d+ MiB, the limit is 16 MiB", answer)
        assert "File too large" in await text(client, "python", code=write)
        wait = "import time, os, glob\ntime.sleep(0.5)\n"
        code = wait + "for f in glob.glob('big*'): os.remove(f)\n7"
        assert (await text(client, "python", code=code)).startswith("7\n[files: big0 removed;")
        assert "new 1 B" in await text(client, "python", code="open('small', 'w').write('x')")


@pytest.mark.parametrize("tier", TIERS)
async def test_each_tier_serves_sessions(
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    tier: Tier,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ladder, "TIERS", (tier,))
    async with connect() as client:
        code = "import os, tempfile, subprocess, sys\nx = 1\nopen('made', 'w').write('a')\n"
        code += "tempfile.NamedTemporaryFile().write(b'x')\n"
        code += "subprocess.run([sys.executable, '-c', 'print(2)'], check=True)\nos.getuid() != 0"
        first = await text(client, "python", code=code, session="new")
        handle = first.split("\n")[0].removeprefix("session ")
        assert "\n2\nTrue\n[files: made new 1 B]" in first
        answer = await text(
            client, "python", code="import shutil\nshutil.copy('made', 'b')\nx", session=handle
        )
        assert answer.startswith("1\n[files: b new 1 B]")
    assert f"python runs in tier {tier}" in capsys.readouterr().err


async def test_a_wrong_interpreter_is_told_and_the_server_lives_on(
    connect: Connect, settings: Settings
) -> None:
    for unsafe in (False, True):
        wrong = dataclasses.replace(settings, python="/bin/false", unsafe_no_sandbox=unsafe)
        async with connect(dataclasses.replace(wrong, run=f"unsafe-{unsafe}")) as client:
            assert "/bin/false does not answer as Python" in await text(client, "python", code="1")
            assert not (await client.call_tool("list_files", {})).is_error


async def test_the_unsafe_flag_runs_python_unconfined_and_says_so(
    connect: Connect, settings: Settings
) -> None:
    async with connect(dataclasses.replace(settings, unsafe_no_sandbox=True)) as client:
        (listed,) = [t for t in (await client.list_tools()).tools if t.name == "python"]
        assert "The sandbox is switched off here" in listed.description
        assert listed.annotations.open_world_hint
        assert "True" in await text(client, "python", code="import os\n'etc' in os.listdir('/')")


async def test_calls_with_their_own_process_run_side_by_side(connect: Connect) -> None:
    async with connect() as client, anyio.create_task_group() as group:
        with anyio.fail_after(60):
            for _ in range(4):
                group.start_soon(
                    lambda: text(client, "python", code="import time; time.sleep(0.2)")
                )


async def test_a_read_only_workspace_stays_as_it_is(connect: Connect, settings: Settings) -> None:
    async with connect(dataclasses.replace(settings, writable=False)) as client:
        answer = await text(client, "python", code="open('x', 'w')")
        assert "Error: [Errno" in answer
        assert not (settings.workspace / "x").exists()


async def test_without_a_tier_python_says_how_to_get_one(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "_missing", lambda tier: "not here")
    async with connect() as client:
        answer = await client.call_tool("python", {"code": "1"})
        assert answer.is_error
        assert "python is not available: no sandbox works here" in answer.content[0].text
        assert "apt-get install bubblewrap" in answer.content[0].text
        assert not (await client.call_tool("list_files", {})).is_error


async def test_the_same_code_prints_the_same_bytes(connect: Connect) -> None:
    code = "print({'a', 'b', 'c', 'd'}, object, hash('x'))\nlambda: 1"
    async with connect() as client:
        one, two = [await text(client, "python", code=code) for _ in range(2)]
        assert one.replace("[r1]", "") == two.replace("[r2]", "")


def ending(answer: str) -> str:
    """Tell the ways apart that a read in a race ends."""
    return next((way for way in ("leads outside", "inside") if way in answer), "")


@pytest.mark.slow
async def test_swapping_folders_for_links_leads_no_tool_outside(
    connect: Connect, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.txt").write_text("leaked")
    outside = str(tmp_path / "outside")
    swap = (
        f"import os\nos.makedirs('real', exist_ok=True)\nopen('real/a.txt', 'w').write('inside')\n"
        f"os.symlink({outside!r}, 'link')\nos.symlink('real', 'd')\n"
        "while True:\n    os.rename('link', 'd2'); os.rename('d', 'link'); os.rename('d2', 'd')"
    )
    seen = []
    busy = dataclasses.replace(settings, rate_burst_calls=10**6)
    async with connect(busy) as client, anyio.create_task_group() as group:
        call = {"code": swap, "timeout_s": 45}
        group.start_soon(client.call_tool, "python", call)
        with anyio.move_on_after(40):
            while len(seen) < 2_000 or not {"inside", "leads outside"} <= set(map(ending, seen)):
                seen.append(await text(client, "read_file", path="d/a.txt"))
        group.cancel_scope.cancel()
    assert {"inside", "leads outside"} <= set(map(ending, seen))
    assert not any("leaked" in answer for answer in seen)


@pytest.mark.slow
async def test_three_hundred_calls_leave_nothing_behind(
    connect: Connect, settings: Settings
) -> None:
    warm = dataclasses.replace(settings, warm_sandboxes=0)
    async with connect(warm) as client:
        first = await text(client, "python", code="n = 0", session="new")
        handle = first.split("\n")[0].removeprefix("session ")
        await text(client, "python", code="1")
        before = len(os.listdir("/proc/self/fd")), len(descendants(os.getpid()))
        for number in range(300):
            if number % 10:
                answer = await text(client, "python", code="n += 1; n", session=handle)
                assert answer.startswith(f"{number - number // 10}\n"), answer
            else:
                assert (await text(client, "python", code="1")).startswith("1\n")
        after = len(os.listdir("/proc/self/fd")), len(descendants(os.getpid()))
        assert after == before


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="the sandbox needs Linux")
def test_an_interrupt_after_the_last_statement_still_ends_in_a_whole_answer() -> None:
    class Late(worker.cell.Cells):
        def __init__(self) -> None:
            """Leave the interpreter of the tests as it is."""

        def run(self, code: str) -> dict[str, Any]:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    try:
        assert worker.run(Late(), "1") == {"value": "", "error": "KeyboardInterrupt"}
    finally:
        signal.signal(signal.SIGINT, before)


async def test_a_kernel_that_a_gateway_starts_but_does_not_open_is_ended(
    connect: Connect, settings: Settings, played: Played
) -> None:
    pytest.importorskip("websockets")
    played.play({"id": "k1"})  # also where the channels should be
    async with connect(dataclasses.replace(settings, gateway_url=played.url)) as client:
        assert "did not start a kernel" in await text(client, "python", code="1")
    asked = [(request.method, request.path) for request in played.asked]
    assert asked == [
        ("POST", "/api/kernels"),
        ("GET", "/api/kernels/k1/channels"),
        ("DELETE", "/api/kernels/k1"),
    ]
