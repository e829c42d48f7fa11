"""Checks of who is let in: encryption, passwords, and rights on the schema."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlsplit

from eventstore.reports.health import Verdict, check, fail, named, ok, unknown, warn
from eventstore.reports.site import Site
from eventstore.rights import PUBSUB_TABLES, UNPINNED

__all__ = ["Doors", "Granted", "Link", "Rule", "read_granted", "read_link", "read_rules"]

WEAK = ("password", "md5", "ident")
"""Ways to be let in by what can be read on the way, or guessed."""


@dataclass(frozen=True, slots=True)
class Link:
    """The connection that was opened for this.

    Attributes:
        version: of TLS, such as ``TLSv1.3``; None: it is not encrypted.
        peer: where the server sees the client; None: at a Unix socket.
        sslmode: what was asked for.
    """

    version: str | None
    cipher: str | None
    peer: str | None
    sslmode: str

    @property
    def local(self) -> bool:
        """It does not leave the machine."""
        return self.peer is None or ip_address(self.peer).is_loopback


async def read_link(site: Site) -> Link:
    """Ask the server how it is connected to; behind a pooler that is the pooler's connection."""
    row = await site.row(
        "select s.version, s.cipher, host(inet_client_addr()) as peer from pg_stat_ssl s where s.pid = pg_backend_pid()"
    )
    return Link(row["version"], row["cipher"], row["peer"], sslmode(site.dsn, os.environ.get("PGSSLMODE")))


def sslmode(dsn: str, default: str | None) -> str:
    """Return the mode that *dsn* asks for; as asyncpg has it, ``prefer`` if neither it nor *default* says anything."""
    try:
        given = dict(parse_qsl(urlsplit(dsn).query))
    except ValueError:
        given = {}
    return given.get("sslmode") or default or "prefer"


@check("tls", read_link)
def tls(link: Link) -> Verdict:
    """Whether the connection is encrypted, and the server's certificate is checked."""
    facts = [{"version": link.version, "cipher": link.cipher, "peer": link.peer, "sslmode": link.sslmode}]
    where = "over a Unix socket" if link.peer is None else f"from {link.peer}"
    text = f"{link.version}, {link.cipher}" if link.version else f"not encrypted, {where}"
    if link.local:
        return ok(text, facts)
    cure = "add sslmode=verify-full&sslrootcert=FILE to the DSN, with the certificate that the server's is signed by"
    if link.version is None:
        return fail(f"{text}: events and queries can be read and changed on the way", cure, facts)
    if link.sslmode != "verify-full":
        return warn(f"{text}, but sslmode={link.sslmode} takes any server for the right one", cure, facts)
    return ok(f"{text}, certificate and host checked", facts)


# -- who is let in


@dataclass(frozen=True, slots=True)
class Rule:
    """A line of ``pg_hba.conf``; the address is None for Unix sockets."""

    line: int
    kind: str
    address: str | None
    method: str

    @property
    def local(self) -> bool:
        """It is about clients on the server's own machine."""
        if self.address is None or self.address == "samehost":
            return True
        try:
            return ip_address(self.address).is_loopback
        except ValueError:  # a name, or "all"
            return self.address == "localhost"


@dataclass(frozen=True, slots=True)
class Doors:
    """How clients come in.

    Attributes:
        private: only the server's own user may enter the Unix sockets.
        listens: on TCP as well.
    """

    rules: Sequence[Rule]
    private: bool
    listens: bool


async def read_rules(site: Site) -> Doors:
    """Read the rules, which takes a superuser or the right to read ``pg_hba_file_rules``."""
    rules = await site.rows(
        "select line_number as line, type as kind, address, auth_method as method from pg_hba_file_rules"
        " where error is null order by line_number"
    )
    doors = await site.row(
        "select current_setting('unix_socket_permissions') = '0700' as private,"
        " current_setting('listen_addresses') <> '' as listens"
    )
    return Doors([Rule(**dict(one)) for one in rules], **doors)


READS_RULES = "`grant select on pg_hba_file_rules to LOGIN; grant execute on function pg_hba_file_rules to LOGIN`"


