"""Progress: lines in logs, a live bar on terminals, honest estimates."""

import io
import re

import pytest
from rich.console import Console

from fedsparsify_jax.runner.display.progress import duration, reporter


def record(t, seconds=1.5, **changes):
    return {
        "round": t,
        "train_loss": 0.51234,
        "test_accuracy": 0.9083,
        "sparsity": 0.7321,
        "seconds": seconds,
    } | changes


def played(records, total, *, terminal=False, width=80):
    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=terminal, color_system=None
    )
    with reporter(console, total, records[0]["round"] - 1) as show:
        for entry in records:
            show(entry)
    return file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0.00 s"),
        (0.996, "1.00 s"),
        (1, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1:00"),
        (60, "1:00"),
        (61.6, "1:02"),
        (3599.4, "59:59"),
        (3599.6, "1:00:00"),
        (3600, "1:00:00"),
        (90_061, "25:01:01"),
    ],
)
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_the_console_decides():
    hidden = "\x1b[?25l"  # the cursor, beside a bar
    assert hidden in played([record(1)], 5, terminal=True)
    plain = played([record(1)], 5)
    assert "\x1b" not in plain and plain.count("\n") == 1


def test_a_line_a_round_when_piped():
    text = played([record(t) for t in (9, 10)], 10)
    assert text.splitlines() == [
        "round  9/10  train loss 0.5123  test accuracy 90.83 %  sparsity 73.21 %"
        "  1.5 s  left 1.5 s",
        "round 10/10  train loss 0.5123  test accuracy 90.83 %  sparsity 73.21 %"
        "  1.5 s  left 0.00 s",
    ]


@pytest.mark.parametrize("width", [20, 80])
def test_plain_lines_are_never_wrapped_or_coloured(width):
    text = played([record(1, 3723.0)], 2000, width=width)
    assert len(text.splitlines()) == 1 and "\x1b" not in text
    assert "left 2067" in text  # 1999 x 3723 s = 2067:15:..


def test_figures_that_are_not_finite_are_said_to_be_missing():
    broken = record(1, train_loss=None, test_accuracy=None)
    for terminal in (False, True):
        text = played([broken], 3, terminal=terminal)
        assert "loss n/a" in text and re.search(r"n/a  spars(e|ity) 73", text)


def test_the_time_left_is_the_median_of_rounds_times_what_remains():
    # One slow round (a checkpoint, a busy machine) does not move the estimate.
    text = played([record(t, s) for t, s in ((1, 2.0), (2, 90.0), (3, 2.0))], 10)
    assert re.findall(r"left (\S+)", text) == ["18.0", "6:08", "14.0"]


def test_the_time_left_forgets_old_rounds():
    slow = [record(t, 50.0) for t in range(1, 21)]
    fast = [record(t, 1.0) for t in range(21, 41)]
    last = played(slow + fast, 60).splitlines()[-1]
    assert last.endswith("left 20.0 s")


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_bar_shows_everything_on_one_line(width):
    text = played(
        [record(t, 3723.1) for t in (19, 20)], 200, terminal=True, width=width
    )
    visible = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", text)
    last = visible.rstrip().splitlines()[-1].split("\r")[-1]
    for figure in (
        "20/200",
        "loss 0.5123",
        "acc 90.8 %",
        "sparse 73.2 %",
        "1:02:03",
        "left 18",
    ):
        assert figure in last
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert len(last) <= width


def test_the_live_bar_starts_where_a_resumed_run_is():
    text = played([record(8)], 10, terminal=True)
    assert "round 7/10" in text and "round 8/10" in text


def test_the_live_bar_gives_the_cursor_back_after_an_error():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True)
    with pytest.raises(KeyboardInterrupt), reporter(console, 3, 0):
        raise KeyboardInterrupt
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert file.getvalue().rindex(shown) > file.getvalue().rindex(hidden)
