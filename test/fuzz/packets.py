"""Mutated packets through every decoder: `python test/fuzz/packets.py --packets 20000000 --seed 1 --json out.json`.

Three ways for each encoding, each in processes of their own, so that a crash or a hang is a find and not the end:

- compiled: the decoder's machine code in a compiled loop, guards around all memory that it writes to (`hammer.py`);
- checked: the same with numba's bounds checks, for one packet in twenty;
- whole: packets in rows through `PacketDecoder`, the plain reference and the node's way to spike windows
  (`targets.py`), for one packet in a hundred; the inputs of finds are written to --finds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))

from hammer import FINDS, Memory, hammer_of
from mutation import LONGEST, draw, mutate, pooled, seed_packets
from targets import ENCODINGS, packets, to_bytes

from sdt_ros.events.encodings import CODECS, parse_encoding

SHARES = {"compiled": 1.0, "checked": 0.05, "whole": 0.01}
_CHUNK = 100_000
_MOST_GROWN_MB = 64
_SECONDS_A_CHUNK = 600  # a process that says nothing for so long hangs


def _memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _generator(seed: int, encoding: str, way: str) -> np.ndarray:
    entropy = [seed, ENCODINGS.index(encoding), list(SHARES).index(way)]
    return np.random.SeedSequence(entropy).generate_state(1, np.uint64) | np.uint64(1)


def _compiled(encoding: str, way: str, count: int, seed: int) -> None:
    """Worker: prints a line of JSON for each chunk, and one for each find."""
    name = parse_encoding(encoding).name
    pool, loop, memory = pooled(seed_packets(encoding, seed)), hammer_of(name), Memory(name)
    random = _generator(seed, encoding, way)
    grown_from, left = 0.0, count
    while left > 0:
        before, chunk = int(random[0]), min(_CHUNK, left)
        began = time.perf_counter()
        find, done, events, octets = loop(random, *pool, chunk, *memory.arguments)
        done += bool(find)
        left -= done
        grown_from = grown_from or _memory_mb()
        line: dict[str, Any] = {"packets": done, "events": events, "bytes": octets}
        line["seconds"] = time.perf_counter() - began
        if find:
            line["find"] = f"{FINDS[find]}: packet {done - 1} of a chunk of {encoding} that begins with state {before}"
        print(json.dumps(line), flush=True)
    if (grown := _memory_mb() - grown_from) > _MOST_GROWN_MB:
        print(json.dumps({"find": f"{encoding}: memory grew by {grown:.0f} MB"}), flush=True)


def _whole(encoding: str, count: int, seed: int, finds: Path) -> None:
    word = CODECS[parse_encoding(encoding).name].WORD.itemsize
    pool, random = pooled(seed_packets(encoding, seed)), _generator(seed, encoding, "whole")
    octets = np.zeros(LONGEST, np.uint8)
    done, told, events, read, began = 0, 0, 0, 0, time.perf_counter()
    grown_from, number = 0.0, 0
    while done < count:
        row = []
        for _ in range(1 + int(draw(random, 5))):
            length = int(mutate(random, *pool, word, octets))
            if draw(random, 3):  # whole words, so that the plain reference can be asked
                length -= length % 8
            kind = int(draw(random, 16))
            bound = (0, 10**18, 2**63 - 1, 2**64 - 1, int(draw(random, 1 << 30)) << int(draw(random, 34)))
            flags = (kind == 15) | (kind == 14) << 2
            row.append((flags, bound[draw(random, 5)] if kind < 6 else None, octets[:length].tobytes()))
            read += length
        size = int(draw(random, 8)) if draw(random, 8) == 0 else int(draw(random, 3))
        data = to_bytes(ENCODINGS.index(encoding), size, row)
        try:
            events += packets(data)
        except Exception as error:
            finds.mkdir(parents=True, exist_ok=True)
            file = finds / f"{encoding.partition(';')[0]}-{seed}-{number}.bin"
            file.write_bytes(data)
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(json.dumps({"find": f"{file}: {error!r} at {where.filename}:{where.lineno}"}), flush=True)
        done += len(row)
        number += 1
        grown_from = grown_from or (_memory_mb() if number > 2000 else 0.0)
        if done - told >= 5000 or done >= count:
            now = time.perf_counter()
            line = {"packets": done - told, "events": events, "bytes": read, "seconds": now - began}
            print(json.dumps(line), flush=True)
            told, events, read, began = done, 0, 0, now
    if grown_from and (grown := _memory_mb() - grown_from) > _MOST_GROWN_MB:
        print(json.dumps({"find": f"{encoding}: memory grew by {grown:.0f} MB"}), flush=True)


def _run(way: str, encoding: str, count: int, seed: int, finds: Path, bar: tqdm) -> dict[str, Any]:
    """Run one worker and add up what it says."""
    total: dict[str, Any] = {"packets": 0, "events": 0, "bytes": 0, "seconds": 0.0, "finds": []}
    if count < 1:
        return total
    command = [sys.executable, __file__, "--worker", way, "--encoding", encoding, "--packets", str(count)]
    command += ["--seed", str(seed), "--finds", str(finds)]
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryFile("w+") as errors:
        environment = dict(os.environ)
        if way == "checked":
            environment.update(NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=cache)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        assert process.stdout is not None
        timer = _Watch(process)
        for text in process.stdout:
            timer.seen()
            line = json.loads(text)
            if "find" in line:
                total["finds"].append(f"{way}: {line['find']}")
            for key in ("packets", "events", "bytes", "seconds"):
                total[key] += line.get(key, 0)
            bar.update(line.get("packets", 0))
        code = process.wait()
        hung = timer.stop()
        if code:
            errors.seek(0)
            said = errors.read().strip().splitlines()[-1:] or ["nothing"]
            what = f"hangs for {_SECONDS_A_CHUNK} s" if hung else f"ends with {code}: {said[0]}"
            total["finds"].append(f"{way}: {encoding} {what}, behind packet {total['packets']}")
    return total


class _Watch:
    """Ends a worker that has said nothing for too long."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        import threading

        self._process, self._hung = process, False
        self._seen, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def seen(self) -> None:
        self._seen.set()

    def stop(self) -> bool:
        self._over.set()
        self._seen.set()
        self._thread.join()
        return self._hung

    def _watch(self) -> None:
        while not self._over.is_set():
            if not self._seen.wait(_SECONDS_A_CHUNK):
                self._hung = True
                self._process.kill()
                return
            self._seen.clear()


