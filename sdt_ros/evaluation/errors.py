"""What cannot be evaluated, and why."""


class EvaluationError(ValueError):
    """Prediction and truth cannot be compared; the message names file, topic, index and fix."""
