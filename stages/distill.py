"""Stage `distill`: trains a student on the cached teacher embeddings."""

from pipeline.stage import run_stage
from pipeline.training.distill import distill

if __name__ == "__main__":
    run_stage("distill", distill)
