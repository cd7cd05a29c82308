"""What the notebooks share: how a lesson starts, checks itself and ends; the runner; the book."""

from course.lesson import Lesson, start
from course.show import player, show
