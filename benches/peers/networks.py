"""The network of a run description of `qat` in torch: sequences of convolutions, poolings and linear layers."""

import pathlib
import tomllib

from torch import nn

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "qat-trainer" / "configs"


def read(preset):
    """The run description of a preset, with those that it extends."""
    with (CONFIGS / f"{preset}.toml").open("rb") as file:
        run = tomllib.load(file)
    if "extends" not in run:
        return run
    base = read(run["extends"].removesuffix(".toml"))
    for section, values in run.items():
        if not isinstance(values, dict):
            base[section] = values
        elif section == "model" and isinstance(values["layers"], dict):
            for name, keys in values["layers"].items():
                index = int(name.lstrip("abcdefghijklmnopqrstuvwxyz-"))
                base["model"]["layers"][index] |= keys
        else:
            base.setdefault(section, {}).update(values)
    return base


def build(run, channels, conv=nn.Conv2d, linear=nn.Linear):
    """The network, its layers made by `conv` and `linear` from torch's arguments and `bits`.

    `channels` are those of an image or a series, or the features of a row.
    """
    layers = []
    for layer in run["model"]["layers"]:
        bits = layer.get("bits", run["qat"]["bits"])
        bias = not layer.get("bn", False)
        match layer["op"]:
            case "conv":
                out, stride, pad = layer["out"], layer.get("stride", 1), layer.get("pad", 0)
                made = conv(channels, out, layer["kernel"], stride, pad, bias=bias, bits=bits)
                layers += [made] if bias else [made, nn.BatchNorm2d(out)]
                channels = out
            case "linear":
                made = linear(channels, layer["out"], bias=bias, bits=bits)
                layers += [made] if bias else [made, nn.BatchNorm1d(layer["out"])]
                channels = layer["out"]
            case "max-pool":
                layers.append(nn.MaxPool2d(layer["kernel"]))
            case "global-avg-pool":
                layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            case other:
                raise SystemExit(f"no peer has the operator {other} here")
        if layer.get("act") == "relu":
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def weight_bytes(run, channels):
    """Bytes of the weights at their bits."""
    sizes = []

    def count(made):
        def make(*arguments, bits, **options):
            layer = made(*arguments, **options)
            sizes.append(layer.weight.numel() * bits)
            return layer

        return make

    build(run, channels, count(nn.Conv2d), count(nn.Linear))
    return sum(sizes) // 8
