"""Every call legal: which tokens may follow, as packed masks, for the grammar of one request."""

from octupus.constrain.call import CallState
from octupus.constrain.constraint import Constraint
from octupus.constrain.figures import Figures
from octupus.constrain.heap import Heap
from octupus.constrain.opening import opening
from octupus.constrain.plan import Plan, compile_schema
from octupus.constrain.validate import Validator, validate
from octupus.constrain.vocabulary import Vocabulary

__all__ = [
    "CallState",
    "Constraint",
    "Figures",
    "Heap",
    "Plan",
    "Validator",
    "Vocabulary",
    "compile_schema",
    "opening",
    "validate",
]
