"""Small mistakes that somebody could make in the source, each of which some test must notice.

    mutation.py   one of them
    plan.py       those in the plan, the parameters and the records of kinds
    steps.py      those in the steps

`tests/mutations.py` makes them, one at a time. A row is anchored on code that stands once in its file; where the code
is written anew, the row moves along or another one takes its place.
"""

from mutated import plan, steps
from mutated.mutation import Mutation

MUTATIONS: tuple[Mutation, ...] = (*plan.MUTATIONS, *steps.MUTATIONS)