def main() -> int:
    """Fuzz; 0 when nothing was found, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--packets", type=int, default=20_000_000, help="in the compiled loop, over all encodings")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--encoding", default="all", choices=["all", *ENCODINGS])
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--finds", type=Path, default=Path("out/fuzz"), help="folder for the inputs of finds")
    parser.add_argument("--worker", choices=list(SHARES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.packets < 1:
        parser.error("--packets must be at least 1")
    if args.worker == "whole":
        _whole(args.encoding, args.packets, args.seed, args.finds)
        return 0
    if args.worker:
        _compiled(args.encoding, args.worker, args.packets, args.seed)
        return 0
    chosen = ENCODINGS if args.encoding == "all" else (args.encoding,)
    each = -(-args.packets // len(chosen))
    total = round(each * len(chosen) * sum(SHARES.values()))
    with tqdm(total=total, unit="packet", unit_scale=True) as bar, ThreadPoolExecutor(args.jobs) as pool:
        runs = {
            (encoding, way): pool.submit(_run, way, encoding, round(each * share), args.seed, args.finds, bar)
            for encoding in chosen
            for way, share in SHARES.items()
        }
        rows = [{"encoding": encoding, **{way: runs[encoding, way].result() for way in SHARES}} for encoding in chosen]
    return _report(rows, args)


def _report(rows: list[dict[str, Any]], args: argparse.Namespace) -> int:
    finds = [find for row in rows for way in SHARES for find in row[way]["finds"]]
    print(f"{'encoding':<26}{'way':<10}{'packets':>12}{'events':>16}{'MB':>8}{'finds':>7}{'packets/s':>12}")
    for row in rows:
        for way in SHARES:
            found = row[way]
            rate = found["packets"] / found["seconds"] if found["seconds"] else 0.0
            print(
                f"{row['encoding']:<26}{way:<10}{found['packets']:>12,}{found['events']:>16,}"
                f"{found['bytes'] / 1e6:>8,.0f}{len(found['finds']):>7}{rate:>12,.0f}"
            )
    total = sum(row[way]["packets"] for row in rows for way in SHARES)
    print(f"{total:,} packets, {len(finds)} finds")
    for find in finds:
        print(f"  {find}")
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        content = {"packets": total, "finds": finds, "seed": args.seed, "asked": args.packets, "encodings": rows}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main())
