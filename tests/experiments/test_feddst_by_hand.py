"""FedDST by hand: its parts on numbers that can be followed, and two rounds."""

import numpy as np
import pytest

from experiments.studies import feddst_by_hand as by_hand


def test_the_share_is_that_of_each_timing():
    shares = {
        timing: {t: by_hand.share_of(timing, t, 200) for t in range(1, 201)}
        for timing in by_hand.TIMINGS
    }
    assert [t for t, share in shares["end"].items() if share] == list(range(2, 101, 10))
    assert [t for t, share in shares["half"].items() if share] == list(
        range(1, 101, 10)
    )
    assert set(shares["end"].values()) == {0.0, 0.5}
    assert shares["half"][1] == 0.5
    assert shares["half"][51] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("anywhere", "weights", "kept"),
    [
        # 2 and 3 go; 4 comes, and 3 comes back as it was.
        (False, [5.0, 4.0, 0.0, 1.0, 0.0, 0.0], [0, 1, 3, 4]),
        # As published: 0 has the largest gradient, and is set to zero.
        (True, [0.0, 4.0, 0.0, 0.0, 0.0, 0.0], [0, 1, 4]),
    ],
)
def test_drop_and_grow(anywhere, weights, kept):
    w = np.array([5.0, 4.0, 2.0, 1.0, 0.0, 0.0])
    mask = np.array([1, 1, 1, 1, 0, 0], bool)
    slope = np.array([9.0, 0.0, 0.0, 1.0, 2.0, 0.5])
    w, mask = by_hand.drop_and_grow(w, mask, slope, 0.5, anywhere)
    np.testing.assert_array_equal(w, weights)
    assert np.flatnonzero(mask).tolist() == kept


def test_the_merge_is_the_mean_over_holders_pruned_back():
    models = [[np.array([4.0, 2.0, 0.0])], [np.array([2.0, 0.0, 1.0])]]
    masks = [[np.array([1, 1, 0], bool)], [np.array([1, 0, 1], bool)]]
    (merged,), (kept,) = by_hand.merge(models, masks, [2])
    np.testing.assert_array_equal(merged, [3.0, 2.0, 0.0])
    assert kept.tolist() == [True, True, False]


def test_two_rounds_are_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(by_hand, "SPARSITIES", (0.9,))
    monkeypatch.setattr(by_hand, "product", lambda *_: [(0, "iid", 0.9, "half")])
    options = ["--rounds", "2", "--preset", "smoke", "--results", str(tmp_path)]
    assert by_hand.main(options) == 0
    (line,) = by_hand.read("smoke", tmp_path)
    assert line["kept"] == 11830 and 0.1 < line["last_5"] < 0.9
    assert by_hand.main(options) == 0  # and nothing is run again
    assert len(by_hand.read("smoke", tmp_path)) == 1
    assert (
        "by hand, the row's timing, IID"
        in by_hand.report("smoke", tmp_path).blocks["last_5"][1]
    )
