-- How an account stands: deleted by its owner, who may still take that back; banned; to be let in by a
-- new password alone.
--
-- Beside the release before: it lets a banned or deleted account log in, until it is replaced; the
-- sessions that it opens then are none to this release.

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
