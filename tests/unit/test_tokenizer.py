"""The tokenizer adapter: no added tokens in text, no normaliser, bytes of every token."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octupus import tokenizer as adapter
from octupus.errors import ConfigError, WireError
from octupus.tokenizer import HfTokenizer, load_tokenizer
from tests.support.qwen import qwen_base, qwen_octupus
from tests.support.tiny import tiny_folder, tiny_tokenizer


def test_special_strings_stay_text() -> None:
    for tokenizer in (tiny_tokenizer(), qwen_octupus()):
        for special, id in tokenizer.added_tokens.items():
            ids = tokenizer.encode(f"a{special}b")
            assert id not in ids and tokenizer.decode(ids) == f"a{special}b"
            assert tokenizer.token_bytes(id) is None and tokenizer.decode([id]) == ""


def test_nothing_is_normalised() -> None:
    decomposed = "e\u0301 \u1100\u1161 \u212b"
    for tokenizer in (tiny_tokenizer(), qwen_base()):
        assert tokenizer.decode(tokenizer.encode(decomposed)) == decomposed
    assert '"NFC"' in json.dumps(qwen_base().spec["normalizer"]), "the case must be a real one"


def test_the_real_vocabulary_is_the_real_one() -> None:
    tokenizer = qwen_octupus()
    assert tokenizer.encode("Hello, world! 你好，世界") == [9707, 11, 1879, 0, 220, 108386, 3837, 99489]
    assert (qwen_base().size, tokenizer.size, tokenizer.eos_id) == (151665, 151672, 151643)
    order = ["SYSTEM", "USER", "ASSISTANT", "FUNCTION_CALL", "PARAMETERS", "FUNCTION_OUTPUT", "CONTENT"]
    assert [tokenizer.added_tokens[f"<|{name}|>"] for name in order] == list(range(151665, 151672))


def test_every_byte_has_a_token() -> None:
    tokenizer = tiny_tokenizer()
    alphabet = {tokenizer.token_bytes(i) for i in range(tokenizer.size)}
    assert {bytes([b]) for b in range(256)} <= alphabet
    assert tokenizer.token_bytes(-1) is None and tokenizer.token_bytes(tokenizer.size) is None


def test_an_added_token_inside_the_vocabulary_is_not_text() -> None:
    """GPT-2 and Llama 3 keep their special tokens in the vocabulary too."""
    spec = json.loads(json.dumps(tiny_tokenizer().spec))
    spec["model"]["vocab"]["<|endoftext|>"] = tiny_tokenizer().eos_id
    spec["model"]["ignore_merges"] = True
    tokenizer = HfTokenizer(spec, "<|endoftext|>")
    assert tokenizer.token_bytes(tokenizer.eos_id) is None
    assert tokenizer.eos_id not in tokenizer.encode("<|endoftext|>")


def test_the_digest_follows_vocabulary_and_added_tokens() -> None:
    spec = json.loads(json.dumps(tiny_tokenizer().spec))
    assert HfTokenizer(spec, "<|endoftext|>").digest == tiny_tokenizer().digest
    spec["added_tokens"][-1]["content"] = "<|X|>"
    assert HfTokenizer(spec, "<|endoftext|>").digest != tiny_tokenizer().digest
    assert qwen_base().digest != qwen_octupus().digest


def test_lone_surrogates_are_refused() -> None:
    for encode in (tiny_tokenizer().encode, by_merges(tiny_tokenizer())):
        with pytest.raises((TypeError, UnicodeEncodeError)):
            encode("a\ud800")


def write(folder: Path, **config: object) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_folder() / name).read_bytes())
    value = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(value | config), encoding="utf-8")
    return folder


def test_bad_folders_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.json does not exist"):
        load_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match="no eos_token"):
        load_tokenizer(write(tmp_path, eos_token=None))
    with pytest.raises(ConfigError, match="'<nope>' is none of the tokenizer's added tokens"):
        load_tokenizer(write(tmp_path, eos_token="<nope>"))
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not JSON"):
        load_tokenizer(tmp_path)


def test_other_tokenizers_are_refused() -> None:
    spec = {**tiny_tokenizer().spec, "model": {"type": "Unigram", "vocab": []}}
    with pytest.raises(ConfigError, match="only byte-level BPE"):
        HfTokenizer(spec, "<|endoftext|>")


def test_templates_render_as_transformers_does(tmp_path: Path) -> None:
    write(tmp_path, eos_token={"content": "<|endoftext|>"})
    template = (
        "{%- for m in messages %}{{ m.role }}:{{ m | tojson }}{% if x %}\n!{% endif %}{%- endfor %}{{ eos_token }}"
    )
    (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    shown = tokenizer.render_template([{"role": "user", "content": "<é>"}], x=True)
    assert shown == 'user:{"role": "user", "content": "<é>"}!<|endoftext|>'
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no') }}", encoding="utf-8")
    with pytest.raises(WireError, match="refused the conversation: no"):
        load_tokenizer(tmp_path).render_template([])
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    (tmp_path / "chat_template.jinja").unlink()
    assert load_tokenizer(write(tmp_path, chat_template=named)).render_template([]) == "d"
    with pytest.raises(WireError, match="no chat template"):
        load_tokenizer(write(tmp_path, chat_template=None)).render_template([])


PIECES = st.sampled_from(
    ["it's", " WE'LL", "\r\n", "  \n ", "\t\t", "123", " 7", "你好", "é", "e\u0301", "<|endoftext|>", '{"a": 1}']
)


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(PIECES | st.text(max_size=8), max_size=12))
def test_the_fast_encoder_gives_what_the_merges_give(parts: list[str]) -> None:
    text = "".join(parts)
    for tokenizer in (tiny_tokenizer(), qwen_base()):
        assert tokenizer.encode(text) == by_merges(tokenizer)(text)


def test_the_fast_encoder_splits_every_kind_of_character_alike() -> None:
    tokenizer = qwen_base()
    characters = [chr(c) for c in range(0, 0x32000, 23) if not 0xD800 <= c < 0xE000]
    text = "|".join(f"a{c}b {c} 1{c}2.{c}\n {c}{c}" for c in characters)
    assert tokenizer.encode(text) == by_merges(tokenizer)(text)


def test_a_vocabulary_that_the_fast_encoder_might_read_otherwise_is_left_to_the_merges() -> None:
    vocab = {t: i for t, i in tiny_tokenizer().spec["model"]["vocab"].items() if t not in tiny_tokenizer().added_tokens}
    tokens = [tiny_tokenizer().token_bytes(i) for i in range(tiny_tokenizer().size)]
    assert adapter._by_rank(tiny_tokenizer().spec, vocab, tokens) is not None
    for change in (
        lambda spec: spec["model"].update(ignore_merges=True),
        lambda spec: spec["model"]["merges"].reverse(),
        lambda spec: spec["model"]["merges"].pop(),
        lambda spec: spec["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\\p{N}{1,3}|\\s+|\\S+"),
        lambda spec: spec.update(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}),
    ):
        spec = json.loads(json.dumps(tiny_tokenizer().spec))
        change(spec)
        assert adapter._by_rank(spec, vocab, tokens) is None


@cache
def by_merges(tokenizer: HfTokenizer) -> Callable[[str], list[int]]:
    added = tokenizer.added_tokens
    vocab = {token: id for token, id in tokenizer.spec["model"]["vocab"].items() if token not in added}
    return adapter._by_merges(tokenizer.spec, vocab)
