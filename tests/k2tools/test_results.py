"""Shortening: never over the cap, and whatever is left out can be reached."""

import re

from hypothesis import given
from hypothesis import strategies as st

from k2tools.results import cut_line, page, shorten, shown

bodies = st.lists(st.text(st.characters(exclude_characters="\n"), max_size=80), max_size=60).map(
    "\n".join
)


def short(body: str, max_chars: int = 300, keep: str = "head") -> str:
    return shorten(body, ref="r7", max_chars=max_chars, line_chars=100, keep=keep)


def test_a_short_body_is_left_alone() -> None:
    assert short("a\nb") == "a\nb"


def test_a_cut_head_ends_with_the_call_that_goes_on() -> None:
    body = "\n".join(f"line {n}" for n in range(1, 101))
    cut = short(body)
    last = int(cut.split("\n")[-2].split()[1])
    assert cut.endswith(f'[more: open(id="r7", line={last + 1})]')


def test_cut_program_output_keeps_its_end() -> None:
    body = "\n".join(f"line {n}" for n in range(1, 101))
    cut = short(body, keep="ends").split("\n")
    assert cut[0] == "line 1"
    assert cut[-1] == "line 100"
    note = next(line for line in cut if line.startswith("[…"))
    left_out, following = map(int, re.findall(r"\d+", note.replace("r7", "")))
    assert len(cut) - 1 + left_out == 100
    assert cut[cut.index(note) - 1] == f"line {following - 1}"


@given(bodies, st.sampled_from(["head", "ends"]))
def test_no_result_passes_its_cap(body: str, keep: str) -> None:
    assert len(short(body, keep=keep)) <= 300


@given(bodies)
def test_following_the_calls_reads_every_line(body: str) -> None:
    lines, read, line = body.split("\n"), [], 1
    while line:
        window, line = page(lines, line, 1_000, max_chars=300, line_chars=100)
        read += [text.partition("\t")[2] for text in window]
    assert read == lines


def test_long_lines_say_how_much_is_missing() -> None:
    once = cut_line("x" * 112, 10)
    assert once == "x" * 10 + "… [+102 characters]"
    assert cut_line(f"123456\t{once}", 10) == f"123456\t{once}"


def test_values_in_messages_are_bounded() -> None:
    assert len(shown("x" * 10_000)) == 60
    assert shown(10**5000) == "a number too long to print"
