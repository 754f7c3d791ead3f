"""`python -m kdeov.export.mobile EXPORT -o FOLDER --to TARGETS`: files for devices from an export
folder, in an environment that has a converter and PyTorch alone.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from kdeov.errors import KdeovError
from kdeov.export.mobile.files import CONVERTERS, convert_export

logger = logging.getLogger("kdeov")


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Runs the command.

    Returns:
        An error of one line; None where all went well.
    """
    parser = argparse.ArgumentParser(prog="python -m kdeov.export.mobile", description=__doc__)
    parser.add_argument("export", help="folder of `kdeov export`")
    parser.add_argument("-o", "--output", required=True, help="folder of the new files")
    parser.add_argument("--to", required=True, help=f"of {','.join(CONVERTERS)}")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    try:
        convert_export(
            options.export, options.output, options.to.split(","), lambda name: logger.info(name)
        )
    except KdeovError as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main())
