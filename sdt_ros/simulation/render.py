"""Analytic ray casting: exact depth, what was hit, brightness and optical flow.

A view is a scene at a time. The image is cut into tiles; for each view and tile only those objects are tried whose
bounds reach into the tile, all such pairs at once. Geometry is brought into the camera's frame in float64, so that
float32 pixels keep their accuracy far from the world's origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdt_ros.simulation.camera import Camera
from sdt_ros.simulation.scenes import BOX, CYLINDER, PLANE, SPHERE, SceneBatch
from sdt_ros.simulation.textures import SIZE, TEXELS, TextureAtlas

NEAR_M = 0.02  # nothing is seen closer than this
_TILE = 16  # [px] a side
_CORNERS = torch.tensor([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)], dtype=torch.float64)
DARK = 0.02  # dark current, as a brightness: keeps the logarithm of black finite


@dataclass(frozen=True)
class Views:
    """What V views see.

    Attributes:
        depth: [V, H, W] along z [m]; inf where there is nothing.
        hit: int64 [V, H, W], index of the object; the number of objects N for the sky.
        brightness: [V, H, W] linear, or None where it was not asked for.
    """

    depth: Tensor
    hit: Tensor
    brightness: Tensor | None = None

    def seen(self) -> Tensor:
        """The brightness.

        Raises:
            ValueError: the views were rendered without it.
        """
        if self.brightness is None:
            raise ValueError("these views were rendered without brightness")
        return self.brightness


class Renderer:
    """Renders views of one camera.

    Args:
        camera: the intrinsics.
        atlas: the textures; None to render depth only.
        device: where to compute.
        dtype: of the pixels.
    """

    def __init__(
        self,
        camera: Camera,
        atlas: TextureAtlas | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.camera = camera
        self.atlas = atlas
        self.device = torch.device(device)
        self.dtype = dtype
        self._rows, self._columns = -(-camera.height // _TILE), -(-camera.width // _TILE)
        y = torch.arange(self._rows * _TILE, dtype=torch.float64).clamp_max(camera.height - 1)
        x = torch.arange(self._columns * _TILE, dtype=torch.float64).clamp_max(camera.width - 1)
        rays = camera.rays(*(axis.contiguous() for axis in torch.meshgrid(x, y, indexing="xy")))  # [H, W, 3], padded
        tiles = rays.unflatten(1, (self._columns, _TILE)).unflatten(0, (self._rows, _TILE))
        tiles = tiles.permute(0, 2, 4, 1, 3).flatten(3).flatten(0, 1)  # [tiles, 3, pixels of a tile]
        self._least = tiles[:, :2].amin(2).to(self.device, torch.float32)
        self._most = tiles[:, :2].amax(2).to(self.device, torch.float32)
        self._rays = tiles.to(self.device, dtype).contiguous()
        self._flat_rays = self._rays.permute(1, 0, 2).flatten(1).contiguous()  # [3, tiles * pixels]
        self._tiles = len(tiles)

    def render(self, scene: SceneBatch, index: Tensor, t: Tensor, brightness: bool = True) -> Views:
        """Render views.

        Args:
            scene: the scenes.
            index: int64 [V], which scene each view is of.
            t: float64 [V] when [s].
            brightness: whether textures and light are wanted too.
        """
        rotation, position = scene.path.pose(index, t)
        object_rotation, object_centre = scene.object_pose(index, t)
        turn = object_rotation.mT @ rotation[:, None]  # camera to object, [V, N, 3, 3]
        origin = torch.einsum("vnji,vnj->vni", object_rotation, position[:, None] - object_centre)
        depth, hit = self._cast(scene, index, turn, origin)
        shaded = None
        if brightness:
            shaded = self._image(self._shade(scene, index, t, depth, hit, turn, origin, rotation, object_rotation))
        return Views(self._image(depth), self._image(hit), shaded)

    def flow(self, scene: SceneBatch, index: Tensor, start: Tensor, end: Tensor, views: Views) -> Tensor:
        """Where the points seen at `start` are at `end`, less where they were.

        Args:
            scene: the scenes.
            index: int64 [V], which scene each view is of.
            start: float64 [V], the time of `views` [s].
            end: float64 [V] [s].
            views: what was rendered for `start`.

        Returns:
            [V, H, W, 2] columns and rows [px]; exact, occlusion and image borders left aside. NaN where a point has
            come behind the camera.
        """
        height, width = self.camera.height, self.camera.width
        matrix, offset = relative_motion(scene, index, start, end)
        rays = self._image(self._rays[None, :, 0]), self._image(self._rays[None, :, 1])
        ray = torch.stack([rays[0][0], rays[1][0], torch.ones_like(rays[0][0])], -1)  # [H, W, 3]
        shape = (len(index), height * width)
        hit = views.hit.flatten(1)
        hit = hit + torch.arange(len(index), device=hit.device)[:, None] * matrix.shape[1]
        rows = torch.cat([matrix.flatten(2), offset], -1).to(self.dtype).flatten(0, 1)[hit.flatten()].view(*shape, 12)
        depth = views.depth.flatten(1)
        sky = depth.isinf()
        points = ray.view(1, -1, 3) * torch.where(sky, 1.0, depth)[..., None]
        moved = (rows[..., :9].unflatten(-1, (3, 3)) @ points[..., None]).squeeze(-1) + rows[..., 9:]
        pixels = self.camera.project(moved)
        pixels = torch.where(moved[..., 2:] > 0, pixels, torch.nan)
        y, x = torch.meshgrid(*(torch.arange(n, device=self.device) for n in (height, width)), indexing="ij")
        return pixels.view(len(index), height, width, 2) - torch.stack([x, y], -1)

    def _image(self, tiled: Tensor) -> Tensor:
        """[V, tiles, pixels] to [V, H, W]."""
        out = tiled.view(-1, self._rows, self._columns, _TILE, _TILE).transpose(2, 3)
        out = out.reshape(-1, self._rows * _TILE, self._columns * _TILE)
        return out[:, : self.camera.height, : self.camera.width]

    def _visible(self, scene: SceneBatch, index: Tensor, turn: Tensor, origin: Tensor) -> Tensor:
        """Which objects may be seen in which tiles: bool [V, tiles, N]; never wrong about one that is."""
        corners = scene.half[index][:, :, None] * _CORNERS.to(self.device)  # [V, N, 8, 3] in the object's axes
        corners = (corners - origin[:, :, None]) @ turn  # in the camera's
        z = corners[..., 2]
        behind = (z < NEAR_M).all(-1)
        across = (z < NEAR_M).any(-1)
        xy = corners[..., :2] / z.clamp_min(NEAR_M)[..., None]
        # A pixel's rounding further out, so that float32 is safe.
        margin = 1 / self.camera.fx
        least = torch.where(across[..., None], -torch.inf, xy.amin(2) - margin).float()[:, None]
        most = torch.where(across[..., None], torch.inf, xy.amax(2) + margin).float()[:, None]
        left, right = self._least[:, None], self._most[:, None]  # [tiles, 1, 2]
        reach = ((least <= right) & (most >= left)).all(-1)  # [V, tiles, N]
        # A plane is seen by rays that go down to it: the slope is linear, so one at a tile's corner is the steepest.
        slope = turn[:, :, 2].float()[:, None]  # [V, 1, N, 3]
        steepest = torch.minimum(slope[..., :2] * left, slope[..., :2] * right).sum(-1) + slope[..., 2]
        kind = scene.kind[index]
        flat = (kind == PLANE) & (origin[..., 2] > 0)
        solid = (kind > PLANE) & ~behind
        return (reach & solid[:, None]) | ((steepest < 1e-5) & flat[:, None])

    def _cast(self, scene: SceneBatch, index: Tensor, turn: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
        """Depth and hit of all pixels: [V, tiles, pixels]."""
        views, objects = turn.shape[:2]
        visible = self._visible(scene, index, turn, origin).flatten(0, 1)  # [V * tiles, N]
        counts = visible.sum(1)
        # Rows with equally many objects lie together, so that each such group is one block of memory.
        order = torch.argsort(counts, stable=True)
        row, thing = visible[order].nonzero().unbind(1)
        row = order[row]
        view, tile = row // self._tiles, row % self._tiles
        pixels = self._rays.shape[2]
        distance = torch.empty(len(row), pixels, dtype=self.dtype, device=self.device)
        kind = scene.kind[index][view, thing]
        half = scene.half[index].to(self.dtype)
        turn, origin = turn.to(self.dtype), origin.to(self.dtype)
        for shape, intersect in _SHAPES.items():
            chosen = (kind == shape).nonzero().squeeze(1)
            if len(chosen):
                v, n = view[chosen], thing[chosen]
                distance[chosen] = intersect(turn[v, n], origin[v, n], half[v, n], self._rays[tile[chosen]])
        depth = torch.full((len(visible), pixels), torch.inf, dtype=self.dtype, device=self.device)
        hit = torch.full((len(visible), pixels), objects, dtype=torch.int64, device=self.device)
        first = done = 0
        for count, rows in enumerate(torch.bincount(counts).tolist()):
            if count and rows:
                block = distance[first : first + rows * count].view(rows, count, pixels)
                nearest, which = block[:, 0], torch.zeros((rows, pixels), dtype=torch.int32, device=self.device)
                for k in range(1, count):
                    closer = block[:, k] < nearest
                    nearest = torch.minimum(block[:, k], nearest)
                    which.masked_fill_(closer, k)
                things = thing[first : first + rows * count].view(rows, count).gather(1, which.to(torch.int64))
                group = order[done : done + rows]
                depth[group] = nearest
                hit[group] = torch.where(nearest.isinf(), objects, things)
                first += rows * count
            done += rows
        return depth.view(views, self._tiles, pixels), hit.view(views, self._tiles, pixels)

    def _shade(
        self,
        scene: SceneBatch,
        index: Tensor,
        t: Tensor,
        depth: Tensor,
        hit: Tensor,
        turn: Tensor,
        origin: Tensor,
        rotation: Tensor,
        object_rotation: Tensor,
    ) -> Tensor:
        """Brightness of all pixels: [V, tiles, pixels]."""
        if self.atlas is None:
            raise ValueError("this renderer has no textures; give it an atlas to render brightness")
        table = _materials(scene, index, t, turn, origin, rotation, object_rotation, self.camera)
        table = table.to(self.dtype)  # [channels, V, N + 1]
        views, slots = table.shape[1:]
        hit = hit.flatten(1) + torch.arange(views, device=self.device)[:, None] * slots
        m = table.flatten(1).index_select(1, hit.flatten()).view(len(table), views, -1)
        dx, dy = self._flat_rays[0], self._flat_rays[1]
        z = depth.flatten(1)
        z = torch.where(z.isinf(), 1.0, z)
        d = [m[3 * i] * dx + m[3 * i + 1] * dy + m[3 * i + 2] for i in range(3)]  # ray in the object's axes; dz = 1
        p = [m[9 + i] + d[i] * z for i in range(3)]
        q = [p[i] * m[12 + i] for i in range(3)]
        a = [q[0].abs(), q[1].abs(), q[2].abs() + m[15]]
        # The face is the axis on which the point is farthest out; the two other axes carry the texture.
        on_z = (a[2] >= a[0]) & (a[2] >= a[1])
        on_x = ~on_z & (a[0] >= a[1])
        u = torch.where(on_x, p[1], p[0])
        v = torch.where(on_z, p[1], p[2])
        round_side = m[16] * (1 - on_z.to(self.dtype) * m[17])
        face = [on_x, ~(on_x | on_z), on_z]
        normal = [
            torch.lerp(face[i] * torch.sign(q[i] + m[15] * (i == 2)), q[i] * m[18 + i], round_side) for i in range(3)
        ]
        lit = (normal[0] * m[21] + normal[1] * m[22] + normal[2] * m[23]).clamp_min(0) + m[24]
        cosine = (normal[0] * d[0] + normal[1] * d[1] + normal[2] * d[2]).abs() * torch.rsqrt(dx * dx + dy * dy + 1)
        # A pixel covers `footprint` texels across; more along the line of sight, where the view is slanted.
        level = torch.log2(z * m[25]) - 0.8 * torch.log2(cosine.clamp_min(0.02))
        base = m[26].to(torch.int32).flatten()
        texel = self.atlas.sample(base, (u * m[27] + m[28]).flatten(), (v * m[27] + m[29]).flatten(), level.flatten())
        colour = (1 + m[30] * (texel.view_as(z) - 1)) * m[31]
        return (colour.clamp_min(0) * lit + DARK).view_as(depth)


def relative_motion(scene: SceneBatch, index: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """How each object moves with respect to its camera, from one time to another.

    Returns:
        Rotation float64 [V, N + 1, 3, 3] and offset [V, N + 1, 3] from the camera's frame at `start` to that at `end`;
        the last is the sky's, for directions.
    """
    r0, p0 = scene.path.pose(index, start)
    r1, p1 = scene.path.pose(index, end)
    o0, c0 = scene.object_pose(index, start)
    o1, c1 = scene.object_pose(index, end)
    turn = o1 @ o0.mT  # of the object in the world
    matrix = r1.mT[:, None] @ turn @ r0[:, None]
    shift = (turn @ (p0[:, None] - c0)[..., None]).squeeze(-1) + c1 - p1[:, None]
    offset = (r1.mT[:, None] @ shift[..., None]).squeeze(-1)
    sky = (r1.mT @ r0)[:, None]
    return torch.cat([matrix, sky], 1), torch.cat([offset, torch.zeros_like(offset[:, :1])], 1)


def _materials(
    scene: SceneBatch,
    index: Tensor,
    t: Tensor,
    turn: Tensor,
    origin: Tensor,
    rotation: Tensor,
    object_rotation: Tensor,
    camera: Camera,
) -> Tensor:
    """What shading needs to know of each object and, last, of the sky: float64 [channels, V, N + 1]."""
    kind = scene.kind[index]
    half = scene.half[index]
    flat = kind == PLANE
    ball, tube = kind == SPHERE, kind == CYLINDER
    outward = 1 / half.clamp_min(1e-9)
    outward = torch.where(flat[..., None], 0.0, outward)
    curved = torch.where((ball | tube)[..., None], 1 / half[..., :1].clamp_min(1e-9), 0.0).expand(-1, -1, 3)
    factor = torch.where(outward > 0, curved / outward.clamp_min(1e-30), 0.0)  # from q to the normal of a round side
    factor = torch.where(tube[..., None] & (torch.arange(3, device=kind.device) == 2), 0.0, factor)
    # A tube's end stands out farther than its side only where |z| is all of its half: 0.7 < 1 / sqrt(2).
    outward[..., 2] = torch.where(tube, 0.7 * outward[..., 2], outward[..., 2])
    gain = 1 + scene.flicker[index] * torch.sin(2 * torch.pi * scene.flicker_hz[index] * t + scene.flicker_phase[index])
    light = torch.einsum("vnji,vj->vni", object_rotation, scene.light[index] * (scene.diffuse[index] * gain)[:, None])
    footprint = scene.softness[index] * SIZE / camera.fx
    texel = scene.tiling[index] * footprint[:, None]
    columns = [
        *turn.flatten(2).unbind(-1),  # 0 to 8
        *origin.unbind(-1),  # 9 to 11
        *outward.unbind(-1),  # 12 to 14
        flat.double(),  # 15: a plane has but one face
        (ball | tube).double(),  # 16
        tube.double(),  # 17: its ends are flat
        *factor.unbind(-1),  # 18 to 20
        *light.unbind(-1),  # 21 to 23
        (scene.ambient[index] * gain)[:, None].expand_as(texel),  # 24
        texel,  # 25
        (scene.texture[index] * TEXELS).double(),  # 26
        scene.tiling[index],  # 27
        *scene.shift[index].unbind(-1),  # 28, 29
        scene.contrast[index],  # 30
        scene.albedo[index],  # 31
    ]
    table = torch.stack(columns)
    sky = torch.zeros_like(table[..., :1])
    sky[:9, :, 0] = rotation.flatten(1).T
    sky[12:15] = 1.0
    sky[24] = 1.0
    sky[25, :, 0] = 0.3 * footprint
    sky[26, :, 0] = (scene.sky_texture[index] * TEXELS).double()
    sky[27] = 0.3
    sky[30] = 0.15
    sky[31, :, 0] = scene.sky[index]
    return torch.cat([table, sky], -1)


def _direction(turn: Tensor, rays: Tensor) -> Tensor:
    """Rays in the object's axes: [P, 3, 3] and [P, 3, pixels] to [P, 3, pixels]."""
    return torch.bmm(turn, rays)


