"""How alike two lines are, for all lines at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from sarsteer.data.text import words
from training.pairs.rows import Row

SAME_WORDS = 0.60
"""Token-set Jaccard from which two lines are near-duplicates. Of eight words each, six are shared: one thing differs.
Below it, unrelated lines that share a frame ("what is the best way to clean a ...") begin."""
SAME_SPELLING = 0.65
"""Cosine of the tf-idf of character 4-grams from which two lines are near-duplicates. It sees what tokens miss
("buying a gun", "buy guns"), and the weights take the common frames out. Looked at by eye: above it one request is put
in two ways; below it the two share a word or two."""


def near(a: Sequence[Row], b: Sequence[Row]) -> Iterator[tuple[str, int, int, float]]:
    """Indices of near-duplicates, with the measure that finds them and its value."""
    jaccard, cosine = similarities(a, b)
    for i, j in zip(*np.nonzero((jaccard >= SAME_WORDS) | (cosine >= SAME_SPELLING)), strict=True):
        if jaccard[i, j] >= SAME_WORDS:
            yield "words", int(i), int(j), float(jaccard[i, j])
        else:
            yield "4-grams", int(i), int(j), float(cosine[i, j])


def similarities(a: Sequence[Row], b: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Token-set Jaccard and cosine of character 4-grams, each (lines of a, lines of b)."""
    texts = [[" ".join(words(row["question"])) for row in rows] for rows in (a, b)]
    jaccard = jaccard_matrix(*([text.split() for text in side] for side in texts))
    tfidf = TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 4)).fit([*texts[0], *texts[1]])
    first, second = (tfidf.transform(side) for side in texts)
    return jaccard, (first @ second.T).toarray()


def jaccard_matrix(a: Iterable[Iterable[str]], b: Iterable[Iterable[str]]) -> np.ndarray:
    a, b = ([" ".join(tokens) for tokens in side] for side in (a, b))
    counts = CountVectorizer(tokenizer=str.split, token_pattern=None, lowercase=False, binary=True).fit([*a, *b])
    first, second = (sparse.csr_matrix(counts.transform(side), dtype=np.float32) for side in (a, b))
    shared = (first @ second.T).toarray()
    union = np.asarray(first.sum(1)) + np.asarray(second.sum(1)).T - shared
    return shared / np.maximum(union, 1)


def above(matrix: np.ndarray, threshold: float) -> Iterator[tuple[int, int, float]]:
    for i, j in zip(*np.nonzero(matrix >= threshold), strict=True):
        yield int(i), int(j), float(matrix[i, j])
