"""Which version of this package is running."""

from importlib import metadata


def package_version() -> str:
    """The installed version; "unknown" where the code is run from the source tree, as colcon may install it."""
    try:
        return metadata.version("sdt_ros")
    except metadata.PackageNotFoundError:
        return "unknown"
