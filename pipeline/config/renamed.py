"""Former names of keys of `params.yaml`, each with its present name."""

from __future__ import annotations

RENAMED = {
    "prepare.max_side": "max_image_side",
    "teacher.embeddings.pictures": "images",
    "teacher.embeddings.without": "splits_without_embeddings",
    "embed.min_area": "crop_scale_min",
    "embed.jitter": "color_jitter",
    "embed.blur": "blur_prob",
    "distill.global_batch": "global_batch_size",
    "distill.micro_batch": "micro_batch_size",
    "distill.lanes": "num_streams",
    "distill.clip_norm": "max_grad_norm",
    "distill.warmup": "warmup_fraction",
    "distill.ema": "ema_decay",
    "zero_shot.resamples": "bootstrap_samples",
    "linear_probe.resamples": "bootstrap_samples",
    "linear_probe.inverse_regularisation": "C_grid",
    "retrieval.resamples": "bootstrap_samples",
    "cluster.workers": "num_workers",
    "cluster.loader_workers": "dataloader_workers",
}
