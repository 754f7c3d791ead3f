"""Stage `retrieval`: retrieval in both directions, teacher against student."""

from pipeline.evaluation.retrieval import retrieval
from pipeline.stage import run_stage

if __name__ == "__main__":
    run_stage("retrieval", retrieval)
