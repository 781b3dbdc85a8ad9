"""The paper's other data sets through ``fedsparsify train``, in process and small."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from images import pictures, write_images

from fedsparsify_jax.cli import main

SMALL = ["train", "--rounds", "2", "--local-epochs", "1", "--num-clients", "2"]


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Four scans for training, two for testing."""
    folder = tmp_path / "scans"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, ages in (("train", (50, 60, 70, 80)), ("test", (55, 75))):
        rows = ["path,age"]
        for age in ages:
            voxels = rng.normal(age, 5, (8, 9, 8)).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / f"{age}.nii")
            rows.append(f"{age}.nii,{age}")
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")
    return folder


def records(run: Path) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_brain_age_end_to_end(scans: Path, capsys) -> None:
    run = scans.parent / "run"
    options = f"--dataset brain_age --data-dir {scans} --out {run} --show-partition"
    extra = "--partition value-skew --client-sizes 3,1 --final-sparsity 0.5"
    assert main([*SMALL, *options.split(), *extra.split()]) == 0
    out = capsys.readouterr().out
    assert "lowest  mean  highest  total" in out
    assert "50.0  60.0     70.0      3" in out  # the younger three on one client
    assert "test mae" in out
    last = records(run)[-1]
    assert last["sparsity"] == pytest.approx(0.5, abs=1e-5)
    assert 0 < last["test_mae"] < 60 and "test_accuracy" not in last
    summary = json.loads((run / "summary.json").read_text())
    assert summary["parameters"] == 2_948_801
    assert summary["best_test_mae"] <= summary["test_mae"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "60.nii").write_bytes(b"not a volume"), "60.nii"),
        (lambda f: (f / "train.csv").write_text("path,age\n50.nii,\n"), "age"),
        (
            lambda f: nibabel.save(
                nibabel.Nifti1Image(np.ones((3, 3, 3), np.float32), np.eye(4)),
                f / "60.nii",
            ),
            "60.nii",
        ),
    ],
    ids=["unreadable", "no age", "mixed shapes"],
)
def test_damaged_scans_are_named_in_one_line(scans, capsys, damage, message) -> None:
    damage(scans)
    run = scans.parent / "run"
    options = f"--dataset brain_age --data-dir {scans} --out {run}"
    assert main([*SMALL, *options.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fedsparsify: error: ") and error.count("\n") == 1
    assert message in error
    assert not run.exists()


def test_text_classification_end_to_end(tmp_path: Path) -> None:
    for name, repeats in (("train", 4), ("test", 2)):
        rows = [
            {"text": "a fine film", "label": 1},
            {"text": "a dull film", "label": 0},
        ]
        lines = "\n".join(json.dumps(row) for row in rows * repeats)
        (tmp_path / f"{name}.jsonl").write_text(lines + "\n")
    run = tmp_path / "run"
    options = f"--dataset imdb --data-dir {tmp_path} --out {run} --final-sparsity 0.5"
    assert main([*SMALL, *options.split()]) == 0
    assert records(run)[-1]["sparsity"] == pytest.approx(0.5, abs=1e-5)


def test_images_of_the_hub_by_name(tmp_path: Path) -> None:
    for name, count in (("train", 8), ("test", 4)):
        labels = [i % 2 for i in range(count)]
        write_images(
            tmp_path / f"{name}-00000-of-00001.parquet",
            pictures(count, (6, 6, 3)),
            "image",
            label=labels,
        )
    run = tmp_path / "run"
    options = f"--dataset hf:someone/pictures --data-dir {tmp_path} --out {run}"
    assert main([*SMALL, *options.split()]) == 0
    assert len(records(run)) == 2
