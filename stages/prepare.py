"""Images and captions into image shards."""

from pipeline.prepare.prepare import prepare
from pipeline.stage import run_stage

if __name__ == "__main__":
    run_stage("prepare", prepare)
