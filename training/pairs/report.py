"""What the data card reports: figures and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from sarsteer.data.text import word_similarity, words
from training.pairs.benchmark import read_benchmark
from training.pairs.likeness import similarities
from training.pairs.rows import CATEGORIES, PAIRED, SPLITS, STYLES, Row, by, every, twins


def measure(data: dict[str, list[Row]], benchmarks: Sequence[Path]) -> Iterator[str]:
    """What the data card reports."""
    rows = every(data)
    lengths = [len(row["question"].split()) for row in rows]
    vocabulary = {word for row in rows for word in words(row["question"])}
    yield f"{len(rows)} lines, {len({row['topic'] for row in rows})} topics, {len(vocabulary)} distinct words"
    yield f"words a line: {min(lengths)} to {max(lengths)}, mean {np.mean(lengths):.1f}"
    for name in PAIRED:
        alike = [word_similarity(*(row["question"] for row in group)) for group in by(data[name], "pair").values()]
        yield f"{name}: word similarity of twins {np.quantile(alike, 0.05):.2f} / {np.median(alike):.2f} / " + (
            f"{np.quantile(alike, 0.95):.2f} (5 %, median, 95 %)"
        )
    jaccard, cosine = similarities(rows, rows)
    apart = np.array([[i != j and not twins(a, b) for j, b in enumerate(rows)] for i, a in enumerate(rows)])
    yield f"nearest lines apart from twins: Jaccard {(jaccard * apart).max():.2f}, 4-grams {(cosine * apart).max():.2f}"
    for path in benchmarks:
        jaccard, cosine = similarities(rows, read_benchmark(path))
        yield f"nearest to {path.name}: Jaccard {jaccard.max():.2f}, 4-grams {cosine.max():.2f}"
    for name in PAIRED:
        fit, test = ([row for row in data[name] if (row["split"] == "test") == held] for held in (False, True))
        yield f"{name}: words alone tell harmful from safe on the test split with AUROC {words_alone(fit, test):.2f}"


def words_alone(fit: Sequence[Row], test: Sequence[Row]) -> float:
    """AUROC of a logistic regression on words and word pairs: near 0.5 if no word gives the label away."""
    tfidf = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = LogisticRegression(max_iter=1000).fit(
        tfidf.fit_transform([row["question"] for row in fit]), [row["label"] == "harmful" for row in fit]
    )
    scores = model.decision_function(tfidf.transform([row["question"] for row in test]))
    return float(roc_auc_score([row["label"] == "harmful" for row in test], scores))


def tables(data: dict[str, list[Row]]) -> str:
    """Categories by styles and by splits, of each file, in Markdown; paired files count pairs."""
    parts = []
    for name, rows in data.items():
        rows = [row for row in rows if row["label"] == "harmful"] if name in PAIRED else rows
        head = [*STYLES[name], *SPLITS] if name != "other" else ["lines", *SPLITS]
        key = "category" if name != "other" else "style"
        lines = [f"| {name} | " + " | ".join(head) + " | all |", "|---" * (len(head) + 2) + "|"]
        for group in [*(CATEGORIES[name] if name != "other" else STYLES[name]), None]:
            of = [row for row in rows if group in (None, row[key])]
            styles = [sum(row["style"] == s for row in of) for s in STYLES[name]] if name != "other" else [len(of)]
            cells = styles + [sum(row["split"] == split for row in of) for split in SPLITS] + [len(of)]
            lines.append(f"| {group or '**all**'} | " + " | ".join(map(str, cells)) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
