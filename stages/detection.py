"""Stage `detection`: objects of any named class, base and held-out classes apart."""

from pipeline.evaluation.detection import detection
from pipeline.stage import run_stage

if __name__ == "__main__":
    run_stage("detection", detection)
