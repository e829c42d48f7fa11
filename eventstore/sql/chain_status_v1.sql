-- What is to be known before verifying or sealing: the horizon, then whether the chain is on and where it was (the
-- horizon first: of what was appended before it was read, the periods then tell all), and the last seal.
create function @schema@.chain_status_v1(
    out horizon bigint, out last_position bigint, out state text, out since bigint, out periods text,
    out seals bigint, out last_seal text, out sealed_at timestamptz)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
begin
    select h.horizon, h.last_position into horizon, last_position from horizon_v1() h;
    select c.state, c.since into state, since from chain_state_v1() c;
    select coalesce(json_agg(json_build_array(p.after, p.upto)), '[]')::text into periods from chain_periods_v1() p;
    select s.number, s.seal, s.stored_at into seals, last_seal, sealed_at
      from seals s order by s.number desc limit 1;
    seals := coalesce(seals, 0);
end
$$;
