"""A program of its own: turns HTML and PDF into lines, one document after another.

Parsers of hostile bytes run here, under limits, and are killed by the server when they take too
long (`documents.Extractor`). It imports nothing of the server. Each request on stdin is one JSON
line (`kind`, `size`, `url`, `charset`, `limit_s`) and `size` bytes; each answer on stdout is one
JSON line. An alarm ends the process where nobody is left to kill it.

HTML: readability finds the content, markdownify writes it; `<pre>` is taken out first and put back
verbatim, links become numbered references. When that yields next to nothing, trafilatura tries,
where it is installed.
"""

import contextlib
import io
import json
import logging
import re
import signal
import sys
from importlib.util import find_spec
from typing import Any
from urllib.parse import urljoin

MEMORY_BYTES = 2 * 2**30  # of address space
CPU_S = 600  # of the whole process; the server restarts it
MAX_PAGES = 2_000
MAX_CHARS = 8 * 2**20
POOR_CHARS, POOR_SHARE = 200, 0.2  # less content than this: try the other extractor
LINK = "https://link.invalid/"
_LINK = re.compile(r"\]\(" + re.escape(LINK) + r"(\d+)(?: \"[^\"]*\")?\)")
FILLER = " of code" + "," * 12  # readability drops what is short and has no commas
_PRE = re.compile(r"[ >]*k2pre(\d+)pre" + FILLER)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_HIDDEN = ("title", "script", "style", "noscript", "template", "svg", "iframe")
_DATES = (
    '//meta[@property="article:published_time"]/@content',
    '//meta[@name="date" or @name="DC.date" or @name="citation_publication_date"]/@content',
    "//time[@datetime]/@datetime",
)


class Unreadable(Exception):
    """A document has no text to give, for a reason in words."""


def html(data: bytes, url: str, charset: str) -> dict[str, Any]:
    """Extract the content of a page: bytes, its address, stated encoding -> title, date, lines."""
    import lxml.html

    text = decoded(data, charset)
    parser = lxml.html.HTMLParser(no_network=True, huge_tree=False, remove_comments=True)
    tree = lxml.html.document_fromstring(re.sub(r"^\s*<\?xml[^>]*>", "", text), parser=parser)
    about = {"title": one_line(tree.findtext(".//title") or ""), "date": date_of(tree)}
    canonical = tree.xpath('//link[@rel="canonical"]/@href')
    about["url"] = urljoin(url, canonical[0]) if canonical else url
    blocks, links = take_out_code(tree), number_links(tree, url)
    for element in tree.xpath("|".join(f"//{tag}" for tag in _HIDDEN)):
        element.drop_tree()
    markdown = content(tree)
    return about | {"lines": finished(markdown, blocks, links)}


def decoded(data: bytes, charset: str) -> str:
    """Decode a page: by its header, else UTF-8 if valid, else by its meta tag, else cp1252."""
    meta = re.search(rb"<meta[^>]+charset=[\"']?([\w-]+)", data[:4096], re.IGNORECASE)
    names = (charset, "utf-8-sig", meta[1].decode() if meta else "", "cp1252")
    for name in filter(None, names):
        with contextlib.suppress(UnicodeDecodeError, LookupError):
            return data.decode(name)
    return data.decode("utf-8", "replace")


def date_of(tree: Any) -> str:
    for path in _DATES:
        for value in tree.xpath(path):
            if match := _DAY.search(value.replace("/", "-")):
                return match[0]
    return ""


def take_out_code(tree: Any) -> list[str]:
    """Put a marker where each code block stands: -> the blocks, fenced."""
    blocks: list[str] = []
    for pre in tree.xpath("//pre[not(ancestor::pre)]"):
        around = f"{pre.get('class', '')} {pre.getparent().get('class', '')}"
        around += " ".join(pre.xpath("./code/@class"))
        language = re.search(r"(?:language|lang|highlight)-(\w+)", around)
        code = pre.text_content().strip("\n")
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
        blocks.append(f"{fence}{language[1] if language else ''}\n{code}\n{fence}")
        tail, pre.tail = pre.tail, None
        for child in list(pre):
            pre.remove(child)
        pre.tag, pre.text, pre.tail = "p", f"k2pre{len(blocks) - 1}pre{FILLER}", tail
    return blocks


def number_links(tree: Any, url: str) -> list[str]:
    """Replace each link target by its number: -> the targets, absolute when the page is."""
    targets: list[str] = []
    known: dict[str, int] = {}
    for anchor in tree.xpath("//a[@href]"):
        href = anchor.get("href").strip()
        if href.startswith(("#", "javascript:", "mailto:", "data:")):
            anchor.drop_tag()
            continue
        with contextlib.suppress(ValueError):  # an address that no parser reads stays as it is
            href = urljoin(url, href)
        if href not in known:
            known[href] = len(targets)
            targets.append(href)
        anchor.set("href", f"{LINK}{known[href] + 1}")
    return targets


