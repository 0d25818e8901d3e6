"""Safety of the graph: the SROS 2 policy against the real nodes, what listens, what is written, and enclaves."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no ROS: pip install '.[ros]'")

import rclpy
from depth_graph import UNTRAINED, Graph, NodeProcess, running_node
from enclaves import make_keystore, misfits, read_policy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from event_camera_msgs.msg import EventPacket as EventPacketMessage
from sdt_ros.bags import serialize_event_packet
from sdt_ros.events import EventPacket
from sdt_ros.simulation import recording
from sdt_ros.simulation.patterns import EVENTS_TOPIC, INFO_TOPIC, write_pattern_bag

pytestmark = pytest.mark.ros

ROOT = Path(__file__).parents[1]
POLICY = ROOT / "config/security/depth.policy.xml"
LAUNCHED = ("-r", "~/events:=/event_camera/events", "-r", "~/camera_info:=/event_camera/camera_info")  # depth.launch.py
START = tuple(part for name in ("allow_untrained", "preset") for part in ("-p", f"{name}:={UNTRAINED[name]}".lower()))
DOMAIN = int(os.environ["ROS_DOMAIN_ID"])
DDS_PORTS = range(7400 + 250 * DOMAIN, 7400 + 250 * (DOMAIN + 1))  # DDSI-RTPS 2.5, 9.6.2.3
OWN_FLOW_PORTS = range(7000, 7400)  # rmw_fastrtps reads ros_discovery_info from a port of its own; Fast DDS looks here
NO_SUPPORT = "doesn't have the security libraries"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All that the user can name, made to lie in one folder; the home, which nobody named, lies beside it."""
    base = tmp_path_factory.mktemp("named")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for name, folder in (("TMPDIR", "tmp"), ("ROS_LOG_DIR", "log")):
            (base / folder).mkdir()
            patch.setenv(name, str(base / folder))
        patch.setenv("WRITES", str(base / "writes.txt"))
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "ROS_HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR"):
            patch.delenv(name, raising=False)
        (base / "work").mkdir()
        patch.chdir(base / "work")
        yield base


@pytest.fixture(scope="module")
def launched(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """The node as depth.launch.py names its topics, at work, on simulated time so that it has all subscriptions."""
    program = (str(Path(__file__).with_name("recorded_writes.py")),)
    arguments = (*LAUNCHED, "-p", "use_sim_time:=true")
    with running_node(tmp_path_factory.mktemp("node"), *arguments, program=program) as graph:
        graph.packets = graph.node.create_publisher(EventPacketMessage, "/event_camera/events", QoSProfile(depth=1000))
        graph.bring_to("active", **UNTRAINED)
        yield graph


@pytest.fixture(scope="module")
def others(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, NodeProcess]]:
    """Nodes of other settings, started together: with the launch's transport, in an enclave, in one without keys."""
    logs, started = tmp_path_factory.mktemp("logs"), {}
    keys = tmp_path_factory.getbasetemp() / "keystore"
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA")
            patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")  # LOCALHOST disables it
            started["large data"] = NodeProcess(logs / "large.log", *START)
        if shutil.which("openssl") is not None:
            with enforced(make_keystore(keys, POLICY, DOMAIN)), pytest.MonkeyPatch.context() as patch:
                for enclave in ("/depth", "/nobody"):
                    patch.setenv("ROS_SECURITY_ENCLAVE_OVERRIDE", enclave)  # as `--enclave` in the launch file
                    log = logs / f"{enclave[1:]}.log"
                    started[enclave] = NodeProcess(log, *LAUNCHED, *START)
        yield started
    finally:
        for node in started.values():
            node.kill()


