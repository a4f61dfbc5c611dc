"""Components with their options, as they are written on a command line."""

import pytest

from qadv.errors import InvalidInputError
from qadv.named_options import named_options, options_of

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("pgd", {}),
        ("pgd:eps=8/255,max_iter=20", {"eps": "8/255", "max_iter": 20}),
        ("pgd:eps = 0.1, targeted = true", {"eps": 0.1, "targeted": True}),
        ("pgd:range=[0.0, 1.0], name='a,b'", {"range": [0.0, 1.0], "name": "a,b"}),
        ("pgd:loss_type=cross_entropy", {"loss_type": "cross_entropy"}),
    ],
)
def test_values_are_toml_and_plain_text_needs_no_quotes(text, options):
    assert named_options(text) == ("pgd", options)


def test_options_come_one_by_one_too():
    given = ["eps=8/255", "eps_step=2 / 255", "adversary={attack='pgd', eps='8/255'}", "norm=inf", "file=a/b.txt"]
    adversary = {"attack": "pgd", "eps": "8/255"}
    expected = {"eps": "8/255", "eps_step": "2 / 255", "adversary": adversary, "norm": float("inf"), "file": "a/b.txt"}
    assert options_of(given) == expected


@pytest.mark.parametrize("text", ["eps", "=3", "eps=", f"eps={'9' * 5000}", f"eps={'[' * 5000}", "eps=[1, 2"])
def test_what_is_none_is_refused_in_one_line(text):
    with pytest.raises(InvalidInputError, match="expected NAME or NAME:option=value") as refused:
        options_of([text])
    assert len(str(refused.value)) < 250
