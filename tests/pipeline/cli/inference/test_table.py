"""Tables of embeddings: whole or absent, and a stopped run goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from kdeov.errors import ConfigError
from pipeline.cli.inference import table as module
from pipeline.cli.inference.table import EmbeddingTable
from pipeline.inference.stream import Embedded
from tests.helpers.damage import flips

DIM = 8
SUFFIXES = pytest.mark.parametrize("name", ["rows.npy", "rows.parquet"])


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_ROWS", 3)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "images" / f"{number}.jpg" for number in range(8)]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_bytes(path.stem.encode() * 3)
    return paths


def row_of(path: Path) -> np.ndarray:
    return np.full(DIM, int(path.stem), np.float32)


def run(
    output: Path, images: Sequence[Path], stop_after: int | None = None, model: str = "one"
) -> list[str]:
    """Embeds what is missing; returns the names of those images."""
    embedded: list[str] = []
    try:
        with EmbeddingTable(output, model, DIM) as table:
            for path in [path for path in images if not table.has(path)]:
                if len(embedded) == stop_after:
                    raise KeyboardInterrupt
                table.add(Embedded(path, row_of(path)))
                embedded.append(path.name)
            table.finish(list(images))
    except KeyboardInterrupt:
        pass
    return embedded


def rows(output: Path) -> tuple[list[str], np.ndarray]:
    """Names of images and their rows, as a user reads the files."""
    if output.suffix == ".npy":
        about = json.loads(output.with_name(f"{output.name}.json").read_text(encoding="utf-8"))
        return [Path(row[0]).name for row in about["images"]], np.load(output)
    read = pq.read_table(output)
    names = [Path(name).name for name in read.column("image").to_pylist()]
    return names, np.stack(read.column("embedding").to_numpy())


@SUFFIXES
def test_every_image_has_its_row_in_the_order_of_the_arguments(
    tmp_path: Path, images: list[Path], name: str
) -> None:
    given = images[::-1]
    run(tmp_path / name, given)
    names, values = rows(tmp_path / name)
    assert names == [path.name for path in given]
    assert values.dtype == np.float32
    assert (values == np.stack([row_of(path) for path in given])).all()


@SUFFIXES
def test_a_stopped_run_goes_on_and_writes_nothing_under_the_final_name_before(
    tmp_path: Path, images: list[Path], name: str
) -> None:
    output = tmp_path / name
    assert len(run(output, images, stop_after=5)) == 5
    assert not output.exists()
    assert run(output, images) == [path.name for path in images[5:]]
    names, values = rows(output)
    assert names == [path.name for path in images]
    assert values[:, 0].tolist() == list(range(8))
    assert not output.with_name(f"{name}.parts").exists()


@SUFFIXES
def test_a_second_run_embeds_new_and_changed_images_alone(
    tmp_path: Path, images: list[Path], name: str
) -> None:
    output = tmp_path / name
    run(output, images[:6])
    assert run(output, images[:6]) == []
    images[2].write_bytes(b"another image")
    assert run(output, images[1:]) == ["2.jpg", "6.jpg", "7.jpg"]
    assert rows(output)[0] == [path.name for path in images[1:]]


@SUFFIXES
def test_rows_of_another_model_are_made_again(
    tmp_path: Path, images: list[Path], name: str
) -> None:
    output = tmp_path / name
    run(output, images, stop_after=4)
    assert len(run(output, images, model="two")) == 8
    assert len(run(output, images, model="one")) == 8


@SUFFIXES
def test_a_file_that_the_command_did_not_write_stays(
    tmp_path: Path, images: list[Path], name: str, complains: Any
) -> None:
    output = tmp_path / name
    np.save(tmp_path / "mine.npy", np.zeros(3))
    (tmp_path / "mine.npy").rename(output)
    before = output.read_bytes()
    with complains(output, "--force"):
        run(output, images)
    assert output.read_bytes() == before
    with EmbeddingTable(output, "one", DIM, force=True) as table:
        assert not table.has(images[0])
        table.add(Embedded(images[0], row_of(images[0])))
        assert table.finish(images[:1]) == (1, 0)
    assert rows(output)[0] == ["0.jpg"]


def test_an_edited_table_is_not_taken_as_the_commands_own(
    tmp_path: Path, images: list[Path], complains: Any
) -> None:
    output = tmp_path / "rows.npy"
    run(output, images)
    values = np.load(output)
    values[0] = 7
    np.save(output, values)
    with complains(output, "--force"):
        run(output, images)


@SUFFIXES
def test_a_flipped_bit_never_becomes_another_row(
    tmp_path: Path, images: list[Path], name: str
) -> None:
    output = tmp_path / name
    run(output, images)
    whole, told = output.read_bytes(), 0
    for damaged in flips(whole, 60, seed=0):
        output.write_bytes(damaged)
        try:
            run(output, images)
        except ConfigError:
            told += 1
        else:  # what says nothing of the rows, or the model: then all are made again
            np.testing.assert_array_equal(rows(output)[1], np.stack(list(map(row_of, images))))
    assert told > 20
    output.write_bytes(whole)
    assert run(output, images) == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "no description"])
def test_a_damaged_part_is_embedded_again(tmp_path: Path, images: list[Path], damage: str) -> None:
    output = tmp_path / "rows.npy"
    run(output, images, stop_after=6)
    part = tmp_path / "rows.npy.parts" / "000000.npy"
    content = bytearray(part.read_bytes())
    if damage == "cut":
        part.write_bytes(content[:-5])
    elif damage == "flipped":
        content[-1] ^= 1
        part.write_bytes(content)
    else:
        part.with_name("000000.npy.json").unlink()
    assert run(output, images) == [f"{number}.jpg" for number in (0, 1, 2, 6, 7)]
    assert rows(output)[1][:, 0].tolist() == list(range(8))


def test_no_embedding_is_no_file(tmp_path: Path) -> None:
    with EmbeddingTable(tmp_path / "rows.npy", "one", DIM) as table:
        assert table.finish([]) == (0, 0)
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_beside_the_table_stay(
    tmp_path: Path, images: list[Path], complains: Any
) -> None:
    output, parts = tmp_path / "rows.npy", tmp_path / "rows.npy.parts"
    parts.mkdir()
    (parts / "mine.npy").write_bytes(b"mine")
    (parts / "notes.txt").write_bytes(b"mine")
    run(output, images)
    assert sorted(path.name for path in parts.iterdir()) == ["mine.npy", "notes.txt"]
    other = tmp_path / "other.npy"
    (tmp_path / "other.npy.json").write_text('{"mine": 1}', encoding="utf-8")
    with complains("other.npy.json", "--force"):
        run(other, images)
    assert (tmp_path / "other.npy.json").read_text(encoding="utf-8") == '{"mine": 1}'


def test_one_process_writes_a_table_at_a_time(
    tmp_path: Path, images: list[Path], complains: Any
) -> None:
    output = tmp_path / "rows.npy"
    with EmbeddingTable(output, "one", DIM), complains(output, "another"):
        run(output, images)
    assert len(run(output, images)) == len(images)


def test_rows_that_are_left_out_are_counted(tmp_path: Path, images: list[Path]) -> None:
    run(tmp_path / "rows.npy", images)
    with EmbeddingTable(tmp_path / "rows.npy", "one", DIM) as table:
        assert all(table.has(path) for path in images[:3])
        assert table.finish(images[:3]) == (3, 5)
