"""Resources as a value: add, subtract, compare, and say what binds. Pure."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Resources:
    """An amount of everything that is counted: machines, cores (vCPUs), memory in MiB and GPUs."""

    machines: int = 0
    cores: int = 0
    memory_mib: int = 0
    gpus: int = 0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(**{name: getattr(self, name) + getattr(other, name) for name in DIMENSIONS})

    def __sub__(self, other: "Resources") -> "Resources":
        return Resources(**{name: getattr(self, name) - getattr(other, name) for name in DIMENSIONS})

    def largest(self, other: "Resources") -> "Resources":
        """The larger of the two, dimension by dimension."""
        return Resources(**{name: max(getattr(self, name), getattr(other, name)) for name in DIMENSIONS})


#: what is counted, in the order in which a refusal names it
DIMENSIONS: tuple[str, ...] = tuple(field.name for field in fields(Resources))


@dataclass(frozen=True, kw_only=True)
class Shortfall:
    """One dimension in which there is not enough: asked, limit and used are numbers of it."""

    dimension: str
    asked: int
    limit: int
    used: int

    @property
    def left(self) -> int:
        """What is left; an administrator may have lowered the limit below what is used."""
        return max(0, self.limit - self.used)


def shortfalls(asked: Resources, *, limit: Resources, used: Resources) -> tuple[Shortfall, ...]:
    """Every dimension in which `asked` does not fit beside `used` within `limit`; empty means it fits.

    A dimension of which nothing is asked never binds, even where its limit was lowered below what is used.
    """
    return tuple(
        Shortfall(dimension=name, asked=getattr(asked, name), limit=getattr(limit, name), used=getattr(used, name))
        for name in DIMENSIONS
        if getattr(asked, name) > 0 and getattr(used, name) + getattr(asked, name) > getattr(limit, name)
    )
