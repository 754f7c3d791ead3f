"""Zero-shot classification, teacher against student."""

from pipeline.stage import run_stage
from pipeline.zero_shot import zero_shot

if __name__ == "__main__":
    run_stage("zero_shot", zero_shot)
