"""Prompts and ids against transformers, with a template and a tokenizer in its own format."""

from typing import Any

import pytest
from hypothesis import given

from k2ref.chat import K2_THINKING, render
from k2ref.tokenizer import load_tokenizer
from tests.conformance.api.foreign import write_foreign_tape
from tests.k2ref.chat_strategies import conversations

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]  # foreign warnings


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    transformers = pytest.importorskip("transformers", reason="pip install 'k2ref[peers]'")
    folder = write_foreign_tape(tmp_path_factory.mktemp("tape"))
    theirs = transformers.AutoTokenizer.from_pretrained(folder / "foreign")
    return load_tokenizer(folder / "own"), theirs


def test_transformers_makes_the_same_prompts_and_ids(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair

    @given(conversations().filter(bool))  # it refuses empty conversations
    def equal(messages: list[dict[str, Any]]) -> None:
        prompt = render(messages, dialect=K2_THINKING)
        text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert prompt.text == text
        official = prompt.ids(ours, control_in_data=True)
        assert official == theirs.encode(text, add_special_tokens=False)

    equal()