@pytest.fixture(scope="module")
def keystore(others: dict[str, NodeProcess], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keystore of the policy for the tests' domain."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make keys with")
    return tmp_path_factory.getbasetemp() / "keystore"


# --- the policy ---


def test_the_policy_is_of_the_schema_and_names_everything() -> None:
    assert misfits(POLICY) == []
    for path, allowed in read_policy(POLICY).items():
        for name in set().union(*vars(allowed).values()):
            assert not set(name) & set("*?[]~{}"), f"{path} allows a pattern: {name}"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('version="0.2.0"', 'version="0.1.0"', "version 0.1.0"),
        ("<topic>/diagnostics</topic>", "<topic>/rosout</topic>", "a name twice"),
        ("<topic>/diagnostics</topic>", "<service>/diagnostics</service>", "service has no place here"),
        ('publish="ALLOW"', 'publishes="ALLOW"', "attributes"),
        ('publish="ALLOW"', 'publish="DENY"', "grants nothing"),
        ("<enclaves>", "<enclaves><!-- here -->", "takes a comment"),
    ],
)
def test_a_spoilt_policy_is_seen(tmp_path: Path, old: str, new: str, said: str) -> None:
    spoilt = tmp_path / "spoilt.xml"
    spoilt.write_text(POLICY.read_text().replace(old, new, 1))
    assert any(said in one for one in misfits(spoilt)), misfits(spoilt)


def on_graph(graph: Graph, name: str) -> dict[str, set[str]]:
    """What a node has on the graph, in a policy's terms."""
    look = {
        "publish": graph.node.get_publisher_names_and_types_by_node,
        "subscribe": graph.node.get_subscriber_names_and_types_by_node,
        "reply": graph.node.get_service_names_and_types_by_node,
        "request": graph.node.get_client_names_and_types_by_node,
    }
    return {rule: {entry[0] for entry in ask(name, "/")} for rule, ask in look.items()}


def expected(enclave: str) -> dict[str, set[str]]:
    """What the policy allows, less Humble's missing service, and what nobody has without a sourced ROS."""
    allowed = vars(read_policy(POLICY)[enclave])
    if importlib.util.find_spec("type_description_interfaces") is None:
        allowed["reply"] = {name for name in allowed["reply"] if not name.endswith("/get_type_description")}
    if importlib.util.find_spec("tf2_msgs") is None:
        allowed["subscribe"] -= {"/tf_static"}
    return allowed


def test_the_policy_allows_what_the_node_has_and_nothing_more(launched: Graph) -> None:
    """In both directions: an entry too few stops the node under Enforce, one too many is a right without a use."""
    end = time.monotonic() + 20
    while on_graph(launched, "depth") != expected("/depth") and time.monotonic() < end:
        launched.spin(0.1)  # discovery takes its time
    assert on_graph(launched, "depth") == expected("/depth")


def test_the_policy_allows_what_replay_has_and_nothing_more(launched: Graph, tmp_path: Path) -> None:
    """Beside a recording's own topics, of which the policy names those that `sdt simulate` writes."""
    launched.bring_to("inactive")  # without subscribers it waits, and can be looked at
    write_pattern_bag(tmp_path / "bag", seconds=0.05, width=64, height=48)
    command = ["-m", "sdt_ros.cli", "replay", str(tmp_path / "bag"), "--clock", "100", "--no-progress"]
    with (tmp_path / "replay.log").open("wb") as log:
        player = subprocess.Popen([sys.executable, *command, "--wait-for-subscribers", "60"], stdout=log, stderr=log)
    simulated = {getattr(recording, name) for name in vars(recording) if name.endswith("_TOPIC")}
    allowed, have = expected("/replay"), {}
    try:
        end = time.monotonic() + 20
        while have != allowed and time.monotonic() < end:
            launched.spin(0.1)
            if ("replay", "/") in launched.node.get_node_names_and_namespaces():
                have = on_graph(launched, "replay")
                assert {EVENTS_TOPIC, INFO_TOPIC} <= simulated
                have["publish"] |= simulated if EVENTS_TOPIC in have["publish"] else set()
        assert have == allowed, (tmp_path / "replay.log").read_text()
    finally:
        player.kill()
        player.wait(10)


def test_camera_and_viewer_fit_the_node() -> None:
    """The camera may send what the node takes; the viewer may see what the node makes, and can change nothing."""
    policy = read_policy(POLICY)
    common = {"/rosout", "/parameter_events"}
    robots = {"/clock", "/tf_static", "/depth/odometry"}
    assert policy["/event_camera"].publish - common == policy["/depth"].subscribe - robots
    assert policy["/viewer"].subscribe == policy["/depth"].publish - common - {"/depth/transition_event"}
    assert policy["/viewer"].publish == common
    assert not any(allowed.request for allowed in policy.values())


# --- what listens ---


@dataclass(frozen=True)
class Socket:
    """A socket without a peer: who sends to its address, reaches it."""

    kind: str
    address: str
    port: int
    waiting: int  # bytes that nobody has read
    inode: str


