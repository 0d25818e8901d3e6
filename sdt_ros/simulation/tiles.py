"""Compiled inner loops of the CPU engine: a tile of pixels that runs through its frames and makes events.

Each pixel's noise is a function of the seed, the pixel and a counter, so that samples do not depend on how work is
shared out among threads. When `kernels` changes, numba's cache of this file has to go too: it only sees changes here.
"""

from __future__ import annotations

import math

import numpy as np

from sdt_ros.compiled import njit
from sdt_ros.simulation import kernels as _k
from sdt_ros.simulation.kernels import ABOVE, AREA, LAST_SEEN, LAST_US, LEAK, NOISE_US, OFF, ON, SIDE
from sdt_ros.simulation.scenes import PLANE
from sdt_ros.simulation.sensor import LATELY

_f = np.float32
_0, _1 = _f(0), _f(1)
_FAST = {"nnan", "nsz", "arcp", "contract", "reassoc"}
_DEPTH, _TEXEL, _BEFORE, _FIRED, _HIT = _k._DEPTH, _k._TEXEL, _k._BEFORE, _k._FIRED, _k._HIT
_FOREVER_US = 1 << 60
PIXEL_BITS = 26
"""An event is packed as (t << 1 | on) << PIXEL_BITS | pixel, so that sorting sorts by time, polarity and pixel."""

# Columns of the sensor's settings, float64.
(C_ON, C_OFF, C_SPREAD, C_REFRACTORY, C_LEAK, C_SHOT, C_HOT, C_HOT_HZ, C_BANDWIDTH) = range(9)


@njit(forceinline=True, error_model="numpy")
def _mix(seed, pixel, counter):  # type: ignore[no-untyped-def]
    """Counter-based random bits: two rounds of the SplitMix64 finaliser (Steele, Lea and Flood, OOPSLA 2014)."""
    x = np.uint64(seed) + np.uint64(pixel) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = (x ^ (x >> np.uint64(31))) + np.uint64(counter) * np.uint64(0xD1342543DE82EF95)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(forceinline=True, error_model="numpy")
