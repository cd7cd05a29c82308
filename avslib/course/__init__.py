"""What the notebooks share: how a lesson starts, checks itself and ends; the runner; the book."""

from avslib.course.lesson import Lesson, start
from avslib.course.show import player, show
