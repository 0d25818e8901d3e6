"""Compiled inner loops of the CPU engine: poses, rays, light, and pixels that make events, one tile at a time.

The formulas are those of `render` and `sensor`; only the order of work differs. A tile is 16x16 pixels, whose values
and sensor state stay in the cache while it runs through all of its frames. Loops over its pixels hold no branch, so
that they become vector instructions. All compiled code is in this one file, since numba's cache sees changes of the
file of a function only.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.extending import intrinsic

from sdt_ros.compiled import njit
from sdt_ros.simulation.render import DARK, NEAR_M
from sdt_ros.simulation.scenes import BOX, PLANE, SPHERE
from sdt_ros.simulation.textures import SIZE

SIDE = 16  # [px] of a tile
AREA = SIDE * SIDE

# Columns of an object's description, float64.
CENTRE, ROTATION, HALF, VELOCITY, SWING, SWING_HZ, SWING_PHASE, YAW_RATE, KIND, OBJECT_COLUMNS = (
    *(0, 3, 12, 15, 18, 21, 22, 23, 24, 25),
)
# Columns of a material, float32; `base` is an array of its own.
OUTWARD, FLAT, ROUND, TUBE, FACTOR, FOOTPRINT, TILING, SHIFT, CONTRAST, ALBEDO, MATERIAL_COLUMNS = (
    *(3, 6, 7, 8, 9, 12, 13, 14, 16, 17, 18),
)
# Columns of a pose: camera to object, camera in the object's axes, light in the object's axes, light from everywhere.
TURN, ORIGIN, LIGHT, AMBIENT, POSE_COLUMNS = 0, 9, 12, 15, 16
# Columns of the light, float64.
LIGHTS = 8
# Rows of the scratch memory of a tile, in floats: one base and constant distances let LLVM prove what overlaps.
_DEPTH, _U, _V, _LEVEL, _GAIN, _TEXEL, _FX0, _FY0, _FX1, _FY1, _PART, _BEFORE = (AREA * k for k in range(12))
SCRATCH = 12 * AREA
_HIT, _BASE, _ROW0, _ROW1, _FIRED = (AREA * k for k in range(5))
INT_SCRATCH = 5 * AREA
# Rows of the state of a tile's pixels.
ABOVE, LAST_SEEN, ON, OFF, LEAK, STATE = (AREA * k for k in range(6))
LAST_US, NOISE_US, CLOCK = 0, AREA, 2 * AREA
NEVER_US = -(1 << 60)
_FOREVER_US = 1 << 60

_FAST = {"nnan", "nsz", "arcp", "contract", "reassoc"}  # infinity counts, NaN never comes up
_f = np.float32
_0, _1, _HALF, _QUARTER = _f(0), _f(1), _f(0.5), _f(0.25)
_INF, _NEAR, _DARKNESS, _TINY = _f(np.inf), _f(NEAR_M), _f(DARK), _f(1e-20)
_LN2, _LOG2E, _SQRT2 = _f(math.log(2)), _f(1 / math.log(2)), _f(math.sqrt(2))
_SLANT, _LEAST_COSINE, _COARSEST = _f(0.8), _f(0.02), _f(7.999)


@intrinsic
def _bits(typing_context, value):  # type: ignore[no-untyped-def]
    """The bits of a float32 as int32."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], context.get_value_type(types.int32))

    return types.int32(types.float32), generate


@intrinsic
def _of_bits(typing_context, value):  # type: ignore[no-untyped-def]
    """The float32 of such bits."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def _log(x):  # type: ignore[no-untyped-def]
    """Natural logarithm of a positive float32, to about 1e-7: exponent, and the area tangent's series."""
    bits = _bits(x)
    exponent = np.int32((bits >> np.int32(23)) - np.int32(127))
    mantissa = _of_bits(np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F800000)))
    big = mantissa > _SQRT2
    mantissa = mantissa * _HALF if big else mantissa
    exponent = np.int32(exponent + np.int32(1)) if big else exponent
    s = (mantissa - _1) / (mantissa + _1)  # |s| < 0.1716
    z = s * s
    series = _f(2 / 9) + z * _f(2 / 11)
    series = _f(2 / 7) + z * series
    series = _f(2 / 5) + z * series
    series = _f(2 / 3) + z * series
    return _f(exponent) * _LN2 + s * (_f(2) + z * series)