def _plane(turn: Tensor, origin: Tensor, half: Tensor, rays: Tensor) -> Tensor:
    """Depth of z = 0, seen from above: [P, pixels], inf where missed."""
    d = torch.bmm(turn[:, 2:], rays).squeeze(1)
    t = -origin[:, 2:] / d
    return torch.where((d < 0) & (t > NEAR_M), t, torch.inf)


def _slabs(d: Tensor, origin: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave |p| < half on every axis: [P, axes, pixels] each."""
    inverse = d.reciprocal()
    middle = -origin[..., None] * inverse
    reach = half[..., None] * inverse.abs()
    # A ray along a slab (1 / 0) is inside of it or not: inf - inf is NaN, which must not decide.
    return (middle - reach).nan_to_num_(-torch.inf, torch.inf, -torch.inf), (middle + reach).nan_to_num_(
        torch.inf, torch.inf, -torch.inf
    )


def _first(enter: Tensor, leave: Tensor) -> Tensor:
    """The first depth in front of the camera."""
    t = torch.where(enter > NEAR_M, enter, leave)
    return torch.where((enter <= leave) & (t > NEAR_M), t, torch.inf)


def _box(turn: Tensor, origin: Tensor, half: Tensor, rays: Tensor) -> Tensor:
    enter, leave = _slabs(_direction(turn, rays), origin, half)
    return _first(enter.amax(1), leave.amin(1))


def _sphere(turn: Tensor, origin: Tensor, half: Tensor, rays: Tensor) -> Tensor:
    centre = -torch.einsum("pji,pj->pi", turn, origin)[..., None]  # in the camera's frame
    a = (rays * rays).sum(1)
    middle = (rays * centre).sum(1) / a
    # The distance of the ray from the centre, rather than b^2 - 4ac, which cancels for small and far spheres.
    aside = (centre - middle[:, None] * rays).square_().sum(1)
    reach = ((half[:, :1].square() - aside) / a).sqrt()  # NaN where it passes by
    return _first(middle - reach, middle + reach)


def _cylinder(turn: Tensor, origin: Tensor, half: Tensor, rays: Tensor) -> Tensor:
    d = _direction(turn, rays)
    across, at = d[:, :2], origin[:, :2, None]
    a = (across * across).sum(1)
    middle = -(across * at).sum(1) / a
    aside = (at + middle[:, None] * across).square_().sum(1)
    reach = ((half[:, :1].square() - aside) / a).sqrt()
    enter, leave = _slabs(d[:, 2:], origin[:, 2:], half[:, 2:])
    return _first(torch.maximum(middle - reach, enter[:, 0]), torch.minimum(middle + reach, leave[:, 0]))


_SHAPES = {PLANE: _plane, BOX: _box, SPHERE: _sphere, CYLINDER: _cylinder}
