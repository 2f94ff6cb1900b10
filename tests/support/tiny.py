"""A tiny byte-level BPE tokenizer with the seven special tokens, trained in well under a second."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

from tokenizers import normalizers

from octupus.scratch import EOS, save_tokenizer, train_tokenizer
from octupus.surgery import extend_tokenizer, write_tokenizer
from octupus.tokenizer import HfTokenizer, load_tokenizer
from octupus.wire import Wire, make_dialect, write_wire
from octupus.wire.dialect import OCTUPUS
from tests.support.qwen import instruct_spec, instruct_template

CORPUS = [
    "You are a helpful assistant. What is the weather in Paris today? It is sunny, 21 degrees.",
    "你好！请问北京今天天气怎么样？我可以帮助你查询天气、订票和计算。谢谢！",
    '{"type": "function", "function": {"name": "get_weather", "description": "Look up the weather.", "parameters": '
    '{"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, '
    '"required": ["city"]}}}',
    '{"city": "Paris", "days": 3, "units": ["celsius", "fahrenheit"], "detail": true, "note": null, "x": -1.5e3}',
    "The quick brown fox jumps over the lazy dog.\n\nBook a table for four people at seven.\n",
    "请帮我预订明天晚上七点四个人的座位。好的，已经为您预订。"
    "system user assistant tool call response arguments content",
]


@cache
def tiny_folder() -> Path:
    """A folder as surgery leaves it, without weights: tokenizer files, chat_template.jinja, wire.json."""
    folder = Path(tempfile.mkdtemp(prefix="octupus-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    save_tokenizer(train_tokenizer(CORPUS * 4, 768), folder)
    base = load_tokenizer(folder)
    tokenizer = HfTokenizer(extend_tokenizer(base.spec, OCTUPUS), EOS)
    write_tokenizer(folder, folder, tokenizer)
    write_wire(folder, Wire(OCTUPUS, tokenizer))
    return folder


@cache
def tiny_tokenizer() -> HfTokenizer:
    return load_tokenizer(tiny_folder())


@cache
def tiny_wire() -> Wire:
    return Wire(OCTUPUS, tiny_tokenizer())


@cache
def tiny_instruct_folder(template: str) -> Path:
    """Qwen2.5's or Qwen3's instruct tokenizer and template around the tiny vocabulary, normaliser included."""
    folder = Path(tempfile.mkdtemp(prefix="octupus-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tokenizer = train_tokenizer(CORPUS * 4, 768)
    tokenizer.normalizer = normalizers.NFC()
    save_tokenizer(tokenizer, folder, eos_token="<|im_end|>", tokenizer_class="PreTrainedTokenizerFast")
    spec = instruct_spec(json.loads(tokenizer.to_str()), template)
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(instruct_template(template), encoding="utf-8")
    return folder


@cache
def tiny_dialect(name: str) -> Wire:
    """A wire around the tiny vocabulary: octupus, octupus-v1, qwen2_5 or qwen3."""
    if name in ("octupus", "octupus-v1"):
        return Wire(make_dialect(name, tiny_tokenizer()), tiny_tokenizer())
    tokenizer = load_tokenizer(tiny_instruct_folder(name))
    return Wire(make_dialect("qwen", tokenizer), tokenizer)
