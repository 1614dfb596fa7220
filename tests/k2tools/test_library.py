"""The library reads what changed and only that, survives a kill, and says how far it is."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from k2tools import library as library_module
from k2tools.cli import parser, settings_of
from k2tools.documents import Extracted, Extractor
from k2tools.index import Index, opened
from k2tools.library import Folder, Library, named
from k2tools.query import parse
from k2tools.results import ToolError
from k2tools.settings import Settings
from k2tools.workspace import Workspace
from tests.k2tools.conftest import Connect, text

ROOT = Path(__file__).parents[2]


class Counting(Extractor):
    """Counts what it reads."""

    def __init__(self) -> None:
        super().__init__(10.0)
        self.read = 0

    def __call__(self, kind: str, data: bytes, **options: str) -> Extracted:
        self.read += 1
        return super().__call__(kind, data, **options)


@pytest.fixture
def extractor() -> Counting:
    return Counting()


@pytest.fixture
def library(tmp_path: Path, extractor: Counting) -> Iterator[Library]:
    (tmp_path / "ws").mkdir()
    workspace = Workspace(tmp_path / "ws")
    made = Library(Index(tmp_path / "index.sqlite"), [Folder("", workspace)], extractor)
    yield made
    made.close()
    workspace.close()


def ids(library: Library, query: str) -> list[str]:
    return [hit.id for hit in library.index.search(parse(query), 20)]


def test_only_what_changed_is_read_again(
    library: Library, extractor: Counting, tmp_path: Path
) -> None:
    for name in "abc":
        (tmp_path / "ws" / f"{name}.md").write_text(f"common {name}")
    library.read_all()
    assert extractor.read == 3
    library.refresh_workspace()
    assert extractor.read == 3
    (tmp_path / "ws" / "b.md").write_text("common other")
    (tmp_path / "ws" / "c.md").unlink()
    library.refresh_workspace()
    assert extractor.read == 4
    assert ids(library, "common") == ["a.md", "b.md"]
    assert ids(library, "other") == ["b.md"]


def test_a_file_whose_reading_was_broken_off_is_read_at_the_next_start(
    library: Library, extractor: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ws" / "a.md").write_text("lake")

    def broken_off(*_: object) -> Extracted:
        library.stop()
        raise ToolError("the server is stopping")

    with monkeypatch.context() as stopping:
        stopping.setattr(Counting, "__call__", broken_off)
        library.read_all()
    assert library.index.stamps("") == {}
    successor = Library(library.index, library.folders, extractor)
    successor.read_all()
    assert ids(successor, "lake") == ["a.md"]


def test_a_name_that_cannot_be_an_id_is_passed_over(library: Library, tmp_path: Path) -> None:
    for name in (b"bad\xff.md", b"line\nbreak.md", b"good.md"):
        (tmp_path / "ws" / os.fsdecode(name)).write_text("common")
    library.read_all()
    assert ids(library, "common") == ["good.md"]


def test_a_walk_that_takes_long_is_followed_by_a_rest(
    library: Library, extractor: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.read_all()
    clock = iter([0.0, 1.0, 5.0, 12.0, 12.0])
    monkeypatch.setattr(library_module.time, "monotonic", lambda: next(clock))
    library.refresh_workspace()  # took a second
    (tmp_path / "ws" / "a.md").write_text("common")
    library.refresh_workspace()  # four seconds later: still resting
    assert extractor.read == 0
    library.refresh_workspace()
    assert extractor.read == 1


def test_corpus_folders_have_names_of_their_own() -> None:
    folders = ("/a/docs", "/b/docs", "/c/my docs", "/d/https", "/", "/a/docs")
    assert [name for name, _, _ in named(folders)] == [
        "docs",
        "docs-2",
        "my-docs",
        "https-2",
        "corpus",
    ]


def test_files_given_alone_share_the_name_of_their_folder(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "x.md", tmp_path / "b" / "a" / "x.md", tmp_path / "a" / "y.md"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert list(named(tuple(map(str, paths)))) == [
        ("a", tmp_path / "a", {"x.md", "y.md"}),
        ("a-2", tmp_path / "b" / "a", {"x.md"}),
    ]
    whole = (*map(str, paths), str(tmp_path / "a"))
    assert next(named(whole)) == ("a", tmp_path / "a", frozenset())


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A file whose neighbours are nobody's business."""
    (tmp_path / "books" / "inner").mkdir(parents=True)
    for name in ("guide.md", "diary.md", "inner/guide.md"):
        (tmp_path / "books" / name).write_text(f"common words of {name}")
    return tmp_path / "books" / "guide.md"


