"""Work done one step ahead in a thread, while the caller is busy with the step at hand.

For client data on disk: the next cohort depends on the seed and the round's number
alone, so it can be read while the current round computes.
"""

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Step = TypeVar("Step", bound=Hashable)
Made = TypeVar("Made")


class Prefetcher(Generic[Step, Made]):
    """``make(step)``, begun before it is asked for if the call before foretold it.

    What ``make`` raises is raised by the call that asks for that step, as it is.
    Leaving the context waits for the ``make`` under way and begins no other.

    Args of the constructor:
      make: called in one thread, one call at a time.

    Example:
      >>> with Prefetcher(lambda t: t * t) as squares:
      ...     squares(1, then=2), squares(2, then=3), squares(3)
      (1, 4, 9)
    """

    def __init__(self, make: Callable[[Step], Made]):
        self._make = make
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._ahead: dict[Step, Future[Made]] = {}

    def __call__(self, step: Step, then: Step | None = None) -> Made:
        """Waits for ``make(step)``.

        Args:
          step: any; at hand at once, or soon, if it was the last call's ``then``.
          then: what to begin next; None for nothing.
        """
        mine = self._ahead.pop(step, None) or self._begin(step)
        for unwanted in self._ahead.values():
            unwanted.cancel()
        self._ahead.clear()
        made = mine.result()
        if then is not None:
            self._ahead[then] = self._begin(then)
        return made

    def _begin(self, step: Step) -> Future[Made]:
        return self._thread.submit(self._make, step)

    def close(self) -> None:
        """Ends the thread; may be called again."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "Prefetcher[Step, Made]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
