"""Search: build time, size, latency and recall, beside other engines on the same passages.

    python -m tests.bench.search [--passages N] [--seed S]

The corpus is whatever documentation and source text the machine has installed. Known-item queries
are eight consecutive words of a random passage; question queries are the first sentence of a
function's docstring, sought among function bodies whose docstrings were removed. Both are drawn
before any engine runs. A hit counts at rank 10 when the passage shown holds the words that were
drawn, so copies of a text count wherever they are. Baselines: bm25s when it is installed, and a
scan of all passages for all words, as grep would do it.
"""

import argparse
import ast
import random
import re
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from k2tools.corpus import Document
from k2tools.index import Index
from k2tools.passages import cut
from k2tools.query import parse, split_words

SUFFIXES = {".md", ".py", ".pyi", ".rst", ".txt"}
WORDS = 8
DEPTH = 10


class Known(NamedTuple):
    """A query and what a right hit holds."""

    query: str
    inside: str  # words in a row, or the id of the document


Search = Callable[[str], list[str]]  # query -> texts (or ids) of the hits


def documents(limit: int) -> list[Document]:
    """Read installed texts, each content once, until they make enough passages."""
    made: list[Document] = []
    seen: set[int] = set()
    passages = 0
    for path in sorted(installed()):
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if hash(text) in seen or len(text) > 2_000_000:
            continue
        seen.add(hash(text))
        lines = text.split("\n")
        made.append(Document(str(path), lines))
        passages += sum(1 for _ in cut(lines))
        if passages >= limit:
            break
    return made


def installed() -> Iterator[Path]:
    roots = {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "/usr/share/doc"}
    for root in sorted(roots):
        yield from (p for p in Path(root).rglob("*") if p.suffix in SUFFIXES and p.is_file())


def known_items(texts: list[str], count: int, chance: random.Random) -> list[Known]:
    """Draw eight words in a row from random passages: passages -> queries."""
    items: list[Known] = []
    while len(items) < count:
        words = split_words(chance.choice(texts))
        if len(words) >= 3 * WORDS:
            at = chance.randrange(len(words) - WORDS)
            run = " ".join(words[at : at + WORDS])
            items.append(Known(run, run))
    return items


def functions(docs: list[Document]) -> Iterator[tuple[str, str, str]]:
    """Take functions apart: -> id, first sentence of the docstring, body without it."""
    for doc in docs:
        if not doc.id.endswith(".py"):
            continue
        try:
            tree = ast.parse("\n".join(doc.lines))
        except (SyntaxError, ValueError, RecursionError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node)):
                first, end = node.lineno, node.end_lineno or node.lineno
                string = node.body[0]
                lines = doc.lines[first - 1 : string.lineno - 1]
                lines += doc.lines[string.end_lineno or string.lineno : end]
                sentence = re.split(r"(?<=[.!?])\s|\n\n", text.strip())[0]
                if 5 <= len(split_words(sentence)) <= 25 and 4 <= len(lines) <= 60:
                    yield f"{doc.id}:{first}", " ".join(sentence.split()), "\n".join(lines)


def measured(search: Search, item: Known) -> tuple[float, int]:
    """Run a query: -> milliseconds of CPU, rank of the first right hit (0: none)."""
    started = time.process_time()
    hits = search(item.query)
    taken = (time.process_time() - started) * 1e3
    held = [at for at, hit in enumerate(hits, 1) if holds(hit, item.inside)]
    return taken, held[0] if held else 0


def holds(hit: str, inside: str) -> bool:
    return hit == inside or inside in " ".join(split_words(hit))


def row(name: str, outcomes: list[tuple[float, int]]) -> str:
    """Write one line of the table."""
    ordered = sorted(taken for taken, _ in outcomes)
    ranks = [rank for _, rank in outcomes]
    at_1 = sum(r == 1 for r in ranks) / len(ranks)
    at_10 = sum(r > 0 for r in ranks) / len(ranks)
    mrr = statistics.fmean(1 / r if r else 0 for r in ranks)
    return (
        f"| {name} | {statistics.median(ordered):.2f} | {ordered[int(0.95 * len(ordered))]:.2f} "
        f"| {at_1:.3f} | {at_10:.3f} | {mrr:.3f} |"
    )


def built_in(index: Index, show: Callable[..., str]) -> Search:
    return lambda query: [show(hit) for hit in index.search(parse(query), DEPTH)]


