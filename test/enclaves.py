"""SROS 2 policies as tests need them: what they allow, and a keystore made from them without the sros2 tool.

The layout is that of `ros2 security`: a folder for each enclave with its certificate, key, and the signed documents.
Sources: sros2 policy schema 0.2.0; OMG DDS Security 1.1, 9.3 and 9.4.
"""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

VERSION = "0.2.0"
_SCHEMA = {  # element: attributes it must have, elements it may hold
    "policy": ({"version"}, {"enclaves"}),
    "enclaves": (set(), {"enclave"}),
    "enclave": ({"path"}, {"profiles"}),
    "profiles": (set(), {"profile"}),
    "profile": ({"ns", "node"}, {"topics", "services"}),
    "topics": (set(), {"topic"}),
    "services": (set(), {"service"}),
    "topic": (set(), set()),
    "service": (set(), set()),
}
_RULES = {"topics": {"publish", "subscribe"}, "services": {"reply", "request"}}
_VALIDITY = (
    "<validity><not_before>2020-01-01T00:00:00</not_before><not_after>2037-12-31T00:00:00</not_after></validity>"
)


@dataclass
class Allowed:
    """Full names of what an enclave may do."""

    publish: set[str] = field(default_factory=set)
    subscribe: set[str] = field(default_factory=set)
    reply: set[str] = field(default_factory=set)
    request: set[str] = field(default_factory=set)


def misfits(path: Path) -> list[str]:
    """What in a policy file is not of the schema, or is said twice; in words."""
    found: list[str] = []

    def look(element: ElementTree.Element, where: str) -> None:
        needed, inner = _SCHEMA[element.tag]
        rules = _RULES.get(element.tag, set())
        if not needed <= set(element.attrib) <= needed | rules:
            found.append(f"{where}: attributes {sorted(element.attrib)}")
        if rules and (not element.attrib or set(element.attrib.values()) - {"ALLOW"}):
            found.append(f"{where}: grants nothing, or not by ALLOW")
        if bool(inner) != bool(len(element)):
            found.append(f"{where}: {'empty' if inner else 'not a name'}")
        for child in element:
            if not isinstance(child.tag, str):  # a comment
                if element.tag == "enclaves":
                    found.append("enclaves: sros2 takes a comment between enclaves for an enclave")
            elif child.tag not in inner:
                found.append(f"{where}: {child.tag} has no place here")
            else:
                look(child, f"{where}/{child.get('path') or child.get('node') or child.tag}")
        names = [child.text for child in element if child.tag in ("topic", "service")]
        if len(names) != len(set(names)):
            found.append(f"{where}: a name twice")

    root = ElementTree.parse(
        path, ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    ).getroot()
    look(root, root.tag)
    if root.get("version") != VERSION:
        found.append(f"version {root.get('version')}, not {VERSION}")
    return found


def read_policy(path: Path) -> dict[str, Allowed]:
    """What each enclave of a policy may do, by the enclave's path."""
    enclaves: dict[str, Allowed] = {}
    for enclave in ElementTree.parse(path).getroot().iter("enclave"):
        allowed = enclaves[enclave.attrib["path"]] = Allowed()
        for profile in enclave.iter("profile"):
            namespace = profile.attrib["ns"].rstrip("/") + "/"
            for group in profile:
                names = {_full(child.text or "", namespace, profile.attrib["node"]) for child in group}
                for rule in group.attrib:
                    getattr(allowed, rule).update(names)
    return enclaves


def _full(name: str, namespace: str, node: str) -> str:
    if name.startswith("~"):
        return namespace + node + name[1:]
    return name if name.startswith("/") else namespace + name


