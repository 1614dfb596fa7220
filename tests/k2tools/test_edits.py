"""Exact edits: all or none, bytes outside them untouched, messages that lead to the right edit."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from k2tools.edits import Edit, diff, edited
from k2tools.results import ToolError
from k2tools.texts import decoded, dominant_ending, lines_of, with_endings

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252")
ENDINGS = ("\n", "\r\n", "\r")


def one(text: str, old: str, new: str, count: int = 1) -> str:
    return edited(text, [Edit(old, new, count)], "f")


def test_an_edit_replaces_what_it_names() -> None:
    assert one("a b c", "b", "x") == "a x c"
    assert one("a a", "a", "b", 2) == "b b"


def test_edits_apply_in_order_each_to_the_result_of_the_one_before() -> None:
    assert edited("a", [Edit("a", "b"), Edit("b", "c")], "f") == "c"


@pytest.mark.parametrize(
    ("text", "edit", "message"),
    [
        ("a\nb\na\n", Edit("a", "x"), "finds 2, at line 1, 3"),
        ("a", Edit("a", "b", 2), "expects 2 and finds 1"),
        ("aaa", Edit("aa", "b"), "expects 1 and finds 2"),
        ("aaa", Edit("aa", "b", 2), "overlap"),
        ("a", Edit("", "b"), "empty old"),
        ("a", Edit("a", "a"), "by itself"),
        ("def f(x):\n    return x\n", Edit("def f(x):\n  return x", ""), "only in spaces"),
        ("one\ntwo\n", Edit("2\ttwo", "x"), "line numbers of read_file"),
        ("alpha beta gamma\n", Edit("alpha betta gamma", "x"), "Nearest text:\n1\talpha beta"),
    ],
)
def test_an_edit_that_does_not_fit_says_why(text: str, edit: Edit, message: str) -> None:
    with pytest.raises(ToolError, match=message):
        edited(text, [edit], "f")


def test_the_failing_edit_of_several_is_named() -> None:
    with pytest.raises(ToolError, match="edit 2 of 2"):
        edited("a", [Edit("a", "b"), Edit("z", "c")], "f")


@pytest.mark.parametrize(
    ("text", "old", "new", "after"),
    [
        ("a\r\nb\r\n", "a\nb", "x\ny", "x\r\ny\r\n"),  # LF given, CRLF found and written
        ("a\r\nb\r\n", "a", "x\ny", "x\r\ny\r\nb\r\n"),  # the line's own ending
        ("a\nb\r\nc\r\n", "a\nb", "x\ny", "x\ny\r\nc\r\n"),  # mixed: the exact place
        ("a\r\nb\n", "a\nb", "x\ny\nz", "x\r\ny\r\nz\n"),
        ("a\r\nb", "a\r\nb", "a\nb", "a\nb"),  # CR given: taken as it is
        ("a", "a", "x\ny", "x\ny"),
        ("a\rb\rc", "a\nb", "x\ny", "x\ry\rc"),  # CR alone
        ("a\rb\r", "a", "x\ny", "x\ry\rb\r"),
    ],
)
def test_line_endings_are_those_of_the_place(text: str, old: str, new: str, after: str) -> None:
    assert one(text, old, new) == after


lines = st.lists(st.text(st.characters(codec="cp1252", exclude_characters="\r\n\0"), max_size=8))


@given(lines, st.sampled_from(ENDINGS), st.booleans(), st.sampled_from(ENCODINGS), st.data())
def test_an_edit_and_its_inverse_give_back_the_same_bytes(
    content: list[str], ending: str, final: bool, encoding: str, data: st.DataObject
) -> None:
    text = ending.join(["top", *content]) + (ending if final else "")
    raw = text.encode(encoding)
    before = decoded(raw, fallback="cp1252", name="f")
    assert before.encoded(before.text) == raw
    plain = before.text.replace(ending, "\n")
    start = data.draw(st.integers(min(4, len(plain)), len(plain)))
    old = plain[start : data.draw(st.integers(start, len(plain)))]
    new = data.draw(st.text(st.sampled_from("xyzé\n"), max_size=5))
    assume(old and new and old != new)
    try:
        changed = one(before.text, old, new)
        back = one(changed, new, old)
    except ToolError:
        return  # ambiguous: refused, nothing changed
    assert back == before.text
    assert before.encoded(back) == raw


@given(st.text("ab\n\r"), st.text("ab\n\r"))
def test_a_diff_applied_gives_the_new_text(before: str, after: str) -> None:
    assume(dominant_ending(before) == dominant_ending(after) == "\n")
    assume("\r" not in before + after)
    assert applied(before, diff(before, after, "f")) == after


def applied(before: str, unified: str) -> str:
    """Apply a unified diff by its own rules: text, diff -> text."""
    source, out, at = with_endings(before), [], 0
    body = unified.split("\n")[2:]
    for number, line in enumerate(body):
        ended = "" if body[number + 1 : number + 2] == ["\\ No newline at end of file"] else "\n"
        if line.startswith("@@"):
            start, _, count = line.split()[1][1:].partition(",")
            first = int(start) - (0 if count == "0" else 1)
            out += source[at:first]
            at = first
        elif line.startswith("+"):
            out.append(line[1:] + ended)
        elif line.startswith("-"):
            assert source[at] == line[1:] + ended
            at += 1
        elif line.startswith(" "):
            assert source[at] == line[1:] + ended
            out.append(source[at])
            at += 1
    return "".join(out + source[at:])


def test_a_diff_shows_an_ending_that_changed() -> None:
    assert "-a␍␊\n+a" in diff("a\r\nb\nc\n", "a\nb\nc\n", "f")


def test_a_long_file_with_one_change_has_a_short_diff() -> None:
    text = "".join(f"line {n}\n" for n in range(50_000))
    shown = diff(text, text.replace("line 40000\n", "changed\n"), "f")
    assert len(shown.split("\n")) < 15
    assert "@@ -39998,7 +39998,7 @@" in shown


@given(st.text(st.characters(codec="utf-8")))
def test_lines_and_lines_with_endings_agree(text: str) -> None:
    bare = [line.rstrip("\r\n") for line in with_endings(text)]
    assert [line.rstrip("\r") for line in lines_of(text)] == bare or not text
    assert "".join(with_endings(text)) == text


def test_binary_is_refused_with_its_kind() -> None:
    with pytest.raises(ToolError, match="PNG image"):
        decoded(b"\x89PNG\r\n\x1a\n\0\0", fallback="cp1252", name="x.png")
    with pytest.raises(ToolError, match=r"PDF, 9 bytes.*open shows its text"):
        decoded(b"%PDF-1.4\n", fallback="cp1252", name="x.pdf")  # though no NUL tells


@pytest.mark.parametrize(
    ("data", "described"),
    [
        (b"plain\n", ""),
        ("é".encode(), ""),
        (b"caf\xe9\r\n", " · cp1252 · CRLF"),
        ("x\n".encode("utf-16"), " · utf-16-le with BOM"),
        ("x\n".encode("utf-32"), " · utf-32-le with BOM"),
        (b"\xef\xbb\xbfx", " · utf-8 with BOM"),
        (b"a\rb\r", " · CR"),
        (b"\x81\n", " · latin-1"),
    ],
)
def test_what_is_unusual_is_named(data: bytes, described: str) -> None:
    assert decoded(data, fallback="cp1252", name="f").described() == described
