"""The web behind search and open: providers in the operator's order, pages through the cache."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from urllib.parse import urlsplit

import anyio
import httpx2

from k2tools.corpus import Window
from k2tools.documents import Extractor
from k2tools.fetch import Fetcher, Pinned
from k2tools.pages import Page, Pages, Reader
from k2tools.providers import Ask, Provider, ProviderError, WebHit, canonical, configured
from k2tools.results import ToolError, shown
from k2tools.schemas import call_text
from k2tools.settings import Settings

PROVIDER_S = 12.0  # for one provider
NO_PROVIDER = (
    'web search is not configured here; use source="corpus", or ask the operator for '
    "--web searxng=URL, brave, tavily, exa or ddgs"
)


class Web:
    """What a server may do on the web; without providers and without a fetcher: nothing."""

    def __init__(
        self, providers: list[tuple[Provider, str]], pages: Pages, client: httpx2.AsyncClient
    ) -> None:
        self.providers, self.pages, self._client = providers, pages, client
        self._free_s: dict[str, float] = {}  # provider -> when it may be asked again

    async def search(self, reader: Reader, ask: Ask, cursor: str) -> str:
        """Ask the providers in order until one answers: -> the result's text."""
        providers, ask = self._from(cursor, ask)
        failed: list[str] = []
        for provider, secret in providers:
            try:
                if ask.since and provider.dates == "never":
                    raise ProviderError("it cannot filter by date")
                with anyio.fail_after(PROVIDER_S):
                    await self._turn(provider)
                    found = await provider.search(self._client, ask, secret)
            except (ProviderError, TimeoutError) as error:
                failed.append(f"{provider.name}: {error or f'no answer in {PROVIDER_S:.0f} s'}")
                continue
            return self._written(reader, provider, ask, found, failed)
        raise ToolError(f"no web provider answered ({'; '.join(failed)}); try again or other words")

    async def _turn(self, provider: Provider) -> None:
        """Wait until a provider may be asked again."""
        now_s = anyio.current_time()
        turn_s = max(now_s, self._free_s.get(provider.name, 0.0))
        self._free_s[provider.name] = turn_s + provider.every_s
        await anyio.sleep(turn_s - now_s)

    def _from(self, cursor: str, ask: Ask) -> tuple[list[tuple[Provider, str]], Ask]:
        """Read a cursor NAME-PAGE: the same provider turns the page."""
        if not self.providers:
            raise ToolError(NO_PROVIDER)
        if not cursor:
            return self.providers, ask
        name, _, page = cursor.rpartition("-")
        chosen = [p for p in self.providers if p[0].name == name and p[0].pages]
        if not chosen or not page.isdecimal() or not 2 <= int(page[:3]) <= 10:
            raise ToolError(
                f"a web search has no cursor {shown(cursor)}; copy it from the [more: …] line"
            )
        return chosen, ask._replace(page=int(page))

    def _written(
        self, reader: Reader, provider: Provider, ask: Ask, found: list[WebHit], failed: list[str]
    ) -> str:
        hits = selected(found, ask, dated=provider.dates == "shown")[: ask.k]
        head = f"web ({provider.name}{''.join('; ' + f for f in failed)})"
        if not hits:
            return f"{head}\nno hits for {shown(ask.query, 200)}; use fewer or other words"
        lines = [head]
        for number, hit in enumerate(hits, 1):
            id = self.pages.number(reader, hit.url)
            day = f" ({hit.date})" if hit.date else ""
            lines += [f"{number}. [{id}] {hit.title}{day}", hit.url, hit.snippet]
        if provider.pages and ask.page < 10:
            given = {"query": ask.query, "source": "web", "site": ask.site, "since": ask.since}
            given = {name: value for name, value in given.items() if value}
            following = call_text("search", given | {"cursor": f"{provider.name}-{ask.page + 1}"})
            lines.append(f"[more: {following}]")
        return "\n".join(filter(None, lines))

    async def read(self, reader: Reader, id: str) -> tuple[str, Page] | None:
        """Read a page by URL or id: -> its id, Page; None when the id is not one of ours."""
        if "://" in id:
            return await self.pages.by_url(reader, id)
        if not (id.startswith("w") and id[1:].isdecimal() and len(id) < 10):
            return None
        page = await self.pages.by_id(reader, id)
        return (id, page) if page else None


def selected(found: list[WebHit], ask: Ask, *, dated: bool) -> list[WebHit]:
    """Apply site and since again, and drop copies: hits -> hits in their order.

    `dated` leaves out what has no date, for providers that did not look at `since` themselves.
    """
    kept: dict[str, WebHit] = {}
    for hit in found:
        try:
            url = canonical(hit.url)
            host = urlsplit(url).hostname or ""
        except ValueError:
            continue
        old = hit.date < ask.since if hit.date else dated
        if not url.startswith(("http://", "https://")) or (ask.since and old):
            continue
        if ask.site and host != ask.site.lower() and not host.endswith("." + ask.site.lower()):
            continue
        kept.setdefault(url, hit._replace(url=url))
    return list(kept.values())


def window(page: Page, line: int, max_lines: int) -> Window:
    """Take lines of a page; its title names the source, since the text is somebody else's."""
    title = " ".join(filter(None, (page.url, page.title)))
    return Window(title, page.lines[line - 1 : line - 1 + max_lines], len(page.lines))


@asynccontextmanager
async def opened(settings: Settings, backend: Pinned | None = None) -> AsyncIterator[Web]:
    """Open the cache and the providers of a server."""
    providers = [configured(text) for text in settings.web]
    fetcher = None
    if settings.fetch:
        missing = [name for name in ("protego", "readability") if not find_spec(name)]
        if missing:
            raise ValueError(f"--fetch needs {missing[0]}: pip install 'k2ref[web]'")
        fetcher = Fetcher(
            backend or Pinned(map(int, settings.fetch_ports)),
            timeout_s=settings.fetch_timeout_s,
            max_bytes=settings.fetch_max_bytes,
            honour_robots=settings.fetch_robots,
        )
    extractor = Extractor(settings.extract_timeout_s, settings.fallback_encoding)
    pages = Pages(
        settings.state / "pages.sqlite",
        fetcher,
        extractor,
        fresh_s=settings.fetch_fresh_s,
        max_bytes=settings.fetch_cache_bytes,
    )
    try:
        timeout = httpx2.Timeout(PROVIDER_S)
        async with httpx2.AsyncClient(timeout=timeout, trust_env=False) as client:
            yield Web(providers, pages, client)
    finally:
        pages.close()
        extractor.close()
