"""Stage `export`: the student as files that run without this project."""

from pipeline.export.export import export
from pipeline.stage import run_stage

if __name__ == "__main__":
    run_stage("export", export)
