"""Stage `zero_shot`: classification by class names, teacher against student."""

from pipeline.evaluation.zero_shot import zero_shot
from pipeline.stage import run_stage

if __name__ == "__main__":
    run_stage("zero_shot", zero_shot)
