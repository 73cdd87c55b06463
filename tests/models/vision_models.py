"""Small models of images, one for each thing that real ones contain; Flax Linen unless they say otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class ResNet(nn.Module):
    """Bottlenecks with batch normalisation; the last scale of a branch starts at 0."""

    widths: tuple[int, ...] = (8, 16)
    depths: tuple[int, ...] = (2, 2)
    classes: int = 10
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def norm(**arguments: Any) -> nn.BatchNorm:
            return nn.BatchNorm(use_running_average=not train, dtype=self.dtype, param_dtype=self.dtype, **arguments)

        def conv(width: int, kernel: int, stride: int = 1) -> nn.Conv:
            sizes = ((kernel, kernel), (stride, stride))
            return nn.Conv(width, *sizes, use_bias=False, dtype=self.dtype, param_dtype=self.dtype)

        x = nn.relu(norm()(conv(self.widths[0], 7, 2)(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            for block in range(depth):
                stride = 2 if stage and not block else 1
                y = nn.relu(norm()(conv(width, 1)(x)))
                y = nn.relu(norm()(conv(width, 3, stride)(y)))
                y = norm(scale_init=nn.initializers.zeros)(conv(4 * width, 1)(y))
                if x.shape != y.shape:
                    x = norm()(conv(4 * width, 1, stride)(x))
                x = nn.relu(x + y)
        return nn.Dense(self.classes, dtype=self.dtype, param_dtype=self.dtype)(x.mean((1, 2)))


class VGG(nn.Module):
    """Convolutions with biases, no normalisation, wide dense layers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in (8, 16, 32):
            for _ in range(2):
                x = nn.relu(nn.Conv(width, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(len(x), -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(96)(x))
        return nn.Dense(10)(x)


class StandardisedConv(nn.Module):
    """Weight standardisation, as in BiT: arithmetic on the kernel before it is used."""

    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, x.shape[-1], self.width))
        kernel = (kernel - kernel.mean((0, 1, 2))) / (kernel.std((0, 1, 2)) + 1e-5)
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (self.stride,) * 2, "SAME", dimension_numbers=numbers)


class BiT(nn.Module):
    """Group normalisation before weight-standardised convolutions; a head of zeros."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = StandardisedConv(16)(x)
        for _ in range(2):
            x = x + StandardisedConv(16)(nn.relu(nn.GroupNorm(4)(x)))
        x = nn.relu(nn.GroupNorm(4)(x)).mean((1, 2))
        return nn.Dense(10, kernel_init=nn.initializers.zeros)(x)


class EfficientNet(nn.Module):
    """Depthwise convolutions, SiLU, squeeze and excitation."""

    @nn.compact
    def __call__(self, x: jax.Array, training: bool) -> jax.Array:
        def norm() -> nn.BatchNorm:
            return nn.BatchNorm(use_running_average=not training)

        x = nn.silu(norm()(nn.Conv(8, (3, 3), (2, 2), use_bias=False)(x)))
        for width in (8, 16):
            y = nn.silu(norm()(nn.Conv(4 * x.shape[-1], (1, 1), use_bias=False)(x)))
            y = nn.Conv(y.shape[-1], (5, 5), feature_group_count=y.shape[-1], use_bias=False)(y)
            y = nn.silu(norm()(y))
            gate = nn.silu(nn.Conv(4, (1, 1))(y.mean((1, 2), keepdims=True)))
            y = y * nn.sigmoid(nn.Conv(y.shape[-1], (1, 1))(gate))
            y = norm()(nn.Conv(width, (1, 1), use_bias=False)(y))
            x = x + y if x.shape == y.shape else y
        return nn.Dense(10)(x.mean((1, 2)))


class ConvNeXt(nn.Module):
    """Depthwise 7 x 7, layer normalisation, GELU, a learned factor of 1e-6 on every branch."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.LayerNorm()(nn.Conv(12, (4, 4), (4, 4))(x))
        for _ in range(2):
            y = nn.LayerNorm()(nn.Conv(12, (7, 7), feature_group_count=12)(x))
            y = nn.Dense(12)(nn.gelu(nn.Dense(48)(y)))
            x = x + y * self.param(f"gamma{_}", nn.initializers.constant(1e-6), (12,))
        return nn.Dense(10)(nn.LayerNorm()(x.mean((1, 2))))


