"""Difference loss: keeps the shared code c apart from the specific codes.

Bousmalis et al.: Domain Separation Networks, NeurIPS 2016, equation 5. Since its norms carry no gradient, each code's
gradient points away from zero: z . dD/dz = 2 D, so descent shrinks the codes. `correlation_loss` does not.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from avslib.core.numerics import wide


def orthogonality_loss(
    z1: Float[Tensor, "N K"], z2: Float[Tensor, "N L"], gather: Callable[[Tensor], Tensor] | None = None
) -> Float[Tensor, ""]:
    """Mean square of the products of two codes' dimensions: 0 where no direction of one follows one of the other.

        D(z_1, z_2) = 1/(K L) sum_(k l) (Z_1^T Z_2)_(k l)^2 where Z_n = (z_n - bar z) / (|z_n - bar z| + 10^(-6))

    n is a row. The norm carries no gradient, as released. One row gives 0. With `gather`, which stacks a tensor of each
    of P processes to [P, *S], the batch is that of all processes, and so is the value that each of them gets.

    >>> import torch
    >>> z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> round(orthogonality_loss(z, z).item(), 4)
    1.0
    """

    def rows(z: Tensor) -> Tensor:
        mean = z.mean(0, keepdim=True)
        z = z - (gather(mean).mean(0) if gather else mean)
        return z / (z.detach().norm(dim=1, keepdim=True) + 1e-6)

    z1, z2 = wide(z1, z2)
    product = rows(z1).t() @ rows(z2)
    return (gather(product).sum(0) if gather else product).square().mean()


def correlation_loss(z1: Float[Tensor, "N K"], z2: Float[Tensor, "N L"], fewest: int = 48) -> Float[Tensor, ""]:
    """Correlation of two codes' similarities G over pairs of rows; Z is centred over the rows, G has no diagonal.

        sum_(i j) G_(1,ij) G_(2,ij) / (|G_1| |G_2|) where G = Z Z^T

    The linear HSIC of Gretton et al. (2005), normalised as CKA (Kornblith et al., ICML 2019) and, by leaving out the
    diagonal, without its bias: about 0 for independent codes of any length, 1 for equal ones, and the same at any scale
    of the codes. Fewer than `fewest` rows give 0.

    >>> import torch
    >>> z = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    >>> round(correlation_loss(z, 3 * z).item(), 4)
    1.0
    """
    if len(z1) < fewest:
        return (z1.sum() + z2.sum()) * 0
    g1, g2 = ((z - z.mean(0)) @ (z - z.mean(0)).t() for z in wide(z1, z2))
    g1, g2 = g1 - g1.diag().diag(), g2 - g2.diag().diag()
    return (g1 * g2).sum() / (g1.norm() * g2.norm() + 1e-8)