@njit(cache=True, error_model="numpy")
def invert_rays(width, height, fx, fy, cx, cy, d, rays):  # type: ignore[no-untyped-def]
    """Fill rays float32 [tiles, 3 * AREA] (x, y, inverse length); returns the worst error [px]."""
    columns = (width + SIDE - 1) // SIDE
    worst = 0.0
    k1, k2, p1, p2, k3 = d[0], d[1], d[2], d[3], d[4]
    plain = k1 == 0 and k2 == 0 and p1 == 0 and p2 == 0 and k3 == 0
    for tile in range(len(rays)):
        for i in range(AREA):
            column = min(tile % columns * SIDE + i % SIDE, width - 1)
            row = min(tile // columns * SIDE + i // SIDE, height - 1)
            xd, yd = (column - cx) / fx, (row - cy) / fy
            x, y = xd, yd
            if not plain:
                error = 1.0
                for _ in range(30):
                    r2 = x * x + y * y
                    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
                    ex = xd - (x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x))
                    ey = yd - (y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y)
                    x, y = x + ex, y + ey
                    error = max(abs(ex) * fx, abs(ey) * fy)
                    if error < 1e-7:
                        break
                if not error <= worst:  # NaN too
                    worst = error
            rays[tile, i] = x
            rays[tile, AREA + i] = y
            rays[tile, 2 * AREA + i] = 1 / math.sqrt(x * x + y * y + 1)
    return worst


@njit(cache=True, error_model="numpy")
def camera_pose(path, t, rotation, position):  # type: ignore[no-untyped-def]
    """Camera to world at time t; path float64 [7, 2 + 3 K]."""
    value = np.empty(7)
    sines = (path.shape[1] - 2) // 3
    for c in range(7):
        v = path[c, 0] + path[c, 1] * t
        for k in range(sines):
            if path[c, 2 + k] != 0:
                v += path[c, 2 + k] * math.sin(2 * math.pi * path[c, 2 + sines + k] * t + path[c, 2 + 2 * sines + k])
        value[c] = v
    cy, sy = math.cos(value[3]), math.sin(value[3])
    cp, sp = math.cos(value[4]), math.sin(value[4])
    cr, sr = math.cos(value[5]), math.sin(value[5])
    fx, fy, fz = cp * cy, cp * sy, sp  # forward
    lx, ly = sy, -cy  # to the right, level
    dx, dy, dz = -fz * ly, fz * lx, fx * ly - fy * lx  # down: forward x level
    rotation[0, 0], rotation[1, 0], rotation[2, 0] = cr * lx + sr * dx, cr * ly + sr * dy, sr * dz
    rotation[0, 1], rotation[1, 1], rotation[2, 1] = cr * dx - sr * lx, cr * dy - sr * ly, cr * dz
    rotation[0, 2], rotation[1, 2], rotation[2, 2] = fx, fy, fz
    position[0], position[1], position[2] = value[0] - value[6] * fx, value[1] - value[6] * fy, value[2] - value[6] * fz


