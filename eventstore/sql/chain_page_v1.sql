-- Events as they are stored, in the order of their positions, for who verifies them: texts and bytes, as the hashes are
-- made from. Beside each the event before it in its stream, what its stream's row says, and whether one of its tags is
-- missing in event_tags.
--
--   p_after, p_upto   positions; up to the horizon, so that no append in flight comes in between
--   p_stream          only this stream, in the order of its versions: p_after is a version then
--
-- with ties: no page ends between two rows of one position, which only tampering can make.
create function @schema@.chain_page_v1(p_after bigint, p_upto bigint, p_limit int, p_stream text default null)
returns table (
    "position" bigint, id uuid, stream text, version bigint, bucket smallint, type text, data text, metadata text,
    tags text, created_at bytea, recorded_at bytea, hash bytea, before_position bigint, before_hash bytea,
    stream_version bigint, untagged boolean)
language plpgsql stable security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
begin
    if p_stream is null then
        return query
            select e.position, e.id, e.stream, e.version, e.bucket, e.type, e.data::text, e.metadata::text,
                   e.tags::text, timestamptz_send(e.created_at), timestamptz_send(e.recorded_at), e.hash, p.position,
                   p.hash, s.version,
                   e.tags <> '{}' and exists (
                       select from unnest(e.tags) t(tag) where not exists (
                           select from event_tags g where g.tag = t.tag and g.position = e.position))
              from (select * from events o where o.position > p_after and o.position <= p_upto
                     order by o.position fetch first p_limit rows with ties) e
              left join lateral (select o.position, o.hash from events o
                                  where o.stream = e.stream and o.version = e.version - 1 limit 1) p on true
              left join streams s on s.name = e.stream
             order by e.position;
    else
        return query
            select e.position, e.id, e.stream, e.version, e.bucket, e.type, e.data::text, e.metadata::text,
                   e.tags::text, timestamptz_send(e.created_at), timestamptz_send(e.recorded_at), e.hash, p.position,
                   p.hash, s.version,
                   e.tags <> '{}' and exists (
                       select from unnest(e.tags) t(tag) where not exists (
                           select from event_tags g where g.tag = t.tag and g.position = e.position))
              from (select * from events o where o.stream = p_stream and o.version > p_after and o.position <= p_upto
                     order by o.version fetch first p_limit rows with ties) e
              left join lateral (select o.position, o.hash from events o
                                  where o.stream = e.stream and o.version = e.version - 1 limit 1) p on true
              left join streams s on s.name = e.stream
             order by e.version;
    end if;
end
$$;
