"""Networks after well-known ones, written by hand in the vocabulary of the DeepNets space, at the size of a space."""

from __future__ import annotations

from typing import TYPE_CHECKING

from architectures.spaces.deepnets_text import DeepNet, parse
from architectures.tape import STEP

if TYPE_CHECKING:
    from architectures.spaces.deepnets import DeepNets

# {0}, {1}, {2}: the largest widths of the last three resolutions; {patch}: the finest patches that may be tokens, and
# {tokens} the largest width there.
TEMPLATES = {
    # He et al. 2016: two basic blocks a stage, without the first 7x7 of stride 4, as for small images.
    "resnet18": "conv3 batch relu | {0} basic basic | block>{1} basic basic | block>{2} basic basic | average",
    "resnet50": "conv3 batch relu | {0} bottle bottle | block>{1} bottle bottle bottle | "
    "block>{2} bottle bottle bottle | average",
    # Howard et al. 2017 and Sandler et al. 2018.
    "mobilenet": "conv3 batch relu | {0} sep | conv3>{1} sep sep | conv3>{2} sep sep | average",
    "mobilenet2": "half3 batch relu | {1} mb-e1 mb | block>{2} mb-e1 mb-e1 | average",
    # Tan & Le 2019.
    "efficientnet": "half3 batch silu | {1} mb-e1-se mb-k5-e1-se | block>{2} mb-k5-e1-se mb-e1-se | average",
    # Dosovitskiy et al. 2021, Tolstikhin et al. 2021.
    "vit": "{patch} layer gelu | {tokens} pos attn mlp-e1 attn mlp-e1 attn mlp-e1 attn mlp-e1 | average",
    "mixer": "{patch} layer gelu | {tokens} mix mlp-e1 mix mlp-e1 mix mlp-e1 | average",
    # Liu et al. 2022.
    "convnext": "patch2 layer gelu | {1} next-e1 next-e1 | conv2>{2} next-e1 next-e1 next-e1 | average",
    # Huang et al. 2017, Xie et al. 2017, Szegedy et al. 2015.
    "densenet": "conv3 batch relu | {0} dense-n2-w4 | avg>{1} dense-n3-w4 | avg>{2} dense-n3-w4 | average",
    "resnext": "conv3 batch relu | {0} bottle-g2 bottle-g2 | block>{1} bottle-g4 bottle-g4 | "
    "block>{2} bottle-g2 bottle-g2 | average",
    "inception": "conv3 batch relu | {0} cat:conv1+conv3+max | max>{1} cat:conv1+conv3+max cat:conv1+conv3+max | "
    "max>{2} cat:conv1+conv3+max | average",
}

# At their own widths and depths, for images of 32x32 pixels; a stage more than most spaces have.
FULL_SIZE = {
    "resnet18": "conv3 batch relu | 64 basic basic | block>128 basic basic | block>256 basic basic | "
    "block>512 basic basic | average",
    "mobilenet2": "conv3 batch relu | 32 mb-e2 mb-e4 | block>64 mb-e4 mb-e4 | block>96 mb-e4 mb-e4 | "
    "block>160 mb-e4 mb-e4 | average",
    "efficientnet": "conv3 batch silu | 24 mb-e4-se mb-e4-se | block>40 mb-k5-e4-se mb-k5-e4-se | "
    "block>80 mb-k5-e4-se mb-e4-se | block>192 mb-k5-e4-se mb-e4-se | average",
    "vit": "patch4 layer gelu | 192 pos " + " ".join(["attn-h4 mlp-e4"] * 12) + " | average",
    "mixer": "patch4 layer gelu | 192 " + " ".join(["mix-e2 mlp-e4"] * 8) + " | average",
    "convnext": "patch2 layer gelu | 96 next-e4 next-e4 next-e4 | conv2>192 next-e4 next-e4 next-e4 | "
    "conv2>384 next-e4 next-e4 next-e4 | average",
}


def full_size() -> dict[str, DeepNet]:
    """The same at full size: no networks of a space, but `lower` and `tape_plain.forward` make models of them."""
    return {name: parse(text) for name, text in FULL_SIZE.items()}


def models(space: DeepNets) -> dict[str, DeepNet]:
    """By name; what does not fit into the space is among them too."""
    widths = [width // (2 * STEP) * (2 * STEP) for width in space.widths[-3:]]
    if len(widths) < 3:
        return {}
    patch, section = ("patch2", 1) if space.shape.has_tokens(1) else ("patch4", 2)
    named = {"patch": patch, "tokens": space.widths[section] // (2 * STEP) * (2 * STEP)}
    return {name: parse(template.format(*widths, **named)) for name, template in TEMPLATES.items()}
