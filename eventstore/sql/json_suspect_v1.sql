-- Whether json_problem_v1 has to look at a JSON text: a cheap test that lets nearly every payload pass.
--
-- True where there may be an escaped NUL or surrogate, a number with an exponent of two digits or more, a very long
-- number, a number alone (whose start the pattern would miss), or more than 64 levels. A number follows a bracket, comma,
-- colon or space; asking for that keeps identifiers in hexadecimal from firing. A digit of exponent alone needs 300 more
-- to leave the range of a double.
create function @schema@.json_suspect_v1(value text) returns boolean
language sql immutable parallel safe
as $$
    select pg_catalog.strpos(value, '\u') > 0
        or value operator(pg_catalog.~) '[[,:\s]-?[0-9.]+[eE][-+]?[0-9]{2}'
        or pg_catalog.ascii(value) between 45 and 57 and pg_catalog.octet_length(value) > 16
        or pg_catalog.ascii(value) between 45 and 57 and value operator(pg_catalog.~) '[eE]'
        or pg_catalog.octet_length(value) > 128
           and 2 * pg_catalog.octet_length(value) - pg_catalog.octet_length(pg_catalog.replace(value, '{', ''))
                 - pg_catalog.octet_length(pg_catalog.replace(value, '[', '')) > 64
        or pg_catalog.octet_length(value) > 300 and value operator(pg_catalog.~) '[0-9]{30}'
$$;
