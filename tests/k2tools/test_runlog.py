"""The run log: chained, durable, valid up to any cut, and every flipped byte is noticed."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2tools.runlog import FIRST, Record, RunLog, verify

ROOT = Path(__file__).parents[2]


def call(number: int, **changes: object) -> Record:
    return Record(f"r{number}", "find", {"id": f"é{number}"}, "ok", 1.25)._replace(**changes)


def written(folder: Path, count: int = 3) -> bytes:
    """Write a log of some calls: folder -> its bytes."""
    log = RunLog(folder)
    for number in range(1, count + 1):
        log.append(call(number), f"body {number}")
    log.close()
    return (folder / "log.jsonl").read_bytes()


def test_records_are_chained_and_bodies_read_back(tmp_path: Path) -> None:
    written(tmp_path)
    verdict = verify(tmp_path)
    assert not verdict.problems
    assert [record["seq"] for record in verdict.records] == [1, 2, 3]
    assert verdict.records[0]["prev"] == FIRST
    log = RunLog(tmp_path)
    assert log.body("r2") == "body 2"
    assert log.body("r9") is None
    assert log.last_ref == 3
    log.close()


def test_equal_bodies_are_kept_once(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.append(call(1), "same")
    log.append(call(2), "same")
    log.close()
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    data = written(tmp_path, 2)
    path = tmp_path / "log.jsonl"
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        verdict = verify(tmp_path, bodies=False)
        last = len(data) - 1
        # The last record has no successor to state its hash: a change inside it shows only
        # where it breaks the line, its number or its own `prev`.
        if place < data.index(b"\n"):
            assert verdict.problems or len(verdict.records) < 2
        if place == last:
            assert verdict.torn_bytes
    path.write_bytes(data)
    assert not verify(tmp_path).problems


@pytest.mark.parametrize("text", ["\ud83d\ude00", "\ud800", "\0", "é\u2028", "x" * 10_000])
def test_any_text_can_be_logged_and_resumed(tmp_path: Path, text: str) -> None:
    for number in (1, 2):
        log = RunLog(tmp_path)
        log.append(call(number, args={text: [text, float("nan"), 1e300]}), text)
        log.close()
    assert not verify(tmp_path).problems


def test_a_changed_or_missing_body_is_noticed(tmp_path: Path) -> None:
    written(tmp_path)
    first, second, _ = sorted((tmp_path / "out").iterdir())
    first.write_bytes(b"other")
    second.unlink()
    assert len(verify(tmp_path).problems) == 2


@given(st.data())
def test_any_prefix_resumes_with_its_whole_records(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("run")
    whole = written(folder)
    cut = data.draw(st.integers(0, len(whole)))
    (folder / "log.jsonl").write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    log = RunLog(folder)
    assert log.torn_bytes == cut - (whole[:cut].rfind(b"\n") + 1)
    log.append(call(9), "after")
    log.close()
    verdict = verify(folder)
    assert not verdict.problems
    assert [record["ref"] for record in verdict.records] == [
        *(f"r{n + 1}" for n in range(kept)),
        "r9",
    ]


def test_a_damaged_log_is_not_continued(tmp_path: Path) -> None:
    data = written(tmp_path)
    (tmp_path / "log.jsonl").write_bytes(data.replace(b"find", b"open", 1))
    with pytest.raises(ValueError, match="damaged: line 2"):
        RunLog(tmp_path)


def test_two_servers_do_not_write_one_run(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    with pytest.raises(ValueError, match="in use by another server"):
        RunLog(tmp_path)
    log.close()


def test_a_redacted_log_holds_neither_arguments_nor_bodies(tmp_path: Path) -> None:
    log = RunLog(tmp_path, redact=True)
    log.append(call(1, args={"code": "SECRET"}), "SECRET")
    log.close()
    everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"SECRET" not in everything
    assert not verify(tmp_path).problems


def test_refs_inside_a_call_that_never_ended_are_not_given_again(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.append(call(6, parent="r5"), "")
    log.close()
    log = RunLog(tmp_path)
    assert log.last_ref == 6
    log.close()


def test_calls_that_end_together_share_a_flush_and_none_returns_before_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, go = RunLog(tmp_path), threading.Event()
    path, flushed = tmp_path / "log.jsonl", [0]

    def flush(fd: int) -> None:
        size = os.fstat(fd).st_size
        go.wait()
        flushed.append(size)

    def append(number: int) -> bool:
        log.append(call(number), "")
        return f'"r{number}"'.encode() in path.read_bytes()[: flushed[-1]]

    monkeypatch.setattr("k2tools.runlog.os.fsync", flush)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(append, number) for number in range(8)]
        while path.read_bytes().count(b"\n") < 8:
            time.sleep(0.001)
        go.set()
        assert all(answer.result() for answer in answers)
    assert len(flushed) <= 3  # begun with the first line, then for all the others
    log.close()
    assert not verify(tmp_path).problems


def test_a_flush_that_fails_leaves_the_chain_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = RunLog(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr("k2tools.runlog.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            log.append(call(1), "one")
    log.append(call(2), "two")
    log.close()
    verdict = verify(tmp_path)
    assert not verdict.problems
    assert len(verdict.records) == 2


def test_a_body_that_a_crash_left_half_written_is_written_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / hashlib.sha256(b"whole").hexdigest()).write_bytes(b"who")
    log = RunLog(tmp_path)
    log.append(call(1), "whole")
    assert log.body("r1") == "whole"
    log.close()


WRITER = """
import sys
from pathlib import Path
from k2tools.runlog import Record, RunLog
log = RunLog(Path(sys.argv[1]))
print("ready", flush=True)
for n in range(log.last_ref + 1, 10**9):
    log.append(Record(f"r{n}", "find", {"id": "x" * (n % 977)}, "ok", 1.0), f"body {n}")
    print(n, flush=True)
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_no_call_that_was_answered(tmp_path: Path) -> None:
    for number in range(20):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.01 + 0.003 * number)
            process.kill()
            answered = [line for line in process.stdout.read().split("\n")[:-1] if line]
        verdict = verify(tmp_path)
        assert not verdict.problems
        if answered:
            assert verdict.records[-1]["seq"] >= int(answered[-1])
