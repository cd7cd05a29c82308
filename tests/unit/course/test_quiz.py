"""The self-test of a lesson: answers are checked, explained and counted; without a kernel they fold out."""

import re
import sys

import pytest

from avslib.core.errors import AvsError
from course.quiz import quiz

QUESTIONS = (
    ("Is 2 < 3?", ["yes", "no"], 0, "Two comes before three."),
    ("Which one is even?", ["three", "four", "five"], 1, "Four is twice two."),
)


def test_answers_are_checked_explained_and_counted():
    pytest.importorskip("ipywidgets")
    first, why, second, other, button, count = quiz(*QUESTIONS).children
    assert (first.value, second.value, why.value) == (None, None, "")
    button.click()
    assert "0 of 2 right, 2 not answered" in count.value and why.value == other.value == ""
    first.value, second.value = "yes", "five"
    button.click()
    assert "1 of 2 right." in count.value and 'role="alert"' in count.value
    assert "Right. Two comes" in why.value and "No, the answer is: four. Four is" in other.value


def test_every_question_labels_its_choices_and_the_keyboard_stays_in_the_form():
    pytest.importorskip("ipywidgets")
    form = quiz(*QUESTIONS)
    assert [field.description for field in form.children[0:4:2]] == ["1. Is 2 < 3?", "2. Which one is even?"]
    assert "data-lm-suppress-shortcuts" in form.children[-1].value and "radiogroup" in form.children[-1].value


def test_without_widgets_the_answers_fold_out(monkeypatch):
    live = quiz(*QUESTIONS)._repr_mimebundle_()[0]["text/html"]
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    still = quiz(*QUESTIONS).data
    assert still == live and "Is 2 &lt; 3?" in still
    assert re.findall(r"<summary>Answer</summary><p><b>(\w+)\.", still) == ["yes", "four"]


@pytest.mark.parametrize(
    "question", [("?", ["a"], 0, "x"), ("?", ["a", "a"], 0, "x"), ("?", ["a", "b"], 2, "x"), ("?", ["a", "b"], 0, "")]
)
def test_a_question_that_cannot_be_answered_is_refused(question):
    with pytest.raises(AvsError, match="index of the right one"):
        quiz(question)