class ConvMixer(nn.Module):
    """Activations in front of batch normalisation, residuals around half of a layer, many layers."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def layer(x: jax.Array, kernel: int, groups: int = 1, stride: int = 1) -> jax.Array:
            x = nn.gelu(nn.Conv(12, (kernel, kernel), (stride, stride), feature_group_count=groups)(x))
            return nn.BatchNorm(use_running_average=not train)(x)

        x = layer(x, 4, stride=4)
        for _ in range(6):
            x = layer(x + layer(x, 5, groups=12), 1)
        return nn.Dense(10)(x.mean((1, 2)))


class DenseNet(nn.Module):
    """Concatenations."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(8, (3, 3))(x)
        for _ in range(3):
            y = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
            x = jnp.concatenate([x, nn.Conv(4, (3, 3))(y)], -1)
        return nn.Dense(10)(x.mean((1, 2)))


class Mixer(nn.Module):
    """Dense layers over tokens and over channels, on transposed views."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(16, (4, 4), (4, 4))(x).reshape(len(x), -1, 16)
        for _ in range(2):
            y = nn.LayerNorm()(x).swapaxes(1, 2)
            x = x + nn.Dense(x.shape[1])(nn.gelu(nn.Dense(12)(y))).swapaxes(1, 2)
            x = x + nn.Dense(16)(nn.gelu(nn.Dense(24)(nn.LayerNorm()(x))))
        return nn.Dense(10)(nn.LayerNorm()(x).mean(1))


class Block(nn.Module):
    """A transformer's."""

    @nn.compact
    def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
        x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
        return x + nn.Dense(16)(nn.gelu(nn.Dense(32)(nn.LayerNorm()(x)))), None


class ViT(nn.Module):
    """Layers in a scan (with rematerialisation), class token, positions, or a probe that attends (MAP)."""

    scan: bool = True
    layers: int = 3
    probe: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(16, (4, 4), (4, 4))(x).reshape(len(x), -1, 16)
        if not self.probe:
            token = self.param("token", nn.initializers.zeros, (1, 1, 16))
            x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], 1)
        x = x + self.param("position", nn.initializers.normal(0.02), (1, x.shape[1], 16))
        if self.scan:
            stack = nn.scan(nn.remat(Block), {"params": 0}, split_rngs={"params": True}, length=self.layers)
            x, _ = stack()(x, None)
        else:
            for _ in range(self.layers):
                x, _ = Block()(x)
        x = nn.LayerNorm()(x)
        if self.probe:
            probe = jnp.tile(self.param("probe", nn.initializers.xavier_uniform(), (1, 1, 16)), (len(x), 1, 1))
            x = nn.MultiHeadDotProductAttention(4)(probe, x)
        return nn.Dense(10)(x[:, 0])


class Swin(nn.Module):
    """Windows, shifted, with a table of relative positions that constants look up; merged patches, normalised."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(16, (2, 2), (2, 2))(x)
        grid = jnp.stack(jnp.meshgrid(jnp.arange(4), jnp.arange(4), indexing="ij"), -1).reshape(-1, 2)
        relative = (grid[:, None] - grid[None] + 3) @ jnp.array([7, 1])
        for layer in range(2):
            batch, height, width, channels = x.shape
            y = jnp.roll(nn.LayerNorm()(x), -2 * layer, (1, 2))
            y = y.reshape(batch, height // 4, 4, width // 4, 4, channels).swapaxes(2, 3).reshape(-1, 16, channels)
            query, key, value = jnp.split(nn.Dense(48)(y).reshape(-1, 16, 4, 12), 3, -1)
            table = self.param(f"table{layer}", nn.initializers.normal(0.02), (49, 4))
            scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / 2 + table[relative].transpose(2, 0, 1)
            y = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), value).reshape(-1, 16, 16)
            y = nn.Dense(16)(y).reshape(batch, height // 4, width // 4, 4, 4, channels).swapaxes(2, 3)
            x = x + jnp.roll(y.reshape(x.shape), 2 * layer, (1, 2))
        x = jnp.concatenate([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        x = nn.Dense(32, use_bias=False)(nn.LayerNorm(name="merged")(x))
        return nn.Dense(10)(nn.LayerNorm()(x).mean((1, 2)))


class ModulatedConv(nn.Module):
    """StyleGAN2's: a kernel for every image, multiplied by its style and normalised, run as a grouped convolution."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, style: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        kernel = self.param("kernel", nn.initializers.normal(1.0), (3, 3, channels, self.width))
        scale = nn.Dense(channels, bias_init=nn.initializers.ones, name="style")(style)
        kernel = kernel[None] * scale[:, None, None, :, None] * (9 * channels) ** -0.5
        kernel = kernel * jax.lax.rsqrt(jnp.sum(jnp.square(kernel), (1, 2, 3), keepdims=True) + 1e-8)
        kernel = kernel.transpose(1, 2, 3, 0, 4).reshape(3, 3, channels, -1)
        x = x.transpose(1, 2, 0, 3).reshape(1, height, width, -1)
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", feature_group_count=batch, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        y = y.reshape(height, width, batch, self.width).transpose(2, 0, 1, 3)
        noise = self.param("strength", nn.initializers.zeros, ()) * jnp.ones((height, width, 1))
        return nn.leaky_relu(y + noise + self.param("bias", nn.initializers.zeros, (self.width,)))


