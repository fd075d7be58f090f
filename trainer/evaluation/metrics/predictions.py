"""The predictions of a model for a split: what every metric and chart is computed from."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

OPERATING_POINTS = {"at_0.5": "threshold 0.5", "tuned": "tuned thresholds"}
"""The operating points: their keys in metrics.json and their names in the report."""


@dataclass(frozen=True)
class Predictions:
    """The scores that a model gave the films of a split, beside the films' true genres.

    Attributes:
      ids: N film ids.
      genres: G genre names, in the data set's order.
      labels: bool [N, G], True where the film has the genre.
      scores: float32 [N, G], in [0, 1]: the sigmoid of the logits, which are divided by the temperature first.

    Raises:
      ValueError: the shapes or dtypes do not fit together, there are no films or no genres, or a score is outside [0, 1].
    """

    ids: tuple[str, ...]
    genres: tuple[str, ...]
    labels: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        shape = (len(self.ids), len(self.genres))
        if self.labels.shape != shape or self.scores.shape != shape or 0 in shape:
            raise ValueError(
                f"labels and scores must have the shape [films, genres] = {list(shape)}, without a 0, got "
                f"{list(self.labels.shape)} and {list(self.scores.shape)}"
            )
        if self.labels.dtype != np.bool_ or self.scores.dtype != np.float32:
            raise ValueError(f"labels must be bool and scores float32, got {self.labels.dtype} and {self.scores.dtype}")
        if not ((self.scores >= 0) & (self.scores <= 1)).all():
            raise ValueError(f"scores must be in [0, 1], got values from {self.scores.min()} to {self.scores.max()}")

    def predicted(self, thresholds: float | Mapping[str, float]) -> np.ndarray:
        """Returns which genres are predicted, bool [N, G]: score >= threshold.

        Args:
          thresholds: one threshold for all genres, or one for each genre, by name.
        """
        limits = [thresholds[genre] for genre in self.genres] if isinstance(thresholds, Mapping) else [thresholds]
        # In float64: NumPy would round a Python float to the scores' float32 first, perhaps onto a score.
        return self.scores.astype(np.float64) >= np.array(limits, np.float64)

    def at_points(self, thresholds: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Returns which genres are predicted at each of `OPERATING_POINTS`, bool [N, G].

        Args:
          thresholds: the tuned threshold of each genre.
        """
        return {"at_0.5": self.predicted(0.5), "tuned": self.predicted(thresholds)}

    def names(self, decisions: np.ndarray) -> list[str]:
        """Returns the names of the genres that are True in `decisions`, bool [G], in the data set's order."""
        return [genre for genre, decision in zip(self.genres, decisions, strict=True) if decision]
