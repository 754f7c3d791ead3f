"""MLflow's pages as people see them: the table of runs, a run, its charts and its files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.config.params import load_params
from pipeline.config.paths import Layout
from pipeline.report.headline import COLUMNS, HEADLINE
from pipeline.report.publish import publish
from pipeline.tracking.view import TAG_COLUMNS, UI_HOST, runs_page
from tests.helpers import ROOT
from tests.helpers.browser import Page, chromium_page
from tests.helpers.checkouts import Checkout
from tests.helpers.mlflow_servers import MlflowServer

pytestmark = pytest.mark.slow

SCREENSHOTS = ROOT / "work" / "screenshots" / "mlflow"
VIEWS = [(1280, False), (1280, True), (360, False), (360, True)]
MLFLOW_404 = "Failed to load resource: the server responded with a status of 404 (Not Found)"
"""MLflow's page asks its server for what only other servers have."""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium_page() as found:
        yield found


@pytest.fixture(scope="module")
def run_id(
    mlflow_server: MlflowServer, reproduced: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A run that was published to the server from a copy of a checkout."""
    layout = Layout(tmp_path_factory.mktemp("published") / "checkout")
    shutil.copytree(reproduced.path, layout.root, symlinks=True)
    params = load_params(layout.params)
    tracking = params.tracking.model_copy(
        update={"uri": mlflow_server.uri, "experiment": "pages", "model": "pages"}
    )
    return publish(params.model_copy(update={"tracking": tracking}), layout)


class Pages:
    """The pages of one run.

    Attributes:
        host: Address of the server, under the name that `kdeov ui` gives.
        experiment: Id of the experiment.
    """

    def __init__(self, server: MlflowServer, run_id: str) -> None:
        self.host = f"http://{UI_HOST}:{server.port}"
        self.experiment = MlflowClient(server.uri).get_run(run_id).info.experiment_id
        self.run = f"{self.host}/#/experiments/{self.experiment}/runs/{run_id}"
        self.kind = server.database.partition(":")[0].partition("+")[0]

    def open(self, page: Page, address: str, width: int, dark: bool, name: str, ready: str) -> None:
        """Opens an address, waits until its content is there, and checks what came with it."""
        page.open(f"{self.host}/health", width, dark)
        page.evaluate("localStorage.clear()")  # as on the first visit
        page.problems.clear()
        page.requests.clear()
        page.open(address, width, dark)
        page.wait_for(ready)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        theme = "dark" if dark else "light"
        page.screenshot(SCREENSHOTS / f"{self.kind}-{name}-{width}-{theme}.png")
        assert [p for p in page.problems if p != MLFLOW_404] == []
        inside = (self.host, "data:", "blob:", "about:")
        assert [r for r in page.requests if not r.startswith(inside)] == []


def has_text(*texts: str) -> str:
    """A script: whether a page shows all texts."""
    return f"{json.dumps(texts)}.every(t => document.body.innerText.includes(t))"


@pytest.mark.parametrize(("width", "dark"), VIEWS)
def test_a_person_goes_from_the_table_to_a_run_its_charts_and_its_report(
    mlflow_server: MlflowServer, run_id: str, page: Page, width: int, dark: bool
) -> None:
    pages = Pages(mlflow_server, run_id)
    run = MlflowClient(mlflow_server.uri).get_run(run_id)

    table = runs_page(pages.host, pages.experiment)
    # of columns beyond the edge, the table has no elements
    first = COLUMNS[0] if width > 1000 else run.info.run_name
    pages.open(page, table, width, dark, "table", has_text(str(run.info.run_name), str(first)))
    text = page.evaluate("document.body.innerText")
    assert "Assistant" not in text
    if width > 1000:
        headers = page.evaluate(
            "[...document.querySelectorAll('.ag-header-cell')].sort((a, b) =>"
            " a.getBoundingClientRect().left - b.getBoundingClientRect().left)"
            ".map(e => e.innerText.trim())"
        )
        shown = [name for name in headers if name in (*TAG_COLUMNS, *HEADLINE)]
        assert shown[:4] == [*TAG_COLUMNS, COLUMNS[0]]
        assert "Traces" in text and "Prompts" not in text and "Judges" not in text

    query = "?workflowType=machine_learning"
    pages.open(
        page, pages.run + query, width, dark, "run", has_text("distilled into", "About this run")
    )
    charts = f"{pages.run}/model-metrics{query}"
    drawn = "document.querySelectorAll('.js-plotly-plot').length > 0"
    pages.open(page, charts, width, dark, "charts", drawn)
    report = f"{pages.run}/artifacts/report/index.html{query}"
    shown = "document.querySelectorAll('iframe').length > 0"
    pages.open(page, report, width, dark, "report", shown)
    assert page.evaluate("document.body.classList.contains('dark-mode')") is dark


def test_the_first_groups_of_charts_are_accuracy_retrieval_and_loss(
    mlflow_server: MlflowServer, run_id: str, page: Page
) -> None:
    pages = Pages(mlflow_server, run_id)
    address = f"{pages.run}/model-metrics?workflowType=machine_learning"
    pages.open(page, address, 1280, False, "groups", has_text("accuracy", "workload"))
    text = page.evaluate("document.body.innerText")
    groups = re.findall(r"(\w+)\s*\(\d+\)", text)  # a name, and the number of its charts
    assert groups[:5] == ["accuracy", "retrieval", "train", "val", "workload"]


def test_the_description_links_the_report(
    mlflow_server: MlflowServer, run_id: str, page: Page
) -> None:
    pages = Pages(mlflow_server, run_id)
    address = f"{pages.run}?workflowType=machine_learning"
    pages.open(page, address, 1280, False, "description", has_text("distilled into"))
    page.wait_for("[...document.querySelectorAll('a')].some(a => a.innerText === 'Report')")
    found = page.evaluate(
        "[...document.querySelectorAll('a')].find(a => a.innerText === 'Report').href"
    )
    assert found == f"{pages.run}/artifacts/report/index.html"


def test_the_tags_that_people_filter_by_find_the_run(
    mlflow_server: MlflowServer, run_id: str
) -> None:
    client = MlflowClient(mlflow_server.uri)
    run = client.get_run(run_id)
    wanted = {
        "recipe": "scenes", "teacher": "tiny", "backbone": "yolov8n", "dataset": "scenes",
        "git.dirty": "false", "world_size": "1", "device": run.data.tags["device"],
    }  # fmt: skip
    query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in wanted.items())
    (found,) = client.search_runs([run.info.experiment_id], query)
    assert found.info.run_id == run_id and run.data.tags["git.commit"]
    assert len([name for name in run.data.metrics if name in HEADLINE]) == len(HEADLINE)
    others = {name.partition("/")[0] for name in run.data.metrics if name not in HEADLINE}
    assert others == {"train", "val", "workload"}
    assert Path(run.info.artifact_uri).name == "artifacts"
