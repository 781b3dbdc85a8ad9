"""Brain age from NIfTI volumes and tables."""

import gzip
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fedsparsify_jax import data
from fedsparsify_jax.data.sources.brain_age import read_scan_table, z_score
from fedsparsify_jax.errors import InputError

SHAPE = (4, 5, 3)


def volume(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(50, 9, shape).astype(np.float32)


def save(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Three training and two test scans, in both formats, with sites."""
    for i, name in enumerate(("a.nii", "sub/b.nii.gz", "c.nii", "d.nii.gz")):
        save(tmp_path / name, volume(i))
    (tmp_path / "train.csv").write_text(
        "site,path,age\nleeds,a.nii,61\nbath,sub/b.nii.gz,70.25\nleeds,c.nii,48\n"
    )
    (tmp_path / "test.csv").write_text(
        f"path,age\n{tmp_path / 'd.nii.gz'},55.5\na.nii, 61\n"
    )
    return tmp_path


def standardised(seed: int) -> np.ndarray:
    voxels = volume(seed).astype(np.float64)
    return ((voxels - voxels.mean()) / voxels.std())[..., None]


def test_volumes_and_ages(scans: Path) -> None:
    dataset = data.load("brain_age", scans)
    assert (dataset.task, dataset.num_classes) == ("regression", 1)
    assert dataset.train.x.shape == (3, *SHAPE, 1)
    assert dataset.train.x.dtype == dataset.train.y.dtype == np.float32
    assert dataset.train.y.tolist() == [61.0, 70.25, 48.0]
    assert dataset.test.y.tolist() == [55.5, 61.0]
    for i in range(3):
        np.testing.assert_allclose(dataset.train.x[i], standardised(i), atol=1e-5)
    np.testing.assert_allclose(dataset.test.x[0], standardised(3), atol=1e-5)
    np.testing.assert_array_equal(dataset.test.x[1], dataset.train.x[0])


def test_half_precision_storage(scans: Path) -> None:
    full = data.load("brain_age", scans)
    half = data.load("brain_age", scans, storage="float16")
    assert half.train.x.dtype == half.test.x.dtype == np.float16
    np.testing.assert_array_equal(half.train.x, full.train.x.astype(np.float16))
    with pytest.raises(InputError, match="storage is 'int8': expected float32 or"):
        data.load("brain_age", scans, storage="int8")


def test_a_subset_reads_only_its_scans(scans: Path) -> None:
    full = data.load("brain_age", scans)
    dataset = data.load("brain_age", scans, train_subset=1, seed=2)
    [row] = np.flatnonzero(full.train.y == dataset.train.y[0])
    np.testing.assert_array_equal(dataset.train.x[0], full.train.x[row])
    others = {"a.nii", "sub/b.nii.gz", "c.nii"} - {
        ("a.nii", "sub/b.nii.gz", "c.nii")[row]
    }
    for name in others - {"a.nii"}:  # which the test set uses too
        (scans / name).write_bytes(b"not a volume")
    again = data.load("brain_age", scans, train_subset=1, seed=2)
    np.testing.assert_array_equal(again.train.x, dataset.train.x)


def test_sites_make_clients(scans: Path) -> None:
    table = read_scan_table(scans / "train.csv")
    assert table.sites == ["leeds", "bath", "leeds"]
    parts = data.by_group(table.sites)
    assert [part.tolist() for part in parts] == [[1], [0, 2]]
    taken = table.take(np.array([1, 2]))
    assert (taken.sites, taken.ages.tolist()) == (["bath", "leeds"], [70.25, 48.0])
    assert taken.where(0) == f"{scans / 'train.csv'}, line 3 (b.nii.gz)"
    assert read_scan_table(scans / "test.csv").sites is None


def test_integer_volumes_are_scaled_by_their_header(scans: Path) -> None:
    stored = np.arange(60, dtype=np.int16).reshape(SHAPE)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(0.5, 7)
    nibabel.save(image, scans / "a.nii")
    dataset = data.load("brain_age", scans)
    expected = (stored - stored.mean()) / stored.std()  # the scale cancels out
    np.testing.assert_allclose(dataset.train.x[0, ..., 0], expected, atol=1e-5)


def test_one_point_in_time(scans: Path) -> None:
    save(scans / "a.nii", volume(0)[..., None])
    dataset = data.load("brain_age", scans)
    np.testing.assert_allclose(dataset.train.x[0], standardised(0), atol=1e-5)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:380])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: truncate(d / "c.nii"), r"train.csv, line 4 \(c.nii\): .+"),
        (
            lambda d: (d / "sub/b.nii.gz").write_bytes(gzip.compress(b"x" * 400)[:20]),
            r"train.csv, line 3 \(b.nii.gz\): .+",
        ),
        (lambda d: (d / "c.nii").write_bytes(b"text"), r"line 4 \(c.nii\): .+"),
        (
            lambda d: save(d / "c.nii", volume(2, (4, 5, 4))),
            r"line 4 \(c.nii\): the volume has shape \(4, 5, 4\), the first one \(4, 5",
        ),
        (
            lambda d: save(d / "a.nii", volume(2, (4, 5))),
            r"line 2 \(a.nii\): the volume has shape \(4, 5\), expected three axes",
        ),
        (
            lambda d: save(d / "c.nii", np.full(SHAPE, 7, np.float32)),
            r"line 4 \(c.nii\): all voxels are 7.0",
        ),
        (
            lambda d: save(d / "c.nii", np.full(SHAPE, np.nan, np.float32)),
            r"line 4 \(c.nii\): the volume holds NaN or infinity",
        ),
        (
            lambda d: save(d / "d.nii.gz", np.zeros(SHAPE, np.float32)),
            r"test.csv, line 2 \(d.nii.gz\): all voxels are 0.0",
        ),
    ],
)
def test_bad_volumes_are_named(scans: Path, damage, message: str) -> None:
    damage(scans)
    with pytest.raises(InputError, match=message) as caught:
        data.load("brain_age", scans)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,age\na.nii,\n", "train.csv, line 2: age is '', expected a number"),
        ("path,age\na.nii,61\nc.nii,nan\n", "train.csv, line 3: age is 'nan'"),
        ("path,age\na.nii,old\n", "line 2: age is 'old', expected a number of years"),
        ("path,age\na.nii,inf\n", "line 2: age is 'inf'"),
        ("path,age\na.nii\n", "line 2: age is ''"),
        ("path,age\n,61\n", "train.csv, line 2: no path"),
        ("path,age\nz.nii,61\n", "train.csv, line 2: no file .*z.nii"),
        ("path,age\na.mgz,61\n", "line 2: a.mgz is not a .nii or .nii.gz file"),
        ("file,age\na.nii,61\n", "train.csv has no column path: a table of scans"),
        ("file,years\na.nii,61\n", "has no column path and no column age"),
        ("path,age\n", "train.csv has no rows"),
        ("", "train.csv has no column path"),
        (
            "path,age\n\u00ff,61\n".encode("latin-1"),
            "train.csv is not a CSV file in UTF",
        ),
    ],
)
def test_bad_tables_are_named(scans: Path, text: str | bytes, message: str) -> None:
    contents = text if isinstance(text, bytes) else text.encode()
    (scans / "train.csv").write_bytes(contents)
    with pytest.raises(InputError, match=message):
        data.load("brain_age", scans)


def test_a_byte_order_mark_is_no_part_of_the_header(scans: Path) -> None:
    (scans / "train.csv").write_text("path,age\na.nii,61\n", encoding="utf-8-sig")
    assert read_scan_table(scans / "train.csv").ages.tolist() == [61.0]


def test_training_and_test_volumes_must_match(scans: Path) -> None:
    for name in ("a.nii", "d.nii.gz"):
        save(scans / name, volume(5, (4, 5, 2)))
    (scans / "train.csv").write_text("path,age\nc.nii,61\n")
    with pytest.raises(InputError, match="they must be the same"):
        data.load("brain_age", scans)


def test_missing_tables(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (scans / "test.csv").unlink()
    with pytest.raises(InputError, match=r"cannot read .*test.csv: No such file"):
        data.load("brain_age", scans)
    with pytest.raises(
        InputError, match=r"needs --data-dir with train.csv and test.csv"
    ):
        data.load("brain_age")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(InputError, match=r"install fedsparsify_jax\[medical\]"):
        data.load("brain_age", scans)


def test_z_score_of_large_values() -> None:
    """Moments in float32 would lose a small spread around a large mean."""
    voxels = (1e6 + np.arange(60)).reshape(SHAPE).astype(np.float32)
    result = z_score(voxels)
    assert result.dtype == np.float32
    assert abs(float(result.mean())) < 1e-6
    assert float(result.std()) == pytest.approx(1, abs=1e-6)


def test_age_ranges_as_clients(scans: Path) -> None:
    dataset = data.load("brain_age", scans)
    parts = data.value_skew(dataset.train.y, [2, 1])
    clients = data.stack(dataset.train, parts)
    assert sorted(clients.y[0].tolist()) == [48.0, 61.0]
    assert clients.y[1, 0] == 70.25