@check("authentication", read_rules, rights=READS_RULES)
def authentication(found: Doors) -> Verdict:
    """Whether the server asks who connects, by a method that cannot be overheard."""
    rules = [one for one in found.rules if (not found.private if one.kind == "local" else found.listens)]
    facts = [{"line": one.line, "type": one.kind, "address": one.address, "method": one.method} for one in rules]
    trusting = [one for one in rules if one.method == "trust"]
    remote = [one for one in trusting if not one.local]
    here = [one for one in trusting if one.local]
    weak = [one for one in rules if one.method in WEAK and not one.local]
    cure = "use scram-sha-256 (or cert) in pg_hba.conf instead, and reload"
    if remote:
        return fail(f"anybody who can reach the server is let in as any role: {_lines(remote)}", cure, facts)
    if here:
        return warn(f"any user of the server's machine is let in as any role: {_lines(here)}", cure, facts)
    if weak:
        return warn(f"passwords can be overheard or guessed: {_lines(weak)}", cure, facts)
    return ok("nobody is let in unasked", facts)


def _lines(rules: Sequence[Rule]) -> str:
    return named(
        f"line {one.line} ({one.kind} {one.address or ''}{' ' if one.address else ''}{one.method})" for one in rules
    )


# -- rights


@dataclass(frozen=True, slots=True)
class Granted:
    """Rights and properties that let somebody past the functions, or into them.

    Attributes:
        public: functions that PUBLIC may call.
        tables: role, right and table, of all but the owners.
        unpinned: functions whose search_path does not begin with pg_catalog and end with pg_temp.
        owners: who owns the objects of the schema.
    """

    public: Sequence[str]
    tables: Sequence[str]
    unpinned: Sequence[str]
    owners: Sequence[str]


async def read_granted(site: Site) -> Granted | None:
    """Read the catalogs; None: there is no schema."""
    functions = await site.rows(
        "select p.proname::text as name, pg_get_userbyid(p.proowner)::text as owner,"
        " exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a"
        "          where a.grantee = 0) as public,"
        " (select substr(c, 13) from unnest(p.proconfig) c where c like 'search\\_path=%') as path"
        " from pg_proc p where p.pronamespace = to_regnamespace($1) order by 1", site.quoted
    )  # fmt: skip
    tables = await site.rows(
        "select case when a.grantee = 0 then 'PUBLIC' else pg_get_userbyid(a.grantee)::text end || ' may '"
        " || lower(string_agg(distinct a.privilege_type, ', ')) || ' on ' || c.relname as told"
        " from pg_class c, aclexplode(c.relacl) a"
        " where c.relnamespace = to_regnamespace($1) and a.grantee <> c.relowner"
        " and (a.grantee = 0 or c.relname <> all($2)) group by a.grantee, c.relname order by 1",
        site.quoted,
        list(PUBSUB_TABLES),
    )
    owners = await site.rows(
        "select distinct pg_get_userbyid(c.relowner)::text as name from pg_class c"
        " where c.relnamespace = to_regnamespace($1) and c.relkind in ('r', 'p', 'S')", site.quoted
    )  # fmt: skip
    if not functions:
        return None
    return Granted(
        [row["name"] for row in functions if row["public"]],
        [row["told"] for row in tables],
        [row["name"] for row in functions if row["name"] not in UNPINNED and not pinned(row["path"])],
        sorted({row["name"] for row in owners} | {row["owner"] for row in functions}),
    )


def pinned(path: str | None) -> bool:
    """Tell whether a search_path finds the system's objects first and temporary ones last."""
    names = [name.strip().strip('"') for name in (path or "").split(",")]
    return names[0] == "pg_catalog" and names[-1] == "pg_temp" and "public" not in names


@check("rights", read_granted)
def rights(found: Granted | None) -> Verdict:
    """Whether tables are reached through functions alone, and functions by whom they were granted to."""
    if found is None:
        return unknown("unknown: there is no event store", "see the check `schema`")
    wrong = []
    if found.public:
        wrong.append(f"PUBLIC may call {named(found.public)}")
    if found.tables:
        wrong.append(f"past the functions: {named(found.tables)}")
    if found.unpinned:
        wrong.append(f"without a pinned search_path: {named(found.unpinned)}")
    if len(found.owners) > 1:
        wrong.append(f"owned by different roles: {named(found.owners)}")
    if wrong:
        facts: list[Mapping[str, object]] = [
            {"public": found.public, "tables": found.tables, "unpinned": found.unpinned}
        ]
        cure = "`eventstore roles --check` tells what differs, --apply makes it right; see the check `functions`"
        return fail("; ".join(wrong), cure, facts)
    return ok("tables are reached through functions alone")
