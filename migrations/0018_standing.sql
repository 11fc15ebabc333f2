-- How an account stands: deleted by its owner, who may still take that back; banned; to be let in by a
-- new password alone. And of a session, how and when its user last proved who they are.
--
-- Beside the release before: it lets a banned or deleted account log in, until it is replaced.

alter table users
    -- Its owner has asked for it to be deleted: from then on nobody gets in, and it is restored or,
    -- from purge_at on, removed.
    add column deleted_at        timestamptz,
    add column purge_at          timestamptz,
    -- The present password is taken for known to somebody else.
    add column reset_required_at timestamptz,
    -- For good where there is no end.
    add column banned_at         timestamptz,
    add column banned_until      timestamptz,
    -- For staff, and for the person's own export.
    add column ban_reason        text,
    -- No foreign key: an admin may leave.
    add column banned_by         uuid;

create index users_purge_at_idx on users (purge_at) where purge_at is not null;
create index users_banned_at_idx on users (banned_at, id) where banned_at is not null;

alter table sessions
    -- How its user has proven who they are (RFC 8176).
    add column amr              text[] not null default '{pwd}',
    -- When they last did; null: at the login.
    add column authenticated_at timestamptz,
    -- A keyed hash of what the program calls itself, which proves nothing.
    add column device_hash      bytea;
