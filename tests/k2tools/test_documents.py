"""Extraction keeps the content, code verbatim, and survives what is broken or hostile."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from k2tools import extract
from k2tools.documents import Extractor
from k2tools.results import ToolError

ROOT = Path(__file__).parents[2]
PARAGRAPH = (
    '<p>The retry policy doubles the delay after each failure, up to a minute, and <a href="../api'
    '.html">the interface</a> reports it, so callers can wait, or give up, as they prefer.</p>'
)
CODE = "def wait(n):\n\n\n    return  2 ** n  # <seconds> & *stars* _under_\n\twith_tab"
PAGE = f"""<!doctype html><html><head><title> Retry   policy </title>
<meta property="article:published_time" content="2025-03-04T10:00:00Z"></head>
<body><nav><ul><li><a href="/">Home</a></li><li><a href="/buy">Buy now</a></li></ul></nav>
<div class="sidebar">Sponsored: our newsletter</div>
<article><h1>Retry policy</h1>{PARAGRAPH * 3}
<div class="highlight-python"><pre>{CODE.replace("&", "&amp;").replace("<", "&lt;")}</pre></div>
<h2>Limits</h2>{PARAGRAPH}
<table><tr><th>limit of the policy</th><th>value in seconds</th></tr>
<tr><td>longest delay, in the default</td><td>60, then none</td></tr></table></article>
<footer>Copyright, terms, imprint</footer><script>track()</script></body></html>"""


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    made = Extractor(20.0)
    yield made
    made.close()


class TestHtml:
    @pytest.fixture(autouse=True)
    def _extra(self) -> None:
        for name in ("lxml", "readability", "markdownify"):
            pytest.importorskip(name, reason="the extra `web` is not installed")

    def test_content_stays_and_the_frame_of_the_site_goes(self, extractor: Extractor) -> None:
        found = extractor("html", PAGE.encode(), url="https://e.org/docs/retry.html")
        assert (found.title, found.date) == ("Retry policy", "2025-03-04")
        text = "\n".join(found.lines)
        assert "# Retry policy" in text
        assert "## Limits" in text
        assert "| longest delay, in the default | 60, then none |" in text
        for junk in ("Home", "Buy now", "newsletter", "Copyright", "track()"):
            assert junk not in text

    def test_code_is_kept_to_the_character(self, extractor: Extractor) -> None:
        lines = extractor("html", PAGE.encode()).lines
        start = lines.index("```python")
        assert lines[start + 1 : lines.index("```")] == CODE.split("\n")

    def test_links_are_numbered_and_listed_absolute(self, extractor: Extractor) -> None:
        lines = extractor("html", PAGE.encode(), url="https://e.org/docs/retry.html").lines
        (listed,) = (line for line in lines if line.startswith("[") and "]: " in line)
        number = listed[1 : listed.index("]")]
        assert listed == f"[{number}]: https://e.org/api.html"
        assert any(f"[the interface][{number}]" in line for line in lines)

    def test_lines_are_never_wrapped(self, extractor: Extractor) -> None:
        long = "word " * 400
        page = f"<html><body><article>{PARAGRAPH * 3}<p>{long}</p></article></body></html>"
        assert any(line.count("word") == 400 for line in extractor("html", page.encode()).lines)

    @pytest.mark.parametrize(
        ("data", "charset", "word"),
        [
            ("<p>naïve Straße</p>".encode("cp1252"), "", "naïve Straße"),
            ("<p>привет мир</p>".encode("cp1251"), "windows-1251", "привет мир"),
            ("<meta charset=gb2312><p>你好世界</p>".encode("gb2312"), "", "你好世界"),
            ("\ufeff<p>наука</p>".encode(), "", "наука"),
        ],
    )
    def test_encodings_are_found(
        self, extractor: Extractor, data: bytes, charset: str, word: str
    ) -> None:
        assert word in "\n".join(extractor("html", data, charset=charset).lines)

    @pytest.mark.parametrize(
        "page", [b"", b"   ", b"<", b"<html>", b"\0\0", b"<?xml version='1.0' encoding='x'?><p>a"]
    )
    def test_fragments_leave_the_extractor_whole(self, extractor: Extractor, page: bytes) -> None:
        with contextlib.suppress(ToolError):
            extractor("html", page)
        assert extractor("html", PAGE.encode()).title == "Retry policy"

    def test_deep_nesting_does_not_take_the_server_along(self, extractor: Extractor) -> None:
        page = "<div>" * 50_000 + "deep"
        with contextlib.suppress(ToolError):
            extractor("html", page.encode())
        assert extractor("html", PAGE.encode()).title == "Retry policy"


def test_a_parser_that_takes_too_long_is_killed_and_the_next_document_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    script = tmp_path / "slow.py"
    script.write_text("import sys\nsys.stdin.buffer.readline()\nwhile True: pass\n")
    slow = Extractor(0.3)
    monkeypatch.setattr("k2tools.documents.extract.__file__", str(script))
    with pytest.raises(ToolError, match="took more than 0"):
        slow("html", b"<p>x")
    monkeypatch.undo()
    with pytest.raises(ToolError, match="cannot be read"):
        slow("pdf", b"not a PDF")
    slow.close()


HANGING = "import sys\nsys.stdin.buffer.readline()\nwhile True: pass\n"


def test_a_close_breaks_off_what_is_read_and_nothing_starts_after_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "hanging.py").write_text(HANGING)
    monkeypatch.setattr("k2tools.documents.extract.__file__", str(tmp_path / "hanging.py"))
    extractor = Extractor(200.0)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(extractor, "html", b"<p>x")
        while extractor._process is None:
            time.sleep(0.001)
        extractor.close()
        with pytest.raises(ToolError, match="broke off"):
            reading.result()
    with pytest.raises(ToolError, match="is stopping"):
        extractor("html", b"<p>x")
    assert extractor._process is None


LEFT_ALONE = """
from k2tools import extract
def forever(*_):
    while True: pass
