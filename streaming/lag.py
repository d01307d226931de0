"""Keeping up: how often a listener looks, so that it stays in real time."""

STEPS_S = (0.1, 10.0)
"""Shortest and longest step that may be asked for."""


class LagControl:
    """Keeps a listener in real time: who falls behind looks less often, who has time to spare as often as was asked.

    Args:
        step_s: seconds of sound between decoding steps, as asked.
        most_s: ... and at most.
    """

    CALM = 5
    """Looks in a row with time to spare before they come more often."""
    SPARE = 0.6
    """Share of a step that a look may take then."""

    def __init__(self, step_s: float, most_s: float = 5.0):
        self.asked_s, self.most_s = step_s, max(step_s, most_s)
        self.step_s = step_s
        self._calm = 0

    def update(self, pending_s: float, look_s: float) -> str:
        """Choose `step_s` after a look.

        Args:
            pending_s: sound that came meanwhile and was not heard yet.
            look_s: time that the look took.

        Returns:
            What to tell people; empty when nothing changed.
        """
        if pending_s > self.step_s:
            self._calm = 0
            if self.step_s >= self.most_s:
                return ""
            self.step_s = min(self.most_s, 2 * self.step_s)
            return f"{pending_s:.1f} s behind: now looking every {self.step_s:g} s"
        lower_s = max(self.asked_s, self.step_s / 2)
        self._calm = self._calm + 1 if look_s < self.SPARE * lower_s else 0
        if self.step_s == self.asked_s or self._calm < self.CALM:
            return ""
        self.step_s, self._calm = lower_s, 0
        return f"caught up: looking every {self.step_s:g} s" + (" again" if lower_s == self.asked_s else "")
