-- How often something has been tried lately, shared by all instances. A row speaks of one limit and one key, and is
-- worth nothing after expires_at. Unlogged: after a crash of the server everybody starts afresh, which costs less than
-- writing every wrong password to the disk.

create unlogged table limits (
    -- A keyed hash of the limit's name and of whom it is about: no address and no name rests here.
    key        bytea primary key,
    -- What has been used up: it drains steadily (a bucket) or at once when the window ends (a window).
    level      double precision not null,
    -- When level was last true (a bucket), or when the window began.
    at         timestamptz not null,
    -- Whether the last attempt was let through.
    allowed    boolean not null,
    expires_at timestamptz not null
);

create index limits_expires_at_idx on limits (expires_at);
