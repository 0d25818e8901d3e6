"""The one error of this layer."""


class BagError(RuntimeError):
    """A bag or one of its messages cannot be used; the text names the path or type, and the fix."""
