"""`docs/reference/kinds.md`, written from the cases that the tests run.

PYTHONPATH=tests python -m helpers.kinds_page > docs/reference/kinds.md
"""

import itertools

from helpers.kinds import CASES

HEAD = """\
# What the placement table knows

Written by `PYTHONPATH=tests python -m helpers.kinds_page` from the cases in
`tests/helpers/kinds.py`. `tests/engines/test_table.py` builds a net of each with both Keras, but
where one has no such thing: while its ranges are watched it gives the plain net's numbers bit for
bit, its file is all-integer, and LiteRT's answers are no farther from the fake-quantized network
than the last two columns say, in steps of the output. One step is what a tie takes that falls the
other way.

| kind | tried as | Keras | largest (steps) | mean (steps) |
|---|---|---|---|---|
"""


def page():
    """The whole text."""
    rows = []
    for kind, cases in itertools.groupby(sorted(CASES, key=_kind), key=_kind):
        cases = list(cases)
        only = {case.only for case in cases}
        names = ", ".join(f"`{case.name}`" for case in cases)
        keras = "both" if len(only) > 1 or only == {None} else f"only `{only.pop()}`"
        bounds = [f"{max(getattr(case, name) for case in cases):g}" for name in ("steps", "mean")]
        rows.append(f"| `{kind}` | {names} | {keras} | {' | '.join(bounds)} |\n")
    return HEAD + "".join(rows)


def _kind(case):
    return case.kind


if __name__ == "__main__":
    print(page(), end="")