@njit(cache=True, error_model="numpy")
def pose_table(objects, light, path, seconds, margin, pose, bounds):  # type: ignore[no-untyped-def]
    """Where all is at some times.

    Args:
        objects: float64 [N, OBJECT_COLUMNS].
        light: float64 [LIGHTS]: direction, ambient, diffuse, flicker, its frequency and phase.
        path: float64 [7, 2 + 3 K] of the camera.
        seconds: float64 [F].
        margin: how much further objects reach for culling, as x/z.
        pose: float32 or float64 [F, N + 1, POSE_COLUMNS], filled; the sky comes last.
        bounds: float32 [F, N, 5], filled: left, top, right, bottom as x/z and y/z, nearest z. Planes have none.
    """
    rotation, position = np.empty((3, 3)), np.empty(3)
    turned, origin, beam = np.empty((3, 3)), np.empty(3), np.empty(3)
    count = len(objects)
    for f in range(len(seconds)):
        t = seconds[f]
        camera_pose(path, t, rotation, position)
        gain = 1 + light[5] * math.sin(2 * math.pi * light[6] * t + light[7])
        for k in range(3):
            beam[k] = light[k] * light[4] * gain
        for n in range(count):
            o = objects[n]
            swing = 0.0
            if o[SWING] != 0 or o[SWING + 1] != 0 or o[SWING + 2] != 0:
                swing = math.sin(2 * math.pi * o[SWING_HZ] * t + o[SWING_PHASE])
            cos, sin = 1.0, 0.0
            if o[YAW_RATE] != 0:
                cos, sin = math.cos(o[YAW_RATE] * t), math.sin(o[YAW_RATE] * t)
            for c in range(3):
                x, y = o[ROTATION + c], o[ROTATION + 3 + c]
                turned[0, c], turned[1, c], turned[2, c] = cos * x - sin * y, sin * x + cos * y, o[ROTATION + 6 + c]
            row = pose[f, n]
            ox = position[0] - o[CENTRE] - o[VELOCITY] * t - o[SWING] * swing
            oy = position[1] - o[CENTRE + 1] - o[VELOCITY + 1] * t - o[SWING + 1] * swing
            oz = position[2] - o[CENTRE + 2] - o[VELOCITY + 2] * t - o[SWING + 2] * swing
            for i in range(3):
                a, b, c = turned[0, i], turned[1, i], turned[2, i]
                for j in range(3):
                    row[TURN + 3 * i + j] = a * rotation[0, j] + b * rotation[1, j] + c * rotation[2, j]
                origin[i] = a * ox + b * oy + c * oz
                row[ORIGIN + i] = origin[i]
                row[LIGHT + i] = a * beam[0] + b * beam[1] + c * beam[2]
            row[AMBIENT] = light[3] * gain
            if o[KIND] > PLANE:
                _bound(row, o, origin, margin, bounds[f, n])
        sky = pose[f, count]
        sky[:] = 0
        for i in range(3):
            for j in range(3):
                sky[TURN + 3 * i + j] = rotation[i, j]
        sky[AMBIENT] = 1


