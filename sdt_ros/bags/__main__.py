"""`python3 -m sdt_ros.bags BAG`: what a recording holds for the depth node, as JSON.

For those who cannot import the reader themselves: `ros2 launch` runs by the system's Python, which does not see the
packages of a virtual environment.
"""

from __future__ import annotations

import json
import sys

from sdt_ros.bags.errors import BagError
from sdt_ros.bags.packets import EVENT_PACKET_TYPE
from sdt_ros.bags.reader import open_bag
from sdt_ros.bags.windows import CAMERA_INFO_TYPE, camera_info_topic


def main() -> int:
    """Print the topics of events and calibrations, and which calibration is whose; 2 where the bag cannot be read."""
    if len(sys.argv) != 2:
        print("usage: python3 -m sdt_ros.bags BAG", file=sys.stderr)
        return 2
    try:
        with open_bag(sys.argv[1]) as bag:
            of_type = {
                kind: sorted(info.name for info in bag.topics.values() if info.type == kind)
                for kind in (EVENT_PACKET_TYPE, CAMERA_INFO_TYPE)
            }
            events = of_type[EVENT_PACKET_TYPE]
            found = {
                "events": events,
                "camera_infos": of_type[CAMERA_INFO_TYPE],
                "camera_info_of": {name: camera_info_topic(bag, name) for name in events},
            }
    except (BagError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
