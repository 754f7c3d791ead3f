"""Stage `train_boxes`: a box head on the student's trunk."""

from pipeline.boxes.train_boxes import train_boxes
from pipeline.stage import run_stage

if __name__ == "__main__":
    run_stage("train_boxes", train_boxes)
