"""Numbers in option sections: what is refused, in one line that names the option."""

import math

import pytest

from kernelfusion_plugin.core.sections import check_interval, check_number, check_range


@pytest.mark.parametrize(('value', 'message'), [
    (math.inf, 'a.b must be a finite number, at least 0, got inf'),
    (-math.inf, 'a.b must be a finite number, at least 0, got -inf'),
    (math.nan, 'a.b must be a finite number, at least 0, got nan'),
    (-1, 'a.b must be a number, at least 0, got -1'), (True, 'a.b must be a number'), ('1', "a.b must .* got '1'"),
    (None, 'a.b must be a number, at least 0, got None')])
def test_numbers_are_finite_and_within_bounds(value, message):
    with pytest.raises(ValueError, match=f'^{message}'):
        check_number('a.b', value, 0)
    with pytest.raises(ValueError, match=f'^{message.replace("number", r"number or .least, greatest.")}'):
        check_range('a.b', value, 0)
    if value == math.inf:
        check_interval('a.b', value, 0)  # never
    else:
        with pytest.raises(ValueError, match=f'^{message}'):
            check_interval('a.b', value, 0)


def test_bounds_are_allowed_and_so_are_huge_whole_numbers():
    for value in (0, 1, 0.5, 10 ** 400):
        check_number('a', value, 0)
    assert check_range('a', (0, 10 ** 400), 0) == (0, 10 ** 400) and check_range('a', 2, 0, 2) == (2, 2)
    for value in (math.inf, 1.0):
        with pytest.raises(ValueError, match='a must be a whole number, at least 0'):
            check_number('a', value, 0, whole=True)
    for pair in ((0, math.inf), (math.nan, 1), (2, 1), (1, 2, 3)):
        with pytest.raises(ValueError, match=r'a must be .*number or \[least, greatest\]'):
            check_range('a', pair, 0)