@pytest.mark.anyio
async def test_a_file_given_alone_is_searched_and_its_neighbours_are_not(
    connect: Connect, settings: Settings, book: Path, tmp_path: Path
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "a.md").write_text("common a")
    (settings.workspace / "guide.md").write_text("common in the workspace")
    given = replace(settings, corpora=(str(tmp_path / "site"), str(book)))
    async with connect(given) as client:
        hits = await text(client, "search", query="common")
        assert set(re.findall(r"\[(.+):L1-L1\]", hits)) == {
            "site:a.md",
            "books:guide.md",
            "guide.md",
        }
        assert "1\tcommon words of guide.md" in await text(client, "open", id="books:guide.md")
        for other in ("diary.md", "inner/guide.md", "./diary.md", "../books/diary.md"):
            assert "no document" in await text(client, "open", id=f"books:{other}")


@pytest.mark.anyio
@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
async def test_a_link_put_in_the_place_of_a_file_given_alone_is_not_followed(
    connect: Connect, settings: Settings, book: Path, tmp_path: Path
) -> None:
    (tmp_path / "latest").symlink_to(book)
    options = parser().parse_args(
        ["serve", str(tmp_path / "ws"), "--corpus", str(tmp_path / "latest")]
    )
    (given,) = settings_of(options).corpora
    async with connect(replace(settings, corpora=(given,))) as client:
        assert "words of guide.md" in await text(client, "open", id="books:guide.md")
        book.unlink()
        book.symlink_to("diary.md")
        assert "no document" in await text(client, "open", id="books:guide.md")
        book.unlink()
        (book / "deep").mkdir(parents=True)
        (book / "deep" / "x.md").write_text("common words")
        assert "no document" in await text(client, "open", id="books:guide.md/deep/x.md")


def test_a_file_given_alone_is_read_again_only_when_it_changed(
    extractor: Counting, book: Path, tmp_path: Path
) -> None:
    (tmp_path / "ws").mkdir()
    workspace = Workspace(tmp_path / "ws")
    files = Workspace(book.parent, writable=False, only=frozenset({book.name}))
    folders = [Folder("", workspace), Folder("books:", files)]
    for words, expected in (("guide", 1), ("guide", 1), ("pump", 2)):
        book.write_text(f"common {words}") if words == "pump" else None
        library = Library(Index(tmp_path / "index.sqlite"), folders, extractor)
        library.read_all()
        assert (extractor.read, ids(library, words)) == (expected, ["books:guide.md"])
        library.close()
    library = Library(Index(tmp_path / "index.sqlite"), folders[:1], extractor)
    library.read_all()
    assert library.index.size() == (0, 0)
    library.close()
    workspace.close()
    files.close()


