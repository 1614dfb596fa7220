"""Fetching reaches the public web only, under every disguise, and stays within its caps."""

import gzip
from collections.abc import AsyncIterator

import pytest

from k2tools.fetch import Fetcher, Pinned, checked_url, is_public
from k2tools.results import ToolError
from tests.k2tools.internet import PUBLIC, Internet, moved, page

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("address", "public"),
    [
        (PUBLIC, True),
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("64:ff9b::808:808", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("233.252.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("::127.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),
        ("2001:0:5ef5:79fb:0:0:80ff:fffe", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
    ],
)
async def test_only_public_addresses_pass_whatever_they_are_wrapped_in(
    address: str, public: bool
) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://h/x",
        "gopher://h:70/_x",
        "http://",
        "http:///x",
        "https://user:secret@host/",
        "http://user@host/",
        "http://h:99999/",
        "http://h/a b",
        "http://h/\r\nX: y",
        "http://[::1",
        "javascript:alert(1)",
        "h/x",
        "",
        "http://" + "a" * 3000,
        "http://\ud800/",
    ],
)
async def test_what_is_no_plain_web_address_is_refused(url: str) -> None:
    with pytest.raises(ToolError):
        checked_url(url)


async def test_addresses_are_normalised() -> None:
    assert checked_url("HTTP://Example.ORG#part") == "http://example.org/"
    assert checked_url("https://münchen.de/straße?q=ü") == (
        "https://xn--mnchen-3ya.de/stra%C3%9Fe?q=%C3%BC"
    )
    assert checked_url("http://[2606:4700::1]:80/x?a=%20b") == "http://[2606:4700::1]:80/x?a=%20b"


@pytest.fixture
async def internet() -> AsyncIterator[Internet]:
    async with Internet().running() as running:
        yield running


def fetcher(internet: Internet, **changes: object) -> Fetcher:
    options = {"timeout_s": 5.0, "max_bytes": 100_000, "honour_robots": False, **changes}
    return Fetcher(Pinned(resolve=internet.resolve, dial=internet.dial), **options)


async def test_the_checked_address_is_the_one_that_is_dialled(internet: Internet) -> None:
    internet.pages["http://site.example/a"] = page("hello")
    answer = await fetcher(internet).get("http://site.example/a#top")
    assert (answer.status, answer.body, answer.url) == (200, b"hello", "http://site.example/a")
    assert internet.resolved == ["site.example"]
    assert internet.dialled == [(PUBLIC, 80)]
    ((_, headers),) = internet.requests
    assert headers["host"] == "site.example"
    assert not {"cookie", "authorization"} & headers.keys()


async def test_a_name_that_changes_its_answer_gains_nothing(internet: Internet) -> None:
    internet.addresses["rebind.example"] = [[PUBLIC], ["127.0.0.1"]]
    internet.pages["http://rebind.example/"] = page("public")
    with_one_look = fetcher(internet)
    assert (await with_one_look.get("http://rebind.example/")).body == b"public"
    assert internet.dialled == [(PUBLIC, 80)]
    with pytest.raises(ToolError, match="not on the public internet"):
        await with_one_look.get("http://rebind.example/")
    assert internet.dialled == [(PUBLIC, 80)]


@pytest.mark.parametrize("inner", ["127.0.0.1", "169.254.169.254", "::1", "64:ff9b::a00:1"])
async def test_one_inner_address_among_public_ones_is_enough_to_refuse(
    internet: Internet, inner: str
) -> None:
    internet.addresses["mixed.example"] = [[PUBLIC, inner]]
    with pytest.raises(ToolError, match="not on the public internet"):
        await fetcher(internet).get("http://mixed.example/")
    assert internet.dialled == []


async def test_numbers_in_odd_spelling_are_resolved_and_then_refused() -> None:
    plain = Fetcher(Pinned(), timeout_s=5.0, max_bytes=1_000, honour_robots=False)
    for host in ("127.0.0.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"):
        with pytest.raises(ToolError, match=r"public internet|not known"):
            await plain.get(f"http://{host}/")


