"""The teacher's embeddings of every view and caption, in teacher shards."""

from pipeline.embedding.embed import embed
from pipeline.stage import run_stage

if __name__ == "__main__":
    run_stage("embed", embed)
