"""The paper's network in PyTorch, as its users write it."""

import numpy as np


def unet(width: int, depth: int = 4):
    """float32 [B, 1, H, W] to logits [B, 2, H - border, W - border]."""
    import torch
    from torch import nn
    from torch.nn import functional

    def two(channels, filters):
        return nn.Sequential(
            nn.Conv2d(channels, filters, 3),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 3),
            nn.ReLU(),
        )

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            filters = [width * 2**level for level in range(depth + 1)]
            self.down = nn.ModuleList(map(two, [1, *filters], filters))
            pairs = list(zip(filters[:0:-1], filters[-2::-1], strict=True))
            self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs)
            self.join = nn.ModuleList(two(a, b) for a, b in pairs)
            self.logits = nn.Conv2d(width, 2, 1)

        def forward(self, x):
            skips = []
            for level, convolutions in enumerate(self.down):
                x = convolutions(functional.max_pool2d(x, 2) if level else x)
                skips.append(x)
            for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
                x = functional.relu(up(x))
                crop = (skip.shape[-1] - x.shape[-1]) // 2
                x = join(torch.cat([skip[..., crop:-crop, crop:-crop], x], 1))
            return self.logits(x)

    return UNet()


def copy_weights(weights: dict[str, np.ndarray], network) -> None:
    """Takes over the weights of our network, named LAYER/kernel and LAYER/bias."""
    import torch

    def take(layer, name: str) -> None:
        # [h, w, in, out] to [out, in, h, w]; transposed: [h, w, out, in] to [in, out..
        kernel = torch.from_numpy(
            weights[f"{name}/kernel"].transpose(3, 2, 0, 1).copy()
        )
        with torch.no_grad():
            layer.weight.copy_(kernel)
            layer.bias.copy_(torch.from_numpy(weights[f"{name}/bias"]))

    bottom = len(network.down)
    for level, convolutions in enumerate(network.down, start=1):
        take(convolutions[0], f"conv{level}_1")
        take(convolutions[2], f"conv{level}_2")
    for up, (layer, convolutions) in enumerate(
        zip(network.up, network.join, strict=True), start=1
    ):
        take(layer, f"upsampling{up}")
        take(convolutions[0], f"conv{bottom + up}_1")
        take(convolutions[2], f"conv{bottom + up}_2")
    take(network.logits, f"conv{2 * bottom}")