async def test_every_redirect_is_checked_anew(internet: Internet) -> None:
    internet.pages["http://a.example/"] = moved("http://b.example/next")
    internet.pages["http://b.example/next"] = page("there")
    answer = await fetcher(internet).get("http://a.example/")
    assert (answer.url, answer.body) == ("http://b.example/next", b"there")
    internet.addresses["inner.example"] = [["10.0.0.7"]]
    for target in ("http://inner.example/", "http://127.0.0.1/x", "file:///etc/passwd"):
        internet.pages["http://a.example/"] = moved(target)
        with pytest.raises(ToolError, match=r"public internet|only http"):
            await fetcher(internet).get("http://a.example/")
    internet.pages["http://a.example/"] = moved("http://a.example/")
    with pytest.raises(ToolError, match="more than 5"):
        await fetcher(internet).get("http://a.example/")


async def test_other_ports_are_refused(internet: Internet) -> None:
    with pytest.raises(ToolError, match=r"port 6379 is not allowed, only \[80, 443\]"):
        await fetcher(internet).get("http://site.example:6379/")
    assert internet.resolved == []


async def test_the_next_checked_address_is_tried_when_one_is_dead(internet: Internet) -> None:
    internet.addresses["two.example"] = [["93.184.215.99", PUBLIC]]
    internet.pages["http://two.example/"] = page("alive")
    assert (await fetcher(internet).get("http://two.example/")).body == b"alive"


async def test_bodies_are_capped_after_decompression(internet: Internet) -> None:
    internet.pages["http://big.example/"] = page(b"x" * 100_001)
    bomb = gzip.compress(b"\0" * 20_000_000)
    internet.pages["http://bomb.example/"] = page(bomb, content_encoding="gzip")
    for host in ("big", "bomb"):
        with pytest.raises(ToolError, match="larger than 100000 bytes"):
            await fetcher(internet).get(f"http://{host}.example/")
    internet.pages["http://zip.example/"] = page(gzip.compress(b"fine"), content_encoding="gzip")
    assert (await fetcher(internet).get("http://zip.example/")).body == b"fine"
    internet.pages["http://br.example/"] = page(b"??", content_encoding="br")
    with pytest.raises(ToolError, match="not asked for"):
        await fetcher(internet).get("http://br.example/")


async def test_a_server_that_stalls_is_left(internet: Internet) -> None:
    internet.pages["http://slow.example/"] = page("x" * 5000)
    internet.stall_after = 100
    with pytest.raises(ToolError, match=r"slow\.example took more than"):
        await fetcher(internet, timeout_s=0.2).get("http://slow.example/")


async def test_robots_rules_are_read_through_the_same_door_and_kept(internet: Internet) -> None:
    pytest.importorskip("protego")
    rules = "User-agent: *\nDisallow: /private\n\nUser-agent: k2tools\nDisallow: /tools\n"
    internet.pages["http://r.example/robots.txt"] = page(rules)
    internet.pages["http://r.example/private"] = page("ours")
    polite = fetcher(internet, honour_robots=True)
    assert (await polite.get("http://r.example/private")).body == b"ours"
    with pytest.raises(ToolError, match=r"robots\.txt does not allow"):
        await polite.get("http://r.example/tools/x")
    asked = [url for url, _ in internet.requests]
    assert asked.count("http://r.example/robots.txt") == 1
    assert "http://r.example/tools/x" not in asked


async def test_without_rules_all_is_allowed_and_with_a_broken_server_nothing(
    internet: Internet,
) -> None:
    pytest.importorskip("protego")
    internet.pages["http://none.example/x"] = page("fine")
    polite = fetcher(internet, honour_robots=True)
    assert (await polite.get("http://none.example/x")).body == b"fine"
    internet.pages["http://ill.example/robots.txt"] = page("", 503)
    with pytest.raises(ToolError, match="answers 503"):
        await polite.get("http://ill.example/x")
    internet.pages["http://hop.example/"] = moved("http://ill.example/x")
    with pytest.raises(ToolError, match="answers 503"):
        await polite.get("http://hop.example/")
