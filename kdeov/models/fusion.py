"""Fusion: the dense map conditioned on a text, for re-ranking and localisation. The index embedding
never depends on it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdeov.errors import ConfigError

FUSIONS = ("film", "cross_attention")


class Fused(NamedTuple):
    """The output of fusion.

    Attributes:
        embedding: [B, D], the image conditioned on the text, not normalised.
        relevance: [B, h, w], the relevance of each location to the text.
    """

    embedding: Tensor
    relevance: Tensor


class CrossModalFusionModule(nn.Module):
    """Conditions dense features on a text.

    `film` scales and shifts the features by functions of the text (Perez et al., 2018,
    arXiv:1709.07871); `cross_attention` lets the text attend to the locations (Vaswani et al.,
    2017, arXiv:1706.03762).

    Args:
        fusion_type: `film` or `cross_attention`.
        embed_dim: Width of features and texts, D.
        heads: Number of attention heads.

    Raises:
        ConfigError: Unknown fusion type.
    """

    def __init__(self, fusion_type: str = "film", embed_dim: int = 512, heads: int = 4):
        super().__init__()
        if fusion_type not in FUSIONS:
            raise ConfigError(
                f"fusion {fusion_type!r} is unknown; choose one of {', '.join(FUSIONS)}"
            )
        if fusion_type == "cross_attention" and embed_dim % heads:
            raise ConfigError(
                f"cross_attention has {heads} heads, and {embed_dim} dimensions are no multiple of "
                "that; choose film"
            )
        self.fusion_type = fusion_type
        self.norm = nn.LayerNorm(embed_dim)
        if fusion_type == "film":
            self.modulation = nn.Linear(embed_dim, 2 * embed_dim)
        else:
            self.attention = nn.MultiheadAttention(embed_dim, heads, batch_first=True)
        self.out = nn.Linear(embed_dim, embed_dim)
        nn.init.zeros_(self.out.weight)  # fusion starts as the identity on the embedding
        nn.init.zeros_(self.out.bias)

    def forward(self, dense: Tensor, text: Tensor) -> Fused:
        """Conditions each image on one text.

        Args:
            dense: [B, D, h, w], the dense map in the embedding space.
            text: [B, D], unit text embeddings.
        """
        batch, _, height, width = dense.shape
        locations = dense.flatten(2).transpose(1, 2)
        hidden = self.norm(locations)
        if self.fusion_type == "film":
            gamma, beta = self.modulation(text).unsqueeze(1).chunk(2, dim=-1)
            fused = locations + self.out(F.silu((1 + gamma) * hidden + beta))
            relevance = F.cosine_similarity(fused, text.unsqueeze(1), dim=-1)
            embedding = fused.mean(dim=1)
        else:
            attended, weights = self.attention(text.unsqueeze(1), hidden, hidden)
            embedding = locations.mean(dim=1) + self.out(attended.squeeze(1))
            relevance = weights.squeeze(1) * (height * width)  # 1 where attention is even
        return Fused(embedding, relevance.view(batch, height, width))

    def condition(self, texts: Tensor) -> Tensor:
        """What a text contributes to any image: the scale and shift of `film` [..., 2 D], or the
        attention query [..., D].

        Args:
            texts: [..., D], unit text embeddings.
        """
        if self.fusion_type == "film":
            return self.modulation(texts)
        width = texts.shape[-1]
        weight, bias = self.attention.in_proj_weight, self.attention.in_proj_bias
        return F.linear(texts, weight[:width], bias[:width])

    def embeddings(self, dense: Tensor, conditions: Tensor) -> Tensor:
        """`forward(...).embedding` of each image under several texts, without the relevance.

        The last linear map commutes with the mean over locations, so it is applied once a pair of
        image and text, not once a location.

        Args:
            dense: [B, D, h, w], dense maps.
            conditions: [B, K, ...], from `condition`: K texts for each image.

        Returns:
            [B, K, D], not normalised.
        """
        locations = dense.flatten(2).transpose(1, 2)
        hidden = self.norm(locations)
        if self.fusion_type == "film":
            gamma, beta = conditions.unsqueeze(2).chunk(2, dim=-1)
            scaled = torch.addcmul(beta, 1 + gamma, hidden.unsqueeze(1))
            pooled = F.silu(scaled, inplace=not scaled.requires_grad).mean(dim=2)
            return locations.mean(dim=1, keepdim=True) + self.out(pooled)
        return locations.mean(dim=1, keepdim=True) + self.out(self._attended(hidden, conditions))

    def _attended(self, hidden: Tensor, queries: Tensor) -> Tensor:
        """The output [B, K, D] of attention to locations [B, L, D] by queries [B, K, D]."""
        attention, width = self.attention, queries.shape[-1]
        weight, bias = attention.in_proj_weight[width:], attention.in_proj_bias[width:]
        keys, values = F.linear(hidden, weight, bias).chunk(2, dim=-1)
        split = (x.unflatten(-1, (attention.num_heads, -1)) for x in (queries, keys, values))
        heads = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in split))
        return attention.out_proj(heads.transpose(1, 2).flatten(2))


def fusion_scores(
    fusion: CrossModalFusionModule,
    dense: Tensor,
    texts: Tensor,
    conditions: Tensor | None = None,
) -> Tensor:
    """Cosines of each image, conditioned on a text, with that text.

    Args:
        fusion: The fusion module.
        dense: [B, D, h, w], dense maps.
        texts: [B, K, D], K unit text embeddings for each image.
        conditions: [B, K, ...], `fusion.condition(texts)` where it is at hand.

    Returns:
        [B, K].
    """
    conditions = fusion.condition(texts) if conditions is None else conditions
    return F.cosine_similarity(fusion.embeddings(dense, conditions), texts, dim=-1)


def fusion_loss(
    fusion: CrossModalFusionModule,
    dense: Tensor,
    texts: Tensor,
    all_text_embeddings: Tensor,
    own: Tensor,
    negatives: int = 7,
    temperature: float = 0.05,
) -> Tensor:
    """InfoNCE (van den Oord et al., 2018, arXiv:1807.03748) of an image's own text against its
    hardest other texts, after fusion.

    Args:
        fusion: The fusion module.
        dense: [B, D, h, w]; detached here, so that fusion never changes the index embedding.
        texts: [B, D], each image's own unit text embedding.
        all_text_embeddings: [N, D], those of the global batch, from which negatives are drawn.
        own: [B], the row of each image's own text in `all_text_embeddings`.
        negatives: Number of negatives per image.
        temperature: Temperature of the softmax.

    Returns:
        Scalar mean over the images.
    """
    dense = dense.detach()
    with torch.no_grad():
        cosines = F.normalize(dense.mean(dim=(2, 3)), dim=-1) @ all_text_embeddings.T
        cosines[torch.arange(len(own), device=own.device), own] = -2
        cosines[texts @ all_text_embeddings.T > 0.999] = -2  # the same caption is no negative
        values, hardest = cosines.topk(min(negatives, len(all_text_embeddings) - 1), dim=1)
    left_out = values == -2  # fewer other captions than negatives
    scores = fusion_scores(
        fusion, dense, torch.cat([texts.unsqueeze(1), all_text_embeddings[hardest]], dim=1)
    )
    scores = torch.cat([scores[:, :1], scores[:, 1:].masked_fill(left_out, float("-inf"))], dim=1)
    target = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
    return F.cross_entropy(scores / temperature, target)
