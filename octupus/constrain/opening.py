"""How an answer must begin: what leaves the model no choice need not be sampled token by token."""

from __future__ import annotations

from collections.abc import Sequence

from octupus.constrain.vocabulary import Vocabulary
from octupus.wire.grammar import CallGrammar


def opening(grammar: CallGrammar, vocabulary: Vocabulary) -> list[int]:
    """The tokens that every turn of ``grammar`` begins with, as the tokenizer writes them, up to the first choice.

    An engine may prefill them with the prompt: jump-forward decoding (SGLang, arXiv:2312.07104, section 4), once.
    Other tokens that write this text are legal too; the tokenizer's are those that a model has been trained on.
    """
    frame, separator = grammar.frame, grammar.frame.separator
    if grammar.content == "required":
        return [] if frame.content is None else [frame.content]
    if grammar.content == "optional":
        return []
    names = [frame.before_name + function.name for function in grammar.functions]
    if isinstance(separator, str):  # and the arguments stand in the same text
        return [frame.call_open, *_shared([(name + separator).encode() for name in names], False, vocabulary)]
    shared = [frame.call_open, *_shared([name.encode() for name in names], True, vocabulary)]
    return [*shared, separator] if len(names) == 1 else shared


def _shared(texts: Sequence[bytes], whole: bool, vocabulary: Vocabulary) -> list[int]:
    """Tokens of the beginning that ``texts`` share, up to the first in whose place one of them could have a longer one.

    ``whole``: no text goes on behind what is given of it.
    """
    first, last = min(texts), max(texts)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    ids, at = vocabulary.spelling(first[:same], ends=True), 0
    for place, id in enumerate(ids):
        if any(vocabulary.longest(text[at:], whole) > same - at for text in texts):
            return ids[:place]
        at += len(vocabulary.tokens[id] or b"")
    return ids