extract.html = forever
extract.main()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="Windows has no alarm")
def test_a_parser_whose_server_is_gone_ends_by_itself() -> None:
    request = {"kind": "html", "size": 0, "url": "", "charset": "", "limit_s": 1}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", LEFT_ALONE], cwd=ROOT, **pipes) as process:
        process.communicate(json.dumps(request).encode() + b"\n")
    assert process.returncode == -signal.SIGALRM


def test_a_missing_extra_is_named_with_the_way_to_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    script = tmp_path / "bare.py"
    source = (sys.modules["k2tools.extract"].__file__, "r")
    with open(*source) as handle:
        script.write_text("import sys\nsys.modules['lxml'] = None\n" + handle.read())
    bare = Extractor(10.0)
    monkeypatch.setattr("k2tools.documents.extract.__file__", str(script))
    with pytest.raises(ToolError, match=r"pip install 'k2ref\[web\]'"):
        bare("html", b"<p>x")
    bare.close()


def pdf(*pages: str) -> bytes:
    """Write a PDF with one line of text on each page."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for n, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * n} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out, offsets = "%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    out += f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
    return (out + f"startxref\n{out.index('xref' + chr(10) + '0 ')}\n%%EOF\n").encode()


class TestPdf:
    @pytest.fixture(autouse=True)
    def _extra(self) -> None:
        pytest.importorskip("pypdf", reason="the extra `pdf` is not installed")

    def test_text_comes_page_by_page(self, extractor: Extractor) -> None:
        found = extractor("pdf", pdf("Relief valve at ten bar", "Second page"))
        assert found.lines == [
            "--- page 1 ---",
            "Relief valve at ten bar",
            "--- page 2 ---",
            "Second page",
        ]

    def test_a_page_without_text_is_said_to_be_one(self, extractor: Extractor) -> None:
        with pytest.raises(ToolError, match="cannot be read: it holds no text, only images"):
            extractor("pdf", pdf(""))

    def test_what_a_limit_leaves_out_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        request = {"kind": "pdf", "url": "", "charset": ""}
        monkeypatch.setattr(extract, "MAX_PAGES", 1)
        pages = extract.answer(request, pdf("One", "Two", "Three"))["lines"]
        assert pages == ["--- page 1 ---", "One", "--- 2 more pages are left out ---"]
        monkeypatch.setattr(extract, "MAX_CHARS", 16)
        cut = extract.answer(request, pdf("A line that is too long"))["lines"]
        assert cut == ["--- page 1 ---", "--- the rest is left out: it passes 16 characters ---"]


def test_front_matter_tells_title_date_and_address(extractor: Extractor) -> None:
    text = b"---\ntitle: 'A title'\r\ndate: 2024-05-06T10:00\nurl: https://e.org/x\n---\nbody\n"
    found = extractor("text", text)
    assert found[1:] == ("A title", "2024-05-06", "https://e.org/x")
    assert found.lines[1] == "title: 'A title'"
    assert extractor("text", b"text\n# Heading\n").title == "Heading"
    assert extractor("text", "Grüße".encode("cp1252")).lines == ["Grüße"]
    with pytest.raises(ToolError, match="binary"):
        extractor("text", b"\0\1")