@njit(forceinline=True, error_model="numpy")
def _bound(row, o, origin, margin, bound):  # type: ignore[no-untyped-def]
    """Where an object's box of corners reaches in the image."""
    left = top = nearest = math.inf
    right = bottom = farthest = -math.inf
    for corner in range(8):
        x = (o[HALF] if corner & 1 else -o[HALF]) - origin[0]
        y = (o[HALF + 1] if corner & 2 else -o[HALF + 1]) - origin[1]
        z = (o[HALF + 2] if corner & 4 else -o[HALF + 2]) - origin[2]
        depth = x * row[TURN + 2] + y * row[TURN + 5] + z * row[TURN + 8]
        nearest, farthest = min(nearest, depth), max(farthest, depth)
        if depth >= NEAR_M:
            across = (x * row[TURN] + y * row[TURN + 3] + z * row[TURN + 6]) / depth
            along = (x * row[TURN + 1] + y * row[TURN + 4] + z * row[TURN + 7]) / depth
            left, right = min(left, across), max(right, across)
            top, bottom = min(top, along), max(bottom, along)
    if farthest < NEAR_M:  # behind the camera
        left, right, top, bottom = math.inf, -math.inf, math.inf, -math.inf
    elif nearest < NEAR_M:  # around it
        left, right, top, bottom = -math.inf, math.inf, -math.inf, math.inf
    bound[0], bound[1], bound[2], bound[3] = left - margin, top - margin, right + margin, bottom + margin
    bound[4] = nearest * (1 - 1e-5)


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _cast_plane(pose, ray, n, w, h, many):  # type: ignore[no-untyped-def]
    a, b, c, origin = pose[TURN + 6], pose[TURN + 7], pose[TURN + 8], -pose[ORIGIN + 2]
    for i in range(many):
        d = a * ray[i] + b * ray[AREA + i] + c
        safe = d if d < -_TINY else -_TINY
        t = origin / safe
        hit = (d < _0) & (t > _NEAR) & (t < w[_DEPTH + i])
        w[_DEPTH + i] = t if hit else w[_DEPTH + i]
        h[_HIT + i] = n if hit else h[_HIT + i]


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def _inverse(d):  # type: ignore[no-untyped-def]
    small = abs(d) < _TINY
    return _1 / (_TINY if small else d)


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _cast_box(pose, half, ray, n, w, h, many):  # type: ignore[no-untyped-def]
    t00, t01, t02, t10, t11, t12 = pose[0], pose[1], pose[2], pose[3], pose[4], pose[5]
    t20, t21, t22, o0, o1, o2 = pose[6], pose[7], pose[8], pose[9], pose[10], pose[11]
    h0, h1, h2 = half[0], half[1], half[2]
    for i in range(many):
        x, y = ray[i], ray[AREA + i]
        i0, i1, i2 = (
            _inverse(t00 * x + t01 * y + t02),
            _inverse(t10 * x + t11 * y + t12),
            _inverse(t20 * x + t21 * y + t22),
        )
        m0, m1, m2 = -o0 * i0, -o1 * i1, -o2 * i2
        r0, r1, r2 = h0 * abs(i0), h1 * abs(i1), h2 * abs(i2)
        enter, e1, e2 = m0 - r0, m1 - r1, m2 - r2
        leave, l1, l2 = m0 + r0, m1 + r1, m2 + r2
        enter = enter if enter > e1 else e1
        enter = enter if enter > e2 else e2
        leave = leave if leave < l1 else l1
        leave = leave if leave < l2 else l2
        t = enter if enter > _NEAR else leave
        hit = (enter <= leave) & (t > _NEAR) & (t < w[_DEPTH + i])
        w[_DEPTH + i] = t if hit else w[_DEPTH + i]
        h[_HIT + i] = n if hit else h[_HIT + i]


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _cast_sphere(pose, half, ray, n, w, h, many):  # type: ignore[no-untyped-def]
    cx = -(pose[0] * pose[9] + pose[3] * pose[10] + pose[6] * pose[11])  # the centre in the camera's frame
    cy = -(pose[1] * pose[9] + pose[4] * pose[10] + pose[7] * pose[11])
    cz = -(pose[2] * pose[9] + pose[5] * pose[10] + pose[8] * pose[11])
    square = half[0] * half[0]
    for i in range(many):
        x, y = ray[i], ray[AREA + i]
        a = x * x + y * y + _1
        middle = (x * cx + y * cy + cz) / a
        ax, ay, az = cx - middle * x, cy - middle * y, cz - middle
        room = (square - (ax * ax + ay * ay + az * az)) / a
        reach = math.sqrt(room if room > _0 else _0)
        enter = middle - reach
        t = enter if enter > _NEAR else middle + reach
        hit = (room >= _0) & (t > _NEAR) & (t < w[_DEPTH + i])
        w[_DEPTH + i] = t if hit else w[_DEPTH + i]
        h[_HIT + i] = n if hit else h[_HIT + i]


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _cast_cylinder(pose, half, ray, n, w, h, many):  # type: ignore[no-untyped-def]
    t00, t01, t02, t10, t11, t12 = pose[0], pose[1], pose[2], pose[3], pose[4], pose[5]
    t20, t21, t22, o0, o1, o2 = pose[6], pose[7], pose[8], pose[9], pose[10], pose[11]
    square, high = half[0] * half[0], half[2]
    for i in range(many):
        x, y = ray[i], ray[AREA + i]
        d0, d1 = t00 * x + t01 * y + t02, t10 * x + t11 * y + t12
        a = d0 * d0 + d1 * d1
        a = a if a > _TINY else _TINY
        middle = -(d0 * o0 + d1 * o1) / a
        a0, a1 = o0 + middle * d0, o1 + middle * d1
        room = (square - (a0 * a0 + a1 * a1)) / a
        reach = math.sqrt(room if room > _0 else _0)
        i2 = _inverse(t20 * x + t21 * y + t22)
        m2, r2 = -o2 * i2, high * abs(i2)
        enter, leave = middle - reach, middle + reach
        enter = enter if enter > m2 - r2 else m2 - r2
        leave = leave if leave < m2 + r2 else m2 + r2
        t = enter if enter > _NEAR else leave
        hit = (room >= _0) & (enter <= leave) & (t > _NEAR) & (t < w[_DEPTH + i])
        w[_DEPTH + i] = t if hit else w[_DEPTH + i]
        h[_HIT + i] = n if hit else h[_HIT + i]


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _deepest(w, many):  # type: ignore[no-untyped-def]
    most = np.int32(0)
    for i in range(many):  # positive floats rise as their bits do, and whole numbers become one vector instruction
        bits = _bits(w[_DEPTH + i])
        most = bits if bits > most else most
    return _of_bits(most)


