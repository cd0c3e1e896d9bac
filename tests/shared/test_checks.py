"""Every error has one form, and NumPy's numbers pass as the plain ones they stand for."""

import re

import numpy as np
import pytest

from keras_compress._shared import checks

REFUSED = [
    pytest.param(
        lambda: checks.check_int("Owner", "name", 2e3, minimum=1),
        TypeError,
        "Owner: `name` must be an int >= 1. Received: name=2000.0 (did you mean 2000?)",
        id="float-that-is-an-int",
    ),
    pytest.param(
        lambda: checks.check_int("Owner", "name", -3.0, minimum=1),
        TypeError,
        "Owner: `name` must be an int >= 1. Received: name=-3.0",
        id="no-hint-that-would-be-refused",
    ),
    pytest.param(
        lambda: checks.check_int("Owner", "name", 0, minimum=1),
        ValueError,
        "Owner: `name` must be an int >= 1. Received: name=0",
        id="below-minimum",
    ),
    pytest.param(
        lambda: checks.check_int("Owner", "name", True),
        TypeError,
        "Owner: `name` must be an int. Received: name=True",
        id="bool",
    ),
    pytest.param(
        lambda: checks.check_int("Owner", "name", np.True_),
        TypeError,
        "Owner: `name` must be an int. Received: name=np.True_",
        id="numpy-bool",
    ),
    pytest.param(
        lambda: checks.check_int("Owner", "name", np.int64(0), minimum=1),
        ValueError,
        "Owner: `name` must be an int >= 1. Received: name=0",
        id="numpy-int-quoted-plainly",
    ),
    pytest.param(
        lambda: checks.check_fraction("Owner", "name", float("nan")),
        ValueError,
        "Owner: `name` must be a number in [0, 1). Received: name=nan",
        id="nan",
    ),
    pytest.param(
        lambda: checks.check_step("Owner", "name", 1562.5),
        ValueError,
        "Owner: `name` must be an int >= 0 or a float in [0, 1]. Received: name=1562.5",
        id="float-step-that-is-no-int",
    ),
    pytest.param(
        lambda: checks.check_step("Owner", "name", -1),
        ValueError,
        "Owner: `name` must be an int >= 0 or a float in [0, 1]. Received: name=-1",
        id="negative-step",
    ),
    pytest.param(
        lambda: checks.check_step("Owner", "name", -1.0, allow_forever=True),
        ValueError,
        "Owner: `name` must be an int >= 0, a float in [0, 1] or -1. "
        "Received: name=-1.0 (did you mean -1?)",
        id="float-for-no-end",
    ),
    pytest.param(
        lambda: checks.check_int_choice("Owner", "name", 8.0, (4, 8)),
        TypeError,
        "Owner: `name` must be 4 or 8. Received: name=8.0 (did you mean 8?)",
        id="float-choice",
    ),
    pytest.param(
        lambda: checks.check_choice("Owner", "name", "d", ("a", "b", "c")),
        ValueError,
        "Owner: `name` must be 'a', 'b' or 'c'. Received: name='d'",
        id="choice",
    ),
    pytest.param(
        lambda: checks.check_positive("Owner", "name", float("inf"), what="seconds"),
        ValueError,
        "Owner: `name` must be seconds > 0. Received: name=inf",
        id="infinite",
    ),
    pytest.param(
        lambda: checks.check_bool("Owner", "name", 1),
        TypeError,
        "Owner: `name` must be True or False. Received: name=1",
        id="int-as-bool",
    ),
    pytest.param(
        lambda: checks.check_int_pair("Owner", "name", (1, 2.0), minimum=1),
        ValueError,
        "Owner: `name` must be two ints >= 1. Received: name=(1, 2.0)",
        id="pair",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED)
def test_the_message_quotes_owner_name_rule_and_value(call, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize(
    ("given", "expected"),
    [(np.int64(7), 7), (np.uint8(0), 0), (np.float32(0.5), 0.5), (1, 1), (1.0, 1.0), (0.0, 0.0)],
)
def test_a_step_becomes_a_plain_number_of_its_own_kind(given, expected):
    step = checks.check_step("Owner", "name", given)
    assert step == expected
    assert type(step) is type(expected)
