"""Small models of tokens, signals and graphs, one for each thing that real ones contain (Flax Linen)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class GPT(nn.Module):
    """Learned positions looked up by constants, causal masks, the embedding tied to the output."""

    @nn.compact
    def __call__(self, tokens: jax.Array, deterministic: bool) -> jax.Array:
        embed = nn.Embed(50, 16)
        x = embed(tokens) + nn.Embed(32, 16)(jnp.arange(tokens.shape[1]))
        mask = nn.make_causal_mask(tokens)
        for _ in range(2):
            y = nn.MultiHeadDotProductAttention(2, kernel_init=nn.initializers.normal(0.02))(
                nn.LayerNorm()(x), mask=mask
            )
            x = x + nn.Dropout(0.1)(y, deterministic=deterministic)
            x = x + nn.Dense(16)(nn.gelu(nn.Dense(64)(nn.LayerNorm()(x))))
        return embed.attend(nn.LayerNorm()(x))


class RMSNorm(nn.Module):
    """With 1 + scale."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.zeros, (x.shape[-1],))
        return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6) * (1 + scale)


class Gemma(nn.Module):
    """RMS norms, rotary positions, one key for all queries, gated MLPs by einsum, soft-capped tied logits."""

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        table = self.param("embedding", nn.initializers.normal(0.02), (60, 16))
        x = table[tokens] * 4.0
        angles = jnp.arange(tokens.shape[1])[:, None] * 10_000 ** (-jnp.arange(4) / 4)

        def rotated(x: jax.Array) -> jax.Array:
            first, second = jnp.split(x, 2, -1)
            sin, cos = jnp.sin(angles)[:, None], jnp.cos(angles)[:, None]
            return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

        for layer in range(2):
            y = RMSNorm()(x)
            init = nn.initializers.lecun_normal()
            query = jnp.einsum("btd,ndh->btnh", y, self.param(f"q{layer}", init, (2, 16, 8)))
            key, value = jnp.einsum("btd,cndh->cbtnh", y, self.param(f"kv{layer}", init, (2, 1, 16, 8)))
            scores = jnp.einsum("btnh,bsmh->bnts", rotated(query), rotated(key)) * 8**-0.5
            causal = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))
            weights = jax.nn.softmax(jnp.where(causal, scores, -1e9))
            mixed = jnp.einsum("bnts,bsmh->btnh", weights, value)
            x = x + jnp.einsum("btnh,nhd->btd", mixed, self.param(f"o{layer}", init, (2, 8, 16)))
            y = RMSNorm()(x)
            gates = jnp.einsum("btd,cdf->cbtf", y, self.param(f"gate{layer}", init, (2, 16, 32)))
            x = x + (jax.nn.gelu(gates[0]) * gates[1]) @ self.param(f"down{layer}", init, (32, 16))
        return 30 * jnp.tanh(RMSNorm()(x) @ table.T / 30)


