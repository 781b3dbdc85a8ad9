"""Files damaged at random: one line that names them, or data that can be trained on."""

import ast
import io
import random
import struct
import zipfile
from pathlib import Path

import damaged
import datasets
import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fedsparsify_jax
from fedsparsify_jax import data
from fedsparsify_jax.data.formats import columns, idx
from fedsparsify_jax.errors import InputError

# The hub's reader takes 0.1 s a table; damage to one shows as well in few examples.
EXAMPLES = {"images in parquet": 25, "texts": 20, "NIfTI": 60}


@pytest.mark.parametrize("name", damaged.SOURCES)
def test_damaged_files_are_refused_or_harmless(name, tmp_path):
    source = damaged.SOURCES[name]
    (tmp_path / "whole").mkdir()
    files = damaged.written(source, tmp_path / "whole")
    original = source.load(tmp_path / "whole")
    assert damaged.outcome(source, tmp_path / "whole", original) == "accepted"
    outcomes = set()

    @settings(
        max_examples=EXAMPLES.get(name, 150),
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(name=st.sampled_from(sorted(files)), seed=st.integers(0, 2**32))
    def attempt(name, seed):
        changed = damaged.damage(random.Random(seed), files[name])
        directory = tmp_path / "damaged"
        damaged.put(files | {name: changed}, directory)
        outcomes.add(damaged.outcome(source, directory, original))

    attempt()
    assert "refused" in outcomes


def npz_with(path, name, contents, **info):
    """An npz file with other bytes in place of one member."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(path, "w", **info) as archive:
        for member, original in members.items():
            archive.writestr(member, contents if member == f"{name}.npy" else original)
    return path


def header_of(shape, dtype="|u1"):
    file = io.BytesIO()
    described = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue()


def test_an_npz_header_that_promises_too_much_allocates_nothing(tmp_path):
    damaged.write_npz(tmp_path)
    path = npz_with(tmp_path / "mine.npz", "x_train", header_of((10**12, 4)) + b"ab")
    with pytest.raises(InputError, match=r"2 bytes .* header says 4,000,000,000,000"):
        data.load("npz", path)


def test_a_zip_directory_that_promises_too_much_unpacks_nothing(tmp_path):
    damaged.write_packed_npz(tmp_path)
    path = tmp_path / "mine.npz"
    contents = bytearray(path.read_bytes())
    entry = contents.index(b"PK\1\2")  # of the first member, in the directory
    contents[entry + 24 : entry + 28] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(contents)
    with pytest.raises(InputError, match=r"promises 4,294,967,294 bytes, the file can"):
        data.load("npz", path)


def test_an_npz_in_a_way_of_compression_that_numpy_does_not_write(tmp_path):
    damaged.write_npz(tmp_path)
    method = {"compression": zipfile.ZIP_BZIP2}
    path = npz_with(tmp_path / "mine.npz", "x_train", header_of((0, 4)), **method)
    with pytest.raises(InputError, match="compressed as savez_compressed does not"):
        data.load("npz", path)


@pytest.mark.parametrize("name", ["a.nii", "b.nii.gz"])
def test_a_volume_larger_than_its_file_is_not_read(tmp_path, name):
    damaged.write_scans(tmp_path)
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4))
    raw = bytearray(image.to_bytes())
    raw[42:48] = struct.pack("<3h", 30_000, 30_000, 30_000)
    path = tmp_path / name
    path.write_bytes(raw if name == "a.nii" else damaged.gzip.compress(raw))
    with pytest.raises(
        InputError, match=f"{name} is damaged: its header promises 108,"
    ):
        data.load("brain_age", tmp_path)


def test_a_gzip_bomb_is_left_half_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "LARGEST", 1000)
    (tmp_path / "bomb.gz").write_bytes(damaged.gzip.compress(bytes(10**6)))
    with pytest.raises(InputError, match="has more than 1,000 bytes unpacked"):
        idx.read_bytes(tmp_path / "bomb.gz")


def test_pictures_that_run_programs_are_refused(tmp_path):
    """Pillow hands PostScript to Ghostscript."""
    damaged.write_images(tmp_path)
    drawing = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n%%EndComments\nshowpage"
    )
    table = {"img": [{"bytes": drawing, "path": None}] * 3, "label": [0, 1, 2]}
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(3)}
    )
    datasets.Dataset.from_dict(table, features).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(InputError, match="row 0: the image is damaged"):
        data.load("hf:local/images", tmp_path)


def test_pictures_are_not_fetched_from_elsewhere():
    table = datasets.Dataset.from_dict(
        {"img": [{"bytes": None, "path": "https://example.invalid/a.png"}]},
        datasets.Features({"img": datasets.Image()}),
    )
    with pytest.raises(InputError, match=r"damaged .it is elsewhere, at https://exam"):
        columns.image_column("a table", table, "img")


CODE_ON_LOAD = {
    "pickle",
    "cPickle",
    "marshal",
    "shelve",
    "dill",
    "joblib",
    "cloudpickle",
}


def test_nothing_of_ours_loads_code():
    """No format that runs code when it is read: not here, not through NumPy."""
    loads = 0
    for path in sorted(Path(fedsparsify_jax.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.split(".")[0] for name in names} & CODE_ON_LOAD, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "__import__"), path
                if called in ("np.load", "numpy.load", "np.lib.format.read_array"):
                    keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    assert keywords["allow_pickle"] == "False", path
                    loads += 1
    assert loads  # the pattern still finds what it looks for
