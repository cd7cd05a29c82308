"""The committed parameter files name notebooks and parameters that exist."""

import pytest

from course.lesson import in_checkout
from tools.notebooks import check_parameters, find, given_for, parameters, read_parameters

FILES = ("ci", "colab", "paper")


@pytest.mark.parametrize("name", FILES)
def test_every_name_is_a_parameter_of_its_notebook(name):
    by_number = read_parameters(in_checkout("notebooks/params") / f"{name}.yaml")
    paths = find()
    assert set(by_number) - {"all"} <= {path.stem.split("_")[0] for path in paths}
    for path in paths:
        check_parameters(path, given_for(path, by_number))
    assert all(any(key in parameters(path) for path in paths) for key in by_number["all"])


def test_ci_is_small_and_the_others_are_full():
    fast = {name: read_parameters(in_checkout("notebooks/params") / f"{name}.yaml")["all"]["FAST"] for name in FILES}
    assert fast == {"ci": True, "colab": False, "paper": False}