def open_sockets(pid: int) -> list[Socket]:
    """All sockets of a process that take what comes from anywhere; a TCP or unix socket that listens among them."""
    own = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            own.add(str(entry.readlink()).removeprefix("socket:[").rstrip("]"))
    found = []
    for kind in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        table = Path(f"/proc/{pid}/net/{kind}")
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            _, local, _, state, queues, *_, inode = line.split()[:10]
            address, port = local.split(":")
            if inode in own and (not kind.startswith("tcp") or state == "0A"):
                host = socket.inet_ntoa(bytes.fromhex(address)[::-1]) if len(address) == 8 else address
                found.append(Socket(kind, host, int(port, 16), int(queues.split(":")[1], 16), inode))
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        _, _, _, flags, _, _, inode, *_ = line.split()
        if inode in own and int(flags, 16) & 0x10000:
            found.append(Socket("unix", "", 0, 0, inode))
    return found


def is_read(pid: int, one: Socket) -> bool:
    """Whether anybody takes what is sent to a UDP socket. Those that only send leave it waiting in the kernel."""
    host = "127.0.0.1" if one.address == "0.0.0.0" else one.address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"?" * 64, (host, one.port))
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        time.sleep(0.1)
        if not next(now.waiting for now in open_sockets(pid) if now.inode == one.inode):
            return True
    return False


def is_dds_port(port: int) -> bool:
    return port in DDS_PORTS or port in OWN_FLOW_PORTS


def needs_fast_dds() -> None:
    if rclpy.get_rmw_implementation_identifier() != "rmw_fastrtps_cpp":
        pytest.skip("the ports are those of Fast DDS")


def test_nothing_listens_beyond_dds(launched: Graph) -> None:
    """UDP in the domain's range and nothing else; the two ports beside it are senders', which nobody reads."""
    needs_fast_dds()
    pid = launched.process.pid
    found = open_sockets(pid)
    assert {one.kind for one in found} == {"udp"}, found
    assert any(one.port in DDS_PORTS for one in found)
    heard = [one for one in found if is_read(pid, one)]
    assert heard and all(is_dds_port(one.port) for one in heard), heard
    assert launched.state() in ("active", "inactive"), "it goes on after noise on all its ports"


def test_large_data_adds_one_tcp_port(others: dict[str, NodeProcess]) -> None:
    """The transport that depth.launch.py sets listens on TCP, on a port that the system chooses."""
    needs_fast_dds()
    node = others["large data"]
    wait_for_log(node, "waiting for events")
    found = open_sockets(node.pid)
    assert [one.kind for one in found if one.kind != "udp"] == ["tcp"], found
    heard = [one for one in found if one.kind == "udp" and is_read(node.pid, one)]
    assert all(is_dds_port(one.port) for one in heard), heard
    node.kill()  # it has no enclave, and what follows counts such nodes


def wait_for_log(node: NodeProcess, text: str, seconds: float = 90.0) -> None:
    """Wait until a process has printed a text, or has ended."""
    end = time.monotonic() + seconds
    while text not in node.text() and node.is_alive:
        assert time.monotonic() < end, node.text()
        time.sleep(0.05)


# --- what is written ---


def is_named(path: Path, folders: Path) -> bool:
    """In a folder that the user names; or no file; or compiled code beside its source, as Python and numba keep it."""
    if path == Path("/dev/null") or (path.is_relative_to("/proc/self/task") and path.name == "comm"):  # a thread's name
        return True
    return path.is_relative_to(folders) or "__pycache__" in path.parts


def test_nothing_is_written_outside_named_folders(launched: Graph, folders: Path, packets: list[EventPacket]) -> None:
    launched.bring_to("active")
    launched.publish(packets[:60], speed=1)
    launched.wait_for(lambda: launched.seen.images, "depth")
    listed = [line.split("\t")[1] for line in (folders / "writes.txt").read_text().splitlines()]
    outside = [path for path in listed if not is_named(Path(path), folders)]
    assert not outside
    # What compiled libraries write: rcl's log, and the shared memory of Fast DDS.
    pid = launched.process.pid
    files = open_for_writing(pid) - {str(launched.process.log)}
    shared = {
        path for path in files if path.startswith(("/dev/shm/fastdds_", "/dev/shm/fastrtps_", "/dev/shm/sem.fast"))
    }
    assert all(is_named(Path(path), folders) for path in files - shared), files
    left = {str(path.relative_to(folders)) for path in folders.rglob("*") if path.is_file()}
    assert left - {"writes.txt"} == {f"log/{path.name}" for path in (folders / "log").glob("*.log")}
    assert not list(Path(os.environ["HOME"]).iterdir())


