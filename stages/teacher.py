"""A frozen teacher, with its identity."""

from pipeline.make_teacher import make_teacher
from pipeline.stage import run_stage

if __name__ == "__main__":
    run_stage(
        "teacher",
        lambda params, layout: make_teacher(
            params.teacher, layout.images, layout.teacher, params.data.storage
        ),
    )
