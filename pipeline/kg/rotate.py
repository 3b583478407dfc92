"""RotatE: relations turn entities in the complex plane, |h∘r − t| says how far a fact is from holding.

Sun et al. 2019, arXiv 1902.10197. The model, its embeddings and the constraint |r| = 1 are PyKEEN's.
Scoring many candidates at once is ours: both questions about a fact, (h, r, ?) and (?, r, t), become a
point q = h∘r or q = t∘r̄, and the score of a candidate is minus its distance to q.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from pykeen.losses import NSSALoss
from pykeen.models import ERModel
from pykeen.nn.init import init_phases
from pykeen.nn.modules import RotatEInteraction
from pykeen.triples import CoreTriplesFactory
from pykeen.utils import NoRandomSeedNecessary, complex_normalize, negative_norm
from torch import Tensor

NORMS = {"l1": (1, False), "l2": (2, False), "squared": (2, True)}
"""Name of a distance: the p of PyKEEN's norm over the moduli, and whether its p-th power is taken."""

CPU = torch.device("cpu")
SIDES = ("tail", "head")
"""The two questions about a fact: (h, r, ?) and (?, r, t)."""

CHOICES = {
    "norm": tuple(NORMS),
    "trainer": ("self_adversarial", "shared", "one_vs_all"),
    "updates": ("dense", "rows"),
    "optimizer": ("adam", "adagrad", "rowwise_adagrad"),
    "precision": ("highest", "high", "medium"),
    "device": ("auto", "cpu", "cuda"),
}
"""What the keys of `Rotate` that name something may name."""

COUNTS = (
    "dimension",
    "negatives",
    "sharing",
    "batch_size",
    "epochs",
    "evaluate_every",
    "patience",
    "evaluation_batch_size",
)
RANGES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    *((key, lambda value: value >= 1, "at least 1") for key in COUNTS),
    *(
        (key, lambda value: value > 0, "above 0")
        for key in ("margin", "adversarial_temperature", "initial_scale", "learning_rate")
    ),
    *((key, lambda value: value >= 0, "at least 0") for key in ("regularisation", "final_learning_rate")),
    *(
        (key, lambda value: 0 <= value < 1, "in [0, 1)")
        for key in ("dropout", "label_smoothing", "validation", "test")
    ),
)
"""Keys of `Rotate`, what their value must hold, and how an error says it."""


@dataclass(frozen=True, kw_only=True)
class Rotate:
    """How RotatE is trained and evaluated."""

    dimension: int
    """Complex dimensions of an entity; a vector is written as twice as many real numbers."""
    norm: str
    """Distance: l1 (sum of moduli, as the original), l2 (PyKEEN's), squared (of l2; ranks as l2 does)."""
    trainer: str
    """self_adversarial (NSSALoss, negatives per fact), shared (NSSALoss, negatives per batch), or one_vs_all.

    one_vs_all is the cross-entropy of the answer over all entities."""
    margin: float
    """γ of NSSALoss, in units of the distance; one_vs_all doesn't read it."""
    adversarial_temperature: float
    """α of NSSALoss: how much hard negatives weigh; one_vs_all doesn't read it."""
    negatives: int
    """Negatives per fact and side, or per `sharing` facts and side; one_vs_all doesn't read it."""
    sharing: int
    """Facts that share negatives, at least `batch_size` for one set a batch; only shared reads it."""
    inverse_relations: bool
    """Whether (?, r, t) has a rotation of its own in place of r̄; fold-in then sees only one of the two."""
    initial_scale: float
    """Real and imaginary parts of entities start uniform in ± this."""
    regularisation: float
    """Weight of the mean of Σ|h|³ + Σ|t|³ over a batch (N3, arXiv 1806.07297; |r| is 1)."""
    dropout: float
    """Share of the dimensions of a query that are zeroed in training."""
    label_smoothing: float
    """Share of the target that one_vs_all spreads over all entities."""
    updates: str
    """dense (each step takes the gradient of all entities) or rows (of the batch's own; for large graphs)."""
    optimizer: str
    """adam, adagrad, or rowwise_adagrad, whose state is one number an entity in place of 2·dimension.

    The last takes updates: rows. There adam decays the moments of a row only in steps that touch it."""
    learning_rate: float
    """Step size at the start."""
    final_learning_rate: float
    """Step size at the end, of the epochs or of the time if that is short; it falls linearly."""
    batch_size: int
    """Facts per step."""
    epochs: int
    """Passes over the facts, at most."""
    evaluate_every: int
    """Epochs between evaluations; each is also a checkpoint."""
    patience: int
    """Evaluations without a better validation MRR after which training stops."""
    validation: float
    """Share of the facts held out at random to choose the epoch."""
    test: float
    """Share of the facts held out at random to report."""
    evaluation_batch_size: int
    """Questions ranked at once."""
    precision: str
    """Of float32 matrix products: highest, high or medium (TF32 or bfloat16 where the device has them)."""
    device: str
    """auto (a GPU if there is one), cpu or cuda."""

    def __post_init__(self) -> None:
        for key, known in CHOICES.items():
            if getattr(self, key) not in known:
                raise ValueError(
                    f"rotate.{key} must be one of {', '.join(known)}, not {getattr(self, key)!r}"
                )
        for key, holds, rule in RANGES:
            if not holds(getattr(self, key)):
                raise ValueError(f"rotate.{key} must be {rule}, not {getattr(self, key)}")
        if self.updates == "rows" and self.trainer == "one_vs_all":
            raise ValueError(
                "rotate.updates must be dense for rotate.trainer one_vs_all, which moves all entities in "
                "each step; choose shared or self_adversarial for rows"
            )
        if self.updates == "dense" and self.optimizer == "rowwise_adagrad":
            raise ValueError(
                "rotate.optimizer rowwise_adagrad needs rotate.updates rows; for dense take adagrad"
            )
        if self.validation + self.test >= 1:
            raise ValueError(
                f"rotate.validation + rotate.test must be below 1, not {self.validation + self.test}"
            )


