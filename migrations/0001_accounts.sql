-- People, their sessions, the letters that wait to be sent, and the record of what happened.
-- Every instant is timestamptz and ends in _at. Ids are UUID v7, made by the service.

create table users (
    id                uuid primary key,
    -- Kept as typed; the key beside it is what has to be unique. Both are ASCII, so "C" is exact and immune to a
    -- change of the operating system's collation.
    username          text not null,
    username_key      text collate "C" not null generated always as (lower(username collate "C")) stored,
    email             text not null,
    email_key         text collate "C" not null generated always as (lower(email collate "C")) stored,
    email_verified_at timestamptz,
    -- The new address of an account whose present one is verified, until its own link is confirmed. Not unique:
    -- whoever confirms first has it.
    pending_email     text,
    first_name        text not null default '',
    last_name         text not null default '',
    role              text not null default 'user',
    password_hash     text not null,
    created_at        timestamptz not null,
    modified_at       timestamptz not null,
    constraint users_username_key unique (username_key),
    constraint users_email_key unique (email_key),
    constraint users_role_check check (role in ('user', 'staff', 'admin'))
);

create index users_created_at_idx on users (created_at, id);
create index users_modified_at_idx on users (modified_at, id);
-- The last-admin rule locks and counts these rows.
create index users_admin_idx on users (id) where role = 'admin';

create table sessions (
    id             uuid primary key,
    user_id        uuid not null references users on delete cascade,
    -- The counter that the living refresh token carries; it grows by one at each refresh.
    counter        bigint not null default 0,
    rotated_at     timestamptz,
    -- Whether the pair made by the last refresh was seen in use: until then its predecessor is answered again.
    successor_used boolean not null default true,
    -- When that pair was last given out again, nobody having used it yet: the 20 seconds in which its predecessor is
    -- still good count from there, because tabs that try again long after a lost answer race like any others.
    successor_given_at timestamptz,
    created_at     timestamptz not null,
    -- 30 days after the last refresh, but never later than ends_at.
    expires_at     timestamptz not null,
    ends_at        timestamptz not null,
    ended_at       timestamptz,
    end_reason     text,
    ip             inet,
    user_agent     text
);

create index sessions_user_id_idx on sessions (user_id);
create index sessions_expires_at_idx on sessions (expires_at);

-- Letters to be sent. A row holds no secret: the link is made when the letter is sent.
create table outbox (
    id              uuid primary key,
    user_id         uuid not null references users on delete cascade,
    kind            text not null,
    recipient       text not null,
    created_at      timestamptz not null,
    -- Pushed into the future by whoever claims the row, so that it is also the lease.
    next_attempt_at timestamptz not null,
    attempts        integer not null default 0,
    sent_at         timestamptz,
    -- Given up: refused for good, older than a day, or no longer wanted.
    failed_at       timestamptz,
    last_error      text,
    constraint outbox_kind_check check (kind in ('confirmation', 'email_change_notice'))
);

create index outbox_due_idx on outbox (next_attempt_at) where sent_at is null and failed_at is null;
create index outbox_user_id_idx on outbox (user_id);
create index outbox_created_at_idx on outbox (created_at);

-- What happened, written in the transaction that it belongs to. No foreign keys: it outlives what it speaks of.
create table audit_log (
    id         bigint generated always as identity primary key,
    at         timestamptz not null,
    event      text not null,
    user_id    uuid,
    actor_id   uuid,
    session_id uuid,
    ip         inet,
    details    jsonb not null default '{}'
);

create index audit_log_user_id_idx on audit_log (user_id, id);