def _uniform(bits):  # type: ignore[no-untyped-def]
    """In (0, 1), of 53 bits."""
    return (np.float64(bits >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)


@njit(cache=True, error_model="numpy")
def start_pixels(brightness, offset, now_us, pixels, config, seed, state, clock):  # type: ignore[no-untyped-def]
    """Pixels at rest in what they see: thresholds, leak and the first noise are drawn."""
    for i in range(AREA):
        pixel = pixels[i]
        if pixel < 0:  # beyond the image: never fires
            pixel = 0
        radius = math.sqrt(-2 * math.log(_uniform(_mix(seed, pixel, 0))))
        angle = 2 * math.pi * _uniform(_mix(seed, pixel, 1))
        on = max(config[C_ON] + config[C_SPREAD] * radius * math.cos(angle), 0.25 * config[C_ON])
        off = max(config[C_OFF] + config[C_SPREAD] * radius * math.sin(angle), 0.25 * config[C_OFF])
        rate = config[C_LEAK]
        if _uniform(_mix(seed, pixel, 2)) < config[C_HOT]:
            rate = _uniform(_mix(seed, pixel, 3)) * config[C_HOT_HZ]
        above = 0.9 * (_uniform(_mix(seed, pixel, 4)) - 0.5)
        state[ON + i], state[OFF + i], state[LEAK + i] = on, off, rate * on * 1e-6
        state[ABOVE + i] = above * (on if above > 0 else off)
        state[LAST_SEEN + i] = math.log(brightness[offset + i])
        clock[LAST_US + i] = _k.NEVER_US
        clock[NOISE_US + i] = _FOREVER_US
        if pixels[i] < 0:
            state[ON + i] = state[OFF + i] = np.inf
            state[LEAK + i] = 0
        elif config[C_SHOT] > 0:
            wait = -math.log(_uniform(_mix(seed, pixel, 5))) * 1e6 / config[C_SHOT]
            clock[NOISE_US + i] = now_us + np.int64(min(wait, 1e15))


@njit(cache=True, error_model="numpy")
def lean_pixels(w, state):  # type: ignore[no-untyped-def]
    """Let pixels be as if they had long been watching: each is somewhere on its way to the next crossing.

    Where light rises for long, a pixel lies between its reference and the threshold above it; where it has turned
    lately, a little below the reference. `sensor.LATELY` is how far, measured by bins of equal density.
    """
    for i in range(AREA):
        above = state[ABOVE + i]
        part = 2 / 0.9 * abs(above) / (state[ON + i] if above > 0 else state[OFF + i])
        place = 0.999 * ((1 + LATELY) * part - LATELY)
        if math.log(w[_TEXEL + i]) <= state[LAST_SEEN + i]:
            place = -place
        if state[ON + i] < np.inf:
            state[ABOVE + i] = place * (state[ON + i] if place > 0 else state[OFF + i])


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _follow(w, h, dt, end_us, keep, state, clock):  # type: ignore[no-untyped-def]
    """Let all pixels see the next frame; whether any crosses a threshold or makes noise."""
    many = np.int32(0)
    for i in range(AREA):
        before, seen = state[ABOVE + i], state[LAST_SEEN + i]
        log = _k._log(w[_TEXEL + i])
        log = log + (seen - log) * keep
        above = before + (log - seen) + state[LEAK + i] * dt
        w[_BEFORE + i] = before
        state[ABOVE + i] = above
        state[LAST_SEEN + i] = log
        fired = np.int32(1) if (above >= state[ON + i]) | (above <= -state[OFF + i]) else np.int32(0)
        h[_FIRED + i] = fired
        many += fired
    for i in range(AREA):
        noisy = np.int32(2) if clock[NOISE_US + i] < end_us else np.int32(0)
        h[_FIRED + i] += noisy
        many += noisy
    return many


@njit(cache=True, error_model="numpy")
def step_pixels(w, h, start_us, end_us, pixels, config, seed, state, clock, edges, spikes, events, count):  # type: ignore[no-untyped-def]
    """One frame of a tile: brightness in w to events.

    Args:
        w: scratch with the brightness.
        h: scratch.
        start_us: time of the frame before.
        end_us: time of this frame.
        pixels: int64 [AREA], index in the image; -1 beyond it.
        config: float64 [9].
        seed: uint64.
        state: float32 [STATE] of this tile.
        clock: int64 [CLOCK] of this tile.
        edges: int64 [T + 1] of the bins [us]; empty to list events instead.
        spikes: uint8 [T * 2 * H * W], flat.
        events: int64, list of packed events.
        count: of those in the list.

    Returns:
        The list, perhaps a longer one, and the new count.
    """
    span = end_us - start_us
    keep = _f(0)
    if config[C_BANDWIDTH] > 0:
        keep = _f(math.exp(-2e-6 * math.pi * config[C_BANDWIDTH] * span))
    if not _follow(w, h, _f(span), end_us, keep, state, clock):
        return events, count
    bins = len(edges) - 1
    plane = len(spikes) // (2 * bins) if bins > 0 else 0
    refractory = np.int64(config[C_REFRACTORY])
    for i in range(AREA):
        what = h[_FIRED + i]
        if what == 0:
            continue
        if what & 1:
            after, before = np.float64(state[ABOVE + i]), np.float64(w[_BEFORE + i])
            on = after > 0
            threshold = np.float64(state[ON + i]) if on else -np.float64(state[OFF + i])
            crossings = np.int64(after / threshold)
            state[ABOVE + i] = after - crossings * threshold
            step = threshold / (after - before)
            part = step - before / (after - before)
        else:
            crossings = np.int64(0)
            on, step, part = False, 0.0, 0.0
        k = 0
        while True:
            if k < crossings:
                t = start_us + min(np.int64(max(part + k * step, 0.0) * span), span - 1)
                k += 1
            elif what & 2 and clock[NOISE_US + i] < end_us:
                t = clock[NOISE_US + i]
                bits = _mix(seed, pixels[i], t)
                clock[NOISE_US + i] = t + 1 + np.int64(min(-math.log(_uniform(bits)) * 1e6 / config[C_SHOT], 1e15))
                bits = _mix(seed, pixels[i], ~np.uint64(t))
                if what & 1 or _uniform(bits) >= 1 - 0.75 * min(max(w[_TEXEL + i], _0), _1):
                    continue
                on = (bits & np.uint64(1)) == 1
            else:
                break
            if t - clock[LAST_US + i] < refractory:
                continue
            clock[LAST_US + i] = t
            if bins > 0:
                for j in range(bins):
                    if edges[j] <= t < edges[j + 1]:
                        spikes[(2 * j + (1 if on else 0)) * plane + pixels[i]] = 1
                        break
            else:
                if count == len(events):
                    longer = np.empty(2 * count + 1024, np.int64)
                    longer[:count] = events
                    events = longer
                events[count] = ((t << 1) | (1 if on else 0)) << PIXEL_BITS | pixels[i]
                count += 1
    return events, count


@njit(cache=True, nogil=True, error_model="numpy")
def run_tiles(  # type: ignore[no-untyped-def]
    first, last, columns, width, height, times_us, pose, bounds, kind, material, base, table, rays, steps, offsets,
    config, seed, state, clock, fresh, edges, spikes, depth, hit, image,
):  # fmt: skip
    """Run tiles [first, last) of one scene through their frames.

    Args:
        first: tile.
        last: tile.
        columns: of tiles.
        width: of the image [px].
        height: of the image [px].
        times_us: int64 [F]; pixels have seen frame 0 already, or see it first if `fresh`.
        pose: float32 [F, N + 1, POSE_COLUMNS], see `kernels.pose_table`.
        bounds: float32 [F, N, 5].
        kind: int64 [N].
        material: float32 [N + 1, MATERIAL_COLUMNS].
        base: int32 [N + 1], first row of the texture.
        table: float32, flat.
        rays: float32 [tiles, 3 * AREA].
        steps: int32, frames of all tiles, one tile after another; each ends with F - 1.
        offsets: int64 [tiles + 1] into `steps`.
        config: float64 [9] of the sensor.
        seed: uint64.
        state: float32 [tiles, STATE].
        clock: int64 [tiles, CLOCK].
        fresh: whether state has to be made.
        edges: int64 [T + 1] of the bins; empty to list events.
        spikes: uint8 [T * 2 * H * W].
        depth: float32 [H, W], filled with that of the last frame; inf where there is nothing.
        hit: int64 [H, W], filled likewise with the object's number.
        image: float32 [H, W], filled likewise with brightness.

    Returns:
        Packed events int64, in no order.
    """
    w, h = np.empty(_k.SCRATCH, np.float32), np.empty(_k.INT_SCRATCH, np.int32)
    seen = np.empty(len(material), np.int32)
    order, near = np.empty(len(kind), np.int64), np.empty(len(kind), np.int64)
    union = np.empty((len(kind), 4), np.float32)
    widest(bounds, union)
    pixels, edge = np.empty(AREA, np.int64), np.empty(4, np.float32)
    events, count = np.empty(1024, np.int64), 0
    for tile in range(first, last):
        ray = rays[tile]
        tile_pixels(tile, columns, width, height, pixels)
        tile_edge(ray, edge)
        many = nearby(union, kind, edge, near)
        if fresh:
            _k.cast(pose[0], bounds[0], kind, near[:many], material, ray, edge, AREA, w, h, order)
            _k.shade(pose[0], material, base, table, ray, w, h, seen)
            start_pixels(w, _TEXEL, times_us[0], pixels, config, seed, state[tile], clock[tile])
        before = times_us[0]
        for s in range(offsets[tile], offsets[tile + 1]):
            f = steps[s]
            _k.cast(pose[f], bounds[f], kind, near[:many], material, ray, edge, AREA, w, h, order)
            _k.shade(pose[f], material, base, table, ray, w, h, seen)
            if fresh and s == offsets[tile]:
                lean_pixels(w, state[tile])
            events, count = step_pixels(
                w, h, before, times_us[f], pixels, config, seed, state[tile], clock[tile], edges, spikes, events, count
            )
            before = times_us[f]
        for i in range(AREA):
            if pixels[i] >= 0:
                row, column = pixels[i] // width, pixels[i] % width
                depth[row, column] = w[_DEPTH + i]
                hit[row, column] = h[_HIT + i]
                image[row, column] = w[_TEXEL + i]
    return events[:count].copy()


@njit(cache=True, error_model="numpy")
def tile_pixels(tile, columns, width, height, pixels):  # type: ignore[no-untyped-def]
    """Index in the image of each pixel of a tile; -1 beyond the image."""
    top, left = tile // columns * SIDE, tile % columns * SIDE
    for i in range(AREA):
        row, column = top + i // SIDE, left + i % SIDE
        pixels[i] = row * width + column if row < height and column < width else -1


@njit(cache=True, error_model="numpy")
def tile_edge(ray, edge):  # type: ignore[no-untyped-def]
    """Least x and y and most x and y of a tile's rays."""
    edge[0] = edge[1] = np.inf
    edge[2] = edge[3] = -np.inf
    for i in range(AREA):
        edge[0], edge[2] = min(edge[0], ray[i]), max(edge[2], ray[i])
        edge[1], edge[3] = min(edge[1], ray[AREA + i]), max(edge[3], ray[AREA + i])


@njit(cache=True, nogil=True, error_model="numpy")
def view_tiles(columns, width, height, pose, bounds, kind, material, base, table, rays, depth, hit, image):  # type: ignore[no-untyped-def]
    """Render whole frames: depth float32, hit int64 and image float32 [F, H, W]; an image of no rows is left out."""
    w, h = np.empty(_k.SCRATCH, np.float32), np.empty(_k.INT_SCRATCH, np.int32)
    seen = np.empty(len(material), np.int32)
    order, near = np.empty(len(kind), np.int64), np.empty(len(kind), np.int64)
    union = np.empty((len(kind), 4), np.float32)
    widest(bounds, union)
    pixels, edge = np.empty(AREA, np.int64), np.empty(4, np.float32)
    for tile in range(len(rays)):
        ray = rays[tile]
        tile_pixels(tile, columns, width, height, pixels)
        tile_edge(ray, edge)
        many = nearby(union, kind, edge, near)
        for f in range(len(pose)):
            _k.cast(pose[f], bounds[f], kind, near[:many], material, ray, edge, AREA, w, h, order)
            if len(image):
                _k.shade(pose[f], material, base, table, ray, w, h, seen)
            for i in range(AREA):
                if pixels[i] >= 0:
                    row, column = pixels[i] // width, pixels[i] % width
                    depth[f, row, column] = w[_DEPTH + i]
                    hit[f, row, column] = h[_HIT + i]
                    if len(image):
                        image[f, row, column] = w[_TEXEL + i]


@njit(cache=True, nogil=True, error_model="numpy")
def probe_speeds(pose, now, later, bounds, kind, material, rays, stride, intrinsics, d, seconds, speeds):  # type: ignore[no-untyped-def]
    """Speed of the fastest point of each tile, on a grid of its pixels, in the tile or one beside it.

    Args:
        pose: float32 [P, N + 1, POSE_COLUMNS] at the probes.
        now: the same in float64.
        later: the same in float64, `seconds` later.
        bounds: float32 [P, N, 5].
        kind: int64 [N].
        material: float32 [N + 1, MATERIAL_COLUMNS].
        rays: float32 [tiles, 3 * AREA].
        stride: of the grid [px]; 15 is a multiple.
        intrinsics: fx, fy, cx, cy and the columns of tiles.
        d: float64 [5], distortion.
        seconds: between the two poses [s].
        speeds: float64 [P, tiles], filled [px/s].
    """
    tiles, grid = len(rays), SIDE // stride + 1
    columns = np.int64(intrinsics[4])
    w, h = np.empty(_k.SCRATCH, np.float32), np.empty(_k.INT_SCRATCH, np.int32)
    order, near = np.empty(len(kind), np.int64), np.empty(len(kind), np.int64)
    union = np.empty((len(kind), 4), np.float32)
    widest(bounds, union)
    ray, edge = np.empty(3 * AREA, np.float32), np.empty(4, np.float32)
    own = np.zeros((len(pose), tiles))
    point, turned = np.empty(3), np.empty(3)
    for tile in range(tiles):
        tile_edge(rays[tile], edge)
        many = nearby(union, kind, edge, near)
        for j in range(grid * grid):
            i = j // grid * stride * SIDE + j % grid * stride
            ray[j], ray[AREA + j], ray[2 * AREA + j] = rays[tile, i], rays[tile, AREA + i], rays[tile, 2 * AREA + i]
        for p in range(len(pose)):
            _k.cast(pose[p], bounds[p], kind, near[:many], material, ray, edge, grid * grid, w, h, order)
            most = 0.0
            for j in range(grid * grid):
                n = h[_HIT + j]
                a, b = now[p, n], later[p, n]
                x, y, z = np.float64(ray[j]), np.float64(ray[AREA + j]), np.float64(w[_DEPTH + j])
                z = 1.0 if n == len(kind) else z
                for r in range(3):
                    point[r] = (a[3 * r] * x + a[3 * r + 1] * y + a[3 * r + 2]) * z + (a[9 + r] - b[9 + r])
                for r in range(3):
                    turned[r] = b[r] * point[0] + b[3 + r] * point[1] + b[6 + r] * point[2]
                if turned[2] > 1e-9:
                    u0, v0 = project(x, y, intrinsics, d)
                    u1, v1 = project(turned[0] / turned[2], turned[1] / turned[2], intrinsics, d)
                    most = max(most, (u1 - u0) ** 2 + (v1 - v0) ** 2)
            own[p, tile] = math.sqrt(most) / seconds
    for tile in range(tiles):
        row, column = tile // columns, tile % columns
        for p in range(len(pose)):
            most = 0.0
            for r in range(max(row - 1, 0), min(row + 2, tiles // columns)):
                for c in range(max(column - 1, 0), min(column + 2, columns)):
                    most = max(most, own[p, r * columns + c])
            speeds[p, tile] = most


@njit(forceinline=True, error_model="numpy")
def project(x, y, intrinsics, d):  # type: ignore[no-untyped-def]
    """Pixel of x/z, y/z."""
    r2 = x * x + y * y
    radial = 1 + r2 * (d[0] + r2 * (d[1] + r2 * d[4]))
    u = x * radial + 2 * d[2] * x * y + d[3] * (r2 + 2 * x * x)
    v = y * radial + d[2] * (r2 + 2 * y * y) + 2 * d[3] * x * y
    return u * intrinsics[0] + intrinsics[2], v * intrinsics[1] + intrinsics[3]


@njit(cache=True, error_model="numpy")
def choose_steps(speeds, probe_us, times_us, slowest, aim, steps, offsets):  # type: ignore[no-untyped-def]
    """Which of a scene's frames each tile takes: as few as `aim` [px] between two allows, and always the last.

    Args:
        speeds: float64 [P, tiles] [px/s].
        probe_us: float64 [P].
        times_us: int64 [F], frame 0 at the first probe.
        slowest: speed that is assumed at least [px/s].
        aim: [px].
        steps: int32 [tiles * F], filled.
        offsets: int64 [tiles + 1], filled.
    """
    frames = len(times_us)
    way = np.empty(frames)
    taken = 0
    for tile in range(speeds.shape[1]):
        offsets[tile] = taken
        p, done = 0, 0.0
        for f in range(frames):
            t = float(times_us[f])
            while p + 2 < len(probe_us) and t > probe_us[p + 1]:
                done += max(speeds[p, tile], speeds[p + 1, tile], slowest) * (probe_us[p + 1] - probe_us[p])
                p += 1
            way[f] = (done + max(speeds[p, tile], speeds[p + 1, tile], slowest) * (t - probe_us[p])) * 1e-6
        at = 0
        while at < frames - 1:
            following = at + 1
            while following + 1 < frames and way[following + 1] - way[at] <= aim:
                following += 1
            steps[taken] = following
            taken += 1
            at = following
    offsets[speeds.shape[1]] = taken
    return taken


@njit(cache=True, error_model="numpy")
def widest(bounds, union):  # type: ignore[no-untyped-def]
    """Where each object reaches at any time: bounds float32 [F, N, 5] to union [N, 4]."""
    for n in range(len(union)):
        union[n, 0] = union[n, 1] = np.inf
        union[n, 2] = union[n, 3] = -np.inf
    for f in range(len(bounds)):
        for n in range(len(union)):
            b = bounds[f, n]
            union[n, 0], union[n, 1] = min(union[n, 0], b[0]), min(union[n, 1], b[1])
            union[n, 2], union[n, 3] = max(union[n, 2], b[2]), max(union[n, 3], b[3])


@njit(cache=True, error_model="numpy")
def nearby(union, kind, edge, near):  # type: ignore[no-untyped-def]
    """The objects that may be seen in a tile, whose numbers fill `near`; returns how many. Planes always may."""
    many = 0
    for n in range(len(kind)):
        b = union[n]
        if (kind[n] == PLANE) | ((b[0] <= edge[2]) & (b[2] >= edge[0]) & (b[1] <= edge[3]) & (b[3] >= edge[1])):
            near[many] = n
            many += 1
    return many


@njit(cache=True, error_model="numpy")
def run_frames(frames, times_us, state, clock, pixels, config, seed, fresh):  # type: ignore[no-untyped-def]
    """One tile that sees given brightness float32 [F, AREA]: the sensor alone, for tests. Returns packed events."""
    w, h = np.empty(_k.SCRATCH, np.float32), np.empty(_k.INT_SCRATCH, np.int32)
    events, count = np.empty(1024, np.int64), 0
    if fresh:
        start_pixels(frames[0], 0, times_us[0], pixels, config, seed, state, clock)
    for f in range(1, len(frames)):
        w[_TEXEL : _TEXEL + AREA] = frames[f]
        events, count = step_pixels(
            w, h, times_us[f - 1], times_us[f], pixels, config, seed, state, clock,
            np.empty(0, np.int64), np.empty(0, np.uint8), events, count,
        )  # fmt: skip
    return events[:count].copy()
