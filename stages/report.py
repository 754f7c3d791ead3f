"""Stage `report`: the HTML page and the MLflow run."""

from pipeline.report.report import report
from pipeline.stage import run_stage

if __name__ == "__main__":
    run_stage("report", report)
