"""Checks of the schema: its revision, functions, triggers, tables, and the sequence that positions come from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eventstore import schema as schemas
from eventstore.errors import ConfigurationError
from eventstore.reports.health import NEEDS_RIGHTS, Verdict, check, fail, named, ok, unknown, warn
from eventstore.reports.site import Site

__all__ = ["TRIGGERS", "Bounds", "Installed", "PositionSequence", "read_bounds", "read_installed", "read_sequence"]

TRIGGERS = (
    "event_tags_append_only",
    "event_tags_no_truncate",
    "event_tags_stubs_only",
    "events_append_only",
    "events_no_truncate",
    "events_stub_only",
)
"""What keeps the log append-only, for its owner too."""

NOTHING = unknown("unknown: there is no event store", "see the check `schema`")

_BODY = re.compile(r"\bas \$\$(.*)\$\$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Installed:
    """What stands in the schema.

    Attributes:
        revision: None: there is no event store, or its revision cannot be read.
        hidden: why this role cannot read it.
        functions: name and body of each that is installed.
        released: name and body of each that belongs to this release.
        triggers: name and whether it is enabled.
        replica: this role's sessions fire no ordinary triggers.
        unlogged: tables that a crash empties.
        public_creates: PUBLIC may create objects in the schema.
    """

    schema: str
    revision: str | None
    hidden: str | None
    functions: Sequence[tuple[str, str]]
    released: Mapping[str, str]
    triggers: Mapping[str, bool]
    replica: bool
    unlogged: Sequence[str]
    public_creates: bool

    @property
    def empty(self) -> bool:
        """Nobody has migrated it."""
        return not self.functions

    @property
    def newer(self) -> bool:
        """A newer release has migrated it, as during a rollout."""
        return self.revision is not None and self.revision > schemas.REVISION


async def read_installed(site: Site) -> Installed:
    """Read the catalogs."""
    row = await site.row(
        "select current_setting('session_replication_role') = 'replica' as off,"
        " case when to_regnamespace($1) is not null then has_schema_privilege('public', $2, 'create') end as creates",
        site.quoted,
        site.schema,
    )
    functions = await site.rows(
        "select proname::text, prosrc from pg_proc where pronamespace = to_regnamespace($1)", site.quoted
    )
    triggers = await site.rows(
        "select t.tgname::text, t.tgenabled in ('O', 'A') from pg_trigger t join pg_class c on c.oid = t.tgrelid"
        " where c.relnamespace = to_regnamespace($1) and not t.tgisinternal", site.quoted
    )  # fmt: skip
    unlogged = await site.rows(
        "select relname::text from pg_class where relnamespace = to_regnamespace($1) and relkind = 'r'"
        " and relpersistence <> 'p' and relname <> 'pubsub_spill' order by 1", site.quoted
    )  # fmt: skip
    return Installed(
        site.schema,
        *await _revision(site, {name for name, _ in functions}),
        [(name, body) for name, body in functions],
        released(site.schema),
        dict(map(tuple, triggers)),
        row["off"],
        [name for (name,) in unlogged],
        bool(row["creates"]),
    )


async def _revision(site: Site, functions: set[str]) -> tuple[str | None, str | None]:
    """Return the revision, and why it is hidden."""
    if "schema_revision" not in functions:
        return None, None
    try:
        found = (await site.row(f"select {site.quoted}.schema_revision() as revision"))["revision"]
    except ConfigurationError as error:
        return None, str(error)
    return None if found is None else str(found), None


def released(schema: str) -> dict[str, str]:
    """Return name and body of each function that belongs to this release."""
    files = sorted((Path(schemas.__file__).parent / "sql").glob("*.sql"))
    bodies = {path.stem: _BODY.search(schemas.function_source(path.stem, schema)) for path in files}
    return {name: found[1] for name, found in bodies.items() if found}


@check("schema", read_installed)
def schema(found: Installed) -> Verdict:
    """Whether the schema is there and as new as this release."""
    migrate = f"eventstore migrate --schema {found.schema}"
    if found.empty:
        return fail(f"schema {found.schema!r} holds no event store", migrate)
    if found.hidden:
        return unknown(f"unknown: {found.hidden}", NEEDS_RIGHTS)
    if found.revision is None:
        return fail("its revision is unknown: the function schema_revision is missing", "see the check `functions`")
    if found.revision < schemas.REVISION:
        return fail(f"revision {found.revision}; this release needs {schemas.REVISION}", migrate)
    if found.newer:
        return ok(f"revision {found.revision}, newer than this release's {schemas.REVISION}, as during a rollout")
    return ok(f"revision {found.revision}")


@check("functions", read_installed)
def functions(found: Installed) -> Verdict:
    """Whether the functions in the schema are this release's: none missing, changed or foreign."""
    if found.empty:
        return NOTHING
    installed = {name for name, _ in found.functions}
    missing = sorted(found.released.keys() - installed)
    foreign = sorted(installed - found.released.keys())
    changed = sorted(
        {name for name, body in found.functions if name in found.released and body != found.released[name]}
    )
    if found.newer:
        return ok(f"{len(installed)} functions of a newer release")
    again = f"create them again: their text is eventstore.schema.function_source(name, {found.schema!r})"
    facts = [{"missing": missing, "changed": changed, "foreign": foreign}]
    if missing:
        return fail(f"missing: {named(missing)}", f"`eventstore migrate`; if that has nothing to do, {again}", facts)
    if changed:
        return fail(f"not as released: {named(changed)}", again, facts)
    if foreign:
        return warn(f"of no release: {named(foreign)}", "find out who put them there; drop what nobody needs", facts)
    return ok(f"{len(installed)} functions")


