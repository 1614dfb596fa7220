"""Web search providers: how each is asked and how its answer is read. Plain HTTP, no vendor code.

A provider is a line in `PROVIDERS`; it is used only when the operator names it. Keys come from
the environment (`K2TOOLS_BRAVE_KEY`, or a file named by `K2TOOLS_BRAVE_KEY_FILE`) and appear in no
result, error or log.
"""

import html
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import anyio
import httpx2

MAX_ANSWER_BYTES = 4 * 2**20
SNIPPET_CHARS = 400
_TAG = re.compile(r"<[^<>]*>")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_TRACKING = re.compile(r"utm_\w+|gclid|fbclid|msclkid|mc_[ce]id|igshid|ref_src", re.IGNORECASE)


class Ask(NamedTuple):
    """What is looked for."""

    query: str
    k: int
    page: int = 1
    site: str = ""
    since: str = ""

    @property
    def with_site(self) -> str:
        return f"{self.query} site:{self.site}" if self.site else self.query


class WebHit(NamedTuple):
    """One result, as text."""

    url: str
    title: str
    snippet: str
    date: str = ""  # YYYY-MM-DD, "" when the provider states none


class ProviderError(Exception):
    """A provider did not answer; the reason holds no key and no text of the provider."""


class Request(NamedTuple):
    """An HTTP request."""

    method: str
    url: str
    headers: Mapping[str, str] = {}
    params: Mapping[str, str | int] = {}
    json: Mapping[str, Any] | None = None


Search = Callable[[httpx2.AsyncClient, Ask, str], Awaitable[list[WebHit]]]


class Provider(NamedTuple):
    """How one provider is used."""

    name: str
    search: Search
    needs: str = "key"  # "key", "url" (of an instance) or ""
    pages: bool = True  # whether it can turn the page
    dates: Literal["asked", "shown", "never"] = "asked"  # it filters, it states them, or neither
    every_s: float = 0.0  # it is asked no more often than that


async def over_http(
    request: Callable[[Ask, str], Request],
    hits: Callable[[Any], list[WebHit]],
    client: httpx2.AsyncClient,
    ask: Ask,
    secret: str,
) -> list[WebHit]:
    """Ask a provider that speaks JSON: how to ask, how to read, client, Ask, key or URL -> hits."""
    made = request(ask, secret)
    try:
        async with client.stream(
            made.method,
            made.url,
            headers={"Accept": "application/json", **made.headers},
            params=made.params or None,
            json=made.json,
        ) as answer:
            if answer.status_code != 200:
                raise ProviderError(f"HTTP {answer.status_code}")
            body = b""
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise ProviderError("its answer is too large")
        return hits(httpx2.Response(200, content=body).json())
    except httpx2.HTTPError as error:
        raise ProviderError(type(error).__name__) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ProviderError("its answer has another form than expected") from None


def ask_searxng(ask: Ask, base: str) -> Request:
    params: dict[str, str | int] = {"q": ask.with_site, "format": "json", "pageno": ask.page}
    return Request("GET", base.rstrip("/") + "/search", params=params)


def read_searxng(answer: Any) -> list[WebHit]:
    return [
        hit(r["url"], r["title"], r.get("content"), r.get("publishedDate"))
        for r in answer["results"]
    ]


def ask_brave(ask: Ask, key: str) -> Request:
    params: dict[str, str | int] = {"q": ask.with_site, "count": 20, "offset": ask.page - 1}
    if ask.since:
        params["freshness"] = f"{ask.since}to{datetime.now(UTC):%Y-%m-%d}"
    url = "https://api.search.brave.com/res/v1/web/search"
    return Request("GET", url, {"X-Subscription-Token": key}, params)


def read_brave(answer: Any) -> list[WebHit]:
    results = answer.get("web", {}).get("results", [])
    return [hit(r["url"], r["title"], r.get("description"), r.get("page_age")) for r in results]


def ask_tavily(ask: Ask, key: str) -> Request:
    body: dict[str, Any] = {"query": ask.query, "max_results": 20, "search_depth": "basic"}
    if ask.site:
        body["include_domains"] = [ask.site]
    if ask.since:
        body["start_date"] = ask.since
    headers = {"Authorization": f"Bearer {key}"}
    return Request("POST", "https://api.tavily.com/search", headers, json=body)


