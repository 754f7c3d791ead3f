"""What `import kdeov` gives."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kdeov


def test_every_public_name_is_there():
    assert {name: getattr(kdeov, name).__name__ for name in kdeov.__all__} == {
        name: name for name in kdeov.__all__
    }
    with pytest.raises(AttributeError, match="KDEOVMode"):
        _ = kdeov.KDEOVMode


def test_import_does_not_wait_for_torch():
    code = "import sys, kdeov; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
