"""A student trained on the cached vectors."""

from pipeline.distill import distill
from pipeline.stage import run_stage

if __name__ == "__main__":
    run_stage("distill", distill)