class Mamba(nn.Module):
    """A selective state space over time: A_log, D, dt_bias, a depthwise convolution, a gated norm."""

    heads: int = 4

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Embed(40, 16)(tokens)
        inner, state = 32, 8
        y = RMSNorm()(x)
        places = [inner, 2 * inner + 2 * state]
        gate, xbc, step = jnp.split(nn.Dense(places[1] + self.heads, use_bias=False)(y), places, -1)
        width = xbc.shape[-1]
        xbc = nn.silu(nn.Conv(width, (4,), padding=((3, 0),), feature_group_count=width)(xbc))
        hidden, b, c = jnp.split(xbc, [inner, inner + state], -1)
        steps = self.param("dt_bias", lambda key, shape: jnp.linspace(-5.0, -2.0, *shape), (self.heads,))
        rates = self.param("A_log", lambda key, shape: jnp.log(jnp.arange(1.0, 1 + shape[0])), (self.heads,))
        step = nn.softplus(step + steps)
        decay = jnp.exp(-jnp.exp(rates) * step)
        hidden = hidden.reshape(*hidden.shape[:2], self.heads, -1)

        def advance(carry: jax.Array, row: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
            decay_t, x_t, b_t, c_t = row
            carry = carry * decay_t[..., None, None] + x_t[..., None] * b_t[:, None, None]
            return carry, jnp.einsum("bhpn,bn->bhp", carry, c_t)

        rows = jax.tree.map(lambda a: a.swapaxes(0, 1), (decay, hidden * step[..., None], b, c))
        zero = jnp.zeros((len(tokens), self.heads, hidden.shape[-1], state))
        _, out = jax.lax.scan(advance, zero, rows)
        out = out.swapaxes(0, 1) + hidden * self.param("D", nn.initializers.ones, (self.heads,))[:, None]
        out = RMSNorm()(out.reshape(*gate.shape) * nn.silu(gate))
        return nn.Dense(40)(x + nn.Dense(16, use_bias=False)(out))


class Seq2Seq(nn.Module):
    """An LSTM reads, another writes: weights shared over time, zero initial carries, gates of several leaves."""

    @nn.compact
    def __call__(self, source: jax.Array, target: jax.Array) -> jax.Array:
        embed = nn.Embed(30, 12)
        carry, _ = nn.RNN(nn.OptimizedLSTMCell(16), return_carry=True)(embed(source))
        hidden = nn.RNN(nn.LSTMCell(16))(embed(target), initial_carry=carry)
        hidden = nn.RNN(nn.GRUCell(8))(hidden)
        return nn.Dense(30)(hidden)


class Conformer(nn.Module):
    """1-D signals: strided convolutions, half-step MLPs, gated depthwise convolutions, relative positions."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.relu(nn.Conv(16, (5,), (2,))(x))
        for _ in range(2):
            x = x + 0.5 * nn.Dense(16)(nn.silu(nn.Dense(32)(nn.LayerNorm()(x))))
            x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
            y = nn.glu(nn.Dense(32)(nn.LayerNorm()(x)))
            y = nn.Conv(16, (7,), feature_group_count=16)(y)
            x = x + nn.Dense(16)(nn.silu(nn.BatchNorm(use_running_average=not train)(y)))
            x = nn.LayerNorm()(x)
        return nn.Dense(20)(x)


class GNN(nn.Module):
    """Messages along edges, summed at nodes."""

    @nn.compact
    def __call__(self, nodes: jax.Array, senders: jax.Array, receivers: jax.Array) -> jax.Array:
        x = nn.Dense(16)(nodes)
        for _ in range(2):
            messages = nn.relu(nn.Dense(16)(jnp.concatenate([x[senders], x[receivers]], -1)))
            total = jax.ops.segment_sum(messages, receivers, num_segments=len(nodes))
            x = x + nn.Dense(16)(total)
        return nn.Dense(10)(nn.PReLU()(x).max(0))


class GraphNetwork(nn.Module):
    """Edges, nodes and a summary updated in turn by MLPs: a long chain without any normalisation."""

    @nn.compact
    def __call__(self, nodes: jax.Array, senders: jax.Array, receivers: jax.Array) -> jax.Array:
        def mlp(*parts: jax.Array) -> jax.Array:
            return nn.Dense(12)(nn.relu(nn.Dense(24)(jnp.concatenate(parts, -1))))

        x, edges = nn.Dense(12)(nodes), nn.Dense(12)(nodes[senders] - nodes[receivers])
        summary = jnp.zeros(12)
        for _ in range(3):
            edges = mlp(edges, x[senders], x[receivers], jnp.tile(summary, (len(senders), 1)))
            total = jax.ops.segment_sum(edges, receivers, num_segments=len(nodes))
            x = mlp(x, total, jnp.tile(summary, (len(nodes), 1)))
            summary = mlp(x.mean(0), edges.mean(0), summary)
        return nn.Dense(4)(summary)


class Codebook(nn.Module):
    """Vectors replaced by the nearest of a table that they are also compared with."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(8)(x))
        table = self.param("table", nn.initializers.variance_scaling(1.0, "fan_in", "uniform"), (8, 20))
        distances = jnp.sum(x**2, -1, keepdims=True) - 2 * x @ table + jnp.sum(table**2, 0)
        nearest = table.T[jnp.argmin(distances, -1)]
        return nn.Dense(6)(x + jax.lax.stop_gradient(nearest - x))


class Twice(nn.Module):
    """One head applied to two inputs, a `while` loop, a `cond`, a temperature."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        head = nn.Dense(8)
        kernel = self.param("loop", nn.initializers.lecun_normal(), (8, 8))
        y = jax.lax.fori_loop(0, 3, lambda _, h: jnp.tanh(h @ kernel), head(x))
        y = y + head(x * 2)
        other = self.param("other", nn.initializers.lecun_normal(), (8, 8))
        y = jax.lax.cond(x.sum() > 0, lambda h: h @ other, lambda h: nn.relu(h), y)
        return y * jnp.exp(self.param("temperature", nn.initializers.constant(2.0), ()))


def integers(*shape: int, high: int = 30) -> jax.Array:
    """Token ids."""
    return jax.random.randint(jax.random.key(0), shape, 0, high)


def signal(*shape: int) -> jax.Array:
    """Normal noise."""
    return jax.random.normal(jax.random.key(0), shape)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "gpt": (GPT, lambda: (integers(2, 12),)),
    "gemma": (Gemma, lambda: (integers(2, 12),)),
    "mamba": (Mamba, lambda: (integers(2, 12),)),
    "seq2seq": (Seq2Seq, lambda: (integers(2, 12), integers(2, 10))),
    "conformer": (Conformer, lambda: (signal(2, 24, 8),)),
    "gnn": (GNN, lambda: (signal(9, 5), integers(20, high=9), integers(20, high=9))),
    "graph_network": (GraphNetwork, lambda: (signal(9, 5), integers(20, high=9), integers(20, high=9))),
    "codebook": (Codebook, lambda: (signal(7, 5),)),
    "twice": (Twice, lambda: (signal(2, 8),)),
}