@njit(cache=True, error_model="numpy")
def cast(pose, bounds, kind, near, material, ray, edge, many, w, h, order):  # type: ignore[no-untyped-def]
    """Depth and hit of a tile's first `many` pixels in one frame: planes first, solids from near to far.

    Args:
        pose: float32 [N + 1, POSE_COLUMNS].
        bounds: float32 [N, 5].
        kind: int64 [N].
        near: int64 [M], numbers of the objects to try.
        material: float32 [N + 1, MATERIAL_COLUMNS].
        ray: float32 [3 * AREA].
        edge: float32 [4], least x and y and most x and y of the tile's rays.
        many: pixels.
        w: scratch; its depth is filled.
        h: scratch; its hit is filled.
        order: int64 [N], scratch.
    """
    count = len(kind)
    for i in range(many):
        w[_DEPTH + i] = _INF
        h[_HIT + i] = count
    solids = 0
    for c in range(len(near)):
        n = near[c]
        if kind[n] == PLANE:
            p = pose[n]
            a, b = p[TURN + 6], p[TURN + 7]
            steepest = min(a * edge[0], a * edge[2]) + min(b * edge[1], b * edge[3]) + p[TURN + 8]
            if steepest < 1e-5 and p[ORIGIN + 2] > 0:
                _cast_plane(p, ray, np.int32(n), w, h, many)
        elif (
            (bounds[n, 0] <= edge[2])
            & (bounds[n, 2] >= edge[0])
            & (bounds[n, 1] <= edge[3])
            & (bounds[n, 3] >= edge[1])
        ):
            k = solids
            while k > 0 and bounds[order[k - 1], 4] > bounds[n, 4]:
                order[k] = order[k - 1]
                k -= 1
            order[k] = n
            solids += 1
    if not solids:
        return
    deepest = _deepest(w, many)
    for k in range(solids):
        n = order[k]
        if bounds[n, 4] >= deepest:
            break
        if kind[n] == BOX:
            _cast_box(pose[n], material[n], ray, np.int32(n), w, h, many)
        elif kind[n] == SPHERE:
            _cast_sphere(pose[n], material[n], ray, np.int32(n), w, h, many)
        else:
            _cast_cylinder(pose[n], material[n], ray, np.int32(n), w, h, many)
        if k + 1 < solids:
            deepest = _deepest(w, many)


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _shade(pose, m, base, ray, n, w, h):  # type: ignore[no-untyped-def]
    """Texture coordinates, mip level and light of those pixels that see object n."""
    t00, t01, t02, t10, t11, t12 = pose[0], pose[1], pose[2], pose[3], pose[4], pose[5]
    t20, t21, t22, o0, o1, o2 = pose[6], pose[7], pose[8], pose[9], pose[10], pose[11]
    l0, l1, l2, ambient = pose[12], pose[13], pose[14], pose[15]
    w0, w1, w2, flat, curved, tube = m[OUTWARD], m[OUTWARD + 1], m[OUTWARD + 2], m[FLAT], m[ROUND], m[TUBE]
    f0, f1, f2, footprint, tiling = m[FACTOR], m[FACTOR + 1], m[FACTOR + 2], m[FOOTPRINT], m[TILING]
    su, sv, albedo, contrast = m[SHIFT], m[SHIFT + 1], m[ALBEDO], m[CONTRAST]
    for i in range(AREA):
        x, y = ray[i], ray[AREA + i]
        z = w[_DEPTH + i]
        z = _1 if z == _INF else z
        d0, d1, d2 = t00 * x + t01 * y + t02, t10 * x + t11 * y + t12, t20 * x + t21 * y + t22
        p0, p1, p2 = o0 + d0 * z, o1 + d1 * z, o2 + d2 * z
        q0, q1, q2 = p0 * w0, p1 * w1, p2 * w2
        a0, a1, a2 = abs(q0), abs(q1), abs(q2) + flat
        on_z = (a2 >= a0) & (a2 >= a1)
        on_x = (not on_z) & (a0 >= a1)
        u = p1 if on_x else p0
        v = p1 if on_z else p2
        side = curved * (_1 - tube) if on_z else curved
        straight = _1 - side
        n0 = (_1 if q0 > _0 else -_1) if on_x else _0
        n1 = _0 if on_x | on_z else (_1 if q1 > _0 else -_1)
        n2 = (_1 if q2 + flat > _0 else -_1) if on_z else _0
        n0 = n0 * straight + q0 * f0 * side
        n1 = n1 * straight + q1 * f1 * side
        n2 = n2 * straight + q2 * f2 * side
        lit = n0 * l0 + n1 * l1 + n2 * l2
        lit = (lit if lit > _0 else _0) + ambient
        cosine = abs(n0 * d0 + n1 * d1 + n2 * d2) * ray[2 * AREA + i]
        cosine = cosine if cosine > _LEAST_COSINE else _LEAST_COSINE
        level = (_log(z * footprint) - _SLANT * _log(cosine)) * _LOG2E
        level = level if level > _0 else _0
        mine = h[_HIT + i] == n
        w[_U + i] = u * tiling + su if mine else w[_U + i]
        w[_V + i] = v * tiling + sv if mine else w[_V + i]
        w[_LEVEL + i] = level if mine else w[_LEVEL + i]
        w[_GAIN + i] = albedo * lit if mine else w[_GAIN + i]
        w[_PART + i] = contrast if mine else w[_PART + i]
        h[_BASE + i] = base if mine else h[_BASE + i]