@pytest.mark.anyio
async def test_a_secret_given_as_a_corpus_is_refused(
    connect: Connect, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("KEY=1")
    with pytest.raises(ValueError, match="list of secrets"):
        async with connect(replace(settings, corpora=(str(tmp_path / ".env"),))):
            pass


def test_a_damaged_index_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(b"SQLite format 3\0" + b"garbage" * 1000)
    index = opened(tmp_path / "index.sqlite")
    assert index.size() == (0, 0)
    index.close()


@pytest.mark.anyio
async def test_a_search_during_the_first_reading_says_so(
    connect: Connect, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_module, "FIRST_READING_S", 0.05)
    monkeypatch.setattr(Library, "read_all", lambda self: None)
    (settings.workspace / "a.md").write_text("common")
    async with connect() as client:
        answer = await text(client, "search", query="common")
        assert "still being read: 0 of 0 files; ask again later" in answer
        assert "1\tcommon" in await text(client, "open", id="a.md")


@pytest.mark.anyio
async def test_a_relative_link_of_a_local_page_leads_to_its_neighbour(
    connect: Connect, settings: Settings, tmp_path: Path
) -> None:
    pytest.importorskip("readability", reason="the extra `web` is not installed")
    (tmp_path / "site" / "guide").mkdir(parents=True)
    (tmp_path / "site" / "guide" / "p.html").write_text(
        '<article><p>Read the <a href="../table.md#x">table of limits</a> first.</p></article>'
    )
    (tmp_path / "site" / "table.md").write_text("limits here")
    async with connect(replace(settings, corpora=(str(tmp_path / "site"),))) as client:
        assert "[table of limits][1]" in await text(client, "open", id="site:guide/p.html")
        linked = await text(client, "open", id="site:guide/p.html#1")
        assert linked.startswith("site:table.md · lines 1-1 of 1\n1\tlimits here")


@pytest.mark.anyio
async def test_files_that_nothing_here_reads_are_counted_for_operator_and_model(
    connect: Connect,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("a.pdf", "b.html", "c.htm"):
        (settings.workspace / name).write_text("lake")
    library_module.means()  # kept, and true beyond this test
    monkeypatch.setattr(library_module, "find_spec", lambda _: None)
    async with connect() as client:
        answer = await text(client, "search", query="river")
        assert "; not read here: 2 HTML, 1 PDF, open says why\n" in answer
        (settings.workspace / "d.md").write_text("lake")
        again = await text(client, "search", query="river")
        assert "use fewer or other words; not read here: 2 HTML, 1 PDF, open says why" in again
    assert "k2tools: not searched: 2 HTML, 1 PDF; see k2tools doctor" in capsys.readouterr().err


def test_one_file_is_read_while_everything_else_still_is(library: Library, tmp_path: Path) -> None:
    (tmp_path / "ws" / "a.md").write_text("common")
    with library._refreshing:
        library.refresh_file("a.md")
    assert ids(library, "common") == ["a.md"]


def test_a_person_sees_a_bar_and_the_tools_a_count(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = io.StringIO()
    stderr.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    for name in "abc":
        (tmp_path / "ws" / f"{name}.md").write_text("common")
    library.read_all()
    assert "indexing workspace" in stderr.getvalue()
    assert (library.progress.done, library.progress.total) == (3, 3)


@pytest.mark.slow
def test_a_kill_in_the_middle_of_indexing_leaves_an_index_that_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "ws"
    folder.mkdir()
    for number in range(3_000):
        (folder / f"{number:04}.md").write_text(f"common word{number}\n" * 40)
    code = (
        "import sys; from pathlib import Path; from k2tools.index import Index;"
        "from k2tools.library import *; base = Path(sys.argv[1]);"
        "w = Workspace(base / 'ws');"
        "Library(Index(base / 'i.sqlite'), [Folder('', w)], Extractor(9.0)).read_all()"
    )
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
        path = tmp_path / "i.sqlite-wal"
        deadline = time.monotonic() + 30
        before = path.stat().st_size if path.exists() else 0
        while time.monotonic() < deadline and process.poll() is None:
            if path.exists() and path.stat().st_size > before + 200_000:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
    workspace = Workspace(folder)
    library = Library(opened(tmp_path / "i.sqlite"), [Folder("", workspace)], Extractor(9.0))
    library.read_all()
    assert library.index.size()[0] == 3_000
    assert ids(library, "word2999") == ["2999.md"]
    library.close()
    workspace.close()
