"""A frozen teacher, with its identity."""

from pipeline.stage import run_stage
from pipeline.teachers.make_teacher import make_teacher

if __name__ == "__main__":
    run_stage(
        "teacher",
        lambda params, layout: make_teacher(
            params.teacher, layout.images, layout.teacher, params.data.storage
        ),
    )