@check("public_create", read_installed)
def public_create(found: Installed) -> Verdict:
    """Whether anybody could put objects of their own into the schema."""
    if found.public_creates:
        return fail(
            f"PUBLIC may create objects in schema {found.schema!r}, which functions with the owner's rights would find",
            f'revoke create on schema "{found.schema}" from public',
        )
    return ok("PUBLIC may not create objects in the schema")


@check("append_only", read_installed)
def append_only(found: Installed) -> Verdict:
    """Whether the triggers that keep events from being changed are enabled."""
    if found.replica:
        return fail(
            "session_replication_role is replica for this role in this database: no trigger protects the log",
            "reset session_replication_role for the role and the database",
        )
    if found.empty:
        return NOTHING
    missing = [name for name in TRIGGERS if name not in found.triggers]
    disabled = [name for name in TRIGGERS if found.triggers.get(name) is False]
    if missing or disabled:
        return fail(
            f"missing: {named(missing) or 'none'}; disabled: {named(disabled) or 'none'}",
            f'alter table "{found.schema}".events enable trigger user, likewise event_tags; make missing ones again as '
            "the migrations do",
            [{"missing": missing, "disabled": disabled}],
        )
    return ok(f"{len(TRIGGERS)} triggers protect the log")


@check("logged", read_installed)
def logged(found: Installed) -> Verdict:
    """Whether a crash of the server leaves every table as it was."""
    if found.unlogged:
        cure = "; ".join(f'alter table "{found.schema}".{name} set logged' for name in found.unlogged)
        return fail(f"a crash of the server empties {named(found.unlogged)}: unlogged", cure)
    return ok("all tables are logged")


# -- the sequence


@dataclass(frozen=True, slots=True)
class PositionSequence:
    """The sequence that positions are drawn from.

    Attributes:
        drawers: roles beside the owner that may draw from it or set it.
        defaults: columns that draw from it.
    """

    least: int
    cache: int
    increment: int
    cycles: bool
    drawers: Sequence[str]
    defaults: Sequence[str]


async def read_sequence(site: Site) -> PositionSequence | None:
    """Read how it is made; None: it is missing."""
    oid = await site.sequence_oid()
    if oid is None:
        return None
    row = await site.row("select seqmin, seqcache, seqincrement, seqcycle from pg_sequence where seqrelid = $1", oid)
    drawers = await site.rows(
        "select distinct case when a.grantee = 0 then 'PUBLIC' else a.grantee::regrole::text end"
        " from pg_class c, aclexplode(c.relacl) a"
        " where c.oid = $1 and a.grantee <> c.relowner and a.privilege_type in ('USAGE', 'UPDATE') order by 1", oid
    )  # fmt: skip
    defaults = await site.rows(
        "select d.adrelid::regclass::text || '.' || c.attname"
        " from pg_depend p join pg_attrdef d on d.oid = p.objid"
        " join pg_attribute c on c.attrelid = d.adrelid and c.attnum = d.adnum"
        " where p.classid = 'pg_attrdef'::regclass and p.refobjid = $1", oid
    )  # fmt: skip
    return PositionSequence(
        row["seqmin"],
        row["seqcache"],
        row["seqincrement"],
        row["seqcycle"],
        [name for (name,) in drawers],
        [name for (name,) in defaults],
    )


@check("sequence", read_sequence)
def sequence(found: PositionSequence | None) -> Verdict:
    """Whether positions are drawn one by one and by the append functions alone, which the horizon rests on."""
    if found is None:
        return unknown("there is no sequence event_positions", "see the check `schema`")
    wrong = []
    if found.cache != 1:
        wrong.append(f"CACHE is {found.cache}: sessions hold positions in reserve, below a horizon that was passed")
    if (found.least, found.increment, found.cycles) != (0, 1, False):
        wrong.append("it is not MINVALUE 0 INCREMENT 1 NO CYCLE")
    if found.drawers:
        wrong.append(f"positions can be drawn past the append functions by {named(found.drawers)}")
    if found.defaults:
        wrong.append(f"{named(found.defaults)} draws from it")
    if wrong:
        return fail(
            "; ".join(wrong),
            "alter sequence event_positions minvalue 0 increment 1 cache 1 no cycle; revoke all on it from all others; "
            "give no column a default from it",
        )
    return ok("MINVALUE 0, CACHE 1, drawn from by the append functions alone")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The highest position stored, and the last one drawn."""

    highest: int
    last_position: int


async def read_bounds(site: Site) -> Bounds:
    """Read both, the log first."""
    (row,) = await (await site.database()).rows("log_bounds_v1")
    return Bounds(**row)


@check("positions", read_bounds)
def positions(found: Bounds) -> Verdict:
    """Whether the sequence is ahead of the log, so that no position is given out twice."""
    if found.last_position < found.highest:
        return fail(
            f"the log holds position {found.highest}, the sequence stands at {found.last_position}: appends will fail",
            f"while nobody appends: select setval('event_positions', {found.highest}, true)",
        )
    return ok(f"the log ends at {found.highest}, {found.last_position} positions are drawn")
