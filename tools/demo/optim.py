"""Muon: momentum whose matrix updates are orthogonalised, for the hidden weight matrices; the rest takes AdamW."""
import torch


def orthogonalise(stack, steps=4):
    """Newton-Schulz iteration towards the nearest orthogonal matrices, for a stack [count, rows, columns]."""
    x = stack.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.775 * a + 2.0315 * (a @ a)) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    def __init__(self, parameters, lr, momentum=0.95, weight_decay=0.02):
        super().__init__(list(parameters), dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(tuple(p.shape), []).append(p)
            for (rows, columns), members in shapes.items():
                for p in members:
                    self.state[p].setdefault("momentum", torch.zeros_like(p))
                gradients, momenta = [p.grad for p in members], [self.state[p]["momentum"] for p in members]
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                mixed = torch.stack(gradients).lerp(torch.stack(momenta), group["momentum"])
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                torch._foreach_mul_(members, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(members, list(orthogonalise(mixed).unbind()), alpha=-scale)


def split(*modules):
    """The parameters for Muon (matrices inside layers) and those for AdamW (embeddings, norms, biases, heads)."""
    matrices, rest = [], []
    for module in modules:
        for name, p in module.named_parameters():
            hidden = p.ndim == 2 and ("layers." in name or "mm_projector" in name)
            (matrices if hidden else rest).append(p)
    return matrices, rest
