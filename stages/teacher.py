"""A frozen teacher, with its identity."""

from pipeline.stage import run_stage
from pipeline.teachers.make_teacher import make_teacher

if __name__ == "__main__":
    run_stage("teacher", make_teacher)