@njit(forceinline=True, fastmath=_FAST, error_model="numpy")
def _floor(x):  # type: ignore[no-untyped-def]
    whole = np.int32(x)
    return np.int32(whole - np.int32(1)) if _f(whole) > x else whole


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _texture(table, w, h):  # type: ignore[no-untyped-def]
    """Trilinear look-up, then brightness: DEPTH.. are read, TEXEL is filled."""
    for i in range(AREA):
        level = w[_LEVEL + i]
        level = level if level < _COARSEST else _COARSEST
        coarse = np.int32(level)
        w[_LEVEL + i] = level - _f(coarse)
        u, v = w[_U + i], w[_V + i]
        u, v = u - _f(_floor(u)), v - _f(_floor(v))
        for k in range(2):
            size = np.int32(np.int32(SIZE) >> np.int32(coarse + np.int32(k)))
            x, y = u * _f(size) - _HALF, v * _f(size) - _HALF
            left, top = _floor(x), _floor(y)
            w[(_FX1 if k else _FX0) + i] = x - _f(left)
            w[(_FY1 if k else _FY0) + i] = y - _f(top)
            left = np.int32(size - np.int32(1)) if left < 0 else left
            top = np.int32(size - np.int32(1)) if top < 0 else top
            before = np.int32(np.uint32(SIZE * SIZE - size * size) // np.uint32(3)) * np.int32(4)
            h[(_ROW1 if k else _ROW0) + i] = h[_BASE + i] + before + top * size + left
    for i in range(AREA):
        row, fx, fy = 4 * np.int64(h[_ROW0 + i]), w[_FX0 + i], w[_FY0 + i]
        upper = table[row] + fx * (table[row + 1] - table[row])
        lower = table[row + 2] + fx * (table[row + 3] - table[row + 2])
        fine = upper + fy * (lower - upper)
        row, fx, fy = 4 * np.int64(h[_ROW1 + i]), w[_FX1 + i], w[_FY1 + i]
        upper = table[row] + fx * (table[row + 1] - table[row])
        lower = table[row + 2] + fx * (table[row + 3] - table[row + 2])
        rough = upper + fy * (lower - upper)
        w[_TEXEL + i] = fine + w[_LEVEL + i] * (rough - fine)
    for i in range(AREA):
        colour = _1 + w[_PART + i] * (w[_TEXEL + i] - _1)
        w[_TEXEL + i] = (colour if colour > _0 else _0) * w[_GAIN + i] + _DARKNESS


@njit(cache=True, error_model="numpy")
def shade(pose, material, base, table, ray, w, h, seen):  # type: ignore[no-untyped-def]
    """Brightness of a tile whose depth and hit are there; `seen` int32 [N + 1] is scratch."""
    for n in range(len(material)):
        seen[n] = 0
    for i in range(AREA):
        seen[h[_HIT + i]] = 1
    for n in range(len(material)):
        if seen[n]:
            _shade(pose[n], material[n], base[n], ray, np.int32(n), w, h)
    _texture(table, w, h)
