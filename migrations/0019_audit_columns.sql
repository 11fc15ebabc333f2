-- Of which request an event was, and by what program it was made; and whether its instant may be out of
-- order.
--
-- Beside the release before: its rows have none of this, and are found by everything else.

alter table audit_log
    -- As in the log: the client's own id where it sent one.
    add column request_id text,
    add column user_agent text,
    -- True: its instant is not that of the database, give or take half a minute, since some clock was
    -- wrong. All others are in the order of their ids, give or take as much again, so that a span of time
    -- is a span of ids.
    add column off_clock boolean;
