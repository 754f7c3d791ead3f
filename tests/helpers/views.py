"""View plans and keys of images, for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from kdeov.data.views import ViewPlan

PLANS = st.builds(
    ViewPlan,
    seed=st.integers(0, 2**63),
    crop_scale_min=st.floats(0.01, 1),
    color_jitter=st.floats(0, 1),
    blur_prob=st.floats(0, 1),
)
KEYS, NUMBERS = st.text(max_size=12), st.integers(0, 999)
