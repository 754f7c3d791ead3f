"""The answers of a server, as OpenAPI describes them."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Texts(BaseModel):
    """Texts to embed, as they are."""

    texts: list[str] = Field(min_length=1, examples=[["two dogs in the snow"]])


class Embeddings(BaseModel):
    """Unit embeddings [N, D]."""

    embeddings: list[list[float]]
    model: str = Field(description="Digest of the file that embeds images.")


class Label(BaseModel):
    label: str
    probability: float


class Classification(BaseModel):
    """Labels with their probabilities, best first."""

    labels: list[Label]


class DetectedObject(BaseModel):
    label: str
    score: float
    box: list[float] = Field(description="Left, top, right, bottom in pixels of the upright image.")


class Detection(BaseModel):
    """Objects, best first."""

    objects: list[DetectedObject]
    width: int
    height: int


class Heatmap(BaseModel):
    """Cosines of the places of the centred square of an image with a text."""

    png: str = Field(description="Gray PNG in base64: black is `low`, white `high`.")
    low: float
    high: float


class ServedHit(BaseModel):
    path: str
    score: float
    probability: float | None = Field(
        description="Share of training images that score as high for this query."
    )
    date: str | None
    box: list[int] | None
    image: str = Field(description="Address of a thumbnail.")


class Hits(BaseModel):
    """Images of the index, best first."""

    hits: list[ServedHit]


class Health(BaseModel):
    status: str
    name: str
    model: str
    address: str
    texts: bool = Field(description="Whether any text is embedded, not listed ones alone.")
    boxes: bool
    index: int | None = Field(description="Images of the index; null without one.")
    token: bool = Field(description="Whether requests must show a token.")