def content(tree: Any) -> str:
    """Find and write the content of a page: tree -> Markdown."""
    import lxml.html
    from readability import Document

    body = tree.find(".//body")
    body = tree if body is None else body
    source = lxml.html.tostring(tree, encoding="unicode")
    visible = len(" ".join(body.text_content().split()))
    best = ""
    with contextlib.suppress(Exception):  # whatever it trips over, the next one may not
        best = markdown_of(Document(source).summary(html_partial=True))
    if len(best) < max(POOR_CHARS, POOR_SHARE * visible) and find_spec("trafilatura"):
        import trafilatura

        other = trafilatura.extract(
            source, output_format="markdown", favor_recall=True, include_links=True
        )
        best = max(best, other or "", key=len)
    if len(best) < min(POOR_CHARS, visible):
        whole = lxml.html.tostring(body, encoding="unicode")
        best = max(best, markdown_of(whole), key=len)  # a page of a few words
    return best


def markdown_of(source: str) -> str:
    from markdownify import ATX, markdownify

    return markdownify(
        source,
        heading_style=ATX,
        bullets="-",
        strip=["img"],
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
    )


def finished(markdown: str, blocks: list[str], links: list[str]) -> list[str]:
    """Put code blocks and references in place: Markdown -> lines."""
    used: dict[int, None] = {}

    def reference(match: re.Match[str]) -> str:
        used[int(match[1])] = None
        return f"][{match[1]}]"

    lines: list[str] = []
    for line in _LINK.sub(reference, markdown).split("\n"):
        line = line.rstrip()
        if match := _PRE.fullmatch(line):
            lines += blocks[int(match[1])].split("\n")
        elif line or (lines and lines[-1]):
            lines.append(_PRE.sub(lambda m: blocks[int(m[1])].strip("`\n"), line))
    while lines and not lines[-1]:
        lines.pop()
    if used:
        lines += ["", *(f"[{n}]: {links[n - 1]}" for n in sorted(used))]
    return lines


def pdf(data: bytes, url: str, charset: str) -> dict[str, Any]:
    """Extract the text of a PDF, page by page: bytes -> title, date, lines."""
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(data))
    if reader.is_encrypted and not reader.decrypt(""):
        raise Unreadable("it is encrypted")
    lines: list[str] = []
    for number, page in enumerate(reader.pages[:MAX_PAGES], 1):
        text = page.extract_text().strip("\n")
        lines += [f"--- page {number} ---", *(line.rstrip() for line in text.split("\n"))]
    if len(reader.pages) > MAX_PAGES:
        lines.append(f"--- {len(reader.pages) - MAX_PAGES} more pages are left out ---")
    if not any(line and not line.startswith("---") for line in lines):
        raise Unreadable("it holds no text, only images")
    meta = reader.metadata
    with contextlib.suppress(Exception):  # metadata of any shape is met in the wild
        created = meta.creation_date if meta else None
        date = created.strftime("%Y-%m-%d") if created else ""
        title = one_line(str(meta.title or "")) if meta else ""
        return {"title": title, "date": date, "url": url, "lines": lines}
    return {"title": "", "date": "", "url": url, "lines": lines}


def one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def answer(request: dict[str, Any], data: bytes) -> dict[str, Any]:
    """Extract one document; failures are answers too."""
    extract = {"html": html, "pdf": pdf}[request["kind"]]
    try:
        found = extract(data, request["url"], request["charset"])
    except ImportError as error:
        return {"missing": error.name or str(error)}
    except Unreadable as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "it needs more memory than the limit"}
    except RecursionError:
        return {"error": "it is nested too deeply"}
    except Exception as error:  # parsers raise anything
        return {"error": one_line(f"{type(error).__name__}: {error}")}
    kept, used = [], 0
    for line in found["lines"]:
        used += len(line) + 1
        if used > MAX_CHARS:
            kept.append(f"--- the rest is left out: it passes {MAX_CHARS} characters ---")
            break
        kept.append(line.replace("\0", "").encode("utf-8", "replace").decode())
    return found | {"lines": kept}


def limit() -> None:
    """Take away what a parser never needs."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def main() -> None:
    limit()
    logging.disable(logging.CRITICAL)  # the libraries log what they make of broken documents
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing a library prints may break the stream of answers
    while line := source.readline():
        request = json.loads(line)
        data = source.read(request["size"])
        alarm(request["limit_s"])
        sink.write(json.dumps(answer(request, data)).encode() + b"\n")
        sink.flush()
        alarm(0)


def alarm(seconds: int) -> None:
    if hasattr(signal, "alarm"):  # Windows has none
        signal.alarm(seconds)


if __name__ == "__main__":
    main()
