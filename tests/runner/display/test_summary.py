"""The closing summary: totals by hand, and how it is printed."""

import io

from rich.console import Console

from fedsparsify_jax.runner.display.summary import display, summarize


def record(t, accuracy, *, up=100, down=50, seconds=1.0, loss=0.5):
    return {
        "round": t,
        "test_accuracy": accuracy,
        "test_loss": loss,
        "sparsity": t / 10,
        "target_sparsity": t / 10 + 0.05,
        "bytes_up": up,
        "bytes_down": down,
        "bytes_dense": 400,
        "seconds": seconds,
    }


def shown(summary, where="runs/x", width=80):
    file = io.StringIO()
    display(Console(file=file, width=width, highlight=False), summary, where)
    return file.getvalue()


def test_totals_by_hand():
    records = [
        record(1, 0.5, up=300, down=200, seconds=9.0),
        record(2, 0.8, up=100, down=100, seconds=1.0),
        record(3, 0.6, up=60, down=40, seconds=2.0),
    ]
    summary = summarize(records, parameters=1000, kept=700, numbers=25)
    assert summary.pop("bytes_formula").startswith("non-zeros x 32 bit")
    assert abs(summary.pop("last_10_mean_test_accuracy") - 1.9 / 3) < 1e-12
    assert summary == {
        "rounds": 3,
        "test_accuracy": 0.6,
        "test_loss": 0.5,
        "best_test_accuracy": 0.8,
        "sparsity": 0.3,
        "target_sparsity": 0.35,
        "parameters": 1000,
        "parameters_kept": 700,
        "bytes_up": 460,
        "bytes_down": 340,
        # dense / (4 x 25 numbers) = 12 messages of 125 bytes of mask each
        "bytes_with_masks": 800 + 12 * 125,
        "bytes_with_indices": 1600,
        "bytes_dense": 1200,
        "dropped": 0,
        "stragglers": 0,
        "rejected": 0,
        "rounds_without_clients": 0,
        "communication_saving": 1.5,
        "seconds": 12.0,
        "median_round_seconds": 2.0,
    }


def test_the_mean_is_over_the_last_ten_rounds_only():
    records = [record(t, 0.0 if t <= 5 else 0.75) for t in range(1, 16)]
    summary = summarize(records, parameters=10, kept=1, numbers=25)
    assert summary["last_10_mean_test_accuracy"] == 0.75


def test_rounds_without_an_accuracy_are_left_out_of_best_and_mean():
    records = [record(1, 0.5), record(2, 0.75), record(3, None, loss=None)]
    summary = summarize(records, parameters=10, kept=1, numbers=25)
    assert summary["test_accuracy"] is None
    assert summary["best_test_accuracy"] == 0.75
    assert summary["last_10_mean_test_accuracy"] == 0.625


def test_a_run_that_never_had_an_accuracy_or_moved_a_byte():
    summary = summarize(
        [record(1, None, up=0, down=0)], parameters=10, kept=0, numbers=25
    )
    assert summary["best_test_accuracy"] is None
    assert summary["last_10_mean_test_accuracy"] is None
    assert summary["communication_saving"] is None
    text = shown(summary)
    assert "n/a  (best n/a)" in text and "warning: the training diverged" in text


def test_the_printed_summary():
    records = [record(1, 0.25), record(2, 0.5, up=10**6, down=500_000)]
    text = shown(summarize(records, parameters=26_122, kept=2_613, numbers=26_122))
    assert text == (
        "\n"
        "test accuracy    50.00 %  (best 50.00 %)\n"
        "sparsity         20.00 %  (target 25.00 %)\n"
        "parameters kept  2,613 of 26,122\n"
        "bytes moved      1.50 MB as non-zeros x 32 bit; dense 0.00 MB (0.00 x)\n"
        "time             2.0 s (1.0 s a round)\n"
        "run directory    runs/x\n"
    )


def test_a_long_path_is_printed_whole_and_as_it_is():
    where = "/scratch/" + "x" * 200 + "/[bold]lr=0.1[/bold]"
    text = shown(summarize([record(1, 0.5)], parameters=1, kept=1, numbers=25), where)
    assert text.splitlines()[-1] == f"run directory    {where}"
    assert all(line == line.rstrip() for line in text.splitlines())
