-- Logins of one account from one address within a minute are one row of the audit log, with their
-- count, and so are other events that a client can cause at will: else one client that logs in for
-- each of its calls would fill the log.
--
-- Beside the release before: its rows have no minute, and are one each.

alter table audit_log
    -- How many there were.
    add column count integer not null default 1,
    -- The minute in which they were, of those events that are counted.
    add column minute timestamptz;
