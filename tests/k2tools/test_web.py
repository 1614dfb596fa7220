"""Providers, pages and their ids through the real server; no test needs a network.

Each cassette says where its answer comes from; `test_provider_clients.py` holds them against the
providers' own clients.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client

from k2tools import search, web
from k2tools.fetch import Pinned
from k2tools.providers import (
    PROVIDERS,
    Ask,
    ProviderError,
    WebHit,
    canonical,
    configured,
    key_of,
    read_ddgs,
    read_exa,
    read_tavily,
)
from k2tools.settings import Settings
from tests.k2tools.conftest import Connect, text
from tests.k2tools.internet import Internet, page

pytestmark = pytest.mark.anyio
AsyncClient = httpx2.AsyncClient
CASSETTES = Path(__file__).parent / "cassettes"
SECRET = "sk-very-secret-value"
OVER_HTTP = [name for name in PROVIDERS if name != "ddgs"]


def cassette(name: str) -> dict[str, Any]:
    return json.loads((CASSETTES / f"{name}.json").read_text("utf-8"))


class Recorded:
    """Plays cassettes instead of the network and keeps the requests."""

    def __init__(self, **statuses: int) -> None:
        self.requests: list[httpx2.Request] = []
        self._statuses = statuses

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        name = next(n for n in PROVIDERS if cassette(n)["host"] == request.url.host)
        status = self._statuses.get(name, 200)
        body = cassette(name)["response"] if status == 200 else {"error": f"bad key {SECRET}"}
        return httpx2.Response(status, json=body)


@pytest.mark.parametrize("name", OVER_HTTP)
async def test_each_provider_is_asked_as_its_interface_wants_and_read_back(name: str) -> None:
    kept, recorded = cassette(name), Recorded()
    provider, secret = PROVIDERS[name], kept["secret"]
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(recorded)) as client:
        ask = Ask("mixture of experts", 5, 1, "example.org", "2025-01-01")
        hits = await provider.search(client, ask, secret)
    (request,) = recorded.requests
    asked = kept["request"]
    assert (request.method, request.url.path) == (asked["method"], asked["path"])
    for header, value in asked["headers"].items():
        assert request.headers[header] == value
    if "params" in asked:
        given = dict(request.url.params)
        given.pop("freshness", "")  # ends today
        assert given == asked["params"]
    if "json" in asked:
        assert json.loads(request.content) == asked["json"]
    assert [list(hit) for hit in hits] == kept["hits"]


async def test_the_scraping_provider_is_read_back() -> None:
    kept = cassette("ddgs")
    assert [list(hit) for hit in read_ddgs(kept["response"])] == kept["hits"]


async def test_what_an_answer_may_leave_out_or_add_is_read() -> None:
    mailed = {"url": "u", "title": "t", "published_date": "Tue, 04 Mar 2025 10:00:00 GMT"}
    assert read_tavily({"results": [mailed]}) == [WebHit("u", "t", "", "2025-03-04")]
    bare = {"url": "u", "title": None, "text": None, "publishedDate": None}
    assert read_exa({"results": [bare]}) == [WebHit("u", "", "")]


@pytest.mark.parametrize("name", OVER_HTTP)
@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(401, json={"error": SECRET}),
        httpx2.Response(200, content=b"<html>not JSON"),
        httpx2.Response(200, json=[1, 2]),
        httpx2.Response(200, json={"results": [{"url": None}], "web": {"results": [7]}}),
        httpx2.Response(200, content=b" " * 5_000_000),
    ],
)
async def test_whatever_a_provider_answers_is_an_error_without_its_words(
    name: str, answer: httpx2.Response
) -> None:
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: answer)) as client:
        with pytest.raises(ProviderError) as error:
            await PROVIDERS[name].search(client, Ask("x", 5), cassette(name)["secret"])
    assert SECRET not in str(error.value)


async def test_keys_come_from_the_environment_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")
    assert key_of("brave", {"K2TOOLS_BRAVE_KEY": "k"}) == "k"
    assert key_of("brave", {"K2TOOLS_BRAVE_KEY_FILE": str(tmp_path / "key")}) == "from-file"
    with pytest.raises(ValueError, match="set K2TOOLS_BRAVE_KEY"):
        key_of("brave", {})
    with pytest.raises(ValueError, match="no web provider 'google'"):
        configured("google")
    with pytest.raises(ValueError, match="--web searxng=http://host"):
        configured("searxng")


async def test_copies_of_an_address_are_one() -> None:
    assert canonical("HTTPS://Example.ORG:443/a?utm_source=x&b=1&fbclid=2#c") == (
        "https://example.org/a?b=1"
    )


Serve = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
async def internet() -> AsyncIterator[Internet]:
    async with Internet().running() as running:
        yield running


@pytest.fixture
def serve(
    connect: Connect, settings: Settings, internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> Serve:
    """Connect to a server whose web is the small internet and whose providers are cassettes."""
    monkeypatch.setenv("K2TOOLS_BRAVE_KEY", SECRET)
    monkeypatch.setenv("K2TOOLS_TAVILY_KEY", SECRET)
    opened = web.opened

    @asynccontextmanager
    async def replaced(given: Settings) -> AsyncIterator[web.Web]:
        backend = Pinned(resolve=internet.resolve, dial=internet.dial)
        async with opened(given, backend) as made:
            yield made

    monkeypatch.setattr(search, "opened", replaced)

    @asynccontextmanager
    async def serving(recorded: Recorded | None = None, **changes: Any) -> AsyncIterator[Client]:
        transport = httpx2.MockTransport(recorded or Recorded())
        monkeypatch.setattr(httpx2, "AsyncClient", partial(AsyncClient, transport=transport))
        async with connect(replace(settings, **changes)) as client:
            yield client

    return serving


async def test_the_web_is_closed_until_the_operator_opens_it(serve: Serve) -> None:
    async with serve() as client:
        refused = await text(client, "search", query="x", source="web")
        assert "ask the operator for --web" in refused
        assert "allows it with --fetch" in await text(client, "open", id="https://site.example/")
        assert "corpus" not in await text(client, "open", id="w1")


async def test_web_hits_have_short_ids_that_open_reads(serve: Serve, internet: Internet) -> None:
    pytest.importorskip("readability")
    internet.pages["http://docs.example.org/moe"] = page(
        "<title>MoE</title><article><p>Each token visits eight experts.</p></article>"
    )
    async with serve(web=("searxng=http://searx.test",), fetch=True) as client:
        found = await text(client, "search", query="experts", source="web", k=2)
        assert found.startswith("web (searxng)\n1. [w1] Mixture of experts")
        assert 'cursor="searxng-2"' in found
        again = await text(client, "search", query="experts", source="web", k=2)
        assert "1. [w1] " in again
        opened = await text(client, "open", id="w1")
        assert opened.startswith("w1 http://docs.example.org/moe MoE · lines 1-1 of 1\n")
        assert "1\tEach token visits eight experts." in opened
        assert "1\tEach token" in await text(client, "find", id="w1", pattern="eight")


async def test_auto_means_the_web_only_while_there_are_no_documents(
    serve: Serve, settings: Settings
) -> None:
    async with serve(web=("searxng=http://searx.test",)) as client:
        assert (await text(client, "search", query="experts")).startswith("web (searxng)")
        (settings.workspace / "a.md").write_text("experts")
        assert (await text(client, "search", query="experts")).startswith("corpus")


async def test_a_failing_provider_is_named_and_the_next_one_asked(
    serve: Serve, settings: Settings
) -> None:
    recorded = Recorded(brave=401)
    async with serve(recorded, web=("brave", "tavily")) as client:
        found = await text(client, "search", query="experts", source="web")
        assert found.startswith("web (tavily; brave: HTTP 401)\n1. [w1] ")
        assert "[more:" not in found  # tavily cannot turn the page
    recorded = Recorded(brave=500, tavily=429)
    async with serve(recorded, web=("brave", "tavily")) as client:
        failed = await text(client, "search", query="experts", source="web")
        assert "brave: HTTP 500; tavily: HTTP 429" in failed
    everything = "".join(p.read_text("utf-8") for p in settings.state.rglob("*.json*"))
    assert SECRET not in found + failed + everything


async def test_site_since_and_cursor_of_a_web_search(serve: Serve) -> None:
    recorded = Recorded()
    async with serve(recorded, web=("searxng=http://searx.test",)) as client:
        only = await text(
            client, "search", query="experts", source="web", site="example.org", since="2025-01-01"
        )
        assert only.count("\nhttp") == 1
        assert "http://docs.example.org/moe" in only
        await text(client, "search", query="experts", source="web", cursor="searxng-2")
        assert recorded.requests[-1].url.params["pageno"] == "2"
        for cursor in ("brave-2", "searxng-1", "searxng-99", "x", "searxng-"):
            refused = await text(client, "search", query="e", source="web", cursor=cursor)
            assert "has no cursor" in refused


async def test_a_page_is_fetched_once_for_all_windows_and_asked_again_when_stale(
    serve: Serve, internet: Internet
) -> None:
    url = "http://long.example/log.txt"
    body = "\n".join(f"entry {n}" for n in range(1, 101))
    internet.pages[url] = page(body, content_type="text/plain", etag='"v1"')

    def asked() -> int:
        return sum(u == url for u, _ in internet.requests)

    async with serve(fetch=True) as client:
        first = await text(client, "open", id=url)
        assert first.startswith(f"w1 {url} · lines 1-60 of 100")
        assert '[more: open(id="w1", line=61)]' in first
        assert "100\tentry 100" in await text(client, "open", id="w1", line=61)
        assert "7\tentry 7" in await text(client, "find", id=url, pattern="entry 7$")
        assert asked() == 1
    internet.pages[url] = lambda headers: (
        (304, {}, b"") if headers.get("if-none-match") == '"v1"' else page("other")
    )
    async with serve(fetch=True, fetch_fresh_s=0.0) as client:
        assert "1\tentry 1" in await text(client, "open", id=url)
        assert asked() == 2


async def test_an_id_keeps_the_version_that_was_cited(serve: Serve, internet: Internet) -> None:
    url = "http://news.example/now"
    internet.pages[url] = page("one", content_type="text/plain")
    async with serve(fetch=True, fetch_fresh_s=0.0) as client:
        assert (await text(client, "open", id=url)).startswith("w1 ")
        internet.pages[url] = page("two", content_type="text/plain")
        assert (await text(client, "open", id=url)).startswith("w2 ")
        assert "1\tone" in await text(client, "open", id="w1")
        assert "1\ttwo" in await text(client, "open", id="w2")


async def test_links_of_a_page_are_opened_by_their_number(serve: Serve, internet: Internet) -> None:
    pytest.importorskip("readability")
    internet.pages["http://a.example/dir/p"] = page(
        '<article><p>See <a href="../q.txt">the table</a> for all values.</p></article>'
    )
    internet.pages["http://a.example/q.txt"] = page("values", content_type="text/plain")
    async with serve(fetch=True) as client:
        assert "[the table][1]" in await text(client, "open", id="http://a.example/dir/p")
        assert "1\tvalues" in await text(client, "open", id="w1#1")
        assert "has no link [9]" in await text(client, "open", id="w1#9")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (page("gone", 404), "answers 404"),
        (page(b"\x89PNG", content_type="image/png"), "text, HTML, JSON, XML and PDF are read"),
        (page("", content_type="text/plain"), "holds no text"),
        (page("a\0b", content_type="text/plain"), "binary"),
    ],
)
async def test_what_cannot_be_read_is_an_answer_with_a_reason(
    serve: Serve, internet: Internet, answer: Any, reason: str
) -> None:
    internet.pages["http://odd.example/"] = answer
    async with serve(fetch=True) as client:
        assert reason in await text(client, "open", id="http://odd.example/")


async def test_json_is_broken_into_lines(serve: Serve, internet: Internet) -> None:
    internet.pages["http://api.example/"] = page('{"a":[1,2]}', content_type="application/json")
    async with serve(fetch=True) as client:
        assert '2\t "a": [' in await text(client, "open", id="http://api.example/")


async def test_inner_addresses_stay_closed_through_the_tool(
    serve: Serve, internet: Internet
) -> None:
    internet.addresses["inner.example"] = [["192.168.0.1"]]
    async with serve(fetch=True) as client:
        for id in ("http://inner.example/", "http://169.254.169.254/latest/meta-data/"):
            assert "not on the public internet" in await text(client, "open", id=id)
    assert internet.dialled == []


async def test_the_least_recently_used_pages_make_room(serve: Serve, internet: Internet) -> None:
    for name in "ab":
        body = "".join(f"{name}{n * n} " for n in range(3000))
        internet.pages[f"http://{name}.example/"] = page(body, content_type="text/plain")
    async with serve(fetch=True, fetch_cache_bytes=15_000) as client:
        await text(client, "open", id="http://a.example/")
        await text(client, "open", id="http://b.example/")
        await text(client, "open", id="http://b.example/")
        await text(client, "open", id="w1")
    asked = [url for url, _ in internet.requests if not url.endswith("robots.txt")]
    assert asked == ["http://a.example/", "http://b.example/", "http://a.example/"]
