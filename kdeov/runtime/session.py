"""One ONNX file in onnxruntime, on a chosen provider (the processor that runs it)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from kdeov.errors import ConfigError, DataError, first_line
from kdeov.runtime.card import FIX

logger = logging.getLogger(__name__)

SUFFIX = "ExecutionProvider"
CPU = "CPU"
# Best first. TensorRT and OpenVINO, which compile for minutes, and Azure, which sends data away,
# are used where they are asked for.
PREFERRED = ("CUDA", "ROCM", "MIGraphX", "CoreML", "Dml", CPU)
# Full precision, and no search for the fastest algorithm at each new size of images
OPTIONS = {"CUDA": {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}}
MAX_THREADS = 1024
SILENT = 4  # onnxruntime's level `fatal`: what fails is raised as well

Providers = str | Sequence[str] | None


class Session:
    """An ONNX file, ready to run.

    Args:
        path: The file.
        outputs: Names of the outputs, in the order that `__call__` returns them.
        providers: Names of providers, best first, such as `CUDA`; the CPU is always the last. None
            takes the best one that is available.
        threads: Threads of one pass on the CPU; None leaves the number to onnxruntime.

    Raises:
        ConfigError: A provider or a number of threads that is not available.
        DataError: The file is missing, damaged, or holds another model.
    """

    def __init__(
        self,
        path: Path,
        outputs: Sequence[str],
        providers: Providers = None,
        threads: int | None = None,
    ):
        self.path = path
        names = choose_providers(providers)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = SILENT
        if threads is not None:
            options.intra_op_num_threads = require_threads(threads)
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path),
                options,
                [(f"{name}{SUFFIX}", OPTIONS.get(name, {})) for name in names],
                enable_fallback=0,  # it prints, and goes on with another provider
            )
        except Exception as error:  # onnxruntime's errors have no common class
            raise DataError(
                f"{path}: cannot be opened by onnxruntime on {names[0]} ({_reason(error)}); {FIX}, "
                "or choose another provider"
            ) from error
        self.provider: str = self._session.get_providers()[0].removesuffix(SUFFIX)
        if self.provider != names[0]:
            problem = (
                f"provider {names[0]!r} cannot be used on this machine, onnxruntime offers "
                f"{self.provider} instead; install its drivers, or choose {self.provider}"
            )
            if providers is not None:
                raise ConfigError(problem)
            logger.warning("%s", problem)
        self._inputs = [entry.name for entry in self._session.get_inputs()]
        known = {entry.name for entry in self._session.get_outputs()}
        if missing := [name for name in outputs if name not in known]:
            raise DataError(f"{path}: another model, it has no output {missing[0]!r}; {FIX}")
        self._outputs = list(outputs)
        logger.info("%s runs on %s", path, self.provider)

    def __call__(self, **inputs: np.ndarray) -> list[np.ndarray]:
        """Runs the model once.

        Args:
            inputs: An array for each input of the file.

        Raises:
            DataError: The file holds another model, or the provider fails.
        """
        try:
            return self._session.run(self._outputs, self._fed(inputs))
        except Exception as error:  # onnxruntime's errors have no common class
            raise DataError(
                f"{self.path}: fails on {self.provider} ({_reason(error)}); {FIX}, or choose "
                "another provider"
            ) from error

    def _fed(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        if missing := [name for name in self._inputs if name not in inputs]:
            raise DataError(f"{self.path}: another model, its input is {missing[0]!r}; {FIX}")
        return inputs


def choose_providers(asked: Providers) -> list[str]:
    """Short names of providers to use, best first and the CPU last.

    Raises:
        ConfigError: A provider is not available here; the error lists those that are.
    """
    available = [name.removesuffix(SUFFIX) for name in onnxruntime.get_available_providers()]
    if asked is None:
        best = next(name for name in PREFERRED if name in available)
        return list(dict.fromkeys([best, CPU]))
    if not isinstance(asked, str | Iterable):
        raise ConfigError(f"providers are {asked!r}; choose of {', '.join(available)}")
    listed = [asked] if isinstance(asked, str) else list(asked)
    spelled = {name.lower(): name for name in available}
    chosen = []
    for name in listed:
        known = isinstance(name, str) and spelled.get(name.lower().removesuffix(SUFFIX.lower()))
        if not known:
            raise ConfigError(
                f"provider {name!r} is not available; choose of {', '.join(available)}"
            )
        chosen.append(known)
    if not chosen:
        raise ConfigError(f"there is no provider; choose of {', '.join(available)}")
    return list(dict.fromkeys([*chosen, CPU]))


def require_threads(threads: Any) -> int:
    """A number of threads.

    Raises:
        ConfigError: It is no positive integer.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS:
        raise ConfigError(f"threads is {threads!r}; give a number from 1 on, or None")
    return threads


def _reason(error: Exception) -> str:
    """onnxruntime's reason, without the code before it and the path, which the error names."""
    return first_line(error).split(" : ", 1)[-1].removeprefix("FAIL : ")
