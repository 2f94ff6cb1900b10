"""lm-format-enforcer's parser states, and of that package nothing else.

Its ``__init__`` imports torch where that is installed, which takes seconds, for token lists that are not used here. So
its modules are loaded without it; whoever imports the package itself gets it whole.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _without_init(name: str) -> Iterator[None]:
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None:
        yield  # it is loaded already, or absent: then the import says so
        return
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules[name]


with _without_init("lmformatenforcer"):
    from lmformatenforcer import characterlevelparser, jsonschemaparser

CharacterLevelParser = characterlevelparser.CharacterLevelParser
CharacterLevelParserConfig = characterlevelparser.CharacterLevelParserConfig
ForceStopParser = characterlevelparser.ForceStopParser
StringParser = characterlevelparser.StringParser
UnionParser = characterlevelparser.UnionParser
JsonSchemaParser = jsonschemaparser.JsonSchemaParser
ListParsingState = jsonschemaparser.ListParsingState
NumberParsingState = jsonschemaparser.NumberParsingState
ObjectParsingStage = jsonschemaparser.ObjectParsingStage
ObjectParsingState = jsonschemaparser.ObjectParsingState
StringParsingState = jsonschemaparser.StringParsingState
get_parser = jsonschemaparser.get_parser
