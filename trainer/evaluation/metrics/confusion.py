"""The confusion matrix for films with several genres."""

import numpy as np


def mlcm(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Returns the multi-label confusion matrix (MLCM): how often each genre is predicted instead of, or beside, each other one.

    M. Heydarian, T. E. Doyle and R. Samavi, "MLCM: Multi-Label Confusion Matrix", IEEE Access 10, 19083-19095, 2022,
    doi:10.1109/ACCESS.2022.3151048. A film with the true genres T and the predicted genres P adds:
      - 1 to (a, a) for each genre a in both T and P;
      - where P has genres that T lacks: 1 to (a, b) for each such b and each a in T that P lacks, or each a in T if P lacks
        none;
      - where P has no genre that T lacks: 1 to (a, none) for each a in T that P lacks;
      - where T is empty: 1 to (none, b) for each b in P, or to (none, none) if P is empty too.
    Where a film has both missed and wrong genres, the authors' own program forms pairs that depend on the order of the genres.
    Here each missed genre is paired with each wrong one.

    Args:
      labels: bool [N, G], the true genres of each film.
      predicted: bool [N, G], the predicted genres of each film.

    Returns:
      int64 [G + 1, G + 1]: rows are actual genres, columns predicted ones. The last row is the paper's NTL (no true label), the
      last column its NPL (no predicted label).
    """
    missed, wrong = (labels & ~predicted).astype(np.int64), (predicted & ~labels).astype(np.int64)
    complete, unlabelled = ~missed.any(axis=1), ~labels.any(axis=1)
    count = labels.shape[1]
    cells = np.zeros((count + 1, count + 1), np.int64)
    cells[:count, :count] = missed.T @ wrong + labels[complete].astype(np.int64).T @ wrong[complete]
    cells[np.arange(count), np.arange(count)] = (labels & predicted).sum(axis=0)
    cells[:count, count] = missed[~wrong.any(axis=1)].sum(axis=0)
    cells[count, :count] = wrong[unlabelled].sum(axis=0)
    cells[count, count] = (unlabelled & ~predicted.any(axis=1)).sum()
    return cells