def read_tavily(answer: Any) -> list[WebHit]:
    results = answer["results"]
    return [hit(r["url"], r["title"], r.get("content"), r.get("published_date")) for r in results]


def ask_exa(ask: Ask, key: str) -> Request:
    body: dict[str, Any] = {
        "query": ask.query,
        "numResults": 20,
        "contents": {"text": {"maxCharacters": SNIPPET_CHARS}},
    }
    if ask.site:
        body["includeDomains"] = [ask.site]
    if ask.since:
        body["startPublishedDate"] = f"{ask.since}T00:00:00.000Z"
    return Request("POST", "https://api.exa.ai/search", {"x-api-key": key}, json=body)


def read_exa(answer: Any) -> list[WebHit]:
    return [
        hit(r["url"], r.get("title"), r.get("text"), r.get("publishedDate"))
        for r in answer["results"]
    ]


async def search_ddgs(_: httpx2.AsyncClient, ask: Ask, __: str) -> list[WebHit]:
    """Ask the scraping engines of the package ddgs; they need no key and limit the rate."""
    try:
        from ddgs import DDGS
        from ddgs.exceptions import DDGSException
    except ImportError:
        raise ProviderError("it needs pip install 'k2ref[ddgs]'") from None

    def text() -> list[dict[str, str]]:
        return list(DDGS(timeout=10).text(ask.with_site, max_results=20, page=ask.page))

    try:
        return read_ddgs(await anyio.to_thread.run_sync(text, abandon_on_cancel=True))
    except DDGSException as error:
        raise ProviderError(type(error).__name__) from None


def read_ddgs(answer: Any) -> list[WebHit]:
    return [hit(r["href"], r["title"], r.get("body"), None) for r in answer]


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("searxng", partial(over_http, ask_searxng, read_searxng), "url", dates="shown"),
        Provider("brave", partial(over_http, ask_brave, read_brave)),
        Provider("tavily", partial(over_http, ask_tavily, read_tavily), pages=False),
        Provider("exa", partial(over_http, ask_exa, read_exa), pages=False),
        Provider("ddgs", search_ddgs, "", dates="never", every_s=2.0),
    )
}


def configured(text: str) -> tuple[Provider, str]:
    """Read NAME or NAME=URL as the operator gave it: -> provider, its key or URL."""
    name, _, url = text.partition("=")
    provider = PROVIDERS.get(name)
    if provider is None:
        raise ValueError(f"no web provider {name!r}; there are {', '.join(PROVIDERS)}")
    if provider.needs == "url":
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"{name} needs the URL of your instance: --web {name}=http://host")
        return provider, url
    return provider, key_of(name) if provider.needs == "key" else ""


def key_of(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """Find the key of a provider in the environment or the file named there."""
    variable = f"K2TOOLS_{name.upper()}_KEY"
    path = environment.get(f"{variable}_FILE", "")
    key = Path(path).read_text("utf-8").strip() if path else environment.get(variable, "")
    if not key:
        raise ValueError(f"{name} needs a key: set {variable}, or {variable}_FILE to a file")
    return key


def hit(url: Any, title: Any, snippet: Any, date: Any) -> WebHit:
    """Make one result of what a provider gave, on single lines."""
    if not isinstance(url, str):
        raise TypeError("a result has no address")
    return WebHit(url, cleaned(title)[:200], cleaned(snippet)[:SNIPPET_CHARS], day_of(date))


def day_of(date: Any) -> str:
    """Read a date in ISO 8601 or as in mail: -> YYYY-MM-DD, or "" for anything else."""
    if not isinstance(date, str):
        return ""
    if match := _DAY.match(date):
        return match[0]
    with suppress(ValueError):
        return parsedate_to_datetime(date).strftime("%Y-%m-%d")
    return ""


def cleaned(text: Any) -> str:
    """Take tags, entities, line breaks and lone surrogates out of a text."""
    text = html.unescape(_TAG.sub("", text)) if isinstance(text, str) else ""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def canonical(url: str) -> str:
    """Write a URL so that copies are equal: host in lower case, no fragment, no tracking."""
    parts = urlsplit(url)
    kept = [
        p for p in parse_qsl(parts.query, keep_blank_values=True) if not _TRACKING.fullmatch(p[0])
    ]
    netloc = parts.netloc.lower().removesuffix(":443" if parts.scheme == "https" else ":80")
    return urlunsplit((parts.scheme.lower(), netloc, parts.path or "/", urlencode(kept), ""))
