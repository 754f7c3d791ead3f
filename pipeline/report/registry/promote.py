"""Promotion: the alias `champion` moves to the candidate if the candidate is no worse and works.

Everything is read from the registry, so no checkout of either version is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdeov.errors import ConfigError, DataError, KdeovError
from pipeline.config.params import load_params
from pipeline.config.paths import Layout
from pipeline.report.registry.comparison import (
    SCORES_TAG,
    Comparison,
    compare,
    read_scores,
    require_known,
)
from pipeline.report.registry.logged_model import EXPORT
from pipeline.tracking.download import download_model, find_tracking_uri, model_errors
from pipeline.tracking.mlflow_run import FINGERPRINT_TAG
from pipeline.tracking.registry import (
    CANDIDATE,
    CHAMPION,
    MODELS,
    find_registered,
    number_of,
    version_address,
    version_of,
)
from pipeline.tracking.target import request_limits


@dataclass(frozen=True)
class Promotion:
    """The end of a promotion.

    Attributes:
        name: The registered model.
        version: The champion now.
        before: The champion before; None if there was none, `version` if nothing moved.
        comparisons: By what metrics the two were compared.
    """

    name: str
    version: str
    before: str | None
    comparisons: Sequence[Comparison] = ()

    def __str__(self) -> str:
        if self.version == self.before:
            return f"{self.name}: version {self.version} is the champion already"
        was = f", before it version {self.before}" if self.before else ""
        lines = [f"{self.name}: version {self.version} is the champion{was}"]
        return "\n".join([*lines, *(f"  {one}" for one in self.comparisons)])


def promote_here(name: str | None, metrics: str | None) -> Promotion:
    """Promotes at the tracking address of the checkout in the current folder, or of
    `MLFLOW_TRACKING_URI`.

    Args:
        name: The registered model; None takes that of the checkout.
        metrics: Names, separated by commas; None takes `DEFAULT_METRICS`.

    Raises:
        KdeovError: See `promote`; or there is neither a checkout nor a name.
    """
    named = None if metrics is None else [part.strip() for part in metrics.split(",")]
    if named is not None and not all(named):
        raise ConfigError("--metrics names no metric; give names, separated by commas")
    if name is None:
        layout = Layout.here()
        params = load_params(layout.params)
        name = params.tracking.model or params.prepare.dataset
    where = f"{MODELS}{name}"
    with model_errors(where):
        uri = find_tracking_uri(where)
    return promote(uri, name, named)


def promote(uri: str, name: str, metrics: Sequence[str] | None = None) -> Promotion:
    """Lets `champion` name the version that `candidate` names.

    Args:
        uri: MLflow's tracking URI.
        name: The registered model.
        metrics: Names of the metrics by which the candidate must be no worse; None takes
            `DEFAULT_METRICS`.

    Raises:
        DataError: There is no candidate, it is worse on a metric, or its export does not give the
            outputs of its making on this machine.
        ConfigError: The name belongs to something else, or a metric is unknown.
        StorageError: MLflow cannot be reached.
    """
    from mlflow import MlflowClient

    address, client = f"{MODELS}{name}", MlflowClient(uri)
    with model_errors(address), request_limits(timeout_s=10, max_retries=2):
        found = find_registered(client, name)
        candidate = version_of(client, found, CANDIDATE) if found else None
        if found is None or candidate is None:
            raise DataError(f"{address}@{CANDIDATE}: there is none; run `kdeov publish`")
        champion = version_of(client, found, CHAMPION)
    scores = read_scores(candidate.tags.get(SCORES_TAG), version_address(candidate))
    number, before = str(candidate.version), str(champion.version) if champion else None
    if number == before:
        return Promotion(name, number, before)
    comparisons: list[Comparison] = []
    if champion is not None:
        theirs = read_scores(champion.tags.get(SCORES_TAG), version_address(champion))
        comparisons = compare(theirs, scores, metrics)
        problems = [problem for one in comparisons if (problem := one.problem()) is not None]
        if problems:
            raise DataError(
                f"{name}: version {before} stays champion, as of version {number} "
                f"{'; '.join(problems)}"
            )
    elif metrics is not None:
        require_known(metrics, scores)
    require_working(uri, version_address(candidate), candidate.tags.get(FINGERPRINT_TAG))
    with model_errors(address), request_limits(timeout_s=10, max_retries=2):
        present = number_of(client.get_registered_model(name), CHAMPION)
        if present != before:
            raise DataError(
                f"{address}@{CHAMPION}: moved to version {present} in the meantime; run "
                "`kdeov promote` again"
            )
        client.set_registered_model_alias(name, CHAMPION, number)
    return Promotion(name, number, before, comparisons)


def require_working(uri: str, address: str, fingerprint: str | None) -> None:
    """Opens every part of the export of a version, which compares it with its golden outputs.

    Args:
        uri: MLflow's tracking URI.
        address: `models:/NAME/VERSION`.
        fingerprint: The run that the export must state; None takes any.

    Raises:
        DataError: A part is missing or damaged, or gives other outputs than at export.
        StorageError: MLflow cannot be reached.
    """
    from kdeov.runtime.card import INT8, require_file
    from kdeov.runtime.model import Model
    from kdeov.runtime.texts import open_texts

    folder = download_model(address, uri) / EXPORT
    try:
        model = Model.open(folder)
        card = model.card
        if fingerprint is not None and card.fingerprint != fingerprint:
            raise DataError(
                f"{folder}: the export of the run {card.fingerprint}, not {fingerprint}"
            )
        for name in card.files:
            require_file(folder, card, name)
        if INT8 in card.files:
            Model.open(folder, precision="int8")
        size = card.transform["size"]
        axis = np.eye(1, card.embed_dim, dtype=np.float32)
        model.heatmap(np.zeros((size, size, 3), np.uint8), axis)
        open_texts(folder, card)
        if card.detection is not None:
            model.proposer  # noqa: B018 (opened, and so tested)
    except KdeovError as error:
        raise DataError(f"{address} stays as it is: its self-test fails: {error}") from error
