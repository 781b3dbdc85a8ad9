"""Shadow models' scores on disk: every chunk is kept, and nothing is trained twice."""

import numpy as np
import pytest

from fedsparsify_jax.runner.audit.shadows import Setting, name_of, trained


class Trainer:
    """The score of shadow s for example i is 10 s + i; it may be stopped."""

    def __init__(self, asked, stop_at=None):
        self.asked, self.stop_at, self.calls = asked, stop_at, []

    def __call__(self, numbers):
        if self.stop_at in numbers:
            raise KeyboardInterrupt
        self.calls.append(list(numbers))
        return np.array([10.0 * n + np.arange(len(self.asked)) for n in numbers])


def setting(number=6, at_once=2):
    return Setting(
        number=number, at_once=at_once, total=9, asked=np.array([1, 4, 8]), seed=0
    )


def silent(line):
    assert line.startswith("shadow runs: ")


def test_a_stopped_audit_goes_on_after_its_last_chunk(tmp_path):
    stopped = Trainer(setting().asked, stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "s", setting(), stopped, silent)
    assert stopped.calls == [[0, 1]]
    again = Trainer(setting().asked)
    shadows = trained(tmp_path / "s", setting(), again, silent)
    assert again.calls == [[2, 3], [4, 5]]
    assert shadows.scores[:, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert shadows.members.sum(axis=0).tolist() == [3, 3, 3]


def test_more_shadow_runs_are_added_to_those_that_are_there(tmp_path):
    trained(tmp_path, setting(4), Trainer(setting().asked), silent)
    more = Trainer(setting().asked)
    shadows = trained(tmp_path, setting(6, at_once=8), more, silent)
    assert more.calls == [[4, 5]] and shadows.scores.shape == (6, 3)
    fewer = Trainer(setting().asked)
    assert trained(tmp_path, setting(4), fewer, silent).scores.shape == (4, 3)
    assert fewer.calls == []


def test_a_damaged_chunk_is_trained_again(tmp_path):
    trained(tmp_path, setting(), Trainer(setting().asked), silent)
    path = tmp_path / "00002-00003.npz"
    path.write_bytes(path.read_bytes()[:50])
    again = Trainer(setting().asked)
    shadows = trained(tmp_path, setting(), again, silent)
    assert again.calls == [[2, 3]]
    assert shadows.scores[3].tolist() == [30.0, 31.0, 32.0]


def test_halves_are_stored_with_the_scores(tmp_path):
    shadows = trained(tmp_path, setting(), Trainer(setting().asked), silent)
    with np.load(tmp_path / "00000-00001.npz") as arrays:
        halves = np.unpackbits(arrays["halves"], axis=1, count=9).astype(bool)
    assert (halves[0] ^ halves[1]).all()
    np.testing.assert_array_equal(shadows.members[:2], halves[:, setting().asked])


def test_whatever_decides_scores_is_in_the_name():
    assert name_of({"seed": 0, "run": "a"}) == name_of({"run": "a", "seed": 0})
    assert name_of({"seed": 0}) != name_of({"seed": 1})
