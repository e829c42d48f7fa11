-- Between which positions events recorded at or after p_since and before p_until can stand: after (exclusive) and upto,
-- within the horizon, which is returned too, or p_upto. Exact, however positions and times are mixed.
--
-- Halving finds the place; then the block ranges of the index on times and positions tell whether an exception lies on
-- the wrong side of it. Those are the few ranges that hold both, and none but a bitmap scan reads them alone, so the
-- other plans are ruled out: the planner takes "later than this" and "before that position" for independent, and would
-- walk half of the log. "+ 0" keeps min and max from being taken for the first row of such a walk.
create function @schema@.time_bounds_v1(
    p_since timestamptz, p_until timestamptz, p_upto bigint default null,
    out after bigint, out upto bigint, out horizon bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
set enable_seqscan = off
set enable_indexscan = off
as $$
declare
    v_place bigint;
begin
    horizon := coalesce(p_upto, (select h.horizon from horizon_v1() h));
    after := 0;
    upto := horizon;
    if p_since is not null then
        v_place := place_in_time_v1(p_since, horizon);
        select coalesce(min(e.position + 0) - 1, v_place) into after
          from events e where e.recorded_at >= p_since and e.position <= v_place;
    end if;
    if p_until is not null then
        v_place := place_in_time_v1(p_until, horizon);
        select coalesce(max(e.position + 0), v_place) into upto
          from events e where e.recorded_at < p_until and e.position > v_place and e.position <= horizon;
    end if;
end
$$;