def open_for_writing(pid: int) -> set[str]:
    """The files that a process has open for writing, or mapped so that others see what it writes."""
    found = set()
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(OSError):
            flags = int(entry.read_text().split("flags:")[1].split()[0], 8)
            path = str(Path(f"/proc/{pid}/fd/{entry.name}").readlink())
            if flags & (os.O_WRONLY | os.O_RDWR) and path.startswith("/"):
                found.add(path)
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        _, rights, _, _, _, *path = line.split(maxsplit=5)
        if rights.startswith("rw") and rights.endswith("s") and path and path[0].startswith("/"):
            found.add(path[0])
    return found


# --- enclaves ---


@contextmanager
def enforced(keystore: Path) -> Iterator[None]:
    """Security as docs/security.md turns it on, for whatever starts meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_SECURITY_ENABLE", "true")
        patch.setenv("ROS_SECURITY_STRATEGY", "Enforce")
        patch.setenv("ROS_SECURITY_KEYSTORE", str(keystore))
        yield


@pytest.fixture(scope="module")
def enclosed(others: dict[str, NodeProcess], keystore: Path) -> NodeProcess:
    """The node in its enclave, as far as it gets."""
    wait_for_log(others["/depth"], "waiting for events")
    return others["/depth"]


def test_who_has_no_keys_does_not_start(others: dict[str, NodeProcess], keystore: Path) -> None:
    node = others["/nobody"]
    assert node.wait(90) == 1
    assert "cannot start" in node.text() and "enclaves/nobody" in node.text()
    assert "Traceback" not in node.text()


def test_enforced_security_is_never_left_out(enclosed: NodeProcess, launched: Graph) -> None:
    """In its enclave nobody outside sees the node; where the middleware has no security it does not start."""
    launched.spin(1.0)
    assert launched.node.count_publishers("/depth/stats") == 1, "of the other node, which has no enclave"
    if not enclosed.is_alive:
        assert enclosed.wait(1) == 1
        assert "cannot start" in enclosed.text() and "Traceback" not in enclosed.text()


def test_depth_arrives_within_the_enclaves_and_nowhere_else(
    enclosed: NodeProcess, keystore: Path, packets: list[EventPacket]
) -> None:
    if NO_SUPPORT in enclosed.text():
        pytest.skip("rmw_fastrtps here is built without DDS security and refuses: " + enclosed.text().splitlines()[-2])
    assert enclosed.is_alive, enclosed.text()
    contexts = {name: rclpy.Context() for name in ("event_camera", "viewer", "outsider")}
    images: dict[str, list[Image]] = {"viewer": [], "outsider": []}
    try:
        with enforced(keystore):
            for name in ("event_camera", "viewer"):
                rclpy.init(args=["--ros-args", "--enclave", f"/{name}"], context=contexts[name])
        rclpy.init(args=[], context=contexts["outsider"])
        nodes = {name: rclpy.create_node(name, context=context) for name, context in contexts.items()}
        executors = []
        for name, taken in images.items():
            nodes[name].create_subscription(Image, "/depth/depth/image_rect", taken.append, 10)
            executors.append(SingleThreadedExecutor(context=contexts[name]))
            executors[-1].add_node(nodes[name])
        events = nodes["event_camera"].create_publisher(EventPacketMessage, "/event_camera/events", 1000)
        with pytest.raises(Exception, match="publisher"):
            nodes["viewer"].create_publisher(EventPacketMessage, "/event_camera/events", 10)
        end = time.monotonic() + 15
        while not events.get_subscription_count() and time.monotonic() < end:
            time.sleep(0.05)
        for packet in packets:
            events.publish(serialize_event_packet(packet))
            for executor in executors:
                executor.spin_once(timeout_sec=0.002)
        assert len(images["viewer"]) >= 2
        assert not images["outsider"] and not nodes["outsider"].count_publishers("/depth/depth/image_rect")
    finally:
        for context in contexts.values():
            if context.ok():
                rclpy.shutdown(context=context)
