"""`kdeov index` is killed at random places, ten times, and loses a batch at most."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdeov.errors import DataError
from pipeline.cli.inference.search.index import Options, make_index
from pipeline.search.build import update
from pipeline.search.index import Index
from tests.helpers import kills
from tests.helpers.exported import small_images, write_export
from tests.helpers.waiting import wait_for

IMAGES, KILLS, BATCH = 640, 10, 32


def committed(folder: Path) -> int:
    """Files of an index that may not be there yet."""
    try:
        return len(Index.open(folder).files)
    except DataError:
        return 0


def ended(pid: int) -> bool:
    """Whether a fork has ended; it can still be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


@pytest.mark.slow
@pytest.mark.parametrize("objects", [False, True])
def test_an_index_that_is_killed_ten_times_is_whole_in_the_end_and_no_image_is_there_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objects: bool
) -> None:
    write_export(tmp_path / "export", boxes=True)
    photos, folder, log = tmp_path / "photos", tmp_path / "index", tmp_path / "log"
    photos.mkdir()
    for number, pixels in enumerate(small_images(IMAGES, seed=1)):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(photos / f"{number:04d}.png")
    monkeypatch.setattr(update, "COMMIT", BATCH)
    place = update.Updater._place

    def logged(self: update.Updater, read: update.Read) -> None:
        place(self, read)
        with open(log, "ab") as file:
            file.write(b".")

    monkeypatch.setattr(update.Updater, "_place", logged)
    options = Options(objects, False, None, None, str(tmp_path / "export"), False)

    def run() -> None:
        make_index(photos, folder, options)

    def placed() -> int:
        return log.stat().st_size if log.exists() else 0

    start = time.monotonic()
    assert kills.succeeds(kills.start(lambda: make_index(photos, tmp_path / "whole", options)))
    whole_s = time.monotonic() - start
    log.unlink()
    draw, killed = random.Random(5), 0
    for _ in range(200):
        if killed == KILLS:
            break
        before, known = placed(), committed(folder)
        pid = kills.start(run)
        if draw.random() < 0.5:  # anywhere, also while the model is opened
            time.sleep(draw.uniform(0, whole_s / 2))
        else:  # among the images
            target = before + draw.randrange(1, 2 * BATCH)
            wait_for(lambda t=target, p=pid: placed() >= t or ended(p), poll_s=0.001)  # type: ignore[misc]
        if not kills.kill(pid):  # it was whole before
            shutil.rmtree(folder)
            continue
        killed += 1
        done = committed(folder)
        assert known <= done and placed() - before - (done - known) <= BATCH
    assert killed == KILLS
    assert kills.succeeds(kills.start(run))
    found, wanted = Index.open(folder), Index.open(tmp_path / "whole")
    assert len(found) == len(wanted) == len(found.files) == IMAGES
    assert found.dead.tolist() == []
    rows = dict(found.files.query("SELECT path, row FROM files"))
    others = dict(wanted.files.query("SELECT path, row FROM files"))
    assert sorted(rows.values()) == list(range(IMAGES))
    ours, theirs = [rows[path] for path in others], list(others.values())
    assert np.asarray(found.rows[ours]) == pytest.approx(wanted.rows[theirs], abs=2e-3)
    if objects:
        assert found.boxes is not None and wanted.boxes is not None
        shape = (IMAGES, -1)
        mine, yours = found.boxes.reshape(shape)[ours], wanted.boxes.reshape(shape)[theirs]
        assert np.array_equal(mine, yours)
