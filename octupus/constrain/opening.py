"""How an answer must begin: what leaves the model no choice need not be sampled token by token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from octupus.constrain.vocabulary import Vocabulary
from octupus.wire.grammar import CallGrammar

MOST = 8_192
"""Characters of names that are looked through for what they share: this is done between two tokens of everybody."""


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
        return [frame.call_open, *_shared([name + separator for name in names], False, vocabulary)]
    shared = [frame.call_open, *_shared(names, True, vocabulary)]
    return [*shared, separator] if len(names) == 1 else shared


def _shared(texts: Sequence[str], whole: bool, vocabulary: Vocabulary) -> list[int]:
    """The tokens that all of ``texts`` begin with. ``whole``: no text goes on behind what is given of it."""
    if len(texts) == 1:
        return vocabulary.spelling(texts[0].encode(), whole)
    if sum(map(len, texts)) > MOST:
        return []
    spelt = [vocabulary.spelling(text.encode(), ends=True) for text in texts]
    same = takewhile(lambda column: len(set(column)) == 1, zip(*spelt, strict=False))
    return [column[0] for column in same]
