-- When the latest refresh tokens of a session were replaced, and from where: each of them is still
-- good for 20 seconds, and only so many may be replaced a minute.
--
-- Beside the release before: it leaves these columns alone, and what is then out of date is told by
-- its last time, which is not rotated_at.

alter table sessions
    -- The newest last; a new list begins after a minute without a refresh.
    add column replaced_at timestamptz[] not null default '{}',
    add column rotated_ip inet;
