-- Who is invited to make an account, by whom, and with which role. What the letter's link holds is a signed
-- handle that names a row by its challenge_id, and nothing else: address and role stand here alone.
--
-- Beside the release before: it knows none of this, and leaves letters of this kind alone.

create table invitations (
    id           uuid primary key,
    email        text not null,
    email_key    text collate "C" not null generated always as (lower(email collate "C")) stored,
    role         text not null,
    -- The account's, unless the invited one types others.
    first_name   text not null,
    last_name    text not null,
    -- No foreign key: an admin may leave.
    invited_by   uuid not null,
    created_at   timestamptz not null,
    expires_at   timestamptz not null,
    accepted_at  timestamptz,
    revoked_at   timestamptz,
    -- Of the newest letter: whoever is invited again gets another, and the link before it is void.
    challenge_id uuid not null,
    constraint invitations_role_check check (role in ('user', 'staff', 'admin')),
    constraint invitations_challenge_id_key unique (challenge_id)
);

-- An address is invited once at a time.
create unique index invitations_email_key on invitations (email_key)
    where accepted_at is null and revoked_at is null;
create index invitations_created_at_idx on invitations (created_at, id);
