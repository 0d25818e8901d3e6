"""Triton's kernels of batch norm in training, alone, with a mean over time or with a 2x2 max pool.

Activations are channels last: [pixels, channels] in memory. Sums are taken twice, by programs in float32 and then over
the programs, always in the same order. Importing this needs Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sdt_ros.runtime.gpu.triton_ops import larger, load


@triton.jit
def rounded(values: tl.tensor, like: tl.tensor) -> tl.tensor:
    """float32 as it would come back from memory of the format of a pointer."""
    return values.to(like.dtype.element_ty).to(tl.float32)


@triton.jit
def share(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """Share of the gradient of max(a, b) that goes to a: a tie is shared, a NaN takes all."""
    return tl.where(a == b, 0.5, tl.where(a < b, 0.0, 1.0))


@triton.jit
def corner(pixel: tl.tensor, columns: tl.constexpr) -> tl.tensor:
    """Number of the upper left one of the four pixels below a pooled pixel; `columns` is the pooled width."""
    return (pixel // columns).to(tl.int64) * (4 * columns) + 2 * (pixel % columns)


@triton.jit
def add_tile(
    partial: tl.tensor, first: tl.tensor, second: tl.tensor, channels: tl.tensor, block_c: tl.constexpr
) -> None:
    """Write the two sums of a program to `partial` [2, programs, channels]."""
    channel = tl.program_id(1) * block_c + tl.arange(0, block_c)
    at = partial + tl.program_id(0) * channels + channel
    tl.store(at, tl.sum(first, 0), mask=channel < channels)
    tl.store(at + tl.num_programs(0) * channels, tl.sum(second, 0), mask=channel < channels)


@triton.jit
def moments_kernel(
    x: tl.tensor,
    partial: tl.tensor,
    pixels: tl.tensor,
    share_of: tl.tensor,
    channels: tl.tensor,
    block_r: tl.constexpr,
    block_c: tl.constexpr,
) -> None:
    """Sums of x - x[0] and of its square.

    Args:
        x: [pixels, channels].
        partial: [2, programs, channels] float32, written.
        pixels: their number.
        share_of: pixels that a program takes, a multiple of `block_r`.
        channels: their number.
        block_r: pixels of a tile.
        block_c: channels of a tile.
    """
    channel = tl.program_id(1) * block_c + tl.arange(0, block_c)[None, :]
    row = tl.arange(0, block_r)[:, None]
    around = load(x + channel, channel < channels)
    first = tl.zeros((block_r, block_c), tl.float32)
    second = tl.zeros((block_r, block_c), tl.float32)
    begin = tl.program_id(0) * share_of
    for start in range(begin, tl.minimum(begin + share_of, pixels), block_r):
        inside = (start + row < pixels) & (channel < channels)
        at = x + tl.full((), 1, tl.int64) * start * channels + row * channels + channel
        value = tl.where(inside, load(at, inside) - around, 0.0)
        first += value
        second += value * value
    add_tile(partial, first, second, channels, block_c)


@triton.jit
def total(
    partial: tl.tensor, programs: tl.tensor, channel: tl.tensor, channels: tl.tensor, block_r: tl.constexpr
) -> tl.tensor:
    """Sum of [programs, channels] over the programs."""
    program = tl.arange(0, block_r)[:, None]
    sums = tl.zeros((block_r, channel.shape[0]), tl.float32)
    for start in range(0, programs, block_r):
        at = partial + (start + program) * channels + channel[None, :]
        sums += load(at, (start + program < programs) & (channel[None, :] < channels))
    return tl.sum(sums, 0)


@triton.jit
def statistics_kernel(
    x: tl.tensor,
    partial: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    running_mean: tl.tensor,
    running_var: tl.tensor,
    batches: tl.tensor,
    facts: tl.tensor,
    programs: tl.tensor,
    channels: tl.tensor,
    count: tl.tensor,
    momentum: tl.tensor,
    epsilon: tl.tensor,
    block_r: tl.constexpr,
    block_c: tl.constexpr,
) -> None:
    """From the sums of `moments_kernel` to mean, inverse deviation, scale and offset; moves the running statistics.

    Args:
        x: input of the norm, of which the first pixel is read.
        partial: [2, programs, channels] float32.
        weight: [channels] float32.
        bias: [channels] float32.
        running_mean: [channels] float32, or None.
        running_var: [channels] float32, or None.
        batches: int64, counted up, or None.
        facts: [4, channels] float32, written: mean, inverse deviation, scale, offset.
        programs: of the sums.
        channels: their number.
        count: values of a channel, float32.
        momentum: of the running statistics.
        epsilon: added to the variance.
        block_r: sums taken at a time.
        block_c: channels of a program.
    """
    channel = tl.program_id(0) * block_c + tl.arange(0, block_c)
    inside = channel < channels
    offset = total(partial, programs, channel, channels, block_r) / count
    square = total(partial + programs * channels, programs, channel, channels, block_r) / count
    variance = tl.maximum(square - offset * offset, 0.0)
    mean = load(x + channel, inside) + offset
    inverse = 1.0 / tl.sqrt(variance + epsilon)
    scale = load(weight + channel, inside) * inverse
    tl.store(facts + channel, mean, mask=inside)
    tl.store(facts + channels + channel, inverse, mask=inside)
    tl.store(facts + 2 * channels + channel, scale, mask=inside)
    tl.store(facts + 3 * channels + channel, load(bias + channel, inside) - mean * scale, mask=inside)
    if running_mean is not None:
        before = load(running_mean + channel, inside)
        tl.store(running_mean + channel, before + momentum * (mean - before), mask=inside)
        before = load(running_var + channel, inside)
        unbiased = variance * (count / (count - 1.0))
        tl.store(running_var + channel, before + momentum * (unbiased - before), mask=inside)
    if batches is not None:  # noqa: SIM102  two conditions: one of them is known when this is compiled
        if tl.program_id(0) == 0:
            tl.store(batches, tl.load(batches) + 1)


@triton.jit
def normalise_kernel(
    x: tl.tensor,
    facts: tl.tensor,
    y: tl.tensor,
    values: tl.tensor,
    channels: tl.constexpr,
    steps: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Write y [values], the mean over steps of the normalised x [steps, values]."""
    begin = tl.program_id(0).to(tl.int64) * block
    lane = tl.arange(0, block)
    inside = begin + lane < values
    channel = ((begin % channels).to(tl.int32) + lane) % channels
    scale, offset = load(facts + 2 * channels + channel, inside), load(facts + 3 * channels + channel, inside)
    result = tl.zeros((block,), tl.float32)
    for step in tl.static_range(steps):
        result += tl.fma(load(x + begin + step * (tl.full((), 1, tl.int64) * values) + lane, inside), scale, offset)
    tl.store(y + begin + lane, result * (1.0 / steps), mask=inside)


