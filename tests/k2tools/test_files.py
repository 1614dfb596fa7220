"""The file tools as a model sees them: the formats are frozen here."""

from dataclasses import replace

import pytest

from k2tools.settings import Settings
from k2tools.workspace import sha_of
from tests.k2tools.conftest import Connect, text

pytestmark = pytest.mark.anyio


async def test_reading_shows_lines_sha_and_what_is_unusual(
    connect: Connect, settings: Settings
) -> None:
    data = "café\r\ntwo\r\n".encode("cp1252")
    (settings.workspace / "a.txt").write_bytes(data)
    (settings.workspace / "empty").touch()
    async with connect() as client:
        assert await text(client, "read_file", path="a.txt") == (
            f"a.txt · 2 lines · sha {sha_of(data)} · cp1252 · CRLF\n1\tcafé\n2\ttwo\n[r1]"
        )
        assert await text(client, "read_file", path="empty") == (
            f"empty · 0 lines · sha {sha_of(b'')}\n[r2]"
        )
        assert "has 2 lines, so line=9" in await text(client, "read_file", path="a.txt", line=9)


async def test_a_long_file_is_read_in_pages_that_name_the_next(
    connect: Connect, settings: Settings
) -> None:
    (settings.workspace / "a.txt").write_text("".join(f"line {n}\n" for n in range(1, 1_001)))
    async with connect() as client:
        first = await text(client, "read_file", path="a.txt")
        assert first.endswith('\n200\tline 200\n[more: read_file(path="a.txt", line=201)]\n[r1]')
        page = await text(client, "read_file", path="a.txt", line=999, max_lines=2)
        assert page.split("\n")[1:] == ["999\tline 999", "1000\tline 1000", "[r2]"]
        two = await text(client, "read_file", path="a.txt", max_lines=2)
        assert '[more: read_file(path="a.txt", line=3, max_lines=2)]' in two


async def test_a_very_long_line_does_not_flood(connect: Connect, settings: Settings) -> None:
    (settings.workspace / "a.txt").write_text("x" * 100_000 + "\nend\n")
    async with connect() as client:
        answer = await text(client, "read_file", path="a.txt")
        assert "… [+98000 characters]" in answer
        assert "2\tend" in answer


async def test_writing_says_what_became_of_the_file(connect: Connect, settings: Settings) -> None:
    async with connect() as client:
        made = await text(client, "write_file", path="n/a.md", text="é\n")
        sha = sha_of("é\n".encode())
        assert made == f"n/a.md: created, 3 bytes, sha {sha}\n[r1]"
        again = await text(client, "write_file", path="n/a.md", text="b\n", if_sha=sha)
        assert again.startswith("n/a.md: replaced, 2 bytes")
        stale = await text(client, "write_file", path="n/a.md", text="c\n", if_sha=sha)
        assert "it changed since" in stale
    assert (settings.workspace / "n/a.md").read_text() == "b\n"


async def test_an_edit_returns_its_diff_and_a_dry_run_writes_nothing(
    connect: Connect, settings: Settings
) -> None:
    (settings.workspace / "a.txt").write_text("one\ntwo\n")
    arguments = {"path": "a.txt", "edits": [{"old": "two", "new": "2"}]}
    shown = "--- a/a.txt\n+++ b/a.txt\n@@ -1,2 +1,2 @@\n one\n-two\n+2"
    async with connect() as client:
        sha = sha_of(b"one\n2\n")
        dry = await text(client, "edit_file", **arguments, dry_run=True)
        assert dry == f"a.txt: would replace 1 place, sha {sha}\n{shown}\n[r1]"
        assert (settings.workspace / "a.txt").read_text() == "one\ntwo\n"
        wet = await text(client, "edit_file", **arguments)
        assert wet == f"a.txt: replaced 1 place, sha {sha}\n{shown}\n[r2]"
        assert (settings.workspace / "a.txt").read_text() == "one\n2\n"


async def test_of_several_edits_one_that_misses_leaves_the_file(
    connect: Connect, settings: Settings
) -> None:
    (settings.workspace / "a.txt").write_text("one\ntwo\n")
    edits = [{"old": "one", "new": "1"}, {"old": "three", "new": "3"}]
    async with connect() as client:
        answer = await text(client, "edit_file", path="a.txt", edits=edits)
        assert "edit 2 of 2 finds no 'three'" in answer
        assert "nothing was written" in answer
    assert (settings.workspace / "a.txt").read_text() == "one\ntwo\n"


async def test_lists_are_paged_and_an_empty_one_gives_a_hint(
    connect: Connect, settings: Settings
) -> None:
    (settings.workspace / "d").mkdir()
    for number in range(5):
        (settings.workspace / "d" / f"{number}.md").write_text("x" * number)
    async with connect(replace(settings, max_listed=2)) as client:
        first = await text(client, "list_files")
        assert first == (
            'd/0.md\t0\nd/1.md\t1\n[3 more: list_files(glob="**/*", cursor="d/1.md")]\n[r1]'
        )
        second = await text(client, "list_files", cursor="d/1.md")
        assert second.startswith("d/2.md\t2\nd/3.md\t3\n[1 more:")
        assert await text(client, "list_files", cursor="d/4.md") == "no more files\n[r3]"
        for glob, does in (("*.md", "**/*.md"), ("d", "d/**"), ("./d/", "d/**"), ("", "**")):
            hint = await text(client, "list_files", glob=glob)
            assert hint.startswith(f"no file matches {glob!r}; {does!r} does\n")
        nowhere = await text(client, "list_files", glob="../*")
        assert nowhere.startswith("no file matches '../*'. Paths are relative to the workspace")


async def test_an_empty_workspace_is_told_from_a_glob_that_misses(connect: Connect) -> None:
    async with connect() as client:
        for tool, arguments in (("list_files", {}), ("grep", {"pattern": "x"})):
            answer = await text(client, tool, **arguments)
            assert answer.startswith("no file matches '**/*': the workspace has none\n")


async def test_grep_tells_no_file_from_no_match_and_names_what_it_left_out(
    connect: Connect, settings: Settings
) -> None:
    (settings.workspace / "d").mkdir()
    (settings.workspace / "d" / "a.txt").write_text("x\n")
    (settings.workspace / "d" / "b.bin").write_bytes(b"x\0")
    async with connect() as client:
        folder = await text(client, "grep", pattern="x", glob="d")
        assert folder.startswith("no file matches 'd'; 'd/**' does\n")
        left_out = "[not searched: 1 files, binary, too large or closed]\n"
        found = await text(client, "grep", pattern="x", glob="d/**")
        assert found.startswith(f"d/a.txt:1: x\n{left_out}")
        missed = await text(client, "grep", pattern="y")
        assert missed.startswith(f"no line matches \"y\" in '**/*'\n{left_out}")


async def test_a_missing_file_is_answered_with_the_nearest_name(
    connect: Connect, settings: Settings
) -> None:
    (settings.workspace / "docs").mkdir()
    (settings.workspace / "docs" / "plan.md").touch()
    async with connect() as client:
        assert "did you mean docs/plan.md?" in await text(client, "read_file", path="plan.md")
        assert "did you mean docs/plan.md?" in await text(client, "read_file", path="docs/paln.md")
        for id in ("corpus:a.pdf", "r1"):
            assert "open reads the ids of search" in await text(client, "read_file", path=id)
