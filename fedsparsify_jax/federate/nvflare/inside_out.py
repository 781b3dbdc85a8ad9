"""A function that asks questions, for a caller that wants to be the one who asks.

The rounds of a run are a loop that asks clients; NVFlare has a loop of its own, and
calls an aggregator in it. So the run has a thread that waits in its questions.
"""

import queue
import threading
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class _End(NamedTuple):
    """The end of the function."""

    error: BaseException | None = None


class InsideOut(Generic[Q, A]):
    """Runs a function up to its next question, again and again.

    Args of the constructor:
      function: is given another one, from a question to its answer.

    Example:
      >>> def greet(ask):
      ...     print("hello", ask("who?"))
      >>> greeting = InsideOut(greet)
      >>> greeting.start()
      'who?'
      >>> greeting.answer("you") is None
      hello you
      True
    """

    def __init__(self, function: Callable[[Callable[[Q], A]], object]):
        self._function = function
        self._questions: queue.Queue[Q | _End] = queue.Queue()
        self._answers: queue.Queue[A] = queue.Queue()

    def start(self) -> Q | None:
        """Returns the first question; None if the function has none.

        Raises:
          Exception: what the function raises.
        """
        threading.Thread(target=self._run, daemon=True).start()
        return self._next()

    def answer(self, answer: A) -> Q | None:
        """Answers a question, and returns the next one; None at the end.

        Raises:
          Exception: what the function raises.
        """
        self._answers.put(answer)
        return self._next()

    def _next(self) -> Q | None:
        question = self._questions.get()
        if not isinstance(question, _End):
            return question
        if question.error is not None:
            raise question.error
        return None

    def _ask(self, question: Q) -> A:
        self._questions.put(question)
        return self._answers.get()

    def _run(self) -> None:
        try:
            self._function(self._ask)
        except BaseException as error:  # it is raised again where it is waited for
            self._questions.put(_End(error))
        else:
            self._questions.put(_End())
