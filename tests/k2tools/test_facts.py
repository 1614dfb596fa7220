"""Facts: read-only, with provenance that is checked when the server starts."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from k2tools.corpus import Window
from k2tools.facts import COLUMNS, load
from k2tools.settings import Settings
from tests.k2tools.conftest import Connect, text

SOURCE = ["GDP of Pi", "In 2024 it was 27.36 trillion USD.", "Population: 1,204,300 people."]
ROWS = [
    {
        "key": "pi_2024.gdp",
        "value": 27.36,
        "unit": "T USD",
        "as_of": "2024-12-31",
        "source": "docs:pi.md:L2-L2",
    },
    {"key": "pi_2024.population", "value": 1204300, "source": "[docs:pi.md:L3]"},
    {"key": "pi_2024.area", "value": "12 km²", "unit": "", "source": "docs:pi.md:L1-L3"},
]


def lines_at(id: str, line: int, max_lines: int) -> Window | None:
    if id != "docs:pi.md":
        return None
    return Window("", SOURCE[line - 1 : line - 1 + max_lines], len(SOURCE))


def as_jsonl(path: Path, rows: list[dict]) -> Path:
    path = path / "facts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def as_sqlite(path: Path, rows: list[dict]) -> Path:
    path = path / "facts.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE TABLE facts({', '.join(COLUMNS)})")
        for row in rows:
            cells = [row.get(name) for name in COLUMNS]
            connection.execute("INSERT INTO facts VALUES(?, ?, ?, ?, ?)", cells)
    return path


@pytest.mark.parametrize("write", [as_jsonl, as_sqlite])
def test_both_formats_give_the_same_facts(
    tmp_path: Path, write: Callable[[Path, list[dict]], Path]
) -> None:
    facts = load(write(tmp_path, ROWS), lines_at)
    assert sorted(map(str, facts)) == [
        "pi_2024.area = 12 km² [docs:pi.md:L1-L3] · the source words the value differently",
        "pi_2024.gdp = 27.36 T USD (as of 2024-12-31) [docs:pi.md:L2-L2]",
        "pi_2024.population = 1204300 [docs:pi.md:L3-L3]",
    ]


def test_a_number_inside_a_longer_one_is_no_support(tmp_path: Path) -> None:
    for value, literal in (("7.36", False), ("27.3", False), ("27.36", True), ("2024", True)):
        row = {"key": "k", "value": value, "source": "docs:pi.md:L2"}
        (fact,) = load(as_jsonl(tmp_path, [row]), lines_at)
        assert fact.literal is literal, value


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"source": "docs:other.md:L1"}, "no such document"),
        ({"source": "docs:pi.md:L3-L4"}, "it has 3 lines"),
        ({"source": "docs:pi.md:L3-L2"}, "does not exist"),
        ({"source": "docs:pi.md"}, "source must be like"),
        ({"source": None}, "source is missing"),
        ({"value": None}, "value is missing"),
        ({"value": True}, "text or a number"),
        ({"value": [1]}, "text or a number"),
        ({"value": "a\nb = 7 [docs:pi.md:L1]"}, "one printable line"),
        ({"key": "\ud800"}, "one printable line"),
        ({"value": float("nan")}, "value must be finite"),
        ({"as_of": "last year"}, "as_of must be like"),
        ({"as_of": "2024-13"}, "as_of must be like"),
        ({"extra": 1}, "and nothing else"),
        ({"key": "pi_2024.population"}, "twice"),
    ],
)
def test_one_wrong_row_refuses_the_whole_file_and_is_named(
    tmp_path: Path, change: dict, reason: str
) -> None:
    rows = [ROWS[0] | change, ROWS[1]]
    with pytest.raises(ValueError, match=r"facts.jsonl is refused. line [12]: ") as error:
        load(as_jsonl(tmp_path, rows), lines_at)
    assert reason in str(error.value)


def test_lines_that_are_no_json_and_tables_of_other_columns_are_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"key": \n[1]\n')
    with pytest.raises(ValueError, match=r"line 1: .*; line 2: a row has key"):
        load(bad, lines_at)
    bad.write_text('{"key": "k"}', "utf-16")
    with pytest.raises(ValueError, match=r"bad.jsonl is refused. the file: must be JSON lines in"):
        load(bad, lines_at)
    bad.write_text(json.dumps(ROWS[0]), "utf-8-sig")
    assert len(load(bad, lines_at)) == 1
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE facts(key, value)")
    with pytest.raises(ValueError, match="needs the columns"):
        load(tmp_path / "x.sqlite", lines_at)


@pytest.fixture
def equipped(settings: Settings, tmp_path: Path) -> Settings:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "pi.md").write_text("\n".join(SOURCE))
    return replace(
        settings,
        corpora=(str(tmp_path / "docs"),),
        facts=str(as_jsonl(tmp_path, ROWS)),
    )


@pytest.mark.anyio
async def test_facts_are_looked_up_by_key_and_listed_by_query(
    connect: Connect, equipped: Settings
) -> None:
    async with connect(equipped) as client:
        assert await text(client, "facts", key="pi_2024.gdp") == (
            "pi_2024.gdp = 27.36 T USD (as of 2024-12-31) [docs:pi.md:L2-L2]\n[r1]"
        )
        listed = await text(client, "facts", query="pi populations", limit=1)
        assert listed.startswith("pi_2024.population = ")
        assert "[2 more; narrow the query]" in listed
        assert "nearest keys: pi_2024.gdp" in await text(client, "facts", key="pi_2023.gdp")
        assert "either key or query" in await text(client, "facts")
        assert "no key among 3" in await text(client, "facts", query="zebra")


@pytest.mark.anyio
async def test_without_a_file_the_tool_says_what_to_do(connect: Connect) -> None:
    async with connect() as client:
        assert "use search" in await text(client, "facts", key="x")


@pytest.mark.anyio
async def test_a_server_with_an_unsupported_fact_does_not_start(
    connect: Connect, equipped: Settings
) -> None:
    Path(equipped.corpora[0], "pi.md").write_text("one line")
    with pytest.raises(Exception, match=r"facts\.jsonl is refused") as caught:
        async with connect(equipped):
            pass
    error = caught.value
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, ValueError)
