"""Stage `linear_probe`: a linear classifier on frozen embeddings, teacher against student."""

from pipeline.evaluation.linear_probe import linear_probe
from pipeline.stage import run_stage

if __name__ == "__main__":
    run_stage("linear_probe", linear_probe)
