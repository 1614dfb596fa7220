"""The providers' own clients against the cassettes: they ask as we ask, and read the same answer.

Nothing here reaches a network: the clients are pointed at a server on loopback that plays the
cassettes, so a field that a vendor renames shows as a difference between its client and ours.
"""

import importlib.util
import json
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from k2tools.providers import PROVIDERS, Ask, ProviderError, read_brave
from tests.k2tools.played import Played
from tests.k2tools.test_web import SECRET, cassette

pytestmark = pytest.mark.slow


def test_tavilys_client_asks_as_we_do_and_returns_the_cassette(played: Played) -> None:
    tavily = pytest.importorskip("tavily")
    kept = cassette("tavily")
    played.play(kept["response"])
    client = tavily.TavilyClient(SECRET, api_base_url=played.url)
    with closing(client.session):
        answer = client.search(
            "mixture of experts",
            search_depth="basic",
            max_results=20,
            include_domains=["example.org"],
            start_date="2025-01-01",
        )
    ((_, path, headers, body),) = played.asked
    assert path == kept["request"]["path"]
    assert headers["authorization"] == kept["request"]["headers"]["authorization"]
    assert body == kept["request"]["json"]
    assert answer == kept["response"]


def test_exas_client_asks_as_we_do_and_reads_the_same_hits(played: Played) -> None:
    exa = pytest.importorskip("exa_py")
    kept = cassette("exa")
    played.play(kept["response"])
    answer = exa.Exa(SECRET, base_url=played.url).search(
        "mixture of experts",
        num_results=20,
        contents={"text": {"max_characters": 400}},
        include_domains=["example.org"],
        start_published_date="2025-01-01T00:00:00.000Z",
    )
    ((_, path, headers, body),) = played.asked
    assert path == kept["request"]["path"]
    assert headers["x-api-key"] == kept["request"]["headers"]["x-api-key"]
    assert body == kept["request"]["json"]
    seen = [(r.url, r.title or "", (r.published_date or "")[:10]) for r in answer.results]
    assert seen == [(url, title, day) for url, title, _, day in kept["hits"]]


def test_an_answer_that_brave_gave_to_another_client_is_read() -> None:
    """The package carries a recorded answer to `hello world`; its code is not run."""
    package = importlib.util.find_spec("brave_search_python_client")
    if package is None or package.origin is None:
        pytest.skip("brave-search-python-client is not installed")
    recorded = Path(package.origin).parent / "responses" / "mock_data" / "web.json"
    answer = json.loads(recorded.read_text("utf-8"))
    hits = read_brave(answer)
    assert [hit.url for hit in hits] == [r["url"] for r in answer["web"]["results"]]
    assert hits[0].title == '"Hello, World!" program - Wikipedia'
    assert hits[0].date == "2024-12-27"
    assert all(hit.title and hit.snippet and "<strong>" not in hit.snippet for hit in hits)
    known = set(answer["web"]["results"][0]) | {"age", "thumbnail", "deep_results"}
    for ours in cassette("brave")["response"]["web"]["results"]:
        assert ours.keys() <= known


MOJEEK = """<html><body><ul class="results-standard">
<li><h2><a href="https://example.org/e">Experts</a></h2><p class="s">Sparse
models.</p></li></ul></body></html>"""


@pytest.mark.anyio
async def test_ddgs_itself_fetches_and_reads_a_page_of_results(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = pytest.importorskip("ddgs.engines").ENGINES
    mojeek = engines["text"]["mojeek"]
    monkeypatch.setattr(mojeek, "search_url", f"{played.url}/search")
    monkeypatch.setitem(engines, "text", {"mojeek": mojeek})
    played.body, played.media = MOJEEK.encode(), "text/html"
    ask = Ask("mixture of experts", 5, 2, "example.org")
    async with httpx2.AsyncClient() as client:
        hits = await PROVIDERS["ddgs"].search(client, ask, "")
        assert [list(hit) for hit in hits] == cassette("ddgs")["hits"]
        assert played.asked[0].path == "/search?q=mixture+of+experts+site%3Aexample.org&s=11"
        played.status = 403
        with pytest.raises(ProviderError, match="DDGSException"):
            await PROVIDERS["ddgs"].search(client, ask, "")
