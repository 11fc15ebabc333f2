-- What waits for a second step: a password's reset, a code in a letter. A row lets nobody in: what
-- the client or the letter holds is a signed handle that names it.
--
-- Beside the release before: it knows none of this, and leaves letters of other kinds alone.

create table challenges (
    id         uuid primary key,
    kind       text not null,
    -- Of a reset null until its letter is sent, for whoever has the address by then.
    user_id    uuid references users on delete cascade,
    -- The address that the letter goes to, as it was typed.
    recipient  text,
    data       jsonb not null default '{}',
    -- Wrong codes.
    tries      integer not null default 0,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    used_at    timestamptz
);

create index challenges_expires_at_idx on challenges (expires_at);
create index challenges_user_id_idx on challenges (user_id, kind);

alter table outbox
    -- What the letter's link and code stand for. No foreign key: a letter that was sent outlives it.
    add column challenge_id uuid;

alter table users
    -- When a password was last set; null where that was before this column. A reset that was asked
    -- for before is void.
    add column password_set_at timestamptz;