class StyleGAN(nn.Module):
    """A learned constant, styles, modulated convolutions, upsampling and a transposed convolution."""

    @nn.compact
    def __call__(self, latent: jax.Array) -> jax.Array:
        for _ in range(2):
            latent = nn.leaky_relu(nn.Dense(16)(latent))
        x = jnp.tile(self.param("constant", nn.initializers.normal(1.0), (1, 4, 4, 8)), (len(latent), 1, 1, 1))
        for width in (8, 6):
            x = ModulatedConv(width)(x, latent)
            x = jax.image.resize(x, (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], width), "nearest")
        return nn.ConvTranspose(3, (4, 4), (2, 2))(x)


class Local(nn.Module):
    """A convolution whose kernels are not shared between places, and an ensemble of heads."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.ConvLocal(6, (3, 3), (2, 2))(x)).mean((1, 2))
        axes: dict[str, Any] = {"in_axes": None, "out_axes": 0, "axis_size": 5}
        heads = nn.vmap(nn.Dense, **axes, variable_axes={"params": 0}, split_rngs={"params": True})
        return heads(3)(x).mean(0)


class Hybrid(nn.Module):
    """Pooling attention: keys and values of a strided convolution (PVT), with a 3-D input squeezed to images."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(8, (2, 3, 3), padding="VALID")(x)).mean(1)
        tokens = x.reshape(len(x), -1, 8)
        reduced = nn.LayerNorm()(nn.Conv(8, (2, 2), (2, 2))(x).reshape(len(x), -1, 8))
        y = nn.MultiHeadDotProductAttention(2)(tokens, reduced)
        return nn.Dense(10)((tokens + y).mean(1))


def torch_layout(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Plain functions in PyTorch's layouts: NCHW images, OIHW kernels, (out, in) matrices."""
    for name in ("first", "second"):
        x = jax.lax.conv_general_dilated(x, params[name], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
        x = jax.nn.relu(x + params[f"{name}_bias"][:, None, None])
    return x.mean((2, 3)) @ params["head"].T + params["head_bias"]


def torch_params() -> dict[str, jax.ShapeDtypeStruct]:
    """Their shapes."""
    shapes = {
        "first": (8, 3, 3, 3),
        "first_bias": (8,),
        "second": (12, 8, 5, 3),
        "second_bias": (12,),
        "head": (10, 12),
        "head_bias": (10,),
    }
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


IMAGE = (2, 16, 16, 3)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (ResNet, (2, 32, 32, 3)),
    "resnet_bf16": (lambda: ResNet(dtype=jnp.bfloat16), (2, 32, 32, 3)),
    "vgg": (VGG, IMAGE),
    "bit": (BiT, IMAGE),
    "efficientnet": (EfficientNet, IMAGE),
    "convnext": (ConvNeXt, IMAGE),
    "convmixer": (ConvMixer, IMAGE),
    "densenet_grey": (DenseNet, (2, 16, 16, 1)),
    "mixer": (Mixer, IMAGE),
    "vit_scanned": (ViT, IMAGE),
    "vit_probe": (lambda: ViT(scan=False, probe=True), IMAGE),
    "swin": (Swin, IMAGE),
    "stylegan": (StyleGAN, (2, 16)),
    "local": (Local, IMAGE),
    "hybrid_3d": (Hybrid, (2, 3, 8, 8, 2)),
}
