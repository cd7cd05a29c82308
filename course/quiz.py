"""A self-test: questions with choices, whose answers are checked, explained and counted."""

from html import escape
from typing import Any

from avslib.core.errors import InstallError, NotebookError
from course.widgets.parts import FINISH_CONTROLS, ipywidgets_module, with_still

Question = tuple[str, list[str], int, str]
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
# ipywidgets gives a question and a choice one line each; long ones need more
STYLE = """<style>.avs-quiz label {white-space: normal; height: auto; line-height: 1.4; text-align: left}
.avs-quiz .widget-radio > .widget-label {width: 100%; font-weight: bold}
.avs-quiz .widget-radio-box label {margin-bottom: 4px}</style>"""


def quiz(*questions: Question) -> Any:
    """A form with radio buttons and a *Check* button; where there are no widgets, a list whose answers fold out.

    Each question is ``(text, choices, index of the right choice, why it is right)``; plain text, no markup.
    Raises AvsError for a question without two different choices, a right one among them, and a reason.
    """
    from IPython.display import HTML

    for text, choices, right, why in questions:
        if not (text and why and len(set(choices)) == len(choices) >= 2 and right in range(len(choices))):
            raise NotebookError(f"quiz: {text!r} needs choices that differ, the index of the right one, and a reason")
    try:
        widgets = ipywidgets_module()
    except InstallError:
        return HTML(still_form(questions))
    wide, column = {"width": "98%"}, {"width": "98%", "flex_flow": "column"}
    fields = [
        widgets.RadioButtons(
            options=choices,
            value=None,
            description=f"{number}. {text}",
            style={"description_width": "100%"},
            layout=column,
        )
        for number, (text, choices, _, _) in enumerate(questions, 1)
    ]
    answers = [widgets.HTML(layout=wide) for _ in questions]
    button, count = widgets.Button(description="Check", button_style="primary"), widgets.HTML(layout=wide)
    finish = f'<img alt="" src="{PIXEL}" onload="{escape(FINISH_CONTROLS)}">'

    def check(_: Any = None) -> None:
        for field, answer, (_, choices, right, why) in zip(fields, answers, questions, strict=True):
            if field.index is not None:
                verdict = "Right." if field.index == right else f"No, the answer is: {choices[right]}."
                answer.value = f"<p>{escape(verdict)} {escape(why)}</p>"
        good = sum(field.index == right for field, (_, _, right, _) in zip(fields, questions, strict=True))
        left = sum(field.index is None for field in fields)
        rest = f", {left} not answered" if left else ""
        count.value = f'{STYLE}<p role="alert">{good} of {len(questions)} right{rest}.</p>{finish}'

    button.on_click(check)
    count.value = STYLE + finish
    box = widgets.VBox([*(one for pair in zip(fields, answers, strict=True) for one in pair), button, count])
    box.add_class("avs-quiz")
    return with_still(box, {"text/html": still_form(questions)})


def still_form(questions: tuple[Question, ...]) -> str:
    """The questions as HTML that needs no kernel: each answer folds out."""
    items = [
        f"<li><p><b>{escape(text)}</b></p><ul>{''.join(f'<li>{escape(choice)}</li>' for choice in choices)}</ul>"
        f"<details><summary>Answer</summary><p><b>{escape(choices[right])}.</b> {escape(why)}</p></details></li>"
        for text, choices, right, why in questions
    ]
    return f"<ol>{''.join(items)}</ol>"
