"""How local files of a table are found, and one line of what went wrong."""

from pathlib import Path

from fedsparsify_jax.data.formats.tables import first_line, local_files


def test_the_directory_s_own_name_says_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    (folder / "mine.parquet").touch()
    (folder / "training.parquet").touch()
    assert local_files(folder) == {}
    assert set(local_files(tmp_path)) == {"train"}


def test_first_line() -> None:
    assert first_line(ValueError()) == "ValueError"
    assert first_line(ValueError("\n one\ntwo")) == "one"
