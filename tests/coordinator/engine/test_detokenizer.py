"""Text comes out whole, in order and character by character, from byte-level and sentencepiece vocabularies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from folkmoot.coordinator.engine.detokenizer import BROKEN, PATIENCE_TOKENS, Detokenizer
from folkmoot.coordinator.engine.tokens import TokenSpelling
from folkmoot.tests.support.tiny_models import EOS, tiny_tokenizer

BYTE_LEVEL = tiny_tokenizer()
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=BROKEN), max_size=12)


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """Words that begin with U+2581, single letters, and a token for each byte, decoded as Llama's are."""
    words = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdef ", "▁ab", "cd", "▁a"]
    vocabulary = {word: index for index, word in enumerate(words)}
    merges = [("▁", "a"), ("▁a", "b"), ("c", "d")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(EOS, special=True, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, clean_up_tokenization_spaces=False
    )


SENTENCEPIECE = sentencepiece_tokenizer()


def pieces(tokenizer: PreTrainedTokenizerFast, prompt: list[int], tokens: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer, prompt)
    return [*(detokenizer.add(token) for token in tokens), detokenizer.flush()]


@given(TEXT, TEXT)
def test_byte_level_text_comes_back_and_is_never_broken(before: str, text: str) -> None:
    prompt, tokens = BYTE_LEVEL.encode(before), BYTE_LEVEL.encode(text)
    out = pieces(BYTE_LEVEL, prompt, tokens)
    assert "".join(out) == text
    assert BROKEN not in "".join(out)


@given(TEXT, TEXT)
def test_a_byte_level_character_comes_with_its_last_byte(before: str, text: str) -> None:
    detokenizer = Detokenizer(BYTE_LEVEL, BYTE_LEVEL.encode(before))
    for character in text:
        encoded = BYTE_LEVEL.encode(character)
        assert [detokenizer.add(token) for token in encoded] == [*[""] * (len(encoded) - 1), character]


@given(TEXT, TEXT)
def test_sentencepiece_text_comes_back_and_is_never_broken(before: str, text: str) -> None:
    before, text = before.replace("▁", ""), text.replace("▁", "")
    prompt, tokens = SENTENCEPIECE.encode("a" + before), SENTENCEPIECE.encode(text)
    out = pieces(SENTENCEPIECE, prompt, tokens)
    # The answer's first word begins with a space, as the vocabulary says: it follows a prompt.
    assert "".join(out) == (" " + text if text else "")
    assert BROKEN not in "".join(out)


@given(st.lists(st.integers(0, 255), max_size=60))
def test_bytes_that_spell_nothing_come_out_as_replacements_in_the_end(tokens: list[int]) -> None:
    out = "".join(pieces(BYTE_LEVEL, [], tokens))
    whole = BYTE_LEVEL.decode(tokens)
    assert out.replace(BROKEN, "") == whole.replace(BROKEN, "")


def test_a_character_that_began_in_the_prompt_is_completed() -> None:
    first, second = BYTE_LEVEL.encode("é")
    assert "".join(pieces(BYTE_LEVEL, [*BYTE_LEVEL.encode("a"), first], [second])) == "é"


def test_text_is_not_held_for_ever() -> None:
    lone = BYTE_LEVEL.encode("é")[0]
    detokenizer = Detokenizer(BYTE_LEVEL, [])
    out = [detokenizer.add(lone) for _ in range(PATIENCE_TOKENS)]
    assert out[-1] == BROKEN * PATIENCE_TOKENS


@pytest.mark.parametrize("token", [BYTE_LEVEL.eos_token_id, *BYTE_LEVEL.encode("aé")[:2]])
def test_the_cost_of_a_token_does_not_grow(token: int) -> None:
    class Counting:
        longest = 0

        def decode(self, ids: list[int], **options: bool) -> str:
            self.longest = max(self.longest, len(ids))
            text: str = BYTE_LEVEL.decode(ids, **options)
            return text

        def convert_ids_to_tokens(self, ids: int) -> str | None:
            raise AssertionError("not needed")

    tokenizer = Counting()
    detokenizer = Detokenizer(tokenizer, [97] * 100)
    for _ in range(200):
        detokenizer.add(token)
    assert tokenizer.longest <= 2 * PATIENCE_TOKENS


def test_special_tokens_are_no_text() -> None:
    tokens = BYTE_LEVEL.encode("ab")
    tokens.insert(1, BYTE_LEVEL.eos_token_id)
    assert "".join(pieces(BYTE_LEVEL, [], tokens)) == "ab"


@given(TEXT)
def test_tokens_spell_their_own_bytes(text: str) -> None:
    spelling = TokenSpelling(BYTE_LEVEL)
    assert b"".join(spelling.spell(token)[1] for token in BYTE_LEVEL.encode(text)) == text.encode()


@pytest.mark.parametrize(
    ("word", "data"), [("<0xC3>", b"\xc3"), ("▁ab", b" ab"), ("cd", b"cd"), (EOS, EOS.encode())]
)
def test_sentencepiece_tokens_spell_their_own_bytes(word: str, data: bytes) -> None:
    text, found = TokenSpelling(SENTENCEPIECE).spell(SENTENCEPIECE.convert_tokens_to_ids(word))
    assert found == data
    assert text == data.decode(errors="replace")


def test_rows_of_the_embedding_that_are_no_token_spell_nothing() -> None:
    assert TokenSpelling(BYTE_LEVEL).spell(len(BYTE_LEVEL) + 5) == ("", b"")