def make_keystore(folder: Path, policy: Path, domain: int) -> Path:
    """Make the keystore of a policy for one ROS domain; takes the `openssl` command. Returns its folder."""
    enclaves = folder / "enclaves"
    enclaves.mkdir(parents=True)
    authority = folder / "ca"
    authority.mkdir()
    _key_and_certificate(authority, "authority")
    _sign(authority, enclaves / "governance.xml", _governance(domain))
    for path, allowed in read_policy(policy).items():
        own = enclaves / path.strip("/")
        own.mkdir(parents=True)
        _key_and_certificate(own, path, authority)
        for name in ("identity_ca.cert.pem", "permissions_ca.cert.pem"):
            (own / name).symlink_to(authority / "cert.pem")
        (own / "governance.p7s").symlink_to(enclaves / "governance.p7s")
        _sign(authority, own / "permissions.xml", _permissions(path, allowed, domain))
    return folder


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, stdin=subprocess.DEVNULL)


def _key_and_certificate(folder: Path, name: str, authority: Path | None = None) -> None:
    key, request, made = folder / "key.pem", folder / "request.pem", folder / "cert.pem"
    subject = "/CN=" + name.replace("/", r"\/")
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder / "ec.pem")
    _openssl("pkcs8", "-topk8", "-nocrypt", "-in", folder / "ec.pem", "-out", key)
    if authority is None:
        _openssl("req", "-x509", "-new", "-key", key, "-sha256", "-days", "2", "-subj", subject, "-out", made)
        return
    _openssl("req", "-new", "-key", key, "-sha256", "-subj", subject, "-out", request)
    signer = ("-CA", authority / "cert.pem", "-CAkey", authority / "key.pem", "-CAcreateserial")
    _openssl("x509", "-req", "-in", request, *signer, "-sha256", "-days", "2", "-out", made)


def _sign(authority: Path, path: Path, text: str) -> None:
    path.write_text(text)
    signer = ("-signer", authority / "cert.pem", "-inkey", authority / "key.pem")
    _openssl("smime", "-sign", "-text", "-in", path, *signer, "-out", path.with_suffix(".p7s"))


def _governance(domain: int) -> str:
    """Nobody joins without a certificate; all discovery and data are encrypted."""
    on, encrypt = ">true</", ">ENCRYPT</"
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<dds><domain_access_rules><domain_rule>
<domains><id>{domain}</id></domains>
<allow_unauthenticated_participants>false</allow_unauthenticated_participants>
<enable_join_access_control{on}enable_join_access_control>
<discovery_protection_kind{encrypt}discovery_protection_kind>
<liveliness_protection_kind{encrypt}liveliness_protection_kind>
<rtps_protection_kind>SIGN</rtps_protection_kind>
<topic_access_rules><topic_rule><topic_expression>*</topic_expression>
<enable_discovery_protection{on}enable_discovery_protection>
<enable_liveliness_protection{on}enable_liveliness_protection>
<enable_read_access_control{on}enable_read_access_control>
<enable_write_access_control{on}enable_write_access_control>
<metadata_protection_kind{encrypt}metadata_protection_kind>
<data_protection_kind{encrypt}data_protection_kind>
</topic_rule></topic_access_rules></domain_rule></domain_access_rules></dds>
"""


def dds_names(allowed: Allowed) -> tuple[set[str], set[str]]:
    """DDS topics to write and to read, by ROS's rules for names; the graph's own `ros_discovery_info` among them."""
    write = {f"rt{name}" for name in allowed.publish}
    read = {f"rt{name}" for name in allowed.subscribe}
    for name in allowed.reply:
        write.add(f"rr{name}Reply")
        read.add(f"rq{name}Request")
    for name in allowed.request:
        write.add(f"rq{name}Request")
        read.add(f"rr{name}Reply")
    return write | {"ros_discovery_info"}, read | {"ros_discovery_info"}


def _permissions(path: str, allowed: Allowed, domain: int) -> str:
    def rule(kind: str, names: set[str]) -> str:
        topics = "\n".join(f"<topic>{name}</topic>" for name in sorted(names))
        return f"<{kind}><topics>\n{topics}\n</topics></{kind}>"

    write, read = dds_names(allowed)
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<dds><permissions><grant name="{path}"><subject_name>CN={path}</subject_name>
{_VALIDITY}
<allow_rule><domains><id>{domain}</id></domains>
{rule("publish", write)}
{rule("subscribe", read)}
</allow_rule><default>DENY</default></grant></permissions></dds>
"""