@triton.jit
def pool_kernel(
    x: tl.tensor,
    facts: tl.tensor,
    y: tl.tensor,
    values: tl.tensor,
    channels: tl.constexpr,
    columns: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Write y [values], the 2x2 max of the normalised x; `columns` is the pooled width."""
    begin = tl.program_id(0).to(tl.int64) * block
    lane = tl.arange(0, block)
    inside = begin + lane < values
    local = (begin % channels).to(tl.int32) + lane
    channel = local % channels
    at = x + corner((begin // channels).to(tl.int32) + local // channels, columns) * channels + channel
    scale, offset = load(facts + 2 * channels + channel, inside), load(facts + 3 * channels + channel, inside)
    below = 2 * columns * channels
    left = larger(tl.fma(load(at, inside), scale, offset), tl.fma(load(at + below, inside), scale, offset))
    at += channels
    right = larger(tl.fma(load(at, inside), scale, offset), tl.fma(load(at + below, inside), scale, offset))
    tl.store(y + begin + lane, larger(left, right), mask=inside)


@triton.jit
def grad_moments_kernel(
    x: tl.tensor,
    grad: tl.tensor,
    facts: tl.tensor,
    partial: tl.tensor,
    pixels: tl.tensor,
    grad_pixels: tl.tensor,
    share_of: tl.tensor,
    channels: tl.tensor,
    block_r: tl.constexpr,
    block_c: tl.constexpr,
) -> None:
    """Sums of g and of g * (x - mean), where g [grad_pixels, channels] is the same for each step of x."""
    channel = tl.program_id(1) * block_c + tl.arange(0, block_c)[None, :]
    row = tl.arange(0, block_r)[:, None]
    mean = load(facts + channel, channel < channels)
    first = tl.zeros((block_r, block_c), tl.float32)
    second = tl.zeros((block_r, block_c), tl.float32)
    begin = tl.program_id(0) * share_of
    for start in range(begin, tl.minimum(begin + share_of, pixels), block_r):
        pixel = start + row
        inside = (pixel < pixels) & (channel < channels)
        value = load(x + tl.full((), 1, tl.int64) * start * channels + row * channels + channel, inside)
        g = load(grad + (pixel % grad_pixels).to(tl.int64) * channels + channel, inside)
        first += g
        second += g * (value - mean)
    add_tile(partial, first, second, channels, block_c)


@triton.jit
def route(
    at: tl.tensor,
    g: tl.tensor,
    below: tl.tensor,
    channels: tl.tensor,
    scale: tl.tensor,
    offset: tl.tensor,
    inside: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The four values below a pooled one, and what of its gradient goes to the norm's output at each.

    Values are compared as rounded to their format: ties are decided by that. Rows are pooled first, then columns.
    """
    a, b = load(at, inside), load(at + below, inside)
    c, d = load(at + channels, inside), load(at + channels + below, inside)
    y_a, y_b = rounded(tl.fma(a, scale, offset), at), rounded(tl.fma(b, scale, offset), at)
    y_c, y_d = rounded(tl.fma(c, scale, offset), at), rounded(tl.fma(d, scale, offset), at)
    left, right = larger(y_a, y_b), larger(y_c, y_d)
    g_left, g_right = g * share(left, right), g * share(right, left)
    return (
        a, b, c, d, g_left * share(y_a, y_b), g_left * share(y_b, y_a), g_right * share(y_c, y_d),
        g_right * share(y_d, y_c),
    )  # fmt: skip


@triton.jit
def pool_grad_moments_kernel(
    x: tl.tensor,
    grad: tl.tensor,
    facts: tl.tensor,
    partial: tl.tensor,
    pixels: tl.tensor,
    columns: tl.constexpr,
    share_of: tl.tensor,
    channels: tl.tensor,
    block_r: tl.constexpr,
    block_c: tl.constexpr,
) -> None:
    """The same sums where g comes from the gradient of pooled pixels, [pixels, channels], `columns` a row."""
    channel = tl.program_id(1) * block_c + tl.arange(0, block_c)[None, :]
    row = tl.arange(0, block_r)[:, None]
    there = channel < channels
    mean = load(facts + channel, there)
    scale, offset = load(facts + 2 * channels + channel, there), load(facts + 3 * channels + channel, there)
    first = tl.zeros((block_r, block_c), tl.float32)
    second = tl.zeros((block_r, block_c), tl.float32)
    below = 2 * columns * channels
    begin = tl.program_id(0) * share_of
    for start in range(begin, tl.minimum(begin + share_of, pixels), block_r):
        pixel = start + row
        inside = (pixel < pixels) & there
        g = load(grad + pixel.to(tl.int64) * channels + channel, inside)
        at = x + corner(pixel, columns) * channels + channel
        a, b, c, d, g_a, g_b, g_c, g_d = route(at, g, below, channels, scale, offset, inside)
        first += tl.where(inside, g_a + g_b + g_c + g_d, 0.0)
        moment = g_a * (a - mean) + g_b * (b - mean) + g_c * (c - mean) + g_d * (d - mean)
        second += tl.where(inside, moment, 0.0)
    add_tile(partial, first, second, channels, block_c)


@triton.jit
def gradient_facts_kernel(
    partial: tl.tensor,
    weight: tl.tensor,
    facts: tl.tensor,
    slopes: tl.tensor,
    grad_weight: tl.tensor,
    grad_bias: tl.tensor,
    programs: tl.tensor,
    channels: tl.tensor,
    count: tl.tensor,
    steps: tl.tensor,
    block_r: tl.constexpr,
    block_c: tl.constexpr,
) -> None:
    """From sums of g and g * (x - mean) to the parameters' gradients and the input's, gain * g + slope * x + constant.

    Args:
        partial: [2, programs, channels] float32.
        weight: [channels] float32.
        facts: [4, channels] float32 of `statistics_kernel`.
        slopes: [3, channels] float32, written: gain, slope, constant.
        grad_weight: [channels] float32, written.
        grad_bias: [channels] float32, written.
        programs: of the sums.
        channels: their number.
        count: values of a channel, float32.
        steps: over which the norm's output is averaged, float32: g is that many times too large.
        block_r: sums taken at a time.
        block_c: channels of a program.
    """
    channel = tl.program_id(0) * block_c + tl.arange(0, block_c)
    inside = channel < channels
    first = total(partial, programs, channel, channels, block_r) / steps
    second = total(partial + programs * channels, programs, channel, channels, block_r) / steps
    mean, inverse = load(facts + channel, inside), load(facts + channels + channel, inside)
    gain = load(weight + channel, inside) * inverse
    slope = -gain * inverse * inverse * second / count
    tl.store(slopes + channel, gain / steps, mask=inside)
    tl.store(slopes + channels + channel, slope, mask=inside)
    tl.store(slopes + 2 * channels + channel, -gain * first / count - slope * mean, mask=inside)
    tl.store(grad_weight + channel, second * inverse, mask=inside)
    tl.store(grad_bias + channel, first, mask=inside)


@triton.jit
def grad_input_kernel(
    x: tl.tensor,
    grad: tl.tensor,
    slopes: tl.tensor,
    grad_x: tl.tensor,
    values: tl.tensor,
    channels: tl.constexpr,
    steps: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Write the gradient of x [steps, values] from that of its normalised mean [values]."""
    begin = tl.program_id(0).to(tl.int64) * block
    lane = tl.arange(0, block)
    inside = begin + lane < values
    channel = ((begin % channels).to(tl.int32) + lane) % channels
    gain, slope = load(slopes + channel, inside), load(slopes + channels + channel, inside)
    part = tl.fma(load(grad + begin + lane, inside), gain, load(slopes + 2 * channels + channel, inside))
    for step in tl.static_range(steps):
        at = begin + step * (tl.full((), 1, tl.int64) * values) + lane
        tl.store(grad_x + at, tl.fma(load(x + at, inside), slope, part), mask=inside)


@triton.jit
def pool_grad_input_kernel(
    x: tl.tensor,
    grad: tl.tensor,
    facts: tl.tensor,
    slopes: tl.tensor,
    grad_x: tl.tensor,
    values: tl.tensor,
    channels: tl.constexpr,
    columns: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Write the gradient of x from that of its normalised and pooled values, `columns` a row."""
    begin = tl.program_id(0).to(tl.int64) * block
    lane = tl.arange(0, block)
    inside = begin + lane < values
    local = (begin % channels).to(tl.int32) + lane
    channel = local % channels
    at = corner((begin // channels).to(tl.int32) + local // channels, columns) * channels + channel
    scale, offset = load(facts + 2 * channels + channel, inside), load(facts + 3 * channels + channel, inside)
    gain, slope = load(slopes + channel, inside), load(slopes + channels + channel, inside)
    constant = load(slopes + 2 * channels + channel, inside)
    g = load(grad + begin + lane, inside)
    below = 2 * columns * channels
    a, b, c, d, g_a, g_b, g_c, g_d = route(x + at, g, below, channels, scale, offset, inside)
    tl.store(grad_x + at, tl.fma(a, slope, tl.fma(g_a, gain, constant)), mask=inside)
    tl.store(grad_x + at + below, tl.fma(b, slope, tl.fma(g_b, gain, constant)), mask=inside)
    at += channels
    tl.store(grad_x + at, tl.fma(c, slope, tl.fma(g_c, gain, constant)), mask=inside)
    tl.store(grad_x + at + below, tl.fma(d, slope, tl.fma(g_d, gain, constant)), mask=inside)
