"""ROUGE-L (Lin 2004), in the two forms that translation of signing is reported in.

Both are means over sentences of an F of the longest common subsequence, and differ in how recall is weighed: as the
evaluation of COCO captions does, which neccam/slt and those after it report, or evenly.
"""

from collections.abc import Mapping, Sequence

BETAS: Mapping[str, float] = {"rouge-l-coco": 1.2, "rouge-l-f1": 1.0}
"""By metric, how many times as much recall counts as precision."""


def rouge_l(hypothesis: Sequence[str], reference: Sequence[str], beta: float) -> float:
    """`(1 + beta^2) P R / (R + beta^2 P)` of the tokens of one sentence, 0 to 1; 0 where they share none."""
    common = common_length(hypothesis, reference)
    if not common:
        return 0.0
    precision, recall = common / len(hypothesis), common / len(reference)
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def common_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]
