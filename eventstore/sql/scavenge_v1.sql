-- One batch of scavenging: removes the content of events that their streams' limits hide, and leaves stubs.
--
--   p_stream, p_from   where the batch before ended: go on with p_stream after version p_from, or, if that is null,
--                      with the streams after p_stream
--   p_batch            how many versions, and streams, to look at
--   p_now              the moment max_age counts back from; never later than now
--   p_dry_run          only count
--
-- One row for each stream looked at: how far it is done (upto), whether that is all of it (done), events and bytes
-- removed. No row: the end. upto is for the next call's p_from and, after the commit, for mark_scavenged_v1, which is a
-- transaction of its own because it locks the streams' rows, if only for a moment.
--
-- Only streams with limits are looked at, by their partial index.
create function @schema@.scavenge_v1(
    p_stream text default '', p_from bigint default null, p_batch int default 1000, p_now timestamptz default null,
    p_dry_run boolean default false)
returns table (stream text, upto bigint, done boolean, events bigint, bytes bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, @schema@, pg_temp
as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := least(p_now, clock_timestamp());
    v_left bigint := p_batch;
    v_row record;
    v_after bigint;
    v_last bigint;
begin
    if (p_batch between 1 and 100000) is not true then
        raise exception 'a batch of scavenging has 1 to 100,000 events, not %', p_batch using errcode = 'ES006';
    end if;
    for v_row in
        select s.name, s.version, s.scavenged_to
          from streams s
         where (s.state <> 'live' or s.truncate_before is not null or s.max_count is not null
                or s.max_age is not null)
           and s.name >= p_stream and (s.name > p_stream or p_from is not null)
         order by s.name limit p_batch
    loop
        v_after := greatest(v_row.scavenged_to, case when v_row.name = p_stream then p_from end);
        v_last := least(first_visible_v1(v_row.name, v_now) - 1, v_row.version);
        stream := v_row.name;
        upto := greatest(v_after, least(v_last, v_after + v_left));
        done := upto >= v_last;
        events := 0;
        bytes := 0;
        if upto > v_after then
            begin
                select r.removed, r.freed into events, bytes
                  from scavenge_range_v1(v_row.name, v_after, upto, p_dry_run) r;
                v_left := v_left - (upto - v_after);
            exception when sqlstate 'ES009' then
                -- The limits were widened while the batch ran, and some of it is shown again: nothing of it is removed.
                upto := v_after;
                done := true;
            end;
        end if;
        return next;
        exit when v_left = 0;
    end loop;
end
$$;
