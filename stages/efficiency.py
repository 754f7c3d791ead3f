"""Stage `efficiency`: size and speed, teacher against student."""

from pipeline.evaluation.efficiency import efficiency
from pipeline.stage import run_stage

if __name__ == "__main__":
    run_stage("efficiency", efficiency)