def by_meaning(index: Index, show: Callable[..., str], folder: str) -> Search:
    from k2tools.semantic import Encoder, model_folder

    encoder = Encoder(model_folder(folder))

    def search(query: str) -> list[str]:
        hits = encoder.reordered(query, index.search(parse(query), 20))
        return [show(hit) for hit in hits[:DEPTH]]

    return search


def scan(texts: list[str], names: list[str]) -> Search:
    """Find the first passages that hold all words, as grep would: no ranking."""
    lowered = [f" {' '.join(split_words(text))} " for text in texts]

    def search(query: str) -> list[str]:
        words = [f" {word} " for word in split_words(query)]
        found = (n for n, text in enumerate(lowered) if all(word in text for word in words))
        return [names[n] for n, _ in zip(found, range(DEPTH), strict=False)]

    return search


def bm25s_engine(texts: list[str], names: list[str]) -> Search | None:
    try:
        import bm25s
    except ImportError:
        return None
    started = time.process_time()
    engine = bm25s.BM25()
    tokens = bm25s.tokenize(texts, stopwords="en", show_progress=False)
    engine.index(tokens, show_progress=False)
    print(f"bm25s: built in {time.process_time() - started:.1f} s of CPU, in memory")

    def search(query: str) -> list[str]:
        asked = bm25s.tokenize([query], stopwords="en", show_progress=False)
        found, _ = engine.retrieve(asked, k=DEPTH, show_progress=False)
        return [names[n] for n in found[0]]

    return search


def compare(title: str, engines: dict[str, Search | None], items: list[Known]) -> None:
    """Ask every engine each query in turn, so that all see the same machine."""
    there = {name: search for name, search in engines.items() if search is not None}
    outcomes: dict[str, list[tuple[float, int]]] = {name: [] for name in there}
    for item in items:
        for name, search in there.items():
            outcomes[name].append(measured(search, item))
    print(f"\n{title}: {len(items)} queries")
    print("| engine | CPU ms median | p95 | first | in 10 | MRR@10 |")
    print("|---|---|---|---|---|---|")
    for name in there:
        print(row(name, outcomes[name]), flush=True)


def known_part(folder: Path, docs: list[Document], items: list[Known], texts: list[str]) -> None:
    """Build the index of everything and look for what was drawn from it."""
    index = Index(folder / "known.sqlite")
    started = time.process_time()
    for at in range(0, len(docs), 200):
        index.add(docs[at : at + 200])
    seconds = time.process_time() - started
    count, chars = index.size()[1], sum(map(len, texts)) / 1e6
    megabytes = (folder / "known.sqlite").stat().st_size / 1e6
    print(f"{len(docs)} documents, {count} passages, {chars:.0f} million characters")
    print(f"k2tools: built in {seconds:.1f} s of CPU ({count / seconds:.0f}/s), {megabytes:.0f} MB")
    engines = {
        "k2tools": built_in(index, lambda hit: "\n".join(hit.lines)),
        "bm25s": bm25s_engine(texts, texts),
        "scan": scan(texts, texts),
    }
    compare("known item", engines, items)
    index.close()


def question_part(
    folder: Path, bodies: list[tuple[str, str, str]], items: list[Known], semantic: str
) -> None:
    """Look for function bodies by the first sentence of their docstrings."""
    index = Index(folder / "bodies.sqlite")
    index.add(Document(id, body.split("\n")) for id, _, body in bodies)
    names, plain = [b[0] for b in bodies], [b[2] for b in bodies]
    engines = {
        "k2tools": built_in(index, lambda hit: hit.id),
        "bm25s": bm25s_engine(plain, names),
        "scan": scan(plain, names),
    }
    if semantic:
        engines["k2tools --semantic"] = by_meaning(index, lambda hit: hit.id, semantic)
    compare("question to function", engines, items)
    index.close()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--passages", type=int, default=110_000)
    options.add_argument("--queries", type=int, default=150)
    options.add_argument("--seed", type=int, default=20_261_124)
    options.add_argument("--semantic", default="", help="a sentence encoder, as for k2tools serve")
    given = options.parse_args()
    chance = random.Random(given.seed)
    docs = documents(given.passages)
    texts = ["\n".join(piece.lines) for doc in docs for piece in cut(doc.lines)]
    known = known_items(texts, given.queries, chance)
    bodies = list(functions(docs))
    chance.shuffle(bodies)
    bodies = bodies[:3_000]
    questions = [Known(sentence, id) for id, sentence, _ in bodies[: given.queries]]
    with TemporaryDirectory() as folder:
        question_part(Path(folder), bodies, questions, given.semantic)
        known_part(Path(folder), docs, known, texts)


if __name__ == "__main__":
    sys.exit(main())
