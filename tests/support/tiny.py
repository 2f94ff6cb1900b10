"""A tiny byte-level BPE tokenizer with the seven special tokens, trained in well under a second."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from octupus.scratch import EOS, save_tokenizer, train_tokenizer
from octupus.surgery import extend_tokenizer, write_tokenizer
from octupus.tokenizer import HfTokenizer, load_tokenizer
from octupus.wire import Wire, write_wire
from octupus.wire.dialect import OCTUPUS

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