class Rotation(RotatEInteraction):  # type: ignore[misc]
    """−‖h∘r − t‖ with the norm that was asked for; PyKEEN 1.11's own takes p = 2 whatever p it is given."""

    def forward(
        self, h: Complex[Tensor, "*#S d"], r: Complex[Tensor, "*#S d"], t: Complex[Tensor, "*#S d"]
    ) -> Float[Tensor, "*S"]:
        """Return the score of each fact."""
        scores: Tensor = negative_norm(h * r - t, p=self.p, power_norm=self.power_norm)
        return scores


def build(rotate: Rotate, entities: int, relations: int, seed: int, device: torch.device = CPU) -> ERModel:
    """Return a PyKEEN model with `entities` and `relations` rows; the global random state is left as it was.

    With inverse relations the rotation that answers (?, r, t) is row `relations + r`. The first weights are
    drawn on `device`, since billions of them take long on a CPU: another kind of device, other weights.
    """
    rows = relations * (2 if rotate.inverse_relations else 1)
    p, power = NORMS[rotate.norm]
    shape = CoreTriplesFactory(torch.zeros(1, 3, dtype=torch.long), num_entities=entities, num_relations=rows)
    kept = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=kept), device:
        torch.manual_seed(seed)
        return ERModel(
            triples_factory=shape,
            interaction=Rotation,
            interaction_kwargs={"p": p, "power_norm": power},
            entity_representations_kwargs={
                "shape": rotate.dimension,
                "dtype": torch.cfloat,
                "unique": False,
                "initializer": torch.nn.init.uniform_,
                "initializer_kwargs": {"a": -rotate.initial_scale, "b": rotate.initial_scale},
            },
            relation_representations_kwargs={
                "shape": rotate.dimension,
                "dtype": torch.cfloat,
                "unique": False,
                "initializer": init_phases,
                "constrainer": complex_normalize,
            },
            loss=NSSALoss(margin=rotate.margin, adversarial_temperature=rotate.adversarial_temperature),
            random_seed=NoRandomSeedNecessary,
        )


def rotated(
    entities: Complex[Tensor, "B d"], relations: Complex[Tensor, "B d"], side: str
) -> Complex[Tensor, "B d"]:
    """Return the point that the answer should be near: h∘r for the tail side, t∘r̄ for the head side."""
    return entities * (relations if side == "tail" else relations.conj())


def shared_distances(
    queries: Complex[Tensor, "B d"], candidates: Complex[Tensor, "G N d"], sharing: int, norm: str
) -> Float[Tensor, "B N"]:
    """Return the distance of each query to the candidates of its group: query b belongs to b // `sharing`.

    All groups are one batched matrix product for `l2` and `squared`. `l1` is element-wise: B·N·d moduli.
    """
    groups = len(candidates)
    if groups == 1:
        return distances(queries, candidates[0], norm)
    # The last group may be short: it is filled up with zeros, whose distances are cut off again.
    missing = groups * sharing - len(queries)
    filled = torch.cat([queries, queries.new_zeros(missing, queries.shape[1])])
    grouped = filled.view(groups, sharing, -1)
    return distances(grouped, candidates, norm).flatten(0, 1)[: len(queries)]


def distances(
    queries: Complex[Tensor, "*G B d"], candidates: Complex[Tensor, "*G N d"], norm: str
) -> Float[Tensor, "*G B N"]:
    """Return the distance of each query to each candidate of its group, in the named norm.

    `l2` and `squared` are a matrix product, |q − c|² = |q|² + |c|² − 2 Re⟨q, c̄⟩; `l1` is element-wise and
    takes B·N·d moduli of memory.
    """
    if norm == "l1":
        moduli: Tensor = (queries[..., :, None, :] - candidates[..., None, :, :]).abs().sum(dim=-1)
        return moduli
    left = torch.view_as_real(queries).flatten(-2)
    right = torch.view_as_real(candidates).flatten(-2)
    lengths = right.square().sum(dim=-1)[..., None, :]
    squares = left.square().sum(dim=-1, keepdim=True) + lengths - 2 * (left @ right.mT)
    # Rounding can take a square just below 0, and the root has no slope at 0.
    return squares if norm == "squared" else squares.clamp(min=1e-12).sqrt()


def real_then_imaginary(vectors: Complex[Tensor, "n d"]) -> Float[Tensor, "n 2*d"]:
    """Return complex vectors as the files hold them: all real parts, then all imaginary parts."""
    return torch.cat([vectors.real, vectors.imag], dim=1).contiguous()


def as_complex(vectors: Float[Tensor, "n two_d"]) -> Complex[Tensor, "n d"]:
    """Return the complex vectors that `real_then_imaginary` wrote."""
    real, imaginary = vectors.chunk(2, dim=1)
    return torch.complex(real.contiguous(), imaginary.contiguous())


def candidate_scores(
    queries: Complex[Tensor, "B d"], candidates: Complex[Tensor, "B n d"], norm: str
) -> Float[Tensor, "B n"]:
    """Return minus the distance of each query to its own candidates."""
    p, power = NORMS[norm]
    scores: Tensor = negative_norm(queries[:, None] - candidates, p=p, power_norm=power)
    return scores
